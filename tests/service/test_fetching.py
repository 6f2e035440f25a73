"""Pictures are fetched from public addresses alone, checked after the name is resolved, and within every limit."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mmembed.demo import PICTOGRAMS
from mmembed.errors import ForbiddenUrl, MmembedError, Overloaded, SettingsError
from mmembed.service.addresses import Resolver, is_public
from mmembed.service.fetching import Fetcher
from mmembed.service.settings import Settings

T = TypeVar("T")
IMAGE = sorted(PICTOGRAMS.glob("*.*"))[0].read_bytes()

# Of cats.example, valid for a hundred years, made for this test: openssl req -x509 -newkey ec -nodes -days 36500
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBnjCCAUSgAwIBAgIUTG5fLmK6rCFyqqIUYHqokZ7GAwEwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMY2F0cy5leGFtcGxlMCAXDTI2MTEyMTA4MDgwN1oYDzIxMjYx
MDI4MDgwODA3WjAXMRUwEwYDVQQDDAxjYXRzLmV4YW1wbGUwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAATa1d6g5Th6pBKvEY66iYtzM/4rvhQWgyjtergsdzK3gn5m
HUvYBj8xtdLymjNSXzLoegHqiMzM4XVtN6DYxWQco2wwajAdBgNVHQ4EFgQU6373
hwj+9kxVSH5hA4LO5k29jpswHwYDVR0jBBgwFoAU6373hwj+9kxVSH5hA4LO5k29
jpswDwYDVR0TAQH/BAUwAwEB/zAXBgNVHREEEDAOggxjYXRzLmV4YW1wbGUwCgYI
KoZIzj0EAwIDSAAwRQIgXM8jZHvkIHPSt216YhltZkB2Abi3o9qjJ2pk6YaG8AoC
IQDbId7AwJhjikmMN0I7+IkoY0hRaOx57ndjM/Zd7OJjfw==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgjOLrXtnd9VEgFJJS
bJFBsrOXUIm4HQsOFwjW9Ki+DqOhRANCAATa1d6g5Th6pBKvEY66iYtzM/4rvhQW
gyjtergsdzK3gn5mHUvYBj8xtdLymjNSXzLoegHqiMzM4XVtN6DYxWQc
-----END PRIVATE KEY-----
"""


