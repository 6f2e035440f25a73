"""Outermost but for CORS: every answer gets its headers, every error its answer, every request its count."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmembed.errors import MmembedError, Overloaded, RequestTimeout
from mmembed.service.error_responses import error_response, fault_response, hidden_of, shape_of
from mmembed.service.metrics import Metrics
from mmembed.service.middleware.body_limits import ClientGone

_CLIENT_GONE = 499  # in the metrics alone: nobody is left to be answered
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 8 << 20
_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}

logger = logging.getLogger(__name__)


class ErrorMiddleware:
    """Answers what is raised inside it. `same_origin`: pages of other origins may not show what is served."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, same_origin: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = _HEADERS | ({"cross-origin-resource-policy": "same-origin"} if same_origin else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, method = time.perf_counter(), scope["method"]
        if method == "HEAD":  # answered like GET; the server leaves out the body
            scope = {**scope, "method": "GET"}
        exchange = _Exchange(scope, receive, send, self._headers)
        status = _CLIENT_GONE
        try:
            await self._answered(scope, exchange)
            status = exchange.status
        except ClientGone:
            logger.debug("%s %s: the client has gone", scope["method"], scope["path"])
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.request(route, method, status, time.perf_counter() - started)

    async def _answered(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientGone:
            raise
        except MmembedError as exc:
            await self._say(scope, exchange, exc)
        except asyncio.CancelledError:  # the time for shutting down is over
            if exchange.status:
                raise
            stopping = Overloaded("the service is being stopped: try again soon", retry_after_seconds=5)
            await self._say(scope, exchange, stopping)
        except Exception as exc:
            self._metrics.failure(type(exc).__name__)
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if exchange.status:  # half an answer is out: the server breaks the connection off
                raise
            await fault_response(shape_of(scope))(scope, exchange.receive, exchange.send)

    async def _say(self, scope: Scope, exchange: _Exchange, error: MmembedError) -> None:
        self._metrics.failure(type(error).__name__)
        response = error_response(error, shape=shape_of(scope), hidden=hidden_of(scope))
        exchange.lingers = not isinstance(error, RequestTimeout)
        await response(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer. A connection whose request was not read to its end is closed after the answer.

    Before that, what is still coming is thrown away for a moment: a socket that is closed with unread bytes in it
    makes the client's system throw away the answer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        self.status = 0  # 0: nothing was sent yet
        self.lingers = True
        request = Headers(scope=scope)
        self._unread = "transfer-encoding" in request or request.get("content-length", "0") != "0"
        self._receive = receive
        self._send = send
        self._headers = headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add_headers(MutableHeaders(scope=message))
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            if self.lingers:
                await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        for name, value in self._headers.items():
            headers.setdefault(name, value)
        if headers.get("content-type", "").startswith("text/html"):
            headers.setdefault("content-security-policy", _PAGE_POLICY)
        if self._unread:
            headers["connection"] = "close"

    async def _linger(self) -> None:
        left = _LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
