"""Index few and many small JPEGs with `fake` into Edge: time a picture and memory must not grow with their number.

    python bench/ingest.py [--json OUT] [--small 2000] [--large 20000] [--rounds 3]

Every run is a fresh process over a fresh store. Runs over the few and the many take turns, and of each the median
counts. Memory is the largest sum of resident sets of the process and of Edge's own, sampled from outside.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from lines import Lines, arguments
from photographs import write_photographs

SAMPLE_SECONDS = 0.05
TIME_FLAT, MEMORY_FLAT = 1.15, 1.20


@dataclass
class Runs:
    """Fresh processes over one set of pictures."""

    pictures: int
    sources: list[Path]
    first: list[dict[str, Any]] = field(default_factory=list)
    again: list[dict[str, Any]] = field(default_factory=list)

    def median(self, runs: str, fact: str) -> float:
        return statistics.median(run[fact] for run in getattr(self, runs))


def measure(store: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """Index in a fresh process: what it reports, and its peak memory in MiB, Edge's process included."""
    command = [sys.executable, __file__, "--child", str(store), *map(str, sources)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    family, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        peak = max(peak, _resident(family))
        time.sleep(SAMPLE_SECONDS)
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the measured process ended with exit code {process.returncode}")
    return {**json.loads(printed), "peak_mib": peak / 2**20}


def _resident(root: psutil.Process) -> int:
    total = 0
    for process in [root, *_children(root)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return total


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def child(store_folder: str, sources: Sequence[str]) -> None:
    """The measured process: index `sources` and print what was done."""
    from mmembed import Encoder, ingest_images, load_encoder, open_store
    from mmembed.types import PixelEncoder

    encoder = load_encoder("fake")
    assert isinstance(encoder, PixelEncoder)
    counted = {"decoded": 0, "embedded": 0}
    preprocess, encode = encoder.preprocess_image, encoder.encode_pixels

    def counting_preprocess(image: Any) -> Any:
        counted["decoded"] += 1
        return preprocess(image)

    def counting_encode(pixels: Any) -> Any:
        counted["embedded"] += len(pixels)
        return encode(pixels)

    encoder.preprocess_image, encoder.encode_pixels = counting_preprocess, counting_encode  # type: ignore[method-assign]
    assert isinstance(encoder, Encoder) if False else True
    store = open_store(f"edge:{store_folder}")
    report = ingest_images(store, "images", list(sources), encoder=encoder)
    store.close()
    print(json.dumps({**report.as_json(), "counted": counted}))
