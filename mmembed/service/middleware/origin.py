"""Against web pages of others: a browser on this computer must not carry their requests to a service without keys."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mmembed.errors import Forbidden
from mmembed.service.settings import Settings, is_loopback


class OriginMiddleware:
    """For a service without keys: it answers to loopback names and to its own pages only.

    A page whose host name was made to point at this computer (DNS rebinding) sends its own name as Host; a form or
    script of another site sends its Origin.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._on = not settings.has_keys
        self._allowed = set(settings.allow_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._on and scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check(headers.get("host", ""), headers.get("origin"))
        await self._app(scope, receive, send)

    def _check(self, host: str, origin: str | None) -> None:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # a bracket that is not closed
            name = ""
        if host and not is_loopback(name):
            raise Forbidden(
                f"host {host[:200]!r} is not this computer's own name: ask for 127.0.0.1 or localhost, or start the "
                f"service with keys"
            )
        if origin is None or "*" in self._allowed or origin.lower() in self._allowed:
            return
        if not host or origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise Forbidden(
                f"pages of {origin[:200]!r} may not call this service: start it with --allow-origin and that origin"
            )
