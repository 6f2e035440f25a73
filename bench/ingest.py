"""Index few and many small JPEGs with `fake` into Edge: time a picture and memory must not grow with their number.

    python bench/ingest.py [--json OUT] [--small 2000] [--large 20000] [--rounds 3]

Every run is a fresh process over a fresh store. Runs over the few and the many take turns, and of each the median
counts. Memory is the largest sum of resident sets of the process and of Edge's own, sampled from outside; Edge
keeps keyword indexes in memory, so its part grows with the number of points.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
from lines import Lines, arguments
from photographs import write_photographs
from PIL import Image

from mmembed import LoadOptions, ingest_images, open_store
from mmembed.encoders.families.fake import FakeEncoder
from mmembed.encoders.registry import parse_name
from mmembed.types import DenseArray, Pixels

SAMPLE_SECONDS = 0.05
TIME_FLAT, MEMORY_FLAT = 1.15, 1.20


@dataclass
class Runs:
    """Fresh processes over one set of pictures."""

    images: int
    sources: list[Path]
    first: list[dict[str, Any]] = field(default_factory=list)
    again: list[dict[str, Any]] = field(default_factory=list)

    def median(self, runs: str, fact: str) -> float:
        return float(statistics.median(run[fact] for run in getattr(self, runs)))


def measure(store: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """Index in a fresh process: what it reports, and its peak memory in MiB, Edge's process included."""
    command = [sys.executable, __file__, "--child", str(store), *map(str, sources)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    measured = psutil.Process(process.pid)
    own = edge = both = 0
    while process.poll() is None:
        now = _resident(measured)
        own, edge, both = max(own, now[0]), max(edge, now[1]), max(both, sum(now))
        time.sleep(SAMPLE_SECONDS)
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the measured process ended with exit code {process.returncode}")
    return {**json.loads(printed), "peak": both / 2**20, "own_peak": own / 2**20, "edge_peak": edge / 2**20}


def _resident(root: psutil.Process) -> tuple[int, int]:
    """Bytes of the process and of its children; zeros where one of them ended meanwhile, which is no peak."""
    try:
        children = [child.memory_info().rss for child in root.children(recursive=True)]
        return int(root.memory_info().rss), sum(children)
    except psutil.NoSuchProcess:
        return 0, 0


class Counting:
    """The fake encoder, counting the pictures that reach it: none can be decoded and not be preprocessed."""

    def __init__(self) -> None:
        self._fake = FakeEncoder(parse_name("fake"), LoadOptions(), dim=32)
        self.spec, self.dtype, self.batch_size = self._fake.spec, self._fake.dtype, self._fake.batch_size
        self.logit_scale, self.logit_bias = self._fake.logit_scale, self._fake.logit_bias
        self.count_tokens, self.encode_text = self._fake.count_tokens, self._fake.encode_text
        self.decoded = self.encoded = 0
        self._lock = Lock()

    def preprocess_image(self, image: Image.Image) -> Pixels:
        with self._lock:
            self.decoded += 1
        return self._fake.preprocess_image(image)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        self.encoded += len(pixels)
        return self._fake.encode_pixels(pixels)

    def encode_image(self, images: Sequence[Image.Image]) -> DenseArray:
        return self.encode_pixels([self.preprocess_image(image) for image in images])


def child(store_folder: str, sources: Sequence[str]) -> None:
    """The measured process: index `sources` and print what was done."""
    encoder = Counting()
    store = open_store(f"edge:{store_folder}")
    report = ingest_images(store, "images", sources, encoder=encoder)
    store.close()
    print(json.dumps({**report.as_json(), "decoded": encoder.decoded, "encoded": encoder.encoded}))


def add_lines(lines: Lines, small: Runs, large: Runs) -> None:
    for runs in (small, large):
        n, seconds = runs.images, runs.median("first", "seconds")
        lines.add(f"index {n:,} JPEGs", seconds / n * 1000, unit="ms a picture", rounds=len(runs.first))
        parts = {part: round(runs.median("first", f"{part}_peak"), 1) for part in ("own", "edge")}
        lines.add(f"peak memory of {n:,} JPEGs", runs.median("first", "peak"), unit="MiB", **parts)

    def ratio(fact: str) -> float:
        return large.median("first", fact) / small.median("first", fact)

    time_ratio = ratio("seconds") * small.images / large.images
    lines.add("time a picture, many over few", time_ratio, unit="ratio", at_most=TIME_FLAT)
    lines.add("peak memory, many over few", ratio("peak"), unit="ratio", at_most=MEMORY_FLAT)
    lines.add("peak memory without Edge, many over few", ratio("own_peak"), unit="ratio", at_most=MEMORY_FLAT)
    growth = large.median("first", "edge_peak") - small.median("first", "edge_peak")
    lines.add("growth of Edge", growth * 1024 / max(1, large.images - small.images), unit="KiB a point")
    for runs in (small, large):
        n, seconds = runs.images, runs.median("again", "seconds")
        lines.add(f"index {n:,} unchanged JPEGs again", seconds / n * 1000, unit="ms a picture")
        touched = max(n - run["unchanged"] + run["decoded"] + run["encoded"] for run in runs.again)
        lines.add(f"of {n:,} unchanged, decoded or embedded", touched, unit="pictures", at_most=0)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--small", type=int, default=2_000)
    parser.add_argument("--large", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    lines = Lines("ingest", options.json)
    with tempfile.TemporaryDirectory() as temporary:
        few, more = Path(temporary) / "few", Path(temporary) / "more"
        write_photographs(few, options.small, width=320, height=240, seed=1)
        write_photographs(more, options.large - options.small, width=320, height=240, seed=2)
        small, large = Runs(options.small, [few]), Runs(options.large, [few, more])
        for number in range(options.rounds):
            for runs in (small, large):
                store = Path(temporary) / f"{number}-{runs.images}.mm"
                runs.first.append(measure(store, runs.sources))
                runs.again.append(measure(store, runs.sources))
                shutil.rmtree(store)
    add_lines(lines, small, large)
    lines.exit()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    else:
        main()
