"""Which addresses pictures may be fetched from: checked after the name is resolved, and connected to as checked."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

import httpcore
import httpx

from mmembed.errors import ForbiddenUrl, SettingsError

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port -> its addresses; OSError or UnicodeError where there are none."""


_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is assigned for the public (RFC 4291, 2.4)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address in the last 32 bits (RFC 6052, 2.1)


def is_public(address: str) -> bool:
    """Whether an IP address, and any IPv4 address inside it, is one of the public internet.

    >>> is_public("93.184.215.14"), is_public("169.254.169.254"), is_public("::ffff:127.0.0.1")
    (True, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    if ip.ipv4_mapped is not None:
        return is_public(str(ip.ipv4_mapped))
    if ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    inside = [*([ip.sixtofour] if ip.sixtofour else []), *(ip.teredo or ())]
    return ip in _UNICAST and ip.is_global and all(is_public(str(within)) for within in inside)


class CheckedAddresses(httpcore.AsyncNetworkBackend):
    """Connects to the very addresses that were checked: a name cannot have others a moment later."""

    def __init__(self, allowed: set[tuple[str, int | None]], resolve: Resolver) -> None:
        self._allowed, self._resolve = allowed, resolve
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._addresses(host, port)
        failed: Exception = httpcore.ConnectError(host)
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(
                    address, port, timeout and timeout / len(addresses), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failed = exc
        raise failed

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        """At least one, and every one public unless the host is allowed.

        One sentence for all that is refused: whether a name inside the house exists is not told either.
        """
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            addresses = []
        name = _plain(host)
        allowed = not self._allowed.isdisjoint({(name, None), (name, port)})
        if not addresses or not (allowed or all(is_public(address) for address in addresses)):
            raise ForbiddenUrl(
                f"pictures are not fetched from the host {host[:60]!r}, which has no public address: send the bytes of "
                f"the file in base64, or start the service with --allow-image-host if the host is yours"
            )
        return addresses


def allowed_hosts(hosts: Iterable[str]) -> set[tuple[str, int | None]]:
    """HOST, HOST:PORT, or an IPv6 address with or without brackets -> (host, port or None for any)."""
    allowed: set[tuple[str, int | None]] = set()
    for host in hosts:
        try:
            url = httpx.URL(f"//[{host}]" if host.count(":") > 1 and "[" not in host else f"//{host}")
        except httpx.InvalidURL as exc:
            raise SettingsError(f"--allow-image-host takes HOST or HOST:PORT, not {host!r}: {exc}") from exc
        if not url.host or url.userinfo or url.raw_path not in (b"", b"/"):
            raise SettingsError(f"--allow-image-host takes HOST or HOST:PORT, not {host!r}")
        allowed.add((_plain(url.raw_host.decode("ascii")), url.port))
    return allowed


def _plain(host: str) -> str:
    return host.lower().rstrip(".")
