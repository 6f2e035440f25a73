"""Where what blocks (a search, a write) is run, so that the event loop does not."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """At most `most` calls at a time; further ones wait for their turn."""

    def __init__(self, most: int) -> None:
        self._executor = ThreadPoolExecutor(most, thread_name_prefix="mmembed-work")

    def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        """What `call` returns, run in a thread where the caller's context variables are set."""
        context = contextvars.copy_context()
        work = partial(context.run, call, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Wait for what runs, and forget what has not begun; blocks."""
        self._executor.shutdown(wait=True, cancel_futures=True)
