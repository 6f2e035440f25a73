"""What one call waits for in one lane, from the event loop or from a thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias

from mmembed.batching.cache import Kept, Key
from mmembed.errors import MmembedError

__all__ = ["Call", "Order", "Outcome", "current_call", "deliver"]

Outcome: TypeAlias = Kept | MmembedError

logger = logging.getLogger(__name__)


class Order:
    """Complete when nothing is missing. Cancelling `future` drops it."""

    def __init__(self, drop: Callable[[Order], None], loop: asyncio.AbstractEventLoop | None) -> None:
        self.outcomes: dict[Key, Outcome] = {}
        self.missing: set[Key] = set()
        self.future: Future[None] = Future()
        self.loop = loop  # None: a thread waits
        self._drop = drop
        self._arrival = loop.create_future() if loop is not None else None

    async def arrived(self) -> dict[Key, Outcome]:
        """Raises CancelledError if the call was cancelled."""
        assert self._arrival is not None
        if self.missing:
            with self._watched():
                await self._arrival
        return self.outcomes

    def result(self) -> dict[Key, Outcome]:
        """The same for a thread; blocks."""
        if self.missing:
            with self._watched():
                self.future.result()
        return self.outcomes

    def drop(self) -> None:
        """Nobody waits any more; nothing happens where it is complete."""
        self._drop(self)

    def complete(self) -> None:
        """In the event loop, or for a thread that waits."""
        if self._arrival is None:
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(None)
        elif not self._arrival.done():
            self._arrival.set_result(None)

    def cancel(self) -> None:
        """The call has gone: drop it, and end the wait of the event loop; that of a thread has ended."""
        self.drop()
        if self.loop is not None and self._arrival is not None:
            _tell(self.loop, self._arrival.cancel)

    @contextmanager
    def _watched(self) -> Generator[None, None, None]:
        """While this waits it is cancelled with the call it belongs to."""
        call = current_call.get()
        if call is None:
            yield
            return
        self.future.add_done_callback(partial(_cancelled, weakref.ref(self)))  # not a cycle for the garbage collector
        call.add(self.future)
        try:
            yield
        finally:
            call.remove(self.future)


def deliver(orders: Iterable[Order]) -> None:
    """Wake whoever waits for these complete orders: one hop into each event loop, however many wait there."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Order]] = defaultdict(list)
    for order in orders:
        if order.loop is None:
            order.complete()
        else:
            by_loop[order.loop].append(order)
    for loop, some in by_loop.items():
        _tell(loop, partial(_complete, some))


def _cancelled(order: weakref.ref[Order], future: Future[None]) -> None:
    waiting = order()
    if future.cancelled() and waiting is not None:
        waiting.cancel()


def _complete(orders: Iterable[Order]) -> None:
    for order in orders:
        order.complete()


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(what)
    except RuntimeError:  # closed: the service stopped without waiting for this
        logger.warning("nobody was left to take what was computed")


# --- One call of a client, so that what it waits for can be dropped when the client goes away ---


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
