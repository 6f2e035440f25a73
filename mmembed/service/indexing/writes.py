"""One write at a time into each collection, and its search graph once it has come to rest.

Requests wait for their turn in the event loop, so those that wait hold no thread, and one whose client goes away
meanwhile leaves the queue. A write that has begun is finished.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from typing import TypeVar

from mmembed.batching.submission import current_call
from mmembed.errors import CollectionNotFound, MmembedError
from mmembed.service.threads import Threads
from mmembed.types import Store

logger = logging.getLogger(__name__)

_AT_ONCE = 2  # writes, into whatever collections: each decodes pictures in threads of its own
QUIET_SECONDS = 5.0  # without a write, before the search graph is built

_T = TypeVar("_T")


class Writes:
    """The turns of one service's collections. Used from its event loop alone."""

    def __init__(self, store: Store, threads: Threads) -> None:
        self._store = store
        self._threads = threads
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._running: set[asyncio.Task[object]] = set()  # the loop itself holds tasks by weak references
        self._optimizing = threading.Lock()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._image_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def images_turn(self, collection: str) -> AbstractContextManager[object]:
        """For a thread that writes the pictures inside a document, while nobody else writes to their collection.

        Whoever holds it waits for nothing else, so that nobody waits in a circle.
        """
        return self._image_turns[collection]

    async def alone(
        self,
        name: str,
        call: Callable[[], _T],
        *,
        beside: str | None = None,
        encodes: bool = False,
        finish: AsyncExitStack | None = None,
    ) -> _T:
        """Run `call` in a thread while nobody else writes to the collection; then close what `finish` holds.

        `beside`: where it writes pictures too, each time within `images_turn`; it is not kept from others meanwhile.
        `encodes`: only so many such calls run at a time.
        """
        names = [name] if beside is None else [name, beside]
        async with finish or AsyncExitStack() as finish:
            await finish.enter_async_context(self._turns[name])
            if encodes:
                await finish.enter_async_context(self._at_once)
            held = finish.pop_all()

        def in_turn() -> _T:
            with nullcontext() if beside is not None else self.images_turn(name):
                return call()

        async def work() -> _T:
            current_call.set(None)  # the client may go: what has begun is finished
            async with held:
                self._hold(names)
                try:
                    return await self._threads.run(in_turn)
                finally:
                    self._hold(names)
                    for name in names:
                        self._timers[name] = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._start, name)

        task = asyncio.ensure_future(work())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    def _hold(self, names: Iterable[str]) -> None:
        for name in names:
            if timer := self._timers.pop(name, None):
                timer.cancel()

    def _start(self, collection: str) -> None:
        """In a thread that nobody waits for at the end: a graph may take minutes, and is only speed."""
        self._timers.pop(collection, None)
        threading.Thread(target=self._optimize, args=(collection,), name="mmembed-optimize", daemon=True).start()

    def _optimize(self, collection: str) -> None:
        with self._optimizing:
            try:
                self._store.optimize(collection)
            except CollectionNotFound:
                logger.debug("collection %r was removed before its search graph was built", collection)
            except MmembedError as exc:
                logger.warning("the search graph of collection %r was not built: %s", collection, exc)
