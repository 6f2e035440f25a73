"""Thumbnails beside the store: one 256-pixel WebP a picture, named by its point."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from mmembed.errors import StoreError, StoreFull
from mmembed.types import Store

__all__ = ["drop_thumbnails", "remove_thumbnails", "thumbnail_path", "write_thumbnail"]


def thumbnail_path(store: Store, collection: str, id: str) -> Path | None:
    """Where the thumbnail of a point lies, whether or not it is there; None: this store keeps none."""
    if store.folder is None:
        return None
    quoted = quote(collection, safe="")
    quoted = "%2E" + quoted[1:] if quoted.startswith(".") else quoted  # ".." is no way out of the folder
    return store.folder / "thumbnails" / quoted / id[:2] / f"{id}.webp"


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
            f"make room or give rights there, and go on"
        ) from exc


def remove_thumbnails(store: Store, collection: str, ids: Iterable[str]) -> None:
    for id in ids:
        if path := thumbnail_path(store, collection, id):
            path.unlink(missing_ok=True)


def drop_thumbnails(store: Store, collection: str) -> None:
    if path := thumbnail_path(store, collection, "00"):
        shutil.rmtree(path.parent.parent, ignore_errors=True)
