"""Who may do what: API keys with scopes, compared in constant time, and how often."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mmembed.errors import Forbidden, Overloaded, SettingsError, Unauthorized
from mmembed.service.error_responses import route_of
from mmembed.service.settings import SCOPES, Settings
from mmembed.service.settings import Scope as Right

_KEY_HEADER = "mmembed-api-key"
_BAD_KEYS = RateLimitItemPerMinute(30)  # unknown keys from one address
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
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def __bool__(self) -> bool:
        return bool(self._keys)

    async def count_unknown(self, scope: Scope) -> None:
        """An unknown key came with a request. Raises Overloaded where its address sent too many."""
        sentence = "too many unknown keys came from this address"
        await _count(self._limiter, _BAD_KEYS, f"bad-key/{_address(scope)}", sentence)

    def find(self, secret: str | None) -> Key | None:
        """The key of this secret. Every key is compared, whichever fits, so that time tells nothing."""
        digest = _digest(secret or "")
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def read_keys(settings: Settings) -> Keys:
    """Those of `key` and `key_file`. Raises SettingsError; no sentence holds a secret."""
    lines = [(f"key {n} of --key", text) for n, text in enumerate(settings.key, 1)]
    if settings.key_file is not None:
        try:
            text = settings.key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            what = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise SettingsError(f"the key file {str(settings.key_file)!r} cannot be read: {what}") from exc
        in_file = [(f"line {n} of the key file", line.strip()) for n, line in enumerate(text.splitlines(), 1)]
        in_file = [(where, line) for where, line in in_file if line and not line.startswith("#")]
        if not in_file:
            raise SettingsError(f"the key file {str(settings.key_file)!r} holds no key: write one SECRET:SCOPES a line")
        lines += in_file
    keys = tuple(_parse(where, line) for where, line in lines)
    if len({key.digest for key in keys}) < len(keys):
        raise SettingsError("one secret is given twice among the keys: name all its scopes at one of them")
    return Keys(keys)


def secret_of(headers: Headers) -> str | None:
    """The secret in a request's headers."""
    own = headers.get(_KEY_HEADER)
    if own:
        return own
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None


async def _secret_in_headers(
    request: Request,
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    _own: Annotated[str | None, Depends(_own_header)],
) -> str | None:
    return secret_of(request.headers)


def needs(
    scope: Right, *, secret: Callable[..., Awaitable[str | None]] = _secret_in_headers
) -> Callable[..., Awaitable[None]]:
    """A dependency that lets in whoever has a key with this scope; without keys in the settings, everybody.

    It raises Unauthorized without a key that is known, Forbidden where that has not the scope.
    `secret`: a dependency that finds the key elsewhere than in the headers alone.
    """

    async def check(request: Request, secret: str | None = Depends(secret)) -> None:
        keys: Keys = request.app.state.service.keys
        key = keys.find(secret)
        if keys and key is None:
            if secret and secret_of(request.headers) is None:  # those of headers were counted before the body
                await keys.count_unknown(request.scope)
            raise _unauthorized(secret)
        if key is not None and not key.may(scope):
            has = ", ".join(sorted(key.scopes))
            raise Forbidden(f"the key has the scope {has}, and this needs {scope}: ask the operator for a key with it")

    _CHECKS[check] = secret is _secret_in_headers
    return check


_CHECKS: WeakKeyDictionary[Callable[..., Any], bool] = WeakKeyDictionary()  # whether the headers alone have the key


def _unauthorized(secret: str | None) -> Unauthorized:
    what = "the key is not known" if secret else "no key came with the request"
    return Unauthorized(f"{what}: send one as `Authorization: Bearer KEY` or `{_KEY_HEADER}: KEY`")


_KNOWN = "mmembed.known"  # in the scope of a request


def is_known(scope: Scope) -> bool:
    """Whether a key in the request's head is known, or none is needed; not what it opens."""
    return bool(scope.get(_KNOWN, True))


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("unknown", 0))[0])


async def _count(limiter: FixedWindowRateLimiter, limit: RateLimitItem, who: str, sentence: str) -> None:
    if not await limiter.hit(limit, who):
        seconds = limit.get_expiry()
        raise Overloaded(f"{sentence}: try again in {seconds} s", retry_after_seconds=seconds)


class AuthMiddleware:
    """Counts unknown keys and requests, and turns away who sends too many; and, before the body, who has no key.

    An address that keeps sending unknown keys is told to wait; a good key passes from there too, since behind a proxy
    everybody has one address. What a route needs is what its dependencies say: a route without any is public, and
    neither counted nor looked at.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, settings: Settings) -> None:
        self._app = app
        self._keys = keys
        self._rate = None
        if settings.rate is not None:
            rate = Fraction(settings.rate).limit_denominator(3600) or Fraction(1, 3600)
            self._rate = RateLimitItemPerSecond(rate.numerator, rate.denominator)  # 2.5 a second: 5 in 2 seconds
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (self._keys or self._rate is not None):
            route = route_of(scope)
            calls = [one.call for one in route.dependant.dependencies] if isinstance(route, APIRoute) else []
            in_headers = [_CHECKS[call] for call in calls if call is not None and call in _CHECKS]
            if route is None or in_headers:
                await self._admit(scope, in_headers=any(in_headers))
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, *, in_headers: bool) -> None:
        secret = secret_of(Headers(scope=scope))
        key = self._keys.find(secret)
        scope[_KNOWN] = key is not None or not self._keys
        if not is_known(scope):
            if secret:
                await self._keys.count_unknown(scope)
            if in_headers:
                raise _unauthorized(secret)
        if self._rate is not None:
            who = f"key/{key.digest.hex()}" if key else f"address/{_address(scope)}"
            sentence = "requests come faster than this service takes them from one client"
            await _count(self._limiter, self._rate, who, sentence)


def _parse(where: str, line: str) -> Key:
    secret, colon, last = line.rpartition(":")
    names = {name.strip() for name in last.split(",")}
    scopes: frozenset[Right] = frozenset(scope for scope in SCOPES if scope in names)
    if not colon:
        secret, scopes = line, frozenset(SCOPES)
    elif len(scopes) != len(names):
        raise SettingsError(
            f"{where} names scopes that do not exist: write SECRET:SCOPE,SCOPE with scopes of {', '.join(SCOPES)}"
        )
    if not secret:
        raise SettingsError(f"{where} has no secret before its scopes: write SECRET:SCOPE,SCOPE")
    return Key(_digest(secret), scopes)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
