"""Documents in: scan, skip unchanged, read and cut into passages, encode, upsert; their pictures on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from qdrant_client import models

from mmembed.documents import (
    DOCUMENT_SUFFIXES,
    Document,
    EmbeddedPicture,
    Passage,
    read_document,
)
from mmembed.errors import InputError
from mmembed.images import IMAGE_SUFFIXES, MAX_PIXELS, load_in_order
from mmembed.ingest.images import write_pictures
from mmembed.ingest.plan import (
    OURS,
    Planned,
    batched,
    note_manifests,
    plan,
    point_id,
    remove_gone,
    roots_of,
    until_first_item,
)
from mmembed.ingest.report import IngestReport
from mmembed.ingest.targets import DocumentTarget
from mmembed.sources import scan
from mmembed.types import Encoder, Failure, Item, LoadOptions, Payload, Point, Store

__all__ = ["ingest_documents"]

_PASSAGES_A_BATCH = 128
_PASSAGES_AN_UPSERT = 256


def ingest_documents(
    store: Store,
    collection: str,
    sources: Sequence[str | Path],
    *,
    encoder: Encoder,
    cross_encoder: Encoder | None = None,
    pictures_into: str | None = "images",
    sync: bool = False,
    exclude: Sequence[str] = (),
    workers: int | None = None,
    shards: int | None = None,
    replicas: int | None = None,
    run: LoadOptions | None = None,
    on_progress: Callable[[IngestReport], None] | None = None,
) -> IngestReport:
    """Index text, Markdown, HTML, PDF and DOCX, cut into passages of at most 256 tokens, into `collection`.

    Every passage gets the vectors `text` (by `encoder`), `bm25` and `cross` (a multivector over
    windows of the passage, by the text tower of `cross_encoder`: pictures find it).

    Args:
        cross_encoder: an image-text encoder; None: that of the collection `pictures_into`, else tiny.
        pictures_into: the collection for pictures inside documents, with their alt text as caption;
            None leaves them out.
        sync: also remove documents that are gone from the disk or from their manifest.
        run: device, dtype and batch size of encoders that are loaded here.
        on_progress: called with the growing report after each batch.

    Raises:
        CollectionMismatch, CollectionNotOurs, StoreError, UnreadableSource. A bad document is no
        exception but a Failure in the report.
    """
    started = time.perf_counter()
    report = IngestReport(pictures=IngestReport() if pictures_into else None)
    manifests: dict[str, set[str]] = {}
    items = note_manifests(scan(sources, modality="text", suffixes=DOCUMENT_SUFFIXES, exclude=exclude), manifests)
    first = until_first_item(items)
    if not any(isinstance(entry, Item) for entry in first) and collection not in store.collections():
        report.failures.extend(entry for entry in first if isinstance(entry, Failure))
        return report  # a collection without a document would only bind its name to this encoder
    target = DocumentTarget(
        store,
        collection,
        encoder,
        cross_encoder,
        pictures_into,
        roots=roots_of(sources),
        shards=shards,
        replicas=replicas,
        run=run,
    )
    for _ in _write_documents(target, chain(first, items), report, workers=workers):
        report.seconds = time.perf_counter() - started
        if on_progress is not None:
            on_progress(report)
    if sync:
        gone = remove_gone(store, collection, target.roots, manifests, modality="text")
        report.removed = len(gone)
        target.forget_pictures_of([uri for _, uri in gone])
    if report.embedded or report.moved or report.copied or report.removed:
        store.optimize(collection)
        if target.images is not None:
            store.optimize(target.images.collection)
    report.seconds = time.perf_counter() - started
    return report


@dataclass
class _Read:
    """One document after its turn in the pool."""

    planned: Planned
    document: Document | None  # None where only the payload is new
    passages: list[Passage]


def _write_documents(
    target: DocumentTarget, items: Iterable[Item | Failure], report: IngestReport, *, workers: int | None
) -> Iterator[IngestReport]:
    workers = workers or min(4, os.cpu_count() or 1)
    seen_pictures: set[str] = set()

    def read(planned: Planned) -> _Read:
        if planned.item.path is None or (planned.action == "refresh" and not _lacks_pictures(target, planned)):
            return _Read(planned, None, [])
        document = read_document(planned.item.path, uri=planned.item.uri, pictures=target.pictures_into is not None)
        return _Read(planned, document, target.cut(document) if planned.action == "read" else [])

    def work() -> Iterator[Planned]:
        required = ["bm25", "cross", "text"]
        roots = target.roots
        for planned in plan(target.store, target.collection, items, modality="text", vectors=required, roots=roots):
            if isinstance(planned, Failure):
                report.failures.append(planned)
            elif planned.action == "unchanged" and _lacks_pictures(target, planned):
                _finish_move(target, planned)
                yield replace(planned, action="refresh")
            elif planned.action == "unchanged":
                report.unchanged += 1
                _finish_move(target, planned)
                linked = [Item(uri, "image", Path(uri)) for uri in (planned.stored or {}).get("pictures", ())]
                _write_pictures_of(target, linked, seen_pictures, report)
            else:
                yield planned

    pending: list[_Read] = []
    for planned, loaded in load_in_order(work(), read, workers=workers, ahead=2 * workers):
        if isinstance(loaded, InputError):
            report.failures.append(Failure(planned.item.uri, str(loaded)))
            continue
        pending.append(loaded)
        if sum(len(ready.passages) for ready in pending) >= _PASSAGES_A_BATCH or len(pending) >= _PASSAGES_A_BATCH:
            _store_batch(target, pending, seen_pictures, report)
            pending = []
            yield report
    if pending:
        _store_batch(target, pending, seen_pictures, report)
    yield report


def _store_batch(target: DocumentTarget, batch: Sequence[_Read], seen: set[str], report: IngestReport) -> None:
    """Store pictures, then passages, the first passage of each document last: it says that all are there."""
    # 1. pictures, before the passages that say that they are done
    for ready in batch:
        if ready.document is not None:
            report.failures.extend(ready.document.problems)
            _write_pictures_of(target, _picture_items(ready), seen, report)
    # 2. documents whose passages need no encoding
    fresh: list[_Read] = []
    for ready in batch:
        if ready.planned.action == "refresh":
            _refresh(target, ready)
            report.unchanged += 1
        elif ready.planned.action == "reuse":
            again = _reuse(target, ready, report)
            fresh.extend(again)
        else:
            fresh.append(ready)
    # 3. the others
    points: list[Point] = []
    target.indexes.cover(ready.planned.item.payload for ready in fresh)
    for ready in fresh:
        _drop_passages_from(target, ready.planned, len(ready.passages))
        points.extend(reversed(_points_of(target, ready)))
    for some in batched(points, _PASSAGES_AN_UPSERT):
        vectors = target.encode([str(point.payload.pop("embedded_text")) for point in some])
        target.store.upsert(target.collection, [replace(p, vectors=v) for p, v in zip(some, vectors, strict=True)])
    report.embedded += len(fresh)


def _points_of(target: DocumentTarget, ready: _Read) -> list[Point]:
    """A document's points, still without vectors; `embedded_text` is taken off again before they are stored."""
    planned, document = ready.planned, ready.document
    assert document is not None
    shared = {
        **planned.payload(),
        "title": _title(planned, document),
        "passages": len(ready.passages),
        "vectors": ["bm25", "cross", "text"],
    }
    points = []
    for passage in ready.passages:
        own: Payload = {"passage": passage.number, "text": passage.body, "headings": list(passage.headings)}
        if passage.page is not None:
            own["page"] = passage.page
        if passage.number == 0:
            own |= _linked_pictures(target, document)
        id = point_id("text", planned.item.uri, passage.number)
        points.append(Point(id, {}, {**shared, **own, "embedded_text": passage.text}))
    return points


