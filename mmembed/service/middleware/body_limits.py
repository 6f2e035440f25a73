"""How much a request may bring and how long it may take: middleware that holds every body, and lets go of who left.

A body is read whole before a route sees it, so a route never waits for a client, and an upload that was broken off
leaves nothing behind.
"""

from __future__ import annotations

import asyncio

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmembed.batching.submission import Call, current_call
from mmembed.errors import Overloaded, RequestTimeout, RequestTooLarge
from mmembed.service.error_responses import route_of
from mmembed.service.metrics import Metrics
from mmembed.service.middleware.auth import is_known
from mmembed.service.settings import Settings

_BODIES_AT_ONCE = 16  # of the largest size: all that is held in memory at the same time
_LARGEST_KEYLESS = 1 << 20  # bytes of a body whose key, if any, is in it
_SMALL = 64 << 10  # bytes that are never refused for what others send
_MOST_REQUESTS = 4096  # in flight; more would only wait
_FREE = {"/health", "/ready"}  # answered under any load
_YIELD_BYTES = 1 << 20  # the loop goes on between pieces of a large body


class ClientGone(Exception):
    """The client left before its answer: nobody is told."""


class BodyLimitMiddleware:
    """Reads the body within its limits, then runs the route, which ends when the client goes away."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._largest = int(settings.max_body_mb * 2**20)
        self._seconds = settings.request_seconds
        self._held = {True: 0, False: 0}  # bytes of all bodies, of those who are known by a key and of the others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._metrics.in_flight >= _MOST_REQUESTS and scope["path"] not in _FREE:
            raise Overloaded(f"{_MOST_REQUESTS} requests are being answered: try again soon", retry_after_seconds=1)
        body: list[bytes] = []
        known = is_known(scope)
        try:
            if _takes_body(scope):
                await self._read(scope, receive, body, known)
            self._metrics.in_flight += 1
            try:
                await _run(self._app, scope, body, receive, send)
            finally:
                self._metrics.in_flight -= 1
        finally:
            self._held[known] -= sum(map(len, body))

    async def _read(self, scope: Scope, receive: Receive, body: list[bytes], known: bool) -> None:
        """Fill `body`. Raises RequestTooLarge, RequestTimeout, Overloaded or ClientGone."""
        largest = self._largest if known else min(self._largest, _LARGEST_KEYLESS)
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > largest:
            raise self._too_large(largest)
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > largest:
                        raise self._too_large(largest)
                    if piece:
                        if size > _SMALL and self._held[known] + len(piece) > _BODIES_AT_ONCE * largest:
                            sentence = "too many large requests are on the way: try again soon"
                            raise Overloaded(sentence, retry_after_seconds=2)
                        body.append(piece)
                        self._held[known] += len(piece)
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            raise RequestTimeout(
                f"the request did not arrive within {self._seconds:g} s: send less at once or raise --request-seconds"
            ) from None

    def _too_large(self, largest: int) -> RequestTooLarge:
        if largest < self._largest:
            mib = largest >> 20
            return RequestTooLarge(
                f"the request is larger than {mib} MiB and no key that is known came in its head: send the key as "
                f"`mmembed-api-key: KEY`, or less at once"
            )
        return RequestTooLarge(
            f"the request is larger than {self._largest / 2**20:g} MiB: send less at once or raise --max-body-mb"
        )


def _takes_body(scope: Scope) -> bool:
    """Whether the route of a request reads a body: what comes with another is never held."""
    route = route_of(scope)
    if not isinstance(route, APIRoute) or scope["method"] not in (route.methods or ()):
        return False
    return route.body_field is not None or "requestBody" in (route.openapi_extra or {})


async def _run(app: ASGIApp, scope: Scope, body: list[bytes], receive: Receive, send: Send) -> None:
    """The route with its body in hand, cancelled with all it waits for once the client has gone."""
    call = Call()
    route = asyncio.current_task()
    assert route is not None
    gone = asyncio.Event()
    answered = False

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            continue  # nothing else comes after a whole body
        gone.set()
        if not answered:
            call.cancel()
            route.cancel()

    async def answer(message: Message) -> None:
        nonlocal answered
        await send(message)
        answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    token = current_call.set(call)
    watcher = asyncio.create_task(watch())
    try:
        await app(scope, _Replay(body, gone), answer)
    except asyncio.CancelledError:
        if not gone.is_set() or route.uncancel() > 0:
            raise
        raise ClientGone from None
    finally:
        watcher.cancel()
        current_call.reset(token)


class _Replay:
    """`receive` of a body that is here already; after it, waits until the client goes away."""

    def __init__(self, body: list[bytes], gone: asyncio.Event) -> None:
        self._pieces = iter(body)
        self._left = len(body)
        self._gone = gone
        self._ended = False
        self._since_yield = 0

    async def __call__(self) -> Message:
        if self._ended:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        piece = next(self._pieces, b"")
        self._left -= 1
        self._ended = self._left <= 0
        self._since_yield += len(piece)
        if self._since_yield > _YIELD_BYTES:
            self._since_yield = 0
            await asyncio.sleep(0)
        return {"type": "http.request", "body": piece, "more_body": not self._ended}
