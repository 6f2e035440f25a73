"""Thumbnails beside the store: one 256-pixel WebP a picture, named by its point."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from mmembed.collection import Collection
from mmembed.errors import StoreError, StoreFull


def thumbnail_path(collection: Collection, id: str) -> Path | None:
    """Where the thumbnail of a point lies, whether or not it is there; None: this store keeps none."""
    folder = collection.store.folder
    if folder is None:
        return None
    quoted = quote(collection.name, safe="")
    quoted = "%2E" + quoted[1:] if quoted.startswith(".") else quoted  # ".." is no way out of the folder
    return folder / "thumbnails" / quoted / id[:2] / f"{id}.webp"


def write_thumbnail(path: Path, webp: bytes) -> None:
    """Whole or not at all: a reader never sees half a picture. Raises StoreFull or StoreError."""
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(webp)
        partial.replace(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        error = StoreFull if exc.errno == errno.ENOSPC else StoreError
        raise error(
            f"the thumbnail {path} cannot be written ({exc.strerror}): everything before it is stored; "
            f"make room or give write access there, and go on"
        ) from exc


def remove_thumbnails(collection: Collection, ids: Iterable[str]) -> None:
    for id in ids:
        if path := thumbnail_path(collection, id):
            path.unlink(missing_ok=True)


def drop_thumbnails(collection: Collection) -> None:
    if path := thumbnail_path(collection, "00"):
        shutil.rmtree(path.parent.parent, ignore_errors=True)