class Pages:
    """A raw HTTP server on loopback: what each path gets, in bytes and in seconds to wait."""

    def __init__(self, pages: Mapping[str, Sequence[bytes | float]]) -> None:
        self.pages = pages
        self.heads: list[str] = []
        self.port = 0
        self.connections = self.open = self.most_open = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                self.heads.append(head)
                self.open += 1
                self.most_open = max(self.most_open, self.open)
                try:
                    for part in self.pages[head.split()[1].partition("?")[0]]:
                        if isinstance(part, float):
                            await asyncio.sleep(part)
                        else:
                            writer.write(part)
                            await writer.drain()
                finally:
                    self.open -= 1
                if b"Connection: close" in b"".join(p for p in self.pages[head.split()[1]] if isinstance(p, bytes)):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the fetcher closed the connection, which several tests want of it
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    pages: Mapping[str, Sequence[bytes | float]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Pages]:
    served = Pages(pages)
    server = await asyncio.start_server(served.answer, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        await asyncio.sleep(0.01)  # for connections that were just closed


@asynccontextmanager
async def fetching(*allowed: str, resolve: Resolver | None = None, **settings: Any) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(Settings(allow_image_host=allowed, **{"fetch_seconds": 5, **settings}), resolve=resolve)
    try:
        yield fetcher
    finally:
        await fetcher.close()


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str, *headers: str) -> bytes:
    lines = ["HTTP/1.1 302 Found", f"Location: {location}", "Content-Length: 0", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def resolving(**names: Sequence[str]) -> tuple[Resolver, list[str]]:
    """A resolver that knows these names (`_` for `.`), and which it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return names[host.replace(".", "_")]

    return resolve, asked


async def refused(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(ForbiddenUrl) as caught:
        await fetcher.fetch(url)
    return str(caught.value)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test in an event loop of its own."""

    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


@in_loop
async def test_a_image_is_fetched_whole_and_little_is_told() -> None:
    """The bytes come back as they lie there, and the request carries no cookie, referrer or wish for compression."""
    async with serving({"/a.png": [ok(IMAGE)]}) as pages, fetching("127.0.0.1") as fetcher:
        assert await fetcher.fetch(f"{pages.url}/a.png?signature=x") == IMAGE
        names = {line.partition(":")[0].lower() for line in pages.heads[0].splitlines()[1:] if line}
        assert names == {"host", "user-agent", "accept", "accept-encoding"}
        assert "GET /a.png?signature=x HTTP/1.1" in pages.heads[0]
        assert f"Host: 127.0.0.1:{pages.port}" in pages.heads[0]
        assert "Accept-Encoding: identity" in pages.heads[0]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),  # NAT64 of 93.184.215.14
        ("::ffff:93.184.215.14", True),
        ("2002:5db8:d70e::1", True),  # 6to4 of it
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),  # carrier-grade NAT
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("169.254.169.254", False),  # where clouds keep their credentials
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),  # IPv4-compatible 127.0.0.1
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::7f00:1", False),  # NAT64 for use in the house
        ("2002:7f00:1::1", False),  # 6to4 of 127.0.0.1
        ("2001:0:7f00:1::5db8:d70e", False),  # Teredo
        ("2001:db8::1", False),
        ("fc00::1", False),
        ("fd12:3456:789a::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    """Only addresses of the public internet count, also those inside an IPv6 address."""
    assert is_public(address) is public


@in_loop
async def test_no_spelling_reaches_loopback() -> None:
    """However loopback is written, nothing connects to it."""
    async with serving({"/": [ok(IMAGE)]}) as pages, fetching() as fetcher:
        for host in (
            *(
                "127.0.0.1",
                "127.1",
                "2130706433",
                "0x7f000001",
                "0.0.0.0",
                "0",
                "localhost",
                "LOCALHOST.",
            ),
            *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "169.254.169.254", "127。0。0。1"),
        ):
            assert "no public address" in await refused(fetcher, f"http://{host}:{pages.port}/"), host
        assert pages.connections == 0


@in_loop
async def test_the_answer_is_no_oracle() -> None:
    """Of a host inside the house the same is said whether its port is open, closed, or its name not even known."""
    resolve, _ = resolving(
        inside_example=["10.0.0.1"], open_example=["127.0.0.1"], closed_example=["127.0.0.1"], unknown_example=[]
    )
    async with serving({"/": [ok(IMAGE)]}) as pages, fetching(resolve=resolve) as fetcher:
        said = [
            (await refused(fetcher, f"http://{host}:{port}/")).replace(host, "HOST")
            for host, port in [
                ("open.example", pages.port),
                ("closed.example", 1),
                ("inside.example", 80),
                ("unknown.example", 80),
            ]
        ]
    assert len(set(said)) == 1
    assert "10.0.0.1" not in said[0]
    assert "127.0.0.1" not in said[0]


@in_loop
async def test_one_private_address_is_enough_to_refuse() -> None:
    """A name with a public and a private address is refused before anything is connected to."""
    resolve, asked = resolving(mixed_example=["93.184.215.14", "127.0.0.1"])
    async with fetching(resolve=resolve) as fetcher:
        assert "no public address" in await refused(fetcher, "http://mixed.example/cat.png")
    assert asked == ["mixed.example"]


@in_loop
async def test_a_name_is_resolved_once_for_each_connection() -> None:
    """The connection goes to the address that was checked: a name that changes its mind has no second chance."""
    answers = iter([["127.0.0.1"]])

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return next(answers)  # a second question would end the test

    async with serving({"/": [ok(IMAGE)]}) as pages, fetching("cats.example", resolve=resolve) as fetcher:
        assert await fetcher.fetch(f"http://cats.example:{pages.port}/") == IMAGE
        assert f"Host: cats.example:{pages.port}" in pages.heads[0]


@in_loop
async def test_the_next_address_is_tried() -> None:
    """Where a host's first address does not answer, its second does."""
    resolve, _ = resolving(cats_example=["127.0.0.2", "127.0.0.1"])
    async with serving({"/": [ok(IMAGE)]}) as pages, fetching("cats.example", resolve=resolve) as fetcher:
        assert await fetcher.fetch(f"http://cats.example:{pages.port}/") == IMAGE


@in_loop
async def test_the_certificate_is_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over https the certificate must be that of the name in the address, though the connection goes to an IP."""
    file = tmp_path / "cats.pem"
    file.write_text(CERTIFICATE)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    resolve, _ = resolving(cats_example=["127.0.0.1"], dogs_example=["127.0.0.1"])
    async with serving({"/": [ok(IMAGE)]}, tls=tls) as pages:
        async with fetching("cats.example", "dogs.example", resolve=resolve) as fetcher:
            assert "connection failed" in await refused(fetcher, f"https://cats.example:{pages.port}/")  # self-signed
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        async with fetching("cats.example", "dogs.example", resolve=resolve) as fetcher:
            assert await fetcher.fetch(f"https://cats.example:{pages.port}/") == IMAGE
            assert "connection failed" in await refused(fetcher, f"https://dogs.example:{pages.port}/")


@in_loop
async def test_redirects_are_checked_like_any_address() -> None:
    """A redirect is followed up to three times, without cookies, and never to what would be refused at first."""
    pages_of = {
        "/3": [redirect("/2", "Set-Cookie: a=b")],
        "/2": [redirect("1")],
        "/1": [redirect("/cat")],
        "/4": [redirect("/3")],
        "/cat": [ok(IMAGE)],
        "/private": [redirect("http://169.254.169.254/latest/meta-data/")],
        "/localhost": [redirect("http://localhost:1/")],
        "/file": [redirect("file:///etc/passwd")],
        "/gopher": [redirect("gopher://127.0.0.1:6379/_")],
        "/password": [redirect("http://user:secret@127.0.0.1/")],
        "/broken": [redirect("http://[::1/")],
    }
    async with serving(pages_of) as pages, fetching("127.0.0.1") as fetcher:
        assert await fetcher.fetch(f"{pages.url}/3") == IMAGE
        assert not [head for head in pages.heads if "cookie" in head.lower()]
        assert "more than 3 times" in await refused(fetcher, f"{pages.url}/4")
        assert "no public address" in await refused(fetcher, f"{pages.url}/private")
        assert "no public address" in await refused(fetcher, f"{pages.url}/localhost")
        for path, sentence in {
            "file": "http(s)",
            "gopher": "http(s)",
            "password": "user name",
            "broken": "http(s)",
        }.items():
            said = await refused(fetcher, f"{pages.url}/{path}")
            assert sentence in said, path
            assert "secret" not in said
            assert "passwd" not in said


@in_loop
async def test_what_is_no_address_is_refused() -> None:
    """Other schemes, passwords and what cannot be parsed are refused with a sentence that repeats no secret."""
    async with fetching("127.0.0.1", "host") as fetcher:
        for url, sentence in {
            "file:///etc/passwd": "http(s)://HOST/PATH alone",
            "ftp://host/a.png": "http(s)://HOST/PATH alone",
            "http:///a.png": "http(s)://HOST/PATH alone",
            "http://user:secret@host/a.png?key=secret": "leave the user name and password out",
            "http://[::1/": "not an address",
            "http://0177.0.0.1/": "not an address",
            "http://host:65536/": "http(s)://HOST/PATH alone",
            "http://ho\nst/": "not an address",
            "http://host/" + "a" * 9000: "8192 characters",
            "http://" + "a" * 300 + "/": "no public address",
            "http://a..b/": "no public address",
        }.items():
            said = await refused(fetcher, url)
            assert sentence in said, url
            assert "secret" not in said
            assert len(said) < 300


@in_loop
async def test_an_allowed_host_may_be_bound_to_a_port() -> None:
    """HOST:PORT allows that port alone, and HOST every one; neither allows another name of the same machine."""
    async with serving({"/": [ok(IMAGE)]}) as pages, serving({"/": [ok(b"other")]}) as other:
        async with fetching(f"127.0.0.1:{pages.port}") as fetcher:
            assert await fetcher.fetch(f"{pages.url}/") == IMAGE
            assert "no public address" in await refused(fetcher, f"{other.url}/")
            assert "no public address" in await refused(fetcher, f"http://localhost:{pages.port}/")
        async with fetching("127.0.0.1") as fetcher:
            assert await fetcher.fetch(f"{other.url}/") == b"other"
        assert other.connections == 1


@pytest.mark.parametrize("host", ["http://host", "host/path", "user@host", "", "host:port", "[::1"])
def test_an_allowed_host_is_a_host(host: str) -> None:
    """Anything but HOST or HOST:PORT behind --allow-image-host is refused when the service starts."""
    with pytest.raises(SettingsError, match="HOST or HOST:PORT"):
        Fetcher(Settings(allow_image_host=(host,)))


@in_loop
async def test_only_a_plain_200_is_taken() -> None:
    """Another status, a compressed answer, a broken connection and what is not HTTP are each told apart."""
    pages_of = {
        "/gone": [b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ncat!"],
        "/partial": [b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\ncat!"],
        "/lost": [b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"],
        "/gzip": [ok(IMAGE, "Content-Encoding: gzip")],
        "/broken": [b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\nConnection: close\r\n\r\ncat!"],
        "/junk": [b"SSH-2.0-OpenSSH\r\n\r\nConnection: close"],
        "/identity": [ok(IMAGE, "Content-Encoding: identity")],
    }
    async with serving(pages_of) as pages, fetching("127.0.0.1") as fetcher:
        for path, sentence in {
            "/gone": "status 404",
            "/partial": "status 206",
            "/lost": "status 302",
            "/gzip": "compressed",
            "/broken": "broke off",
            "/junk": "broke off",
        }.items():
            assert sentence in await refused(fetcher, pages.url + path), path
        assert await fetcher.fetch(f"{pages.url}/identity") == IMAGE
        assert "connection failed" in await refused(fetcher, "http://127.0.0.1:1/")


@in_loop
async def test_size_is_capped_while_it_arrives() -> None:
    """One byte over the limit is refused, whether it was announced or only comes."""
    limit = 2**20
    chunks = [b"%x\r\n" % 2**18 + b"x" * 2**18 + b"\r\n"] * 4
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pages_of: dict[str, Sequence[bytes | float]] = {
        "/fits": [ok(b"x" * limit)],
        "/announced": [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (limit + 1), 60.0],
        "/arrives": [chunked, *chunks, b"1\r\nx\r\n", 60.0],
        "/chunked": [chunked, *chunks, b"0\r\n\r\n"],
    }
    async with serving(pages_of) as pages, fetching("127.0.0.1", max_image_mb=1) as fetcher:
        assert len(await fetcher.fetch(f"{pages.url}/fits")) == limit
        assert len(await fetcher.fetch(f"{pages.url}/chunked")) == limit
        assert "larger than 1 MiB" in await refused(fetcher, f"{pages.url}/announced")
        assert "larger than 1 MiB" in await refused(fetcher, f"{pages.url}/arrives")


@in_loop
async def test_time_is_capped_as_a_whole() -> None:
    """A server that sends a byte now and then is given up like one that says nothing."""
    trickle: list[bytes | float] = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"]
    for _ in range(100):
        trickle += [0.05, b"x"]
    pages_of: dict[str, Sequence[bytes | float]] = {"/trickle": trickle, "/silent": [60.0], "/": [redirect("/trickle")]}
    async with serving(pages_of) as pages, fetching("127.0.0.1", fetch_seconds=0.3) as fetcher:
        clock = asyncio.get_running_loop().time
        for path in ("/trickle", "/silent", "/"):
            began = clock()
            assert "longer than 0.3 seconds" in await refused(fetcher, pages.url + path)
            assert clock() - began < 1


@in_loop
async def test_a_resolver_that_hangs_is_given_up() -> None:
    """The time to resolve a name counts."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    async with fetching(resolve=resolve, fetch_seconds=0.1) as fetcher:
        assert "longer than 0.1 seconds" in await refused(fetcher, "http://slow.example/")


@in_loop
async def test_sixteen_at_once() -> None:
    """Of many fetches at most sixteen are under way, all are answered, and a cancelled one frees its place."""
    pages_of: dict[str, Sequence[bytes | float]] = {"/": [0.02, ok(IMAGE)], "/hangs": [60.0]}
    async with serving(pages_of) as pages, fetching("127.0.0.1") as fetcher:
        hanging = [asyncio.create_task(fetcher.fetch(f"{pages.url}/hangs")) for _ in range(20)]
        await asyncio.sleep(0.2)
        assert pages.open == 16
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        assert set(await asyncio.gather(*(fetcher.fetch(f"{pages.url}/") for _ in range(64)))) == {IMAGE}


@in_loop
async def test_whoever_waits_too_long_is_told_to_come_again() -> None:
    """Where hosts that hang take every place, later fetches are turned away as overload instead of piling up."""
    async with serving({"/": [60.0]}) as pages, fetching("127.0.0.1", fetch_seconds=0.2) as fetcher:
        said = await asyncio.gather(*(fetcher.fetch(f"{pages.url}/") for _ in range(80)), return_exceptions=True)
    kinds = [type(error) for error in said if isinstance(error, MmembedError)]
    assert len(kinds) == 80
    assert kinds.count(Overloaded) >= 8
    assert kinds.count(ForbiddenUrl) >= 32


@in_loop
async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables for a proxy, which would connect wherever it likes, are not followed."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with serving({"/": [ok(IMAGE)]}) as pages, fetching("127.0.0.1") as fetcher:
        assert await fetcher.fetch(f"{pages.url}/") == IMAGE
