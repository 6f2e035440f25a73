"""`mmembed serve` as a process of its own, the requests that the benches send to it, and a store to search."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from photographs import write_photographs

from mmembed import Encoder, open_store
from mmembed.types import Contract, Point, VectorContract

__all__ = [
    "Serving",
    "embed",
    "images",
    "infer",
    "points_of",
    "search_for",
    "serving",
    "texts",
    "unit_rows",
    "write_store",
]

START_SECONDS = 180.0
WORDS = [
    "red",
    "blue",
    "small",
    "large",
    "old",
    "new",
    "quiet",
    "bright",
    "round",
    "square",
    "wooden",
    "steel",
    "empty",
    "crowded",
    "distant",
    "frozen",
]
_LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Serving:
    port: int
    pid: int

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of the service, and of the process of its store, in MiB."""
        service = psutil.Process(self.pid)
        children = sum(child.memory_info().rss for child in service.children(recursive=True))
        return {"service": service.memory_info().rss / 2**20, "store": children / 2**20}


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Serving]:
    """The real command on a free port, ready to answer; stopped at the end, which it must do without a fault."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "mmembed", "serve", "--port", "0", *flags]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MMEMBED_")}
    with log.open("w") as errors, subprocess.Popen(command, stderr=errors, env=environ) as served:
        try:
            yield Serving(_port_when_ready(served, log), served.pid)
        finally:
            served.terminate()
            served.wait()
    if served.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {served.returncode}: {log.read_text()[-2000:]}")


def _port_when_ready(served: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and served.poll() is None:
        time.sleep(0.1)
        found = _LISTENS.search(log.read_text())
        if found and _is_ready(int(found[1])):
            return int(found[1])
    how = "was not ready in time" if served.returncode is None else f"ended with {served.returncode}"
    raise RuntimeError(f"the service {how}: {log.read_text()[-2000:]}")


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def texts(n: int, *, of: str) -> list[str]:
    """n distinct texts of about ten words; another `of`, other texts."""
    return [f"{of} {n}: a " + " ".join(WORDS[(n >> 2 * k) % 16] for k in range(6)) + " thing" for n in range(n)]


def images(folder: Path, n: int) -> list[bytes]:
    """n distinct JPEGs of 320x240."""
    write_photographs(folder, n, width=320, height=240, seed=1)
    return [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))]


def search_for(text: str) -> tuple[str, str]:
    """A search of the collection `bench` by words."""
    return "/v1/search/bench", json.dumps({"text": text, "limit": 10})


def embed(encoder: str, text: str) -> tuple[str, str]:
    """One text by OpenAI's API, its vector as base64, which is what OpenAI's own client asks for."""
    return "/v1/embeddings", json.dumps({"model": encoder, "input": text, "encoding_format": "base64"})


def infer(encoder: str, image: bytes) -> tuple[str, str]:
    """One picture as Qdrant sends it."""
    content = base64.b64encode(image).decode()
    inputs = [{"data": content, "data_type": "image", "model": encoder, "options": None}]
    return "/qdrant/infer", json.dumps({"inputs": inputs, "inference": "update", "token": None})


def unit_rows(n: int, dim: int, *, seed: int) -> np.typing.NDArray[np.float32]:
    """`(n, dim)` random rows of norm 1."""
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def points_of(rows: Sequence[np.typing.NDArray[np.float32]]) -> list[Point]:
    """A picture's point for each row."""
    return [
        Point(f"00000000-0000-0000-0000-{n:012d}", {"image": row}, {"uri": f"file:///p/{n}.jpg", "n": n})
        for n, row in enumerate(rows)
    ]


def write_store(folder: Path, encoder: Encoder, n: int) -> None:
    """A store whose collection `bench` holds n pictures with random vectors, made by `encoder` as far as it knows."""
    spec = encoder.spec
    assert spec.dim is not None
    vector = VectorContract(spec.name, spec.fingerprint, "image", spec.kind, spec.dim)
    store = open_store(f"edge:{folder}")
    store.create("bench", Contract("images", {"image": vector}), indexes={"n": "integer"})
    points = points_of(list(unit_rows(n, spec.dim, seed=1)))
    for start in range(0, n, 1000):
        store.upsert("bench", points[start : start + 1000])
    store.optimize("bench")
    store.close()
