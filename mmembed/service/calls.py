"""One call of a client, so that what it waits for can be dropped when the client goes away."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

__all__ = ["Call", "current_call"]


class Call:
    """What a request waits for. Threads that work for it see it in `current_call`."""

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._futures: set[Future[Any]] = set()

    def add(self, future: Future[Any]) -> None:
        """Cancel `future` together with the call: at once, if the client has gone already."""
        with self._lock:
            if not self.cancelled:
                self._futures.add(future)
                return
        future.cancel()

    def remove(self, future: Future[Any]) -> None:
        """It has what it waited for."""
        with self._lock:
            self._futures.discard(future)

    def cancel(self) -> None:
        """The client has gone: cancel every future of this call that is not done."""
        with self._lock:
            self.cancelled = True
            futures, self._futures = self._futures, set()
        for future in futures:  # outside the lock: what a future calls when it is cancelled is not ours
            future.cancel()


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
