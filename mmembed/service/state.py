"""What every route works with: one object a process, made when the service starts."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request

from mmembed.batching.engine import Engine
from mmembed.classification.cache import ClassCache
from mmembed.service.fetching import Fetcher
from mmembed.service.metrics import Metrics
from mmembed.service.middleware.auth import Keys
from mmembed.service.served_encoders import Served
from mmembed.service.settings import Settings
from mmembed.types import Store

__all__ = ["Service", "ServiceOf"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    settings: Settings
    store: Store
    folder: Path  # uploads, and thumbnails unless the store keeps them beside its vectors
    served: Served
    engine: Engine
    fetcher: Fetcher
    metrics: Metrics
    threads: ThreadPoolExecutor
    keys: Keys
    classes: ClassCache  # embeddings of labels, by whoever asked for them

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what blocks (a search, a write) in a thread, where the caller's context variables are set."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: context.run(call, *args, **kwargs)
        )


def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]
"""The type of a route's parameter `service`."""
