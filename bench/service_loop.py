"""The event loop of the service while its embedded store loads, takes points and optimises."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import uvloop
from served import points_of, search_for, unit_rows, write_store

from mmembed import load_encoder
from mmembed.service.app import create_app
from mmembed.service.settings import Settings, read_settings

__all__ = ["measure_gaps"]

TICK_SECONDS = 0.005
BATCH = 1000
SEARCHING = 4
SETTLE_SECONDS = 1.0  # after the encoders are loaded, garbage is collected once


@dataclass(frozen=True)
class Gap:
    """The longest time between two ticks while the store did something, and how much of it the loop computed."""

    during: str
    longest_ms: float
    computed_ms: float


class Ticker:
    """Ticks every 5 ms and remembers the longest time between two ticks, and how much of it this thread computed."""

    def __init__(self) -> None:
        self._longest = (0.0, 0.0)
        self._last = self._now()

    async def run(self) -> None:
        self._last = self._now()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._tick()

    def take(self, during: str) -> Gap:
        """The longest gap since this was asked last, the one that lasts included."""
        self._tick()
        (longest, computed), self._longest = self._longest, (0.0, 0.0)
        return Gap(during, longest * 1000, computed * 1000)

    def _tick(self) -> None:
        now = self._now()
        self._longest = max(self._longest, (now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.thread_time()


def measure_gaps(folder: Path, points: int) -> list[Gap]:
    """An idle loop, and one whose store of so many points is loaded, takes as many again and optimises."""
    write_store(folder / "store", load_encoder("tiny", device="cpu"), points)
    return uvloop.run(_measure(folder / "store", points))


async def _measure(store: Path, points: int) -> list[Gap]:
    ticker = Ticker()
    ticking = asyncio.create_task(ticker.run())
    settings = read_settings(store=f"edge:{store}", port=0)
    found: list[Gap] = []
    async with _running(settings):  # imports what a process imports once
        await asyncio.sleep(SETTLE_SECONDS)
        ticker.take("first start")
        await asyncio.sleep(2)
        found.append(ticker.take("idle"))
    ticker.take("stop")
    async with _running(settings) as (app, client):
        await asyncio.sleep(SETTLE_SECONDS)
        found.append(ticker.take("while the service starts again"))
        path, body = search_for("first")
        (await client.post(path, json=json.loads(body))).raise_for_status()
        found.append(ticker.take("while the store loads and is first searched"))
        rows = list(unit_rows(points, 256, seed=2))
        batches = [points_of(rows)[start : start + BATCH] for start in range(0, points, BATCH)]
        await asyncio.sleep(0.1)
        ticker.take("making points")
        searching = [asyncio.create_task(_search(client, number)) for number in range(SEARCHING)]
        service = app.state.service
        for batch in batches:
            await service.threads.run(service.store.upsert, "bench", batch)
        found.append(ticker.take("while it takes points and is searched"))
        await service.threads.run(service.store.optimize, "bench")
        found.append(ticker.take("while it optimises and is searched"))
        for task in searching:
            task.cancel()
        ended = await asyncio.gather(*searching, return_exceptions=True)
        for fault in ended:
            if isinstance(fault, BaseException) and not isinstance(fault, asyncio.CancelledError):
                raise fault
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    return found


async def _search(client: httpx.AsyncClient, number: int) -> None:
    """Search by words until cancelled; a search that fails ends the measurement."""
    asked = 0
    while True:
        asked += 1
        path, body = search_for(f"words {number} {asked}")
        (await client.post(path, json=json.loads(body))).raise_for_status()


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """The service on this very loop, ready to answer, and a client of it."""
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if serving.done():
                serving.result()
                raise RuntimeError("the service ended before it listened")
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while (await client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.05)
            yield app, client
    finally:
        server.should_exit = True
        await serving
