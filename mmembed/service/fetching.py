"""Pictures from addresses that strangers name: over http(s) only, never from inside the house, bounded in every way.

URL -> checked -> name resolved -> every address checked -> connected to just these -> status, size, time -> bytes
"""

from __future__ import annotations

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import httpcore
import httpx

from mmembed.errors import ForbiddenUrl, Overloaded
from mmembed.service.addresses import CheckedAddresses, Resolver, allowed_hosts
from mmembed.service.settings import Settings

_AT_ONCE = 16
_MAX_REDIRECTS = 3
_MAX_URL = 8192  # characters
_REDIRECTS = {301, 302, 303, 307, 308}
_SCHEMES = {"http", "https"}


class Fetcher:
    """Fetches pictures; one for the whole service, used from its event loop.

    `resolve` replaces the system's resolver. Every error is a ForbiddenUrl, but Overloaded where no fetch could begin
    in three times `fetch_seconds`.
    """

    def __init__(self, settings: Settings, *, resolve: Resolver | None = None) -> None:
        self._max_bytes = round(settings.max_image_mb * 2**20)
        self._seconds = settings.fetch_seconds
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._resolvers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mmembed-dns")
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=_AT_ONCE,
            max_keepalive_connections=_AT_ONCE // 2,
            keepalive_expiry=5,
            network_backend=CheckedAddresses(allowed_hosts(settings.allow_image_host), resolve or self._resolve),
        )

    async def fetch(self, url: str) -> bytes:
        """What lies at `url`, which need not be a picture: decoding tells."""
        try:
            async with asyncio.timeout(3 * self._seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded(
                f"{short_url(url)} was not fetched: {_AT_ONCE} other pictures are being fetched and none of them ends; "
                f"try again later or send the picture's bytes in base64",
                retry_after_seconds=self._seconds,
            ) from None
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url)
        except TimeoutError:
            raise self._late(url) from None
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Close the connections that are kept alive."""
        await self._pool.aclose()
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, start: str) -> bytes:
        url = _parsed(start, start)
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
                async with self._pool.stream(
                    "GET", target, headers=_headers(url), extensions={"timeout": {"connect": self._seconds}}
                ) as answer:
                    location = _header(answer, b"location")
                    if answer.status not in _REDIRECTS or location is None:
                        return await self._content(answer, start)
                    url = _parsed(_joined(url, location), start)
        except httpcore.TimeoutException:
            raise self._late(start) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            raise ForbiddenUrl(
                f"{short_url(start)} cannot be fetched: the connection failed or broke off; see whether the address is "
                f"right and its server runs, or send the picture's bytes in base64"
            ) from None
        raise ForbiddenUrl(f"{short_url(start)} redirects more than {_MAX_REDIRECTS} times: give the final address")

    async def _content(self, answer: httpcore.Response, start: str) -> bytes:
        """The body of a 200, at most `max_image_mb` of it in memory."""
        if answer.status != 200:
            raise ForbiddenUrl(f"{short_url(start)} cannot be fetched: it answers with status {answer.status}, not 200")
        if _header(answer, b"content-encoding") not in (None, b"identity"):
            raise ForbiddenUrl(f"{short_url(start)} is not fetched: it is sent compressed, in a Content-Encoding")
        too_large = ForbiddenUrl(
            f"{short_url(start)} is not fetched: it is larger than {self._max_bytes / 2**20:g} MiB; shrink the "
            f"picture or raise --max-image-mb"
        )
        declared = _header(answer, b"content-length") or b"0"
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise too_large
        content = bytearray()
        async for part in answer.aiter_stream():
            content += part
            if len(content) > self._max_bytes:
                raise too_large
        return bytes(content)

    def _late(self, url: str) -> ForbiddenUrl:
        return ForbiddenUrl(
            f"{short_url(url)} is not fetched: it took longer than {self._seconds:g} seconds; send the picture's bytes "
            f"in base64 or raise --fetch-seconds"
        )

    async def _resolve(self, host: str, port: int) -> list[str]:
        """The system's resolver, in threads of its own: names that hang hold up nothing but other fetches."""
        addresses = await asyncio.get_running_loop().run_in_executor(
            self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in addresses))


def _parsed(url: str, start: str) -> httpx.URL:
    """Raises ForbiddenUrl for what is not http(s)://HOST[:PORT]/... or carries a password."""
    try:
        parsed = httpx.URL(url[: _MAX_URL + 1])
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError):  # of `xn--` and what follows, which is read only when it is asked for
        raise ForbiddenUrl(
            f"{short_url(start)} is not an address that can be fetched: give http(s)://HOST/PATH"
        ) from None
    if len(url) > _MAX_URL:
        raise ForbiddenUrl(f"{short_url(start)} is not fetched: an address may have {_MAX_URL} characters")
    if parsed.scheme not in _SCHEMES or not host or (parsed.port or 0) > 65535:
        raise ForbiddenUrl(f"{short_url(start)} is not fetched: pictures are fetched from http(s)://HOST/PATH alone")
    if parsed.userinfo:
        raise ForbiddenUrl(f"{short_url(start)} is not fetched: leave the user name and password out of the address")
    return parsed


def _joined(url: httpx.URL, location: bytes) -> str:
    """Where a redirect leads; what cannot be read is returned as it is, and refused by `_parsed`."""
    text = location.decode("latin-1")
    try:
        return str(url.join(text))
    except httpx.InvalidURL:
        return text


def _headers(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    return [
        (b"Host", url.netloc),
        (b"User-Agent", f"mmembed/{version('mmembed')}".encode()),
        (b"Accept", b"image/*"),
        (b"Accept-Encoding", b"identity"),
    ]


def _header(answer: httpcore.Response, name: bytes) -> bytes | None:
    return next((value for key, value in answer.headers if key.lower() == name), None)


def short_url(url: str) -> str:
    """An address for an error: without a password or a query, which may be a signature, and not too long."""
    plain = re.sub(r"//[^/?#]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])
    return repr(plain if len(plain) <= 60 else plain[:57] + "...")
