"""Names and small files of an embedded store's folder: harmless, and whole even when the power goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast
from urllib.parse import quote

from mmembed.collection.contract import Json
from mmembed.errors import StoreError

_LONGEST_NAME = 200  # bytes, percent-encoded


def directory_name(name: str) -> str:
    """A collection's name as one harmless directory name: no slash, no leading dot, no "..": "a/b" -> "a%2Fb"."""
    quoted = quote(name, safe=" ()+,=@")
    quoted = "%2E" + quoted[1:] if quoted.startswith(".") else quoted
    if not quoted or len(quoted) > _LONGEST_NAME:
        raise StoreError(f"a collection cannot be called {name[:40]!r}...: give 1 to {_LONGEST_NAME} characters")
    return quoted


def read_json(file: Path) -> Json:
    try:
        return cast(Json, json.loads(file.read_text(encoding="utf-8")))
    except ValueError as exc:
        raise StoreError(f"{file} is not JSON ({exc}): restore it from a copy") from exc


def write_json(file: Path, value: Json) -> None:
    """All of it or nothing, also when the power goes."""
    temporary = file.with_name(file.name + ".new")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, sort_keys=True, ensure_ascii=False)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    sync_directory(file.parent)


def sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
