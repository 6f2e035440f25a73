"""Files that are gone: which have moved away, and with `sync` their way out of the collection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmembed.collection import Collection
from mmembed.collection.conditions import of_uris
from mmembed.collection.payload import path_of
from mmembed.collection.removal import remove_ids, remove_where
from mmembed.ingest.entries import ScannedSources
from mmembed.streams import batched
from mmembed.types import Payload, Point

_BATCH = 256


def file_of(payload: Payload) -> str | None:
    """The file behind a point, of an image inside a document that document.

    None where its uri names none: its content came from memory, or from a file under another name.
    """
    path = path_of(payload)
    inside = path != payload["uri"]
    return path if os.path.isabs(path) and (inside or "mtime_ns" in payload) else None


def has_left(path: str | None, roots: Sequence[Path]) -> bool:
    """Whether a file was moved away, and is not on a disk or machine that is out of sight.

    Its folder is still there, or it was under a folder of this run.
    """
    return path is not None and _is_gone(path) and (Path(path).parent.is_dir() or _under(path, map(str, roots)))


def remove_gone(collection: Collection, seen: ScannedSources) -> int:
    """Remove what is of files that are gone: under the roots, or no longer in a manifest; gives how many there were.

    A manifest with a line that could not be read has dropped nothing: the line may name any file. What came from
    memory has no file that could be gone, and stays.
    """
    gone = list(_gone(collection, seen))
    if collection.require_ours().kind == "images":
        return remove_ids(collection, [point.id for point in gone]).points
    uris = [str(point.payload["uri"]) for point in gone]  # each is that of many passages
    return sum(len(remove_where(collection, of_uris(some)).uris) for some in batched(uris, _BATCH))


def _gone(collection: Collection, seen: ScannedSources) -> Iterator[Point]:
    torn = {name for name, uris in seen.manifests.items() if any(uri.startswith(f"{name}: line ") for uri in uris)}
    prefixes = [str(root) for root in seen.roots]
    keys = ["uri", "document", "source", "mtime_ns"]
    for point in collection.store.scroll(collection.name, filter=collection.heads(), payload=keys):
        uri, source, path = str(point.payload["uri"]), point.payload.get("source"), file_of(point.payload)
        named = source in seen.manifests
        dropped = named and source not in torn and uri not in seen.manifests[str(source)]
        looked_for = path is not None and (named or _under(uri, prefixes))
        if dropped or (looked_for and _is_gone(str(path))):
            yield point


def _is_gone(path: str) -> bool:
    """True only if the file is certainly not there; a folder that cannot be looked into proves nothing."""
    try:
        Path(path).stat()
    except OSError as exc:
        return isinstance(exc, FileNotFoundError | NotADirectoryError)
    return False


def _under(uri: str, prefixes: Iterable[str]) -> bool:
    return any(uri == prefix or uri.startswith((prefix.rstrip("/") + "/", prefix + "#")) for prefix in prefixes)
