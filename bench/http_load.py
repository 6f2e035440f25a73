"""Clients that cost next to nothing: each keeps one connection and sends prebuilt requests, one after another.

    python bench/http_load.py SPEC SEEN

SPEC is a JSON file: port, connections, requests ([[path, body], ...]) and order (indices into requests). SEEN becomes
one: wall (s), seconds and statuses in the order in which answers came, and the request of each. 0 is the status of a
request that got no answer.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

__all__ = ["Load", "put_load"]


@dataclass(frozen=True)
class Load:
    """What the clients saw."""

    wall: float
    seconds: list[float]
    statuses: list[int]
    asked: list[int]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.statuses) / self.wall

    @property
    def failures(self) -> int:
        return sum(status != 200 for status in self.statuses)

    def quantile_ms(self, q: float) -> float:
        return float(np.quantile(self.seconds, q)) * 1000


def put_load(
    port: int, requests: Sequence[tuple[str, str]], *, connections: int, order: Sequence[int] | None = None
) -> Load:
    """Send them from another process and wait for the answers."""
    asked = list(order) if order is not None else list(range(len(requests)))
    with tempfile.TemporaryDirectory() as folder:
        spec, seen = Path(folder, "spec.json"), Path(folder, "seen.json")
        wanted = {"port": port, "connections": connections, "requests": list(requests), "order": asked}
        spec.write_text(json.dumps(wanted))
        subprocess.run([sys.executable, str(Path(__file__)), str(spec), str(seen)], check=True)
        return Load(**json.loads(seen.read_text()))


def _as_bytes(path: str, body: str) -> bytes:
    content = body.encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    return head.encode() + b"\r\n\r\n" + content


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer to its end: its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, after = head.partition(b"\r\ncontent-length:")
    await reader.readexactly(int(after.partition(b"\r\n")[0]))
    return int(head[9:12])


async def _run(port: int, connections: int, requests: list[bytes], order: list[int]) -> Load:
    left = iter(order)
    seconds: list[float] = []
    statuses: list[int] = []
    asked: list[int] = []

    async def client() -> None:
        streams = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            began = time.perf_counter()
            streams[1].write(requests[number])
            try:
                status = await _answer(streams[0])
            except (asyncio.IncompleteReadError, ConnectionError):
                status = 0
                streams = await asyncio.open_connection("127.0.0.1", port)
            seconds.append(time.perf_counter() - began)
            statuses.append(status)
            asked.append(number)
        streams[1].close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return Load(time.perf_counter() - began, seconds, statuses, asked)


def main() -> None:
    _, at, seen = sys.argv
    spec = json.loads(Path(at).read_text())
    requests = [_as_bytes(path, body) for path, body in spec["requests"]]
    load = uvloop.run(_run(spec["port"], spec["connections"], requests, spec["order"]))
    Path(seen).write_text(json.dumps(load.__dict__))


if __name__ == "__main__":
    main()
