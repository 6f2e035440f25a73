"""Labelled pictures: one sub-folder a class, as most datasets of pictures come."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from mmembed.errors import InvalidSample, UnreadableSource
from mmembed.images import IMAGE_SUFFIXES
from mmembed.sources import scan
from mmembed.sources.folders import printable
from mmembed.sources.passed_over import why_folder
from mmembed.types import Failure

NEGATIVES = "_none"


@dataclass(frozen=True)
class LabelledImage:
    path: Path
    label: str | None  # None: a picture of the same kind as the others that shows none of the classes


def read_class_folders(folder: str | Path, *, negatives: str = NEGATIVES) -> list[LabelledImage]:
    """The pictures below each sub-folder, whose name (NFC, single spaces) is their label, sorted by label and path.

    The sub-folder `negatives` holds pictures of no class: their label is None and they come last. Pictures that lie
    beside the sub-folders have no label and are left out, as is whatever is hidden, and what `scan` passes over.

    Raises:
        UnreadableSource: no such folder, or something in it cannot be read.
        InvalidSample: there is no sub-folder, or one without a picture. A single class is none of these errors:
            who needs two says so.
    """
    folder = Path(folder)
    try:
        entries = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and entry.name[0] != "." and why_folder(entry.path, linked=False) is None
        )
    except OSError as exc:
        raise UnreadableSource(f"{printable(str(folder))}: not a folder that can be read ({exc.strerror})") from exc
    if not set(entries) - {negatives}:
        raise InvalidSample(
            f"{printable(str(folder))}: there is no class in it: make a sub-folder per class and put its pictures there"
        )
    images = [image for name in entries for image in _images(folder / name, None if name == negatives else name)]
    return sorted(images, key=lambda p: (p.label is None, p.label or "", str(p.path)))


def _images(folder: Path, label: str | None) -> list[LabelledImage]:
    name = None if label is None else " ".join(unicodedata.normalize("NFC", label).split())
    found = []
    for entry in scan([folder], modality="image", suffixes=IMAGE_SUFFIXES):
        if isinstance(entry, Failure):
            raise UnreadableSource(entry.error)
        assert entry.path is not None  # scan names files
        found.append(LabelledImage(entry.path, name))
    if not found:
        raise InvalidSample(f"{printable(str(folder))}: the class has no pictures: add some or remove the folder")
    return found
