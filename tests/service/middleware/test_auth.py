"""What a request passes before its route: keys, scopes, rate, hosts, origins, limits of size and time."""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends
from service_app import running
from starlette.routing import Route

from mmembed.batching.submission import Call, current_call
from mmembed.errors import SettingsError
from mmembed.service.middleware.auth import needs, read_keys
from mmembed.service.server import Server
from mmembed.service.settings import SCOPES, Scope, Settings

JSON = {"content-type": "application/json"}
MIB = 1 << 20
INFERENCE = b'{"inputs": [{"data": "a cake", "data_type": "text", "model": "tiny"}], "inference": "search"}'


def add_probe(service: Server) -> dict[str, Call]:
    """Routes for the tests: one a scope, one that says how large its body is, and one that takes its time."""
    calls: dict[str, Call] = {}

    async def nothing() -> str:
        return "in"

    async def size(body: dict[str, str]) -> int:
        return sum(map(len, body.values()))

    async def slow(name: str) -> str:
        call = current_call.get()
        assert call is not None
        calls[name] = call
        await asyncio.sleep(20)
        return "done"

    for scope in SCOPES:
        service.app.add_api_route(f"/v1/probe/{scope}", nothing, dependencies=[Depends(needs(scope))])
    service.app.add_api_route("/v1/size", size, methods=["POST"])
    service.app.add_api_route("/v1/slow/{name}", slow)
    service.app.router.routes.sort(key=lambda route: not getattr(route, "path", "").startswith("/v1/s"))
    return calls


@contextmanager
def probed(tmp_path: Path, **settings: object) -> Iterator[Server]:
    with running(tmp_path, wait=False, **settings) as service:
        add_probe(service)
        yield service


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """No keys, 1 MiB a request, which must arrive within a second."""
    with probed(tmp_path_factory.mktemp("small"), max_body_mb=1, request_seconds=1) as service:
        yield service


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("locked")
    file = folder / "keys"
    file.write_text("# of the cameras\n\ncamera-key:index,infer\n", encoding="utf-8")
    with probed(folder, key=("all-key", "search-key:search", "admin-key:admin"), key_file=file) as service:
        yield service


def raw(service: Server, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Everything the service answers to these bytes, until it closes the connection."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 0), timeout=20) as client:
        for piece in pieces:
            try:
                client.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(pause)
        return b"".join(iter(lambda: client.recv(65536), b""))


def until(condition: object, seconds: float = 20) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "let_in"),
    [
        ("all-key", set(SCOPES)),
        ("admin-key", set(SCOPES)),
        ("search-key", {"search"}),
        ("camera-key", {"index", "infer"}),
    ],
)
def test_scopes(secret: str, let_in: set[str], locked: Server) -> None:
    """A key opens what its scopes name and nothing else, in either header; admin opens everything."""
    for scope in SCOPES:
        for headers in ({"authorization": f"Bearer {secret}"}, {"mmembed-api-key": secret}):
            answer = httpx.get(f"{locked.url}/v1/probe/{scope}", headers=headers)
            assert answer.status_code == (200 if scope in let_in else 403)
            assert scope in let_in or f"this needs {scope}" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer no-such"}, {"authorization": "Basic all-key"}, {"mmembed-api-key": "all-ke"}],
)
def test_without_a_known_key(headers: dict[str, str], locked: Server, caplog: pytest.LogCaptureFixture) -> None:
    """No key and an unknown one are 401 with one sentence that names the header, and no key is in it or in the log."""
    answer = httpx.get(f"{locked.url}/v1/probe/search", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "Unauthorized")
    assert "mmembed-api-key" in answer.json()["error"]
    assert answer.headers["www-authenticate"] == "Bearer"
    for secret in ("all-key", "no-such", "search-key"):
        assert secret not in answer.text + caplog.text


PUBLIC = {
    *(("GET", path) for path in ("/", "/static/{name}", "/health", "/ready", "/openapi.json")),
    ("GET", "/qdrant/infer"),  # says in a sentence what the address is for
}


def unlocked(service: Server) -> list[str]:
    """The routes, but for public ones, that answer other than 401 without a key and 403 with one of another scope.

    Qdrant reads the sentence of a 400 alone, so its route says the same by that.
    """
    found = []
    with httpx.Client(base_url=service.url, headers=JSON, timeout=20) as client:
        for route in service.app.routes:
            assert isinstance(route, Route)
            for method in sorted((route.methods or set()) - {"HEAD"}):
                if (method, route.path) in PUBLIC:
                    continue

                def answer(secret: str, method: str = method, path: str = route.path) -> tuple[int, str]:
                    inputs = INFERENCE if path == "/qdrant/infer" else b"{}"
                    headers = {"mmembed-api-key": secret} if secret else {}
                    url = re.sub(r"{[\w:]+}", "x", path)
                    answer = client.request(method, url, content=inputs, headers=headers)
                    return answer.status_code, answer.text

                of_qdrant = route.path == "/qdrant/infer"
                status, said = answer("")
                none = status == (400 if of_qdrant else 401) and "no key came with the request" in said
                others = [answer(secret) for secret in ("search-key", "camera-key")]
                refused = [
                    status == (400 if of_qdrant else 403) and "the key has the scope" in said for status, said in others
                ]
                if not none or not any(refused):
                    found.append(f"{method} {route.path}")
    return found


