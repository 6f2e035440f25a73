"""A real image tower over large JPEGs: `mmembed.ingest_images` into Edge against a plain open_clip loop.

    python bench/open_clip_ingest.py [--json OUT] [--images 200] [--rounds 5] [--architecture ViT-B-32]

Both sides run in one process with the same files, weights, batch size and torch threads, and take turns. The plain
loop does what the manual shows: Image.open, preprocess, encode_image, normalise; it hashes, stores and thumbnails
nothing. Weights are random: speed does not depend on them. What counts is the fastest round of each side, since
another job on the machine only ever makes a round slower; the vectors of both sides must agree.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from lines import Lines, arguments
from photographs import write_photographs
from PIL import Image

from mmembed import Encoder, ingest_images, load_encoder, open_store
from mmembed.types import DenseArray

NOT_SLOWER = 1.0


def write_checkpoint(file: Path, architecture: str) -> None:
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # open_clip warns that the weights are random, which is what is wanted
    torch.save(open_clip.create_model(architecture).state_dict(), file)
    logging.disable(logging.NOTSET)


class PlainLoop:
    """What one would write with open_clip alone."""

    def __init__(self, architecture: str, weights: Path, batch_size: int, device: str) -> None:
        self._device, self._batch_size = device, batch_size
        created = open_clip.create_model_and_transforms(architecture, pretrained=str(weights), device=device)
        self._model: Any = created[0].eval()
        self._preprocess: Any = created[2]

    def encode(self, files: list[Path]) -> DenseArray:
        """n files -> `(n, dim)`."""
        rows = []
        with torch.inference_mode():
            for start in range(0, len(files), self._batch_size):
                batch = [self._preprocess(Image.open(file)) for file in files[start : start + self._batch_size]]
                features = self._model.encode_image(torch.stack(batch).to(self._device))
                rows.append(torch.nn.functional.normalize(features, dim=-1).cpu())
        encoded: DenseArray = torch.cat(rows).numpy()
        return encoded


def ours(store_folder: Path, images: Path, encoder: Encoder) -> tuple[float, dict[str, DenseArray]]:
    """Seconds of one index run into a fresh store, and its vectors by file."""
    store = open_store(f"edge:{store_folder}")
    began = time.perf_counter()
    report = ingest_images(store, "images", [images], encoder=encoder)
    seconds = time.perf_counter() - began
    assert not report.failures, report.failures
    points = store.scroll("images", vectors=["image"])
    rows = {str(p.payload["uri"]): np.asarray(p.vectors["image"], dtype=np.float32) for p in points}
    store.close()
    shutil.rmtree(store_folder)
    return seconds, rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="ViT-B-32")
    options = parser.parse_args()
    lines = Lines("open_clip_ingest", options.json)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder / "pictures", options.images, width=1280, height=960, seed=1)
        write_checkpoint(folder / "weights.pt", options.architecture)
        encoder = load_encoder(f"open_clip:{options.architecture}@{folder / 'weights.pt'}", device="cpu")
        plain = PlainLoop(options.architecture, folder / "weights.pt", encoder.batch_size, "cpu")
        files = sorted((folder / "pictures").rglob("*.jpg"))
        plain.encode(files[: encoder.batch_size])  # the first pass of a model is slower than all others
        encoder.encode_image([Image.open(file) for file in files[: encoder.batch_size]])
        seconds: dict[str, list[float]] = {"mmembed": [], "plain": []}
        for number in range(options.rounds):
            for side in ("mmembed", "plain") if number % 2 else ("plain", "mmembed"):
                if side == "plain":
                    began = time.perf_counter()
                    expected = plain.encode(files)
                    seconds[side].append(time.perf_counter() - began)
                else:
                    taken, rows = ours(folder / "store.mm", folder / "pictures", encoder)
                    seconds[side].append(taken)
    found = np.stack([rows[str(file)] for file in files])
    add_lines(lines, seconds, len(files), float(np.abs(found - expected).max()))
    lines.exit()


def add_lines(lines: Lines, seconds: dict[str, list[float]], images: int, difference: float) -> None:
    threads = torch.get_num_threads()
    for side, taken in seconds.items():
        rounds = [round(s, 2) for s in taken]
        lines.add(f"{side}, 1280x960 JPEGs", images / min(taken), unit="pictures a second", seconds=rounds)
    fastest, median = (of(seconds["mmembed"]) / of(seconds["plain"]) for of in (min, statistics.median))
    lines.add("time of mmembed over plain", fastest, unit="ratio", at_most=NOT_SLOWER, torch_threads=threads)
    lines.add("time of mmembed over plain, of the medians", median, unit="ratio")
    lines.add("largest difference of a coordinate", difference, unit="", at_most=1e-5)


if __name__ == "__main__":
    main()
