"""One file: what tells at no cost that it is unchanged, and what tells for certain."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mmembed.errors import UnreadableSource
from mmembed.sources.folders import printable


@dataclass(frozen=True)
class FileState:
    """What tells an unchanged file at no cost: where both are as they were, its content is taken to be."""

    size: int  # bytes
    mtime_ns: int


def file_state(path: Path) -> FileState:
    """Size and time of the last change. Raises UnreadableSource where there is no such file."""
    try:
        stat = path.stat()
    except OSError as exc:
        raise UnreadableSource(f"{printable(str(path))}: cannot be read ({exc.strerror})") from exc
    return FileState(stat.st_size, stat.st_mtime_ns)


def content_hash(path: Path) -> str:
    """BLAKE2b of the content, 32 hexadecimal digits; the file is streamed. Raises UnreadableSource."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as exc:
        raise UnreadableSource(f"{printable(str(path))}: cannot be read ({exc.strerror})") from exc