def test_every_route_is_locked(tmp_path: Path) -> None:
    """Every route that is not public refuses who has no key and who has one of another scope; a forgotten one is told.

    The service itself is walked: routes that no OpenAPI lists are among them.
    """
    keys = ("search-key:search", "camera-key:index,infer")
    with running(tmp_path, wait=False, key=keys) as service:
        assert unlocked(service) == []
        routes: list[Any] = service.app.routes
        methods = {(method, route.path) for route in routes for method in getattr(route, "methods", ())}
        assert len(methods - PUBLIC) > 12
        assert methods >= PUBLIC

        async def forgotten() -> str:
            return "in"

        service.app.add_api_route("/v1/forgotten", forgotten)
        assert unlocked(service) == ["GET /v1/forgotten"]


def test_no_key_no_upload(locked: Server) -> None:
    """Who has no key is told so before the body is read."""
    head = b"POST /v1/index/images HTTP/1.1\r\nhost: localhost\r\ncontent-length: 30000000\r\n\r\n"
    assert raw(locked, head).startswith(b"HTTP/1.1 401")


def test_many_unknown_keys_from_one_address(tmp_path: Path) -> None:
    """Who keeps guessing is told to wait, while a good key from the same address still passes."""
    with probed(tmp_path, key=("good-key",)) as service, httpx.Client(base_url=service.url) as client:
        statuses = [
            client.get("/v1/probe/search", headers={"mmembed-api-key": f"guess-{n}"}).status_code for n in range(40)
        ]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        assert client.get("/v1/probe/search", headers={"mmembed-api-key": "good-key"}).status_code == 200


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("secret-abc:serach",), "key 1 of --key names scopes that do not exist"),
        (("ok", "secret-abc:search,"), "key 2 of --key names scopes"),
        ((":search",), "no secret"),
        (("secret-abc:search", "secret-abc:index"), "twice"),
    ],
)
def test_keys_that_make_no_sense(lines: tuple[str, ...], said: str) -> None:
    """A key that cannot be read is told by its place, never by its secret."""
    with pytest.raises(SettingsError, match=said) as caught:
        read_keys(Settings(key=lines))
    assert "secret-abc" not in str(caught.value)


def test_key_file_that_makes_no_sense(tmp_path: Path) -> None:
    """A key file that is missing, empty or not text is one sentence."""
    for content, said in ((None, "cannot be read"), (b"# none\n", "holds no key"), (b"\xff\xfe", "it is not text")):
        file = tmp_path / "keys"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SettingsError, match=said):
            read_keys(Settings(key_file=file))


# --- rate -----------------------------------------------------------------------------------------


def test_rate(tmp_path: Path) -> None:
    """More requests a second than the rate are 429 with Retry-After, for each key alone; probes are not counted."""
    with probed(tmp_path, key=("one", "two"), rate=0.2) as service, httpx.Client(base_url=service.url) as client:
        one, two = ({"mmembed-api-key": key} for key in ("one", "two"))
        assert client.get("/v1/probe/search", headers=one).status_code == 200
        late = client.get("/v1/probe/search", headers=one)
        assert (late.status_code, late.json()["type"], late.headers["retry-after"]) == (429, "Overloaded", "5")
        assert client.get("/v1/probe/search", headers=two).status_code == 200
        assert {client.get("/health").status_code for _ in range(5)} <= {200, 404}


# --- hosts and origins ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("[::1]", 200),
        ("127.0.0.2", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[x", 400),  # which is no Host at all
    ],
)
def test_host_without_keys(host: str, status: int, small: Server) -> None:
    """Without keys only this computer's own names are answered to, so that no page can rebind its name to it."""
    answer = httpx.get(f"{small.url}/v1/probe/search", headers={"host": host})
    assert answer.status_code == status


def test_origin_without_keys(small: Server) -> None:
    """Without keys a form or script of a foreign page is refused, and the service's own page is not."""
    url = f"{small.url}/v1/size"
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        refused = httpx.post(url, content=b"a=b", headers={"origin": origin, "content-type": "text/plain"})
        assert (refused.status_code, refused.json()["type"]) == (403, "Forbidden"), origin
    own = httpx.post(url, json={"a": "b"}, headers={"origin": small.url})
    assert (own.status_code, own.json()) == (200, 1)
    assert "access-control-allow-origin" not in own.headers
    assert own.headers["cross-origin-resource-policy"] == "same-origin"


