"""Uploads that no point names: left by a process that was killed after it had kept them, or by a write that failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.payload import item_id
from mmembed.service.indexing.uploads import forget_uploads
from mmembed.types import Store

_AT_ONCE = 500  # files that are asked about together

logger = logging.getLogger(__name__)


def forget_unnamed(collection: Collection, folder: Path, paths: Sequence[Path]) -> int:
    """Remove those of a collection's uploads that no point of it names; gives how many there were."""
    unnamed = [*paths]
    if collection.exists:
        ids = {path: [item_id("image", str(path), None), item_id("text", str(path), 0)] for path in paths}
        asked = [id for some in ids.values() for id in some]
        stored = {point.id for point in collection.store.retrieve(collection.name, asked, payload=False)}
        unnamed = [path for path, some in ids.items() if not stored & {*some} and not _names(collection, path)]
    forget_uploads(folder, map(str, unnamed))
    return len(unnamed)


def _names(collection: Collection, path: Path) -> bool:
    """Whether any point has the file as its uri: of a document, a passage behind its first."""
    condition = models.FieldCondition(key="uri", match=models.MatchValue(value=str(path)))
    return collection.store.count(collection.name, filter=models.Filter(must=[condition])) > 0


def sweep_uploads(store: Store, folder: Path) -> None:
    """At the start, before anything is written: remove the uploads of every collection that no point names.

    For a folder that is the store's alone: another service's uploads are named by points of its own store.
    """
    for home in sorted((folder / "uploads").glob("*")):
        collection = Collection(store, unquote(home.name))
        paths = [path for path in home.glob("*/*") if path.is_file() and path.parent.name[0] != "."]
        swept = sum(
            forget_unnamed(collection, home.resolve(), [home.resolve() / path.relative_to(home) for path in some])
            for some in (paths[at : at + _AT_ONCE] for at in range(0, len(paths), _AT_ONCE))
        )
        if swept:
            logger.warning("%d uploads of collection %r belonged to no point and were removed", swept, collection.name)
