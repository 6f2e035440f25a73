"""Who may do what: API keys with scopes, compared in constant time, and how often."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Protocol

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from mmembed.errors import Forbidden, Overloaded, SettingsError, Unauthorized
from mmembed.service.settings import SCOPES, Settings
from mmembed.service.settings import Scope as Right

__all__ = ["Doors", "Keys", "check_key", "key_of", "needs", "read_keys"]

_KEY_HEADER = "mmembed-api-key"
_BAD_KEYS = RateLimitItemPerMinute(30)  # unknown keys from one address
_LOCKED = ("/v1/", "/v2/", "/metrics")  # of `/qdrant/infer` the body may carry the key, so its route looks at it
_FREE = ("/health", "/ready", "/static/")  # probes, and what the page is made of: neither rate nor key
_bearer = HTTPBearer(auto_error=False, description="A key of --key or --key-file.")
_own_header = APIKeyHeader(name=_KEY_HEADER, auto_error=False, description="The same key, where a proxy takes Bearer.")


@dataclass(frozen=True)
class Key:
    digest: bytes  # SHA-256 of the secret
    scopes: frozenset[Right]

    def may(self, scope: Right) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class Keys:
    """The keys that are known; none: everybody may do everything."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, secret: str | None) -> Key | None:
        """The key of this secret. Every key is compared, whichever fits, so that time tells nothing."""
        digest = _digest(secret or "")
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


class _HasKeys(Protocol):
    @property
    def keys(self) -> Keys: ...


def read_keys(settings: Settings) -> Keys:
    """Those of `key` and `key_file`. Raises SettingsError; no sentence holds a secret."""
    lines = [(f"key {n} of --key", text) for n, text in enumerate(settings.key, 1)]
    if settings.key_file is not None:
        try:
            text = settings.key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            what = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise SettingsError(f"the key file {str(settings.key_file)!r} cannot be read: {what}") from exc
        found = [(f"line {n} of the key file", line.strip()) for n, line in enumerate(text.splitlines(), 1)]
        found = [(where, line) for where, line in found if line and not line.startswith("#")]
        if not found:
            raise SettingsError(f"the key file {str(settings.key_file)!r} holds no key: write one SECRET:SCOPES a line")
        lines += found
    keys = tuple(_parse(where, line) for where, line in lines)
    if len({key.digest for key in keys}) < len(keys):
        raise SettingsError("one secret is given twice among the keys: name all its scopes at one of them")
    return Keys(keys)


def needs(scope: Right) -> Callable[..., Awaitable[None]]:
    """A dependency that lets in who has a key with this scope; without keys in the settings, everybody."""

    async def check(
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        _own: Annotated[str | None, Depends(_own_header)],
    ) -> None:
        check_key(request.app.state, key_of(request), scope)

    return check


def check_key(service: _HasKeys, secret: str | None, scope: Right) -> None:
    """Raises Unauthorized without a key that is known, Forbidden where it has not the scope."""
    if not service.keys:
        return
    key = service.keys.find(secret)
    if key is None:
        what = "the key is not known" if secret else "no key came with the request"
        raise Unauthorized(f"{what}: send one as `Authorization: Bearer KEY` or `{_KEY_HEADER}: KEY`")
    if not key.may(scope):
        has = ", ".join(sorted(key.scopes))
        raise Forbidden(f"the key has the scope {has}, and this needs {scope}: ask the operator for a key with it")


def key_of(request: HTTPConnection) -> str | None:
    """The secret in a request's headers."""
    return _secret(request.headers)


class Doors:
    """Middleware: turns away, before their body is read, unknown keys and who asks too often.

    An address that keeps sending unknown keys is told to wait; a good key passes from there too, since behind a proxy
    everybody has one address.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, settings: Settings) -> None:
        self._app = app
        self._keys = keys
        self._rate = _rate_of(settings.rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        locked = self._keys or self._rate is not None
        if locked and scope["type"] == "http" and path != "/" and not path.startswith(_FREE):
            await self._admit(scope, path)
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, path: str) -> None:
        secret = _secret(Headers(scope=scope))
        key = self._keys.find(secret)
        address = (scope.get("client") or ("unknown", 0))[0]
        if self._keys and secret and key is None:
            await self._count(_BAD_KEYS, f"bad-key/{address}", "too many unknown keys came from this address")
        if key is None and path.startswith(_LOCKED):
            check_key(_Holder(self._keys), secret, "search")
        if self._rate is not None:
            who = f"key/{key.digest.hex()}" if key else f"address/{address}"
            await self._count(self._rate, who, "requests come faster than this service takes them from one client")

    async def _count(self, limit: RateLimitItem, who: str, sentence: str) -> None:
        if not await self._limiter.hit(limit, who):
            seconds = limit.get_expiry()
            raise Overloaded(f"{sentence}: try again in {seconds} s", retry_after_seconds=seconds)


@dataclass(frozen=True)
class _Holder:
    keys: Keys


def _rate_of(rate: float | None) -> RateLimitItem | None:
    """2.5 a second -> 5 in 2 seconds."""
    if rate is None:
        return None
    parts = Fraction(rate).limit_denominator(3600) or Fraction(1, 3600)
    return RateLimitItemPerSecond(parts.numerator, parts.denominator)


def _secret(headers: Headers) -> str | None:
    own = headers.get(_KEY_HEADER)
    if own:
        return own
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None


def _parse(where: str, line: str) -> Key:
    secret, colon, last = line.rpartition(":")
    names = {name.strip() for name in last.split(",")}
    scopes: frozenset[Right] = frozenset(scope for scope in SCOPES if scope in names)
    if not colon:
        secret, scopes = line, frozenset(SCOPES)
    elif len(scopes) != len(names):
        raise SettingsError(
            f"{where} names scopes that there are not: write SECRET:SCOPE,SCOPE with scopes of {', '.join(SCOPES)}"
        )
    if not secret:
        raise SettingsError(f"{where} has no secret before its scopes: write SECRET:SCOPE,SCOPE")
    return Key(_digest(secret), scopes)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
