"""Clients that mean harm: what is no HTTP, trailers without end, texts that would hold everything up."""

from __future__ import annotations

import base64
import io
import json
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from service_app import running

from mmembed.batching.memory import PixelBudget
from mmembed.service.server import Server

CHUNKED = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("hostile"), request_seconds=20) as service:
        yield service


def talk(service: Server, *pieces: bytes) -> bytes:
    """All that comes back before the service closes the connection, or breaks it off."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 0), timeout=20) as client:
        found = b""
        try:
            for piece in pieces:
                client.sendall(piece)
        except ConnectionError:
            pass  # what was answered before can be read
        while piece := client.recv(65536):
            found += piece
        return found


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_a_sentence(request_: bytes, service: Server) -> None:
    """A head that cannot be read, or whose length is ambiguous, is 400 with JSON, and the connection is closed."""
    head, _, body = talk(service, request_).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/json" in head
    assert json.loads(body)["type"] == "InvalidRequest"


@pytest.mark.parametrize(
    "hosts", ["", "Host: localhost\r\nhost: localhost\r\n", "Host: a@localhost\r\n", "Host: a/b\r\n"]
)
def test_a_request_names_one_host(hosts: str, service: Server) -> None:
    """RFC 9112 wants one header Host, which is a name or an address; without it, twice or else it is 400."""
    found = talk(service, f"GET /health HTTP/1.1\r\n{hosts}\r\n".encode())
    assert found.startswith(b"HTTP/1.1 400")
    assert b"one header Host" in found


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost:   localhost:8600 \r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    ],
)
def test_hosts_that_are_fine(request_: bytes, service: Server) -> None:
    """An address, a port or an empty name is a Host, and HTTP/1.0 needs none."""
    assert talk(service, request_).startswith(b"HTTP/1.1 200")


def test_a_large_head_in_one_piece(service: Server) -> None:
    """A head of more than 64 KiB is refused however it arrives."""
    found = talk(service, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 120_000 + b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 413")


def test_broken_chunks_are_answered_at_once(service: Server) -> None:
    """A body whose chunks cannot be read is 400 in the shape of its path, without waiting for what cannot come."""
    began = time.monotonic()
    head, _, body = talk(service, CHUNKED, b"ZZ\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert time.monotonic() - began < 10
    assert json.loads(body)["error"]["code"] == "InvalidRequest"


def test_nonsense_after_a_request_leaves_its_answer_alone(service: Server) -> None:
    """What cannot be read after a request does not get in before that request's answer."""
    found = talk(service, b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n\x00\x00\x00\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")
    assert b'{"status":"ok"}' in found


@pytest.mark.parametrize("trailer", [b"X: y\r\n" * 2000, b"a" * 12_000])
def test_endless_trailers(trailer: bytes, service: Server) -> None:
    """Trailers are bounded like a head: they would be kept in memory for as long as a request may take."""
    found = talk(service, CHUNKED, b"2\r\n{}\r\n0\r\nX: ", *[trailer] * 100)
    assert found.startswith(b"HTTP/1.1 413")
    assert b"larger than 64 KiB" in found


def test_trailers_are_no_headers(service: Server) -> None:
    """What comes after the body says nothing of it: a type in a trailer is not believed, and the answer is whole."""
    body = b'{"model": "tiny", "input": "a"}'
    chunks = b"%x\r\n%b\r\n0\r\nContent-Type: application/json\r\n\r\n" % (len(body), body)
    closing = CHUNKED.replace(
        b"Host: localhost\r\n", b"Host: localhost\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    )
    assert talk(service, closing, chunks).startswith(b"HTTP/1.1 400")


def test_head_is_get_without_the_body(service: Server) -> None:
    """HEAD is answered where GET is, with the same length and no body."""
    for path in ("/", "/health", "/static/app.js", "/v1/encoders"):
        asked, whole = httpx.head(service.url + path), httpx.get(service.url + path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))
    assert httpx.head(f"{service.url}/v1/search").status_code == 405


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "tiny", "input": ["a", "b" * 1_000_001]}),
        ("/v2/embed", {"model": "tiny", "input_type": "search_document", "texts": ["b" * 1_000_001]}),
        (
            "/qdrant/infer",
            {"inputs": [{"data": "b" * 1_000_001, "data_type": "text", "model": "bm25"}], "inference": "update"},
        ),
    ],
)
def test_text_without_end(path: str, body: dict[str, object], service: Server) -> None:
    """A text of more than a million characters is 400: tokenizers would take a minute and gigabytes for a large one."""
    answer = httpx.post(service.url + path, json=body)
    assert answer.status_code == 400
    assert "1,000,001 characters" in answer.text


