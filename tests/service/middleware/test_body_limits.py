"""Bodies of those who have no key: none is read where none is taken, and what they send is nobody else's loss."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from service_app import running

from mmembed.service.server import Server

KEY = {"mmembed-api-key": "good"}
INFERENCE = {"inputs": [{"data": "a cake", "data_type": "text", "model": "tiny"}], "inference": "search"}
MIB = 1 << 20


@pytest.fixture
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("locked"), key=("good",), max_body_mb=2, request_seconds=60) as service:
        yield service


def connect(service: Server) -> socket.socket:
    url = httpx.URL(service.url)
    return socket.create_connection((url.host, url.port or 0), timeout=20)


def head(path: str, size: int, *lines: str) -> bytes:
    rows = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {size}", *lines, "", ""]
    return "\r\n".join(rows).encode()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health", 405), ("/", 405), ("/static/app.js", 405), ("/nothing", 404), ("/v1/search/x", 401)],
)
def test_no_body_is_read_where_none_is_taken(path: str, status: int, locked: Server) -> None:
    """A request whose body cannot matter is answered when its head is there."""
    with connect(locked) as client:
        client.sendall(head(path, MIB))
        assert client.recv(65536).startswith(b"HTTP/1.1 %d" % status)
    with connect(locked) as client:
        client.sendall(head(path, MIB).replace(b"POST", b"GET") + b"x")
        assert client.recv(65536).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize("path", ["/health", "/qdrant/infer", "/nothing"])
def test_unfinished_bodies_of_the_keyless_refuse_nobody_with_a_key(path: str, locked: Server) -> None:
    """Forty bodies that do not end take no room from those who have a key, nor from a small request without."""
    with ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(connect(locked))
            with contextlib.suppress(ConnectionError):
                client.sendall(head(path, MIB) + b" " * (MIB - 1))
        large = {**INFERENCE, "inputs": [{"data": "a " * 400_000, "data_type": "text", "model": "bm25"}]}
        for _ in range(3):
            assert httpx.post(f"{locked.url}/qdrant/infer", json=large, headers=KEY, timeout=60).status_code == 200
        assert httpx.post(f"{locked.url}/qdrant/infer", json={**INFERENCE, "token": "good"}).status_code == 200


def test_a_large_body_needs_its_key_in_the_head(locked: Server) -> None:
    """More than 1 MiB is refused at its head where the key is only in the body, with how to send it instead."""
    with connect(locked) as client:
        client.sendall(head("/qdrant/infer", MIB + 1))
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"send the key as `mmembed-api-key: KEY`" in answer
    long = {**INFERENCE, "token": "good", "inputs": [{"data": "a " * 600_000, "data_type": "text", "model": "bm25"}]}
    assert "mmembed-api-key" in httpx.post(f"{locked.url}/qdrant/infer", json=long).json()["error"]


def test_a_small_request_is_never_refused_for_memory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On a service without keys too, bodies that do not end refuse no small request."""
    with running(tmp_path_factory.mktemp("open"), max_body_mb=1, request_seconds=60) as service, ExitStack() as stack:
        for _ in range(18):
            stack.enter_context(connect(service)).sendall(head("/v1/embeddings", MIB) + b" " * (MIB - 1))
        for _ in range(5):
            body = {"model": "tiny", "input": "a"}
            assert httpx.post(f"{service.url}/v1/embeddings", json=body).status_code == 200


def test_keys_guessed_in_bodies_are_counted(locked: Server) -> None:
    """An address that keeps sending unknown tokens is told to wait, while a good one still passes from there."""
    url = f"{locked.url}/qdrant/infer"
    codes = [httpx.post(url, json={**INFERENCE, "token": f"guess {n}"}).status_code for n in range(60)]
    assert set(codes) == {400, 429}
    assert httpx.post(url, json={**INFERENCE, "token": "good"}).status_code == 200
    assert httpx.post(url, json=INFERENCE).status_code == 400  # none at all is no guess
