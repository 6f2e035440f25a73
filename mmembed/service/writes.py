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
from contextlib import AsyncExitStack
from typing import Annotated, ParamSpec, TypeVar

from fastapi import Depends, Request

from mmembed.batching.waiting import current_call
from mmembed.errors import CollectionNotFound, MmembedError
from mmembed.service.state import Service

__all__ = ["QUIET_SECONDS", "Writes", "WritesOf"]

log = logging.getLogger(__name__)

_AT_ONCE = 2  # writes, into whatever collections: each decodes pictures in threads of its own
QUIET_SECONDS = 5.0  # without a write, before the search graph is built

P = ParamSpec("P")
T = TypeVar("T")


class Writes:
    """The turns of one service's collections. Used from its event loop alone."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._running: set[asyncio.Task[object]] = set()  # the loop itself holds tasks by weak references
        self._optimizing = threading.Lock()
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def alone(
        self,
        collections: Iterable[str],
        finish: AsyncExitStack,
        call: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `call` in a thread while nobody else writes to `collections`; then close what `finish` holds."""
        names = sorted(set(collections))
        async with finish:
            for name in names:  # in one order everywhere: nobody waits in a circle
                await finish.enter_async_context(self._turns[name])
            await finish.enter_async_context(self._room)
            held = finish.pop_all()

        async def work() -> T:
            current_call.set(None)  # the client may go: what has begun is finished
            async with held:
                self._hold(names)
                try:
                    return await self._service.run(call, *args, **kwargs)
                finally:
                    self._rest(names)

        task = asyncio.ensure_future(work())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    def _hold(self, names: Iterable[str]) -> None:
        for name in names:
            if timer := self._timers.pop(name, None):
                timer.cancel()

    def _rest(self, names: Iterable[str]) -> None:
        loop = asyncio.get_running_loop()
        self._hold(names)
        for name in names:
            self._timers[name] = loop.call_later(QUIET_SECONDS, self._start, name)

    def _start(self, collection: str) -> None:
        """In a thread that nobody waits for at the end: a graph may take minutes, and is only speed."""
        self._timers.pop(collection, None)
        threading.Thread(target=self._optimize, args=(collection,), name="mmembed-optimize", daemon=True).start()

    def _optimize(self, collection: str) -> None:
        with self._optimizing:
            try:
                self._service.store.optimize(collection)
            except CollectionNotFound:
                log.debug("collection %r was removed before its search graph was built", collection)
            except MmembedError as exc:
                log.warning("the search graph of collection %r was not built: %s", collection, exc)


def _writes_of(request: Request) -> Writes:
    state = request.app.state
    if not hasattr(state, "writes"):
        state.writes = Writes(state.service)
    writes: Writes = state.writes
    return writes


WritesOf = Annotated[Writes, Depends(_writes_of)]
"""The type of a route's parameter `writes`."""
