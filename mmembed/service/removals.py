"""Points and collections out again, with what is kept of them: thumbnails, uploads, the pictures inside documents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from qdrant_client import models

from mmembed.errors import CollectionNotOurs
from mmembed.ingest import drop_thumbnails, remove_thumbnails
from mmembed.ingest.plan import batched
from mmembed.service.uploads import forget_uploads, uploads_folder
from mmembed.types import Contract, Point, Store

__all__ = ["remove_collection", "remove_ids", "remove_where"]

_BATCH = 256


def remove_ids(store: Store, folder: Path, collection: str, ids: Sequence[str]) -> int:
    """Remove points; gives how many there were. Of a document only these passages go."""
    contract = _contract(store, collection)
    removed = 0
    for some in batched(dict.fromkeys(ids), _BATCH):
        found = store.retrieve(collection, some)
        _remove(store, folder, collection, contract, found)
        removed += len(found)
    return removed


def remove_where(store: Store, folder: Path, collection: str, filter: models.Filter) -> int:
    """Remove every point that passes the filter; gives how many there were."""
    contract = _contract(store, collection)
    removed = 0
    for some in batched(store.scroll(collection, filter=filter, payload=["uri"]), _BATCH):
        _remove(store, folder, collection, contract, some)
        removed += len(some)
    return removed


def remove_collection(store: Store, folder: Path, collection: str) -> None:
    """Remove a collection of ours with its uploads and thumbnails, and the pictures that stood in its documents."""
    contract = _contract(store, collection)
    inside: list[str] = []
    if contract.kind == "documents":
        first = models.FieldCondition(key="passage", match=models.MatchValue(value=0))
        heads = store.scroll(collection, filter=models.Filter(must=[first]), payload=["uri"])
        inside = [str(point.payload["uri"]) for point in heads]
    uploads = uploads_folder(folder, collection)
    store.drop(collection)
    drop_thumbnails(store, collection)
    shutil.rmtree(uploads, ignore_errors=True)
    _forget_pictures_in(store, inside)


def _contract(store: Store, collection: str) -> Contract:
    contract = store.contract(collection)
    if contract is None:
        raise CollectionNotOurs(collection)
    return contract


def _remove(store: Store, folder: Path, collection: str, contract: Contract, points: Sequence[Point]) -> None:
    ids = [point.id for point in points]
    store.delete(collection, ids)
    remove_thumbnails(store, collection, ids)
    uris = {str(point.payload["uri"]) for point in points if "uri" in point.payload}
    if contract.kind == "documents":  # each uri is that of many passages
        uris -= _still_there(store, collection, uris)
        _forget_pictures_in(store, sorted(uris))
    forget_uploads(uploads_folder(folder, collection), sorted(uris))


def _still_there(store: Store, collection: str, uris: set[str]) -> set[str]:
    condition = models.FieldCondition(key="uri", match=models.MatchAny(any=sorted(uris)))
    left = store.scroll(collection, filter=models.Filter(must=[condition]), payload=["uri"])
    return {str(point.payload["uri"]) for point in left}


def _forget_pictures_in(store: Store, documents: Sequence[str]) -> None:
    """Remove the pictures that only stood inside these documents, from every collection of pictures."""
    for collection in store.collections() if documents else ():
        contract = store.contract(collection)
        if contract is None or contract.kind != "images":
            continue
        for some in batched(documents, _BATCH):
            ids = list(_inside(store, collection, some))
            store.delete(collection, ids)
            remove_thumbnails(store, collection, ids)


def _inside(store: Store, collection: str, documents: Sequence[str]) -> Iterator[str]:
    condition = models.FieldCondition(key="document", match=models.MatchAny(any=list(documents)))
    for point in store.scroll(collection, filter=models.Filter(must=[condition]), payload=["uri", "document"]):
        if str(point.payload["uri"]).startswith(f"{point.payload['document']}#"):
            yield point.id
