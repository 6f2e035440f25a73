"""`mmembed.classify` of JPEGs with a real image tower, against decoding and the tower alone.

    python bench/zero_shot.py [--json OUT] [--images 1000] [--rounds 3] [--labels 10] [--architecture ViT-B-32]

Both sides run in one process with the same files, weights, decoding threads and batch size, and take turns. The other
side decodes and preprocesses in the same threads and runs `encode_pixels`, and nothing else: no labels, no scores, no
verdicts. Loading the model is part of neither; embedding the labels, which is done once and kept, is said apart.
Weights are random: speed does not depend on them. What counts is the fastest round of each side.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from lines import Lines, arguments
from open_clip_ingest import write_checkpoint
from photographs import write_photographs

from mmembed import Encoder, Failure, PixelEncoder, load_encoder
from mmembed.classification import Classes, classify, embed_classes, score
from mmembed.images import load_image
from mmembed.streams import load_in_order
from mmembed.types import DenseArray, Pixels

AT_MOST = 1.1
STATED_FOR = 1000  # pictures: with fewer, embedding the labels weighs more


def tower_alone(encoder: Encoder, files: list[Path]) -> DenseArray:
    """n files -> `(n, dim)`: decode and preprocess in threads, beside the forward passes."""
    assert isinstance(encoder, PixelEncoder)

    def load(file: Path) -> Pixels:
        return encoder.preprocess_image(load_image(file, uri=str(file)))

    workers = min(8, os.cpu_count() or 1)
    rows, batch = [], []
    for _, pixels in load_in_order(files, load, workers=workers, ahead=max(2 * workers, encoder.batch_size)):
        assert isinstance(pixels, np.ndarray)
        batch.append(pixels)
        if len(batch) == encoder.batch_size:
            rows.append(encoder.encode_pixels(batch))
            batch = []
    if batch:
        rows.append(encoder.encode_pixels(batch))
    return np.concatenate(rows)


def classified(encoder: Encoder, classes: Classes, files: list[Path]) -> list[str]:
    """n files -> the best label of each."""
    best = []
    for result in classify(files, classes, encoder=encoder):
        assert not isinstance(result, Failure), result
        best.append(result.labels[0].label)
    return best


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=STATED_FOR)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--architecture", default="ViT-B-32")
    options = parser.parse_args()
    lines = Lines("zero_shot", options.json)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder / "pictures", options.images, width=640, height=480, seed=1)
        write_checkpoint(folder / "weights.pt", options.architecture)
        encoder = load_encoder(f"open_clip:{options.architecture}@{folder / 'weights.pt'}", device="cpu")
        files = sorted((folder / "pictures").rglob("*.jpg"))
        encoder.encode_text(["the first pass of a model is slower than all others"], role="query")
        tower_alone(encoder, files[: encoder.batch_size])
        began = time.perf_counter()
        classes = embed_classes(encoder, [f"thing number {number}" for number in range(options.labels)])
        embedding = time.perf_counter() - began
        seconds: dict[str, list[float]] = {"classify": [], "decoding and tower alone": []}
        for number in range(options.rounds):
            for side in sorted(seconds, reverse=bool(number % 2)):
                began = time.perf_counter()
                if side == "classify":
                    best = classified(encoder, classes, files)
                else:
                    vectors = tower_alone(encoder, files)
                seconds[side].append(time.perf_counter() - began)
    expected = [classes.names[column] for column in score(classes, vectors).argmax(axis=1)]
    lines.add("pictures whose best label differs", sum(map(str.__ne__, best, expected)), unit="pictures", at_most=0)
    add_lines(lines, seconds, embedding, options.images, options.labels)
    lines.exit()


def add_lines(lines: Lines, seconds: dict[str, list[float]], embedding: float, images: int, labels: int) -> None:
    for side, taken in seconds.items():
        rounds = [round(s, 2) for s in taken]
        lines.add(f"{side}, 640x480 JPEGs", images / min(taken), unit="pictures a second", seconds=rounds)
    ours, alone = (min(taken) for taken in seconds.values())
    lines.add("time of classify over decoding and tower alone", ours / alone, unit="ratio", at_most=AT_MOST)
    lines.add(f"{labels} labels embedded with 7 templates", embedding, unit="s")
    stated = AT_MOST if images >= STATED_FOR else None
    lines.add("the same with labels embedded first", (ours + embedding) / alone, unit="ratio", at_most=stated)


if __name__ == "__main__":
    main()
