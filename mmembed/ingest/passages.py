"""One document as the points of a collection: made, refreshed, taken over from another, moved."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qdrant_client import models

from mmembed.collection.payload import OURS, item_id
from mmembed.documents import Document, Passage
from mmembed.ingest.embedded_images import linked_pictures
from mmembed.ingest.plan import Planned
from mmembed.ingest.report import IngestReport
from mmembed.ingest.targets import DocumentTarget
from mmembed.streams import batched
from mmembed.types import Payload, Point

__all__ = ["Read", "drop_passages_from", "finish_move", "forget_donor", "points_of", "refresh", "reuse"]

_PASSAGES_AN_UPSERT = 256


@dataclass
class Read:
    """One document after its turn in the pool."""

    planned: Planned
    document: Document | None  # None where only the payload is new
    passages: list[Passage]


def points_of(target: DocumentTarget, ready: Read) -> list[Point]:
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
            own |= linked_pictures(target, document)
        id = item_id("text", planned.item.uri, passage.number)
        points.append(Point(id, {}, {**shared, **own, "embedded_text": passage.text}))
    return points


def drop_passages_from(target: DocumentTarget, planned: Planned, number: int) -> None:
    """Remove what an earlier, longer version of the document left behind."""
    if planned.stored is None:
        return
    beyond = models.FieldCondition(key="passage", range=models.Range(gte=number))
    target.store.delete_where(target.collection, models.Filter(must=[_uri_is(planned.item.uri), beyond]))


def refresh(target: DocumentTarget, ready: Read) -> None:
    """The same text under a new date, with a new payload or with pictures: no passage is encoded again."""
    planned = ready.planned
    payload = {**planned.item.payload, **planned.payload()}
    for key in ("passage", "page", "text", "headings", "title"):
        payload.pop(key, None)
    payload |= {key: None for key in planned.stored or {} if key not in payload and key not in OURS["text"]}
    ids = [
        point.id
        for point in target.store.scroll(
            target.collection, filter=models.Filter(must=[_uri_is(planned.item.uri)]), payload=False
        )
    ]
    head = item_id("text", planned.item.uri, 0)
    target.store.set_payload(target.collection, [id for id in ids if id != head], payload)
    linked = linked_pictures(target, ready.document) if ready.document is not None else {}
    target.store.set_payload(target.collection, [head], {**payload, **linked})


def reuse(target: DocumentTarget, ready: Read, report: IngestReport) -> list[Read]:
    """Take over the passages of a document with the same contents; gives what must be encoded after all."""
    planned, store = ready.planned, target.store
    heads = store.retrieve(target.collection, [planned.donor] if planned.donor else [])
    assert ready.document is not None
    if not heads or not _is_donor(target, planned, heads[0]):
        return [replace(ready, passages=target.cut(ready.document))]
    old_uri = str(heads[0].payload["uri"])
    count = int(heads[0].payload["passages"])
    donated = store.scroll(target.collection, filter=models.Filter(must=[_uri_is(old_uri)]), vectors=True)
    own = planned.payload()
    title = _title(planned, ready.document)
    moved_from = {"moved_from": old_uri} if planned.moved else {}
    points = {}
    for point in donated:
        number = int(point.payload["passage"])
        kept = {key: point.payload[key] for key in ("passage", "passages", "text", "headings", "vectors")}
        page = {"page": point.payload["page"]} if "page" in point.payload else {}
        linked = linked_pictures(target, ready.document) if number == 0 else {}
        payload = {**own, **kept, **page, **linked, "title": title, **moved_from}
        points[number] = Point(item_id("text", planned.item.uri, number), point.vectors, payload)
    if sorted(points) != list(range(count)):  # the donor was being written when something stopped it
        return [replace(ready, passages=target.cut(ready.document))]
    drop_passages_from(target, planned, count)
    for some in batched([points[number] for number in range(count - 1, -1, -1)], _PASSAGES_AN_UPSERT):
        store.upsert(target.collection, some)
    if planned.moved:
        forget_old_place(target, planned.item.uri, old_uri)
        report.moved += 1
    else:
        report.copied += 1
    return []


def _is_donor(target: DocumentTarget, planned: Planned, head: Point) -> bool:
    """Whether the stored document is what the plan takes it for: it may be about to be read in this very run."""
    same = head.payload["content_hash"] == planned.content_hash
    return same and set(target.vectors) <= set(head.payload.get("vectors", []))


def finish_move(target: DocumentTarget, planned: Planned) -> None:
    """Forget the old place of a move that was cut short after its new place was stored."""
    old = (planned.stored or {}).get("moved_from")
    if old:
        forget_old_place(target, planned.item.uri, str(old))


def forget_old_place(target: DocumentTarget, uri: str, old_uri: str) -> None:
    target.store.delete_where(target.collection, models.Filter(must=[_uri_is(old_uri)]))
    target.forget_pictures_of([old_uri])
    target.store.set_payload(target.collection, [item_id("text", uri, 0)], {"moved_from": None})


def forget_donor(target: DocumentTarget, planned: Planned) -> None:
    """Forget the old place of a document that moved and was encoded anew, because it lacked a vector there."""
    heads = target.store.retrieve(target.collection, [planned.donor] if planned.moved and planned.donor else [])
    if heads:
        forget_old_place(target, planned.item.uri, str(heads[0].payload["uri"]))


def _title(planned: Planned, document: Document) -> str | None:
    """What the manifest calls it, else what it calls itself, else its file's name."""
    stem = planned.item.path.stem if planned.item.path else None
    said = planned.item.payload.get("title")
    return str(said) if said else document.title or stem


def _uri_is(uri: str) -> models.FieldCondition:
    return models.FieldCondition(key="uri", match=models.MatchValue(value=uri))
