"""Files that clients send, kept where the points that are made of them can name them.

    FOLDER/uploads/COLLECTION/DIGEST/NAME      COLLECTION percent-encoded, DIGEST of the content

The same content under the same name is the same file, so sending it twice changes nothing. A file is there whole
or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import unicodedata
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from mmembed.errors import InvalidRequest, StoreError, StoreFull
from mmembed.stores.edge.store import FREE_MARGIN_BYTES

_LONGEST_COLLECTION = 200  # bytes, percent-encoded
_LONGEST_STEM = 120  # bytes of UTF-8
_LONGEST_SUFFIX = 12
_CHUNK_BYTES = 2**20
_LEFT_SECONDS = 3600  # after which a file that is half written was left by a process that was killed
_AWKWARD = dict.fromkeys(map(ord, '<>:"|?*[]#%'), "_")  # a pattern, an address or another system would misread them


def uploads_folder(folder: Path, collection: str) -> Path:
    """Where the uploads of a collection lie. Raises InvalidRequest for a name that no collection can have."""
    quoted = quote(collection, safe="") if collection.isprintable() else ""
    quoted = "%2E" + quoted[1:] if quoted.startswith(".") else quoted
    if not quoted or len(quoted) > _LONGEST_COLLECTION:
        raise InvalidRequest(
            f"a collection cannot be called {collection[:40]!r}: give 1 to {_LONGEST_COLLECTION} letters and digits"
        )
    return (folder / "uploads" / quoted).resolve()


def clean_name(name: str) -> str:
    """What is harmless of the name that a client gives a file: its last part, printable, of bounded length."""
    last = unicodedata.normalize("NFC", name.replace("\\", "/").rsplit("/", 1)[-1])
    printable = "".join(c for c in last.translate(_AWKWARD) if c.isprintable()).strip(" .")
    stem, suffix = os.path.splitext(printable)
    if len(suffix) > _LONGEST_SUFFIX or not suffix.isascii():
        stem, suffix = printable, ""
    return (stem.encode()[:_LONGEST_STEM].decode(errors="ignore").strip() or "unnamed") + suffix


def keep_upload(
    folder: Path, name: str, stream: BinaryIO, *, size: int, free_margin_bytes: int = FREE_MARGIN_BYTES
) -> Path:
    """Write `size` bytes to FOLDER/DIGEST/NAME, FOLDER being that of the collection; gives the path.

    Raises StoreFull where the disk has no room for it, or StoreError.
    """
    partial = folder / f".partial-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder).free) < size + free_margin_bytes:
            raise _full(f"{(size + free_margin_bytes) / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} MiB free")
        digest = _copy(stream, partial)
        path = folder / digest / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.stat().st_size != size:  # a power cut leaves an empty file
            partial.replace(path)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(str(exc.strerror)) from exc
        raise StoreError(f"an upload cannot be kept ({exc.strerror}): give the service rights in its folder") from exc
    finally:
        partial.unlink(missing_ok=True)
    return path


def sweep_partial(folder: Path) -> None:
    """Remove what a process that was killed left half written."""
    for partial in folder.glob(".partial-*"):
        try:
            if time.time() - partial.stat().st_mtime > _LEFT_SECONDS:
                partial.unlink()
        except FileNotFoundError:
            continue  # its writer has just finished it


def forget_uploads(folder: Path, uris: Iterable[str]) -> None:
    """Remove those of the files that lie in `folder`, the collection's own; what lies elsewhere is not ours to touch.

    A link is not followed out of the folder. A file that is gone already is no error.
    """
    for uri in uris:
        path = Path(os.path.abspath(uri))
        if path.parent.parent != folder or path.parent.resolve() != path.parent:
            continue
        path.unlink(missing_ok=True)
        _remove_empty(path.parent)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as exc:  # something else lies there, or it is gone already
        if exc.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise StoreError(f"an upload cannot be removed ({exc.strerror}): give the service rights there") from exc


def _copy(stream: BinaryIO, partial: Path) -> str:
    """The stream, from its start, as a file; gives its BLAKE2b, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    stream.seek(0)
    with partial.open("xb") as out:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _full(why: str) -> StoreFull:
    return StoreFull(
        f"there is no room on the server's disk for what was sent ({why}): make room there and send it again"
    )