def _title(planned: Planned, document: Document) -> str | None:
    """What the manifest calls it, else what it calls itself, else its file's name."""
    stem = planned.item.path.stem if planned.item.path else None
    said = planned.item.payload.get("title")
    return str(said) if said else document.title or stem


def _uri_is(uri: str) -> models.FieldCondition:
    return models.FieldCondition(key="uri", match=models.MatchValue(value=uri))


def _drop_passages_from(target: DocumentTarget, planned: Planned, number: int) -> None:
    """Remove what an earlier, longer version of the document left behind."""
    if planned.stored is None:
        return
    beyond = models.FieldCondition(key="passage", range=models.Range(gte=number))
    target.store.delete_where(target.collection, models.Filter(must=[_uri_is(planned.item.uri), beyond]))


def _refresh(target: DocumentTarget, ready: _Read) -> None:
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
    head = point_id("text", planned.item.uri, 0)
    target.store.set_payload(target.collection, [id for id in ids if id != head], payload)
    linked = _linked_pictures(target, ready.document) if ready.document is not None else {}
    target.store.set_payload(target.collection, [head], {**payload, **linked})


def _reuse(target: DocumentTarget, ready: _Read, report: IngestReport) -> list[_Read]:
    """Take over the passages of a document with the same contents; gives what must be encoded after all."""
    planned, store = ready.planned, target.store
    heads = store.retrieve(target.collection, [planned.donor] if planned.donor else [])
    if not heads or ready.document is None:
        assert ready.document is not None
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
        linked = _linked_pictures(target, ready.document) if number == 0 else {}
        payload = {**own, **kept, **page, **linked, "title": title, **moved_from}
        points[number] = Point(point_id("text", planned.item.uri, number), point.vectors, payload)
    if sorted(points) != list(range(count)):  # the donor was being written when something stopped it
        return [replace(ready, passages=target.cut(ready.document))]
    _drop_passages_from(target, planned, count)
    for some in batched([points[number] for number in range(count - 1, -1, -1)], _PASSAGES_AN_UPSERT):
        store.upsert(target.collection, some)
    if planned.moved:
        _forget_old_place(target, planned.item.uri, old_uri)
        report.moved += 1
    else:
        report.copied += 1
    return []


