"""Sixty-four clients at once, some of which send broken pictures or go away: everybody else is answered."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from places import ROOT
from service_app import running

from mmembed import ingest_images, load_encoder, open_store
from mmembed.service.server import Server

PICTOGRAMS = ROOT / "mmembed" / "demo" / "pictograms"
CLIENTS = 64
REQUESTS = 800
ANSWERED_WITHIN = 20.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over forty pictograms, without a cache so that each request costs its forward pass."""
    folder = tmp_path_factory.mktemp("load")
    store = open_store(f"edge:{folder / 'store.mm'}")
    photos = sorted(PICTOGRAMS.rglob("*.png"))[:40]
    ingest_images(store, "images", photos, encoder=load_encoder("tiny"))
    store.close()
    with running(folder, store=f"edge:{folder / 'store.mm'}", cache_mb=0) as service:
        yield service


def jpeg(number: int) -> bytes:
    """A small picture, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def inferring(photo: bytes) -> dict[str, object]:
    """What Qdrant sends for one text and one picture."""
    image = base64.b64encode(photo).decode()
    inputs = [
        {"data": "a red car", "data_type": "text", "model": "tiny", "options": None},
        {"data": image, "data_type": "image", "model": "tiny", "options": None},
    ]
    return {"inputs": inputs, "inference": "update", "token": None}


def request(number: int) -> tuple[str, dict[str, object], int]:
    """The path, the body and the status to expect: of every hundred one picture is corrupt."""
    if number % 100 == 50:
        return "/qdrant/infer", inferring(jpeg(number)[: 40 + number % 300]), 400
    image = base64.b64encode(jpeg(number)).decode()
    kinds: list[tuple[str, dict[str, object]]] = [
        ("/v1/embeddings", {"model": "tiny", "input": [f"text {number}", "another"]}),
        ("/qdrant/infer", inferring(jpeg(number))),
        ("/v1/search/images", {"text": f"a cake {number}", "limit": 3}),
        ("/v1/search/images", {"image": image, "limit": 3}),
        ("/v2/embed", {"model": "tiny", "texts": [f"text {number}"], "input_type": "search_query"}),
    ]
    return (*kinds[number % len(kinds)], 200)


async def hang_up(url: str, number: int) -> None:
    """Send a request, or a part of one, and go away without reading."""
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    body = httpx.Request("POST", url, json=inferring(jpeg(number))).read()
    head = f"POST /qdrant/infer HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    sent = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    writer.write(sent if number % 2 else sent[: len(sent) // 2])
    await writer.drain()
    await asyncio.sleep(random.Random(number).uniform(0, 0.05))
    writer.transport.abort()


async def storm(url: str) -> list[tuple[str, int, int]]:
    """Path, expected and found status of each request of 64 clients that share the work, with hang-ups between."""
    numbers = iter(range(REQUESTS))
    found: list[tuple[str, int, int]] = []

    async def client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            if number % 20 == 7:
                await hang_up(url, number)
                continue
            path, body, expected = request(number)
            answer = await http.post(path, json=body)
            found.append((path, expected, answer.status_code))
            if expected == 400:
                assert "inputs[1]" in answer.json()["error"] or "input 1" in answer.json()["error"], answer.text

    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=ANSWERED_WITHIN, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return found


def test_every_good_request_is_answered(service: Server) -> None:
    """Of a load in which pictures are corrupt and clients hang up, each good request gets 200 and each bad one 400."""
    found = asyncio.run(storm(service.url))
    wrong = Counter((path, expected, status) for path, expected, status in found if status != expected)
    assert not wrong
    statuses = Counter(status for _, _, status in found)
    assert set(statuses) == {200, 400}
    assert statuses[400] == REQUESTS // 100


def test_nothing_is_left_behind(service: Server) -> None:
    """After the load no request is in flight, no input waits, and the next request is answered at once."""
    metrics = service.app.state.service.metrics
    end = time.monotonic() + 5
    while metrics.in_flight and time.monotonic() < end:
        time.sleep(0.02)
    assert metrics.in_flight == 0
    waiting = [line for line in metrics.render().decode().splitlines() if line.startswith("mmembed_queued_inputs{")]
    assert waiting
    assert all(float(line.rpartition(" ")[2]) == 0 for line in waiting), waiting
    began = time.monotonic()
    path, body, _ = request(1)
    assert httpx.post(service.url + path, json=body).status_code == 200
    assert time.monotonic() - began < 5
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("mmembed_")]
    assert len(ours) <= service.settings.threads
