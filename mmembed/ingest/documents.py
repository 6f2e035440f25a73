"""Documents in: scan, skip unchanged, read and cut into passages, encode, upsert; their pictures on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from mmembed.documents import DOCUMENT_SUFFIXES, read_document
from mmembed.errors import InputError
from mmembed.ingest.embedded_images import documents_of_bare_pictures, lacks_pictures, picture_items, write_pictures_of
from mmembed.ingest.passages import Read, drop_passages_from, finish_move, forget_donor, points_of, refresh, reuse
from mmembed.ingest.plan import Planned, note_manifests, plan, remove_gone, roots_of, until_first_item
from mmembed.ingest.report import IngestReport
from mmembed.ingest.targets import DocumentTarget
from mmembed.sources import scan
from mmembed.streams import batched, load_in_order
from mmembed.types import Encoder, Failure, Item, Point, Store

__all__ = ["ingest_documents", "write_documents"]

_PASSAGES_A_BATCH = 128
_PASSAGES_AN_UPSERT = 256
_WITH_LATE_AN_UPSERT = 64  # a vector for each token: with BGE-M3 a megabyte a passage


def ingest_documents(
    store: Store,
    collection: str,
    sources: Sequence[str | Path],
    *,
    encoder: Encoder,
    cross_encoder: Encoder | None = None,
    sparse_encoder: Encoder | None = None,
    late_encoder: Encoder | None = None,
    pictures_into: str | None = "images",
    sync: bool = False,
    exclude: Sequence[str] = (),
    workers: int | None = None,
    shards: int | None = None,
    replicas: int | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    on_progress: Callable[[IngestReport], None] | None = None,
) -> IngestReport:
    """Index text, Markdown, HTML, PDF and DOCX, cut into passages of at most 256 tokens, into `collection`.

    Every passage gets the vectors `text` (by `encoder`), `bm25` and `cross` (a multivector over
    windows of the passage, by the text tower of `cross_encoder`: pictures find it), and `sparse` and
    `late` where there is an encoder for them. One that the documents were indexed without is made up
    for: they are read and encoded again.

    Args:
        cross_encoder: an image-text encoder; None: that of the collection `pictures_into`, else tiny.
        sparse_encoder: makes `sparse`, learned weights of terms (SPLADE, BGE-M3), a further ranking of a search;
            None: the one that the collection remembers, if any.
        late_encoder: makes `late`, a vector for each token (ColBERT, BGE-M3), which orders the best candidates
            anew; None: the one that the collection remembers, if any.
        pictures_into: the collection for pictures inside documents, with their alt text as caption;
            None leaves them out.
        sync: also remove documents that are gone from the disk or from their manifest.
        encoders: where those come from that are not given, as for `search`.
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
        encoders=encoders,
        sparse_encoder=sparse_encoder,
        late_encoder=late_encoder,
    )
    for _ in write_documents(target, chain(first, items), report, workers=workers):
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


def write_documents(
    target: DocumentTarget, items: Iterable[Item | Failure], report: IngestReport, *, workers: int | None = None
) -> Iterator[IngestReport]:
    """Plan, read, cut, encode and store; yields `report` after each batch."""
    workers = workers or min(4, os.cpu_count() or 1)
    seen_pictures: set[str] = set()
    bare = documents_of_bare_pictures(target)

    def wants_pictures(planned: Planned) -> bool:
        return lacks_pictures(target, planned) or planned.item.uri in bare

    def read(planned: Planned) -> Read:
        if planned.item.path is None or (planned.action == "refresh" and not wants_pictures(planned)):
            return Read(planned, None, [])
        document = read_document(
            planned.item.path,
            uri=planned.item.uri,
            pictures=target.pictures_into is not None,
            linked=target.linked_pictures,
        )
        return Read(planned, document, target.cut(document) if planned.action == "read" else [])

    def work() -> Iterator[Planned]:
        required, roots = target.vectors, target.roots
        for planned in plan(target.store, target.collection, items, modality="text", vectors=required, roots=roots):
            if isinstance(planned, Failure):
                report.failures.append(planned)
            elif planned.action == "unchanged" and wants_pictures(planned):
                finish_move(target, planned)
                yield replace(planned, action="refresh")
            elif planned.action == "unchanged":
                report.unchanged += 1
                finish_move(target, planned)
                linked = [Item(uri, "image", Path(uri)) for uri in (planned.stored or {}).get("pictures", ())]
                write_pictures_of(target, linked, seen_pictures, report)
            else:
                yield planned

    pending: list[Read] = []
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


def _store_batch(target: DocumentTarget, batch: Sequence[Read], seen: set[str], report: IngestReport) -> None:
    """Store pictures, then passages, the first passage of each document last: it says that all are there."""
    # 1. pictures, before the passages that say that they are done
    for ready in batch:
        if ready.document is not None:
            report.failures.extend(ready.document.problems)
            write_pictures_of(target, picture_items(ready.planned, ready.document), seen, report)
    # 2. documents whose passages need no encoding
    fresh: list[Read] = []
    for ready in batch:
        if ready.planned.action == "refresh":
            refresh(target, ready)
            report.unchanged += 1
        elif ready.planned.action == "reuse":
            again = reuse(target, ready, report)
            fresh.extend(again)
        else:
            fresh.append(ready)
    # 3. the others
    points: list[Point] = []
    target.indexes.cover(ready.planned.item.payload for ready in fresh)
    for ready in fresh:
        drop_passages_from(target, ready.planned, len(ready.passages))
        points.extend(reversed(points_of(target, ready)))
    for some in batched(points, _PASSAGES_AN_UPSERT if "late" not in target.vectors else _WITH_LATE_AN_UPSERT):
        vectors = target.encode([str(point.payload.pop("embedded_text")) for point in some])
        target.store.upsert(target.collection, [replace(p, vectors=v) for p, v in zip(some, vectors, strict=True)])
    for ready in fresh:
        forget_donor(target, ready.planned)
    report.embedded += len(fresh)