def _finish_move(target: DocumentTarget, planned: Planned) -> None:
    """Forget the old place of a move that was cut short after its new place was stored."""
    old = (planned.stored or {}).get("moved_from")
    if old:
        _forget_old_place(target, planned.item.uri, str(old))


def _forget_old_place(target: DocumentTarget, uri: str, old_uri: str) -> None:
    target.store.delete_where(target.collection, models.Filter(must=[_uri_is(old_uri)]))
    target.forget_pictures_of([old_uri])
    target.store.set_payload(target.collection, [point_id("text", uri, 0)], {"moved_from": None})


def _picture_items(ready: _Read) -> list[Item]:
    assert ready.document is not None
    inside: Payload = {"document": ready.planned.item.uri}
    return [
        Item(
            picture.uri,
            "image",
            picture.path,
            picture.content,
            caption=picture.caption,
            payload=inside | ({"page": picture.page} if picture.page is not None else {}),
        )
        for picture in _readable(ready.document)
    ]


def _lacks_pictures(target: DocumentTarget, planned: Planned) -> bool:
    """Whether a stored document's pictures are asked for and were left out, or not all there, when it was stored."""
    return target.pictures_into is not None and "pictures" not in (planned.stored or {})


def _linked_pictures(target: DocumentTarget, document: Document) -> Payload:
    """What the first passage says once every picture was there: the files that it links to."""
    if target.pictures_into is None or document.problems:
        return {}
    return {"pictures": [p.uri for p in _readable(document) if p.path is not None]}


def _readable(document: Document) -> list[EmbeddedPicture]:
    """The pictures but for drawings (SVG, EMF), which are not made of pixels."""
    return [
        picture
        for picture in document.pictures
        if picture.path is None or picture.path.suffix.lower() in IMAGE_SUFFIXES
    ]


def _write_pictures_of(target: DocumentTarget, items: Sequence[Item], seen: set[str], report: IngestReport) -> None:
    """Index pictures that were not met before in this run: where two documents show one, the first captions it."""
    if target.pictures_into is None or report.pictures is None:
        return
    new = [item for item in {item.uri: item for item in reversed(items)}.values() if item.uri not in seen]
    seen.update(item.uri for item in new)
    if new:
        images = target.image_target(target.pictures_into)
        for _ in write_pictures(images, reversed(new), report.pictures, max_pixels=MAX_PIXELS):
            pass
