"""What one call waits for at one batcher, from the event loop or from a thread."""

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
from typing import Any

from mmembed.batching.cache import CacheKey, Result
from mmembed.errors import MmembedError

logger = logging.getLogger(__name__)


class Submission:
    """Inputs that one call handed in together. Complete when none is missing; cancelling `future` drops it."""

    def __init__(self, drop: Callable[[Submission], None], loop: asyncio.AbstractEventLoop | None) -> None:
        self.results: dict[CacheKey, Result | MmembedError] = {}
        self.missing: set[CacheKey] = set()
        self.future: Future[None] = Future()
        self.loop = loop  # None: a thread waits
        self._drop = drop
        self._arrival = loop.create_future() if loop is not None else None

    async def arrived(self) -> dict[CacheKey, Result | MmembedError]:
        """Raises CancelledError if the call was cancelled."""
        assert self._arrival is not None
        if self.missing:
            with self.watched():
                await self._arrival
        return self.results

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
    def watched(self) -> Generator[None, None, None]:
        """Around a wait: it is cancelled with the call that it belongs to. A thread waits for `future`."""
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


def deliver(submissions: Iterable[Submission]) -> None:
    """Wake whoever waits for these complete submissions: one hop into each event loop, however many wait there."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Submission]] = defaultdict(list)
    for submission in submissions:
        if submission.loop is None:
            submission.complete()
        else:
            by_loop[submission.loop].append(submission)
    for loop, some in by_loop.items():
        _tell(loop, partial(_complete, some))


def _cancelled(submission: weakref.ref[Submission], future: Future[None]) -> None:
    waiting = submission()
    if future.cancelled() and waiting is not None:
        waiting.cancel()


def _complete(submissions: Iterable[Submission]) -> None:
    for submission in submissions:
        submission.complete()


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(what)
    except RuntimeError:  # closed: the service stopped without waiting for this
        logger.warning("nobody was left to take what was computed")


# --- one call of a client ---


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
