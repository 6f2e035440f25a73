"""One document as the points of a collection: made, refreshed, taken over from another, moved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_client import models

from mmembed.collection.conditions import has_value, of_uris
from mmembed.collection.payload import OURS, id_of
from mmembed.collection.removal import remove_where
from mmembed.documents import DOCUMENT_SUFFIXES, Document, Passage
from mmembed.ingest.embedded_images import linked_images
from mmembed.ingest.plan import PlannedItem
from mmembed.ingest.report import ItemOutcome
from mmembed.ingest.targets import DocumentTarget
from mmembed.streams import batched
from mmembed.types import Payload, Point

PASSAGES_AN_UPSERT = 256


@dataclass
class ReadDocument:
    """One document after its turn in the pool."""

    planned: PlannedItem
    document: Document | None  # None where only the payload is new
    passages: list[Passage]


def points_of(target: DocumentTarget, ready: ReadDocument) -> list[Point]:
    """A document's points, still without vectors; `embedded_text` is taken off again before they are stored."""
    planned, document = ready.planned, ready.document
    assert document is not None
    shared = {
        **planned.payload(),
        "title": _title(planned, document),
        "passages": len(ready.passages),
        "vectors": target.vectors,
    }
    points = []
    for passage in ready.passages:
        own: Payload = {"passage": passage.number, "text": passage.body, "headings": list(passage.headings)}
        if passage.page is not None:
            own["page"] = passage.page
        if passage.number == 0:
            own |= linked_images(target, document)
        id = id_of(planned.item, passage.number)
        points.append(Point(id, {}, {**shared, **own, "embedded_text": passage.text}))
    return points


def drop_passages_from(target: DocumentTarget, planned: PlannedItem, number: int) -> None:
    """Remove what an earlier, longer version of the document left behind."""
    if planned.stored is None:
        return
    beyond = models.FieldCondition(key="passage", range=models.Range(gte=number))
    target.collection.store.delete_where(
        target.collection.name, models.Filter(must=[has_value("uri", planned.item.uri), beyond])
    )


def drop_other_documents(target: DocumentTarget, ready: Sequence[ReadDocument]) -> None:
    """Remove what is stored of these uris under other ids, and under these ids of other uris, to be written anew."""
    store, name = target.collection.store, target.collection.name
    uris = {each.planned.id: each.planned.item.uri for each in ready}
    own = [each.planned.id for each in ready if each.planned.item.id is not None]
    for head in store.retrieve(name, own) if own else ():
        if head.payload["uri"] != uris[head.id]:
            remove_where(target.collection, of_uris([str(head.payload["uri"])]))
    new = [each.planned.item.uri for each in ready if each.planned.stored is None]
    if new:
        store.delete_where(name, of_uris(new))


def refresh(target: DocumentTarget, ready: ReadDocument) -> None:
    """The same text under a new date, with a new payload or with pictures: no passage is encoded again."""
    planned = ready.planned
    own = ("passage", "page", "text", "headings", "title")
    payload = {k: v for k, v in {**planned.item.payload, **planned.payload()}.items() if k not in own}
    forgotten = planned.stored or {}
    payload |= {k: None for k in forgotten if k not in payload and (k not in OURS["text"] or k == "inherited")}
    store, name = target.collection.store, target.collection.name
    passages = store.scroll(name, filter=of_uris([planned.item.uri]), payload=False)
    head = id_of(planned.item, 0)
    store.set_payload(name, [point.id for point in passages if point.id != head], payload)
    linked = linked_images(target, ready.document) if ready.document is not None else {}
    store.set_payload(name, [head], {**payload, **linked})


def reuse(target: DocumentTarget, ready: ReadDocument) -> ItemOutcome | None:
    """Take over the passages of a document with the same contents; None where they must be encoded after all."""
    planned, store, name = ready.planned, target.collection.store, target.collection.name
    heads = store.retrieve(name, [planned.donor] if planned.donor else [])
    # whether it is what the plan takes it for: it may be about to be read in this very run
    same = bool(heads) and heads[0].payload["content_hash"] == planned.content_hash
    if not same or not set(target.vectors) <= set(heads[0].payload.get("vectors", [])):
        return None
    old_uri = str(heads[0].payload["uri"])
    count = int(heads[0].payload["passages"])
    donated = store.scroll(name, filter=of_uris([old_uri]), vectors=True)
    points = {int(point.payload["passage"]): _taken_over(target, ready, point) for point in donated}
    if sorted(points) != list(range(count)):  # the donor was being written when something stopped it
        return None
    drop_other_documents(target, [ready])
    drop_passages_from(target, planned, count)
    for some in batched([points[number] for number in range(count - 1, -1, -1)], PASSAGES_AN_UPSERT):
        store.upsert(name, some)
    if not planned.moved:
        return "copied"
    forget_old_place(target, planned, old_uri)
    return "moved"


def _taken_over(target: DocumentTarget, ready: ReadDocument, donated: Point) -> Point:
    """A passage of the donor as one of this document."""
    planned, document, its = ready.planned, ready.document, donated.payload
    assert document is not None
    number = int(its["passage"])
    kept: Payload = {
        key: its[key] for key in ("passage", "passages", "text", "headings", "vectors", "page") if key in its
    }
    linked = linked_images(target, document) if number == 0 else {}
    moved_from: Payload = {"moved_from": its["uri"]} if planned.moved else {}
    payload = {**planned.payload(), **kept, **linked, "title": _title(planned, document, its), **moved_from}
    return Point(id_of(planned.item, number), donated.vectors, payload)


def forget_old_place(target: DocumentTarget, planned: PlannedItem, old_uri: str) -> None:
    remove_where(target.collection, of_uris([old_uri]))
    target.collection.store.set_payload(target.collection.name, [id_of(planned.item, 0)], {"moved_from": None})


def _title(planned: PlannedItem, document: Document, before: Payload | None = None) -> str:
    """What the manifest calls it, else what it calls itself, else its file's name or the end of its uri.

    `before` is the payload of the same contents in another place: a title that a manifest gave them there follows.
    """
    if said := planned.item.payload.get("title"):
        return str(said)
    if before is not None and before.get("title") not in (None, document.title, _name(str(before["uri"]))):
        return str(before["title"])
    return document.title or _name(str(planned.item.path or planned.item.uri))


def _name(uri: str) -> str:
    name = uri.rstrip("/").rpartition("/")[2]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in DOCUMENT_SUFFIXES else name