def test_tokenizing_holds_nobody_up(service: Server) -> None:
    """While a long text is tokenized, which takes a second, other requests are answered."""
    body = {"model": "tiny", "input": "a " * 499_999}
    waits: list[float] = []
    with httpx.Client(base_url=service.url, timeout=60) as client, httpx.Client(base_url=service.url) as other:
        asking = threading.Thread(target=client.post, args=("/v1/embeddings",), kwargs={"json": body})
        started = time.monotonic()
        asking.start()
        while asking.is_alive():
            began = time.monotonic()
            other.get("/health")
            waits.append(time.monotonic() - began)
    assert max(waits) < (time.monotonic() - started) / 4


def test_images_of_a_search_are_bounded_together(service: Server) -> None:
    """Small files that are large pictures are refused by their sum, before any of them is decoded."""
    content = io.BytesIO()
    Image.new("1", (6000, 6000)).save(content, "PNG")
    files = [("image", ("a.png", content.getvalue())), ("minus_image", ("b.png", content.getvalue()))]
    answer = httpx.post(f"{service.url}/v1/search/any", files=files)
    assert answer.status_code == 400
    assert "72,000,000 pixels" in answer.json()["error"]


def test_slow_formats_are_refused_on_every_route(service: Server) -> None:
    """JPEG 2000 of many pixels, 800 bytes that would stop all threads, is refused before it is decoded."""
    content = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(content, "JPEG2000")
    file, url = content.getvalue(), service.url
    encoded = base64.b64encode(file).decode()
    uri = f"data:image/jp2;base64,{encoded}"
    input = {"data": encoded, "data_type": "image", "model": "tiny"}
    answers = [
        httpx.post(f"{url}/v1/search/any", files={"image": ("a.jp2", file)}),
        httpx.post(f"{url}/v1/index/any", files={"file": ("a.jp2", file)}),
        httpx.post(f"{url}/v1/classify", files={"image": ("a.jp2", file)}, data={"query": '{"labels": ["a", "b"]}'}),
        httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": uri}),
        httpx.post(f"{url}/qdrant/infer", json={"inputs": [input], "inference": "search"}),
    ]
    for answer in answers:
        assert (answer.status_code, "at most 500,000 pixels" in answer.text) == (400, True), answer.text


def test_the_pixel_budget_is_shared() -> None:
    """Whoever needs more pixels than are left waits until another has done; what exceeds all of them goes alone."""
    budget = PixelBudget(10)
    inside: list[Any] = []

    def enter() -> None:
        with budget.hold(6):
            inside.append(len(inside))

    with budget.hold(99):
        waiting = [threading.Thread(target=enter) for _ in range(3)]
        for thread in waiting:
            thread.start()
        time.sleep(0.05)
        assert inside == []
    for thread in waiting:
        thread.join(10)
    assert inside == [0, 1, 2]


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "x", "null", "ftp://{host}"])
def test_origin_that_is_none(origin: str, service: Server) -> None:
    """An Origin that cannot be read, or is no page of this service, is refused like that of a stranger."""
    host = httpx.URL(service.url).netloc.decode()
    assert httpx.get(f"{service.url}/v1/encoders", headers={"origin": origin.format(host=host)}).status_code == 403
    assert httpx.get(f"{service.url}/v1/encoders", headers={"origin": f"HTTP://{host}"}).status_code == 200


@pytest.mark.parametrize("url", ["http://xn--/", "http://xn--a.xn--/x.png"])
def test_host_that_is_no_idna(url: str, service: Server) -> None:
    """A host that says it is encoded and cannot be decoded is 400 like any other that is none."""
    answer = httpx.post(f"{service.url}/v1/search/any", json={"image": {"url": url}})
    assert (answer.status_code, answer.json()["type"]) == (400, "ForbiddenUrl")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere the C library's own ways are left alone")
def test_memory_of_large_images_goes_back() -> None:
    """Threads that decoded a large picture each leave no more behind than one would."""
    script = """
import io, os, threading, time
from PIL import Image
from mmembed.images import load_image
from mmembed.batching.memory import give_back_soon
def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
file = io.BytesIO()
Image.new("1", (6000, 6000)).save(file, "PNG")
load_image(file.getvalue(), uri="x")
before = held()
for _ in range(2):
    threads = [threading.Thread(target=load_image, args=(file.getvalue(),), kwargs={"uri": "x"}) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
give_back_soon()
time.sleep(2)
print(held() - before)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(grown.stdout) < 100