def test_allowed_origin(tmp_path: Path) -> None:
    """An origin that is allowed gets CORS headers, on errors too; any other gets none."""
    with probed(tmp_path, allow_origin=("https://shop.example",)) as service:
        asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
        preflight = httpx.options(f"{service.url}/v1/size", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
        for path, status in (("/v1/probe/search", 200), ("/v1/nothing", 404)):
            answer = httpx.get(service.url + path, headers={"origin": "https://shop.example"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        foreign = httpx.get(f"{service.url}/v1/probe/search", headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert "access-control-allow-origin" not in foreign.headers


def test_headers_of_every_answer(small: Server) -> None:
    """Answers say that their type is not to be guessed, and the page that nothing comes from elsewhere."""
    page = httpx.get(small.url)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for answer in (page, httpx.get(f"{small.url}/v1/nothing"), httpx.get(f"{small.url}/v1/probe/search")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"]
        assert "server" not in answer.headers


# --- bodies ---------------------------------------------------------------------------------------


def test_body_within_the_limit(small: Server) -> None:
    """A body of just the limit is taken, in one piece or in many."""
    body = json.dumps({"a": "x" * (MIB - 9)}).encode()
    assert len(body) == MIB

    def pieces() -> Iterator[bytes]:
        for at in range(0, MIB, 10_000):
            yield body[at : at + 10_000]

    for content in (body, pieces()):
        answer = httpx.post(f"{small.url}/v1/size", content=content, headers=JSON)
        assert (answer.status_code, answer.json()) == (200, MIB - 9)


def test_body_that_says_it_is_too_large(small: Server) -> None:
    """A Content-Length above the limit is 413 at once, before a byte of it was sent."""
    head = b"POST /v1/size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048577\r\nexpect: 100-continue\r\n\r\n"
    answer = raw(small, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer
    assert b"larger than 1 MiB" in answer


@pytest.mark.parametrize("declared", [True, False])
def test_body_that_is_too_large(declared: bool, small: Server) -> None:
    """A client that sends more than the limit reads its 413, with and without a Content-Length, and we read no end."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 400 * MIB:
            sent += MIB
            yield b" " * MIB

    headers = JSON | ({"content-length": str(400 * MIB)} if declared else {})
    answer = httpx.post(f"{small.url}/v1/size", content=endless(), headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["type"]) == (413, "RequestTooLarge")
    assert sent < 100 * MIB


def test_all_bodies_together_are_bounded(tmp_path: Path) -> None:
    """When what is held of all bodies reaches its bound, a further one is 429, and later all is well."""
    with probed(tmp_path, max_body_mb=0.25) as service:
        url = httpx.URL(service.url)
        size = MIB // 4
        head = f"POST /v1/size HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n".encode()
        clients = [socket.create_connection((url.host, url.port or 0), timeout=10) for _ in range(17)]
        try:
            for client in clients:
                client.sendall(head + b"x" * (size - 1))
            refused, _, _ = select.select(clients, [], [], 20)
            assert len(refused) == 1
            answer = refused[0].recv(65536)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"retry-after: 2" in answer
        finally:
            for client in clients:
                client.close()
        assert until(lambda: httpx.post(f"{service.url}/v1/size", json={"a": "x" * 1000}).status_code == 200)


def test_slow_body(small: Server) -> None:
    """A body that does not arrive in time is 408, and its connection is closed."""
    started = time.monotonic()
    answer = raw(small, b"POST /v1/size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"type":"RequestTimeout"' in answer
    assert 0.9 < time.monotonic() - started < 10


def test_slow_head(small: Server) -> None:
    """A head that trickles in is 408 when its time is over; a connection on which none begins is closed."""
    started = time.monotonic()
    trickle = [b"GET / HTTP/1.1\r\n", *(b"x-%d: y\r\n" % n for n in range(40))]
    assert raw(small, *trickle, pause=0.05).startswith(b"HTTP/1.1 408")
    assert raw(small) == b""
    assert time.monotonic() - started < 15


def test_slow_head_on_a_used_connection(small: Server) -> None:
    """The clock runs for the second request of a connection too."""
    good = b"GET /v1/probe/search HTTP/1.1\r\nhost: localhost\r\n\r\n"
    answer = raw(small, good, b"GET /v1/probe")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_large_body_is_no_large_head(small: Server) -> None:
    """What follows a large body on its connection is a request of its own, not more of a head."""
    body = json.dumps({"a": "x" * 900_000}).encode()
    head = "POST /v1/size HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    last = b"GET /v1/probe/search HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert raw(small, (head.encode() + body) * 3 + last).count(b"HTTP/1.1 200") == 4


def test_endless_head(small: Server) -> None:
    """Headers without end are refused long before they fill the memory."""
    assert raw(small, b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 200_000).startswith(b"HTTP/1.1 413")


def test_no_http(small: Server) -> None:
    """What is not HTTP gets 400 and the connection is closed."""
    assert raw(small, b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400")


# --- clients that go away -------------------------------------------------------------------------


def test_aborted_upload_leaves_nothing(small: Server) -> None:
    """An upload that is broken off is forgotten: nothing is held, nothing is in flight, and no answer is made."""
    url = httpx.URL(small.url)
    metrics = small.app.state.service.metrics
    for _ in range(20):
        with socket.create_connection((url.host, url.port or 0)) as client:
            client.sendall(
                b"POST /v1/size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n\r\n" + b"x" * 500_000
            )
    gone = 'mmembed_requests_total{method="POST",route="other",status="499"} 20.0'
    assert until(lambda: gone in metrics.render().decode())
    assert metrics.in_flight == 0
    for _ in range(20):  # 20 MB: more than may be held, were any of it left
        assert httpx.post(f"{small.url}/v1/size", json={"a": "x" * 900_000}).status_code == 200


def test_client_that_leaves_is_let_go(tmp_path: Path) -> None:
    """When the client goes away its call is cancelled and its route ends at once."""
    with running(tmp_path, wait=False) as service:
        calls = add_probe(service)
        metrics = service.app.state.service.metrics
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{service.url}/v1/slow/first", timeout=0.3)
        assert until(lambda: calls["first"].cancelled)
        assert until(lambda: metrics.in_flight == 0)
        assert 'route="/v1/slow/{name}",status="499"' in metrics.render().decode()


def test_requests_of_one_connection_do_not_cancel_each_other(small: Server) -> None:
    """A connection that is used again and again answers every request, the pipelined ones too."""
    one = b"GET /v1/probe/search HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = b"GET /v1/probe/search HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert raw(small, one * 20 + last).count(b"HTTP/1.1 200") == 21


def test_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A request that takes longer than the time for shutting down is told so, and the service ends."""
    answers: list[httpx.Response] = []
    with running(tmp_path, wait=False, shutdown_seconds=1) as service:
        calls = add_probe(service)
        asking = threading.Thread(target=lambda: answers.append(httpx.get(f"{service.url}/v1/slow/long", timeout=30)))
        asking.start()
        assert until(lambda: "long" in calls)
        started = time.monotonic()
    asking.join()
    assert time.monotonic() - started < 10
    assert answers[0].status_code == 429
    assert "being stopped" in answers[0].json()["error"]


STUCK = """
import os, signal, sys, threading, time
from pathlib import Path
from mmembed.service.server import Server
from mmembed.service.settings import Settings
service = Server(Settings(port=0, store=f"edge:{sys.argv[1]}", shutdown_seconds=0.5))
def stop():
    while not service.started: time.sleep(0.01)
    threads, engine = service.app.state.service.threads, service.app.state.service.engine
    threads._executor.submit(time.sleep, 120)
    engine._decoders.submit(time.sleep, 120)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=stop).start()
service.run(ends_process=True)
"""


def test_a_stop_waits_for_nothing_that_does_not_end(tmp_path: Path) -> None:
    """A write and a decoder that would take minutes do not keep the process: it ends with 0 when its time is over."""
    ended = subprocess.run([sys.executable, "-c", STUCK, str(tmp_path / "store.mm")], timeout=60, check=False)
    assert ended.returncode == 0


def test_openapi_documents_the_doors(small: Server) -> None:
    """The OpenAPI names both ways to send a key, and the errors that every route may answer."""
    described = httpx.get(f"{small.url}/openapi.json").json()
    schemes = described["components"]["securitySchemes"].values()
    assert {(scheme["type"], scheme.get("scheme", scheme.get("name"))) for scheme in schemes} == {
        ("http", "bearer"),
        ("apiKey", "mmembed-api-key"),
    }
    wanted = {"400", "401", "403", "404", "408", "413", "429", "503", "default"}
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            if not path.startswith(("/v1/probe", "/v1/size", "/v1/slow")):
                assert wanted <= set(route["responses"]), (method, path)
                assert "422" not in route["responses"], (method, path)
    for page in ("/docs", "/redoc"):  # FastAPI's load their scripts from another host
        assert httpx.get(small.url + page).status_code == 404


def test_scopes_are_what_keys_may_name() -> None:
    """Every scope can be given to a key by its name."""
    scopes: tuple[Scope, ...] = SCOPES
    for scope in scopes:
        key = read_keys(Settings(key=(f"k:{scope}",))).find("k")
        assert key is not None
        assert key.may(scope)
