"""Captions files: pictures with what is said of them, the ground truth of image-text retrieval.

| file | what it looks like |
|---|---|
| `captions.json` | `{"a.jpg": ["A cat", "A tomcat"], "b.jpg": {"captions": ["A dog"]}}` |
| COCO's annotations | `{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, ...}]}` |
| `.csv` or `.jsonl` | rows with the columns `uri` and `caption`; a uri that comes again has several captions |

Names of pictures are relative to the file's folder, or to the folder `images` beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.formats.lines import a_few, parsed_rows, whole_file

_NAMES = ("captions.json", "captions.jsonl", "captions.csv")


@dataclass(frozen=True)
class CaptionedImage:
    path: Path  # absolute
    captions: tuple[str, ...]  # at least one, none empty, as they are written: a benchmark counts equal ones twice


@dataclass(frozen=True)
class Captions:
    """What a captions file names, as far as it is there."""

    name: str
    images: tuple[CaptionedImage, ...]  # in the order of the file
    warnings: tuple[str, ...] = ()


def read_captions(file: str | Path, *, images: str | Path | None = None) -> Captions:
    """Read a captions file, or the one in a folder called captions.json, .jsonl or .csv.

    Pictures that are not there, and pictures without a caption, are left out with a warning that counts them.

    Args:
        images: the folder that names of pictures are relative to.

    Raises:
        InvalidTestSet: no such file, not one of the three layouts, or none of its pictures is there.
    """
    file = Path(file).expanduser()
    if file.is_dir():
        found = [file / name for name in _NAMES if (file / name).is_file()]
        if not found:
            raise InvalidTestSet(
                f"{file.name}: the folder has no {', '.join(_NAMES[:-1])} or {_NAMES[-1]}: name the file"
            )
        file = found[0]
    named: dict[str, list[str]] = {}
    for name, caption in _rows(file):
        captions = named.setdefault(name, [])
        if caption.strip():
            captions.append(caption)
    roots = [Path(images).expanduser()] if images is not None else [file.parent, file.parent / "images"]
    by_path: dict[Path, list[str]] = {}
    missing = []
    for name, captions in named.items():
        paths = (Path(os.path.abspath(root / name)) for root in roots)
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            missing.append(name)
        else:
            by_path.setdefault(path, []).extend(captions)
    if not by_path:
        where = " or ".join(str(root) for root in roots)
        what = f"names {len(missing):,} pictures, and none is in {where}" if missing else "names no picture"
        raise InvalidTestSet(f"{file.name}: {what}: put the pictures there, or name their folder with `images=`")
    captioned = tuple(CaptionedImage(path, tuple(captions)) for path, captions in by_path.items() if captions)
    if not captioned:
        raise InvalidTestSet(f"{file.name}: its {len(by_path):,} pictures have no caption: write at least one for each")
    warnings = []
    if missing:
        warnings.append(
            f"{len(missing):,} pictures are not there and were left out, with their captions: {a_few(missing)}"
        )
    if bare := [path.name for path, captions in by_path.items() if not captions]:
        warnings.append(f"{len(bare):,} pictures have no caption and were left out: {a_few(bare)}")
    name = file.parent.name if file.name in _NAMES else file.stem
    return Captions(name, captioned, tuple(warnings))


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    """(name of a picture, caption) of a file in one of the three layouts; a picture without any gives ("name", "")."""
    suffix = file.suffix.lower()
    if suffix not in (".json", ".jsonl", ".csv"):
        raise InvalidTestSet(f"{file.name}: a captions file ends in .json, .jsonl or .csv: convert it to one of them")
    text = whole_file(file, "a captions file")
    if suffix == ".json":
        return _json_rows(file.name, text)
    return parsed_rows(file, text, ("uri", "caption"), _pair, _pair, '{"uri": ..., "caption": ...}')


def _json_rows(name: str, text: str) -> Iterator[tuple[str, str]]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidTestSet(f"{name}: is not JSON ({exc}): correct it") from exc
    if not isinstance(value, dict):
        raise InvalidTestSet(f"{name}: holds a {type(value).__name__}, not an object: write file names with captions")
    if isinstance(value.get("images"), list) and isinstance(value.get("annotations"), list):
        yield from _coco_rows(name, value)
        return
    for image, entry in value.items():
        captions = entry.get("captions") if isinstance(entry, dict) else entry
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise InvalidTestSet(f'{name}: {image!r} has no list of captions: write it as ["...", "..."]')
        yield from ((image, caption) for caption in captions or [""])


def _coco_rows(name: str, value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        files = {row["id"]: str(row["file_name"]) for row in value["images"]}
        captions = [(row["image_id"], str(row["caption"])) for row in value["annotations"]]
    except (KeyError, TypeError) as exc:
        raise InvalidTestSet(
            f"{name}: an image needs id and file_name, an annotation image_id and caption; {exc} is missing or wrong: "
            f"name COCO's captions, not its boxes"
        ) from exc
    for image, caption in captions:
        if image not in files:
            raise InvalidTestSet(f"{name}: a caption is of the image {image!r}, which is not listed: add it to images")
        yield files[image], caption
    yield from ((files[number], "") for number in files.keys() - {image for image, _ in captions})


def _pair(row: Any) -> tuple[str, str]:
    if row["uri"] is None or row["caption"] is None:
        raise ValueError("it has too few cells")
    return str(row["uri"]), str(row["caption"])
