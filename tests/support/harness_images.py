"""Pictograms that ship with mmembed, named and sorted into classes of unequal size, for tests of the harnesses."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmembed.demo import PICTOGRAMS
from mmembed.images import load_image

_CLASSES = {  # class -> the first and last code point of its block
    "animal": (0x1F400, 0x1F43F),
    "building": (0x1F3E0, 0x1F3F0),
    "clothing": (0x1F451, 0x1F463),
    "food": (0x1F345, 0x1F37F),
    "musical instrument": (0x1F3B7, 0x1F3BC),
    "plant": (0x1F330, 0x1F344),
    "sport": (0x1F3BD, 0x1F3D3),
    "weather": (0x1F300, 0x1F32C),
}


@dataclass(frozen=True)
class Pictogram:
    path: Path
    image: Image.Image  # upright RGB
    name: str  # "violin"
    label: int  # of its class in `class_names()`


def class_names() -> list[str]:
    return list(_CLASSES)


def pictograms() -> list[Pictogram]:
    """Some ninety, by class and code point."""
    points = {int(path.stem, 16): path for path in PICTOGRAMS.glob("*.png") if "-" not in path.stem}
    found = []
    for label, (first, last) in enumerate(_CLASSES.values()):
        for point in sorted(point for point in points if first <= point <= last):
            image = load_image(points[point], uri=points[point].name)
            found.append(Pictogram(points[point], image, unicodedata.name(chr(point)).lower(), label))
    return found
