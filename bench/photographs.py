"""Generated JPEGs that cost a decoder what photographs do: smooth areas, structure of every size, grain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_photographs"]

_OCTAVES = ((4, 1.0), (16, 0.4), (64, 0.25))  # cells across, and how strongly they cover what lies below
_GRAIN = 0.1
_IN_A_FOLDER = 1000


def write_photographs(folder: Path, n: int, *, width: int, height: int, seed: int) -> None:
    """n distinct JPEGs of quality 85 in subfolders of 1,000; the same seed gives the same pictures."""
    random = np.random.default_rng(seed)
    for number in range(n):
        where = folder / f"{number // _IN_A_FOLDER:03}"
        where.mkdir(parents=True, exist_ok=True)
        _photograph(random, width, height).save(where / f"{number:06}.jpg", quality=85)


def _photograph(random: np.random.Generator, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    for across, strength in _OCTAVES:
        down = max(1, across * height // width)
        noise = Image.fromarray(random.integers(0, 256, (down, across, 3), dtype=np.uint8))
        image = Image.blend(image, noise.resize((width, height), Image.Resampling.BICUBIC), strength)
    grain = Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)).convert("RGB")
    return Image.blend(image, grain, _GRAIN)
