"""What every route works with: one object a process, made when the service starts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from mmembed.batching.engine import Engine
from mmembed.classification.cache import ClassCache
from mmembed.service.fetching import Fetcher
from mmembed.service.indexing.writes import Writes
from mmembed.service.metrics import Metrics
from mmembed.service.middleware.auth import Keys
from mmembed.service.served_encoders import ServedEncoders
from mmembed.service.served_rerankers import ServedRerankers
from mmembed.service.settings import Settings
from mmembed.service.threads import Threads
from mmembed.types import Store


class StoreProbe:
    """Whether the store answers. The question that is still unanswered is not put again: many would fill the threads.

    Used from the event loop alone.
    """

    def __init__(self, store: Store, threads: Threads) -> None:
        self._store = store
        self._threads = threads
        self._answer: asyncio.Future[list[str]] | None = None

    def ask(self) -> asyncio.Future[list[str]]:
        """Not to be cancelled: others may wait for the same."""
        if self._answer is None or self._answer.done():
            self._answer = self._threads.run(self._store.collections)
        return self._answer


@dataclass(frozen=True)
class Service:
    settings: Settings
    store: Store
    folder: Path  # uploads, and thumbnails unless the store keeps them beside its vectors
    hidden: tuple[str, ...]  # addresses of ours that no client is told, the longest first
    served: ServedEncoders
    rerankers: ServedRerankers
    engine: Engine
    fetcher: Fetcher
    metrics: Metrics
    threads: Threads
    keys: Keys
    classes: ClassCache  # embeddings of labels, by whoever asked for them
    writes: Writes
    probe: StoreProbe


def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service_of)]
"""The type of a route's parameter `service`."""
