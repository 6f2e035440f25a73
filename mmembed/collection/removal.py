"""The one way out of a collection: points go with their thumbnails and the images inside their documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.conditions import first_passages, inside_documents, of_uris
from mmembed.collection.payload import path_of
from mmembed.collection.thumbnails import drop_thumbnails, remove_thumbnails
from mmembed.streams import batched
from mmembed.types import Point, Store

_BATCH = 256


@dataclass(frozen=True)
class RemovedPoints:
    """What is gone: how many points, and the uris of which none is left."""

    points: int
    uris: tuple[str, ...] = ()


def remove_ids(collection: Collection, ids: Sequence[str]) -> RemovedPoints:
    """Remove points; of a document only these passages go. Raises CollectionNotOurs."""
    collection.require_ours()
    store, name = collection.store, collection.name
    return _sum(_remove(collection, store.retrieve(name, some)) for some in batched(dict.fromkeys(ids), _BATCH))


def remove_where(collection: Collection, filter: models.Filter) -> RemovedPoints:
    """Remove every point that passes the filter. Raises CollectionNotOurs."""
    collection.require_ours()
    passing = collection.store.scroll(collection.name, filter=filter, payload=["uri"])
    return _sum(_remove(collection, some) for some in batched(passing, _BATCH))


def remove_collection(collection: Collection) -> int:
    """Remove a collection of ours with its thumbnails and the images that stood in its documents; gives its points."""
    contract = collection.require_ours()
    store, name = collection.store, collection.name
    documents: list[str] = []
    if contract.kind == "documents":
        documents = [str(p.payload["uri"]) for p in store.scroll(name, filter=first_passages(), payload=["uri"])]
    points = store.count(name)
    store.drop(name)
    drop_thumbnails(collection)
    remove_images_in(store, documents)
    return points


def remove_images_in(store: Store, documents: Sequence[str]) -> None:
    """Remove the images that stood inside these documents, by uri, from every collection of images."""
    for collection in (Collection(store, name) for name in (store.collections() if documents else ())):
        contract = collection.contract
        if contract is None or contract.kind != "images":
            continue
        for some in batched(documents, _BATCH):
            shown = store.scroll(collection.name, filter=inside_documents(some), payload=["uri", "document"])
            # one that it only links to stays
            _delete(collection, [point.id for point in shown if path_of(point.payload) != point.payload["uri"]])


def _sum(batches: Iterator[RemovedPoints]) -> RemovedPoints:
    removed = list(batches)
    return RemovedPoints(sum(each.points for each in removed), tuple(uri for each in removed for uri in each.uris))


def _remove(collection: Collection, points: Sequence[Point]) -> RemovedPoints:
    store, name = collection.store, collection.name
    _delete(collection, [point.id for point in points])
    uris = {str(point.payload["uri"]) for point in points if "uri" in point.payload}
    if collection.require_ours().kind == "documents":  # each uri is that of many passages
        left = store.scroll(name, filter=of_uris(sorted(uris)), payload=["uri"])
        uris -= {str(point.payload["uri"]) for point in left}
        remove_images_in(store, sorted(uris))
    return RemovedPoints(len(points), tuple(sorted(uris)))


def _delete(collection: Collection, ids: Sequence[str]) -> None:
    collection.store.delete(collection.name, ids)
    remove_thumbnails(collection, ids)
