"""Where inputs come from: folders, files, patterns and manifests -> a lazy stream of items.

One bad entry becomes a Failure in the stream and the rest goes on; only a root that cannot be
read at all raises. The order is that of sorted names, the same on every run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path

from mmembed.errors import UnreadableSource
from mmembed.sources.files import FileState, content_hash, file_state
from mmembed.sources.folders import FileKinds, is_remote, match, not_local, printable, walk
from mmembed.sources.manifests import MANIFEST_SUFFIXES, read_manifest
from mmembed.sources.passed_over import LOCK_FILE, why_file
from mmembed.types import Failure, Item, Modality

__all__ = ["MANIFEST_SUFFIXES", "FileState", "content_hash", "file_state", "scan"]


def scan(
    roots: Sequence[str | Path],
    *,
    modality: Modality,
    suffixes: frozenset[str],
    exclude: Sequence[str] = (),
    passed_over: Counter[str] | None = None,
) -> Iterator[Item | Failure]:
    """Every file of `suffixes` (lower case, with the dot) under `roots`, lazily.

    A root is a folder (searched to the bottom), a file, a pattern such as "~/Pictures/**/*.jpg",
    or a manifest: .jsonl or .csv with a column `uri` (relative to the manifest's folder), an
    optional `caption`, an optional `payload` (a JSON object, merged), and other columns as payload.
    Hidden files and folders are skipped, and what matches `exclude`: patterns for a name
    ("*.tmp"), the end of a path ("drafts/*") or a whole path. Linked folders are followed,
    but none is entered twice by way of a link. `passed_over` grows with what is in a folder and
    is left out: files of other kinds by suffix (".heic"), lock files of office programs, bins and
    system folders, and what mmembed wrote (stores, thumbnails, uploads), by these words.

    Raises:
        UnreadableSource: a root is not there (at once); a pattern matches nothing, or a
            manifest is empty or has no `uri` (when its turn comes).
    """
    kinds = FileKinds(modality, suffixes, tuple(exclude), Counter() if passed_over is None else passed_over)
    named = [os.fspath(root) for root in roots]
    for root in named:
        if not root.strip():
            raise UnreadableSource("an empty path was given: name a folder, a file, a pattern or a manifest")
        if not (is_remote(root) or os.path.lexists(_absolute(root)) or has_magic(root)):
            raise UnreadableSource(f"{printable(root)}: no such file or folder")
    return (found for root in named for found in _scan_root(root, kinds))


def _scan_root(root: str, kinds: FileKinds) -> Iterator[Item | Failure]:
    path = _absolute(root)
    if is_remote(root):
        yield not_local(root)
    elif os.path.isdir(path):
        yield from walk(path, kinds)
    elif os.path.splitext(path)[1].lower() in MANIFEST_SUFFIXES and os.path.exists(path):
        yield from read_manifest(path, kinds)
    elif os.path.lexists(path):
        if kinds.has_kind(path) and why_file(path, linked=False) == LOCK_FILE:  # a shell's * names it too
            kinds.passed_over[LOCK_FILE] += 1
        elif not kinds.excludes(path):
            yield kinds.named(path)
    elif has_magic(path):
        found = match(path, kinds)
        first = next(found, None)
        if first is None:
            raise UnreadableSource(f"{printable(root)}: matches no file of the kinds {kinds.spelled_out}")
        yield first
        yield from found
    else:
        raise UnreadableSource(f"{printable(root)}: was there when the scan began and is gone")


def _absolute(root: str) -> str:
    return os.path.abspath(os.path.expanduser(root))
