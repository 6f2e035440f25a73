"""Documents in: what an index run does with each, from a file or memory to passages; their images on the way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmembed.collection import Collection
from mmembed.documents import DOCUMENT_SUFFIXES, read_document, text_document
from mmembed.ingest.embedded_images import documents_of_bare_images, image_items, index_images_of
from mmembed.ingest.entries import Entries, IngestSource, ScannedSources
from mmembed.ingest.gone import SyncOptions
from mmembed.ingest.passages import (
    PASSAGES_AN_UPSERT,
    ReadDocument,
    drop_other_documents,
    drop_passages_from,
    forget_old_place,
    points_of,
    refresh,
    reuse,
)
from mmembed.ingest.plan import PlannedItem
from mmembed.ingest.report import IngestReport, ItemOutcome, OnReport
from mmembed.ingest.run import run_index
from mmembed.ingest.targets import DocumentTarget, RunOptions
from mmembed.streams import batched
from mmembed.types import Encoder, Failure, Item, Modality, Point, Store

_READERS = 4
_PASSAGES_A_BATCH = 128
_WITH_LATE_AN_UPSERT = 64  # a vector for each token: with BGE-M3 a megabyte a passage


def ingest_documents(
    store: Store,
    collection: str,
    sources: Iterable[IngestSource],
    *,
    encoder: Encoder,
    cross_encoder: Encoder | None = None,
    sparse_encoder: Encoder | None = None,
    late_encoder: Encoder | None = None,
    images_into: str | None = "images",
    sync: bool = False,
    insist: bool = False,
    trash: str | Path | None = None,
    dry_run: bool = False,
    exclude: Sequence[str] = (),
    workers: int | None = None,
    shards: int | None = None,
    replicas: int | None = None,
    language: str | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    on_progress: OnReport | None = None,
) -> IngestReport:
    """Index text, Markdown, HTML, PDF and DOCX, in files or in memory, cut into passages of at most 256 tokens.

    Every passage gets the vectors `text` (by `encoder`), `bm25` and `cross` (a multivector over
    windows of the passage, by the text tower of `cross_encoder`: pictures find it), and `sparse` and
    `late` where there is an encoder for them. One that the documents were indexed without is made up
    for: they are read and encoded again.

    >>> note = mmembed.Item("note-1", "text", text="Foxes hunt at dusk.", payload={"author": "Ada"})
    >>> offer = mmembed.Item("mail/9/offer.pdf", "text", content=attachment)  # the bytes of a PDF, as its uri says
    >>> mmembed.ingest_documents(store, "documents", ["~/texts", note, offer], encoder=encoder)

    Args:
        sources: paths and Items, as of `ingest_images`. A `text` is plain text; bytes are of the kind in which the
            uri ends. A document in memory names no image files: those that Markdown and HTML link to are left out.
            Of two with one id or one uri the later one wins. The first passage has the item's own id.
        cross_encoder: an image-text encoder; None: that of the collection `images_into`, else tiny.
        sparse_encoder: makes `sparse`, learned weights of terms (SPLADE, BGE-M3), a further ranking of a search;
            None: the one that the collection remembers, if any.
        late_encoder: makes `late`, a vector for each token (ColBERT, BGE-M3), which orders the best candidates
            anew; None: the one that the collection remembers, if any.
        images_into: the collection for pictures inside documents, with their alt text as caption;
            None leaves them out.
        language: of BM25's stop words and stemmer, such as `german`, or `none`; None: the collection's, else English.
        sync: also remove documents that are gone from the disk or from their manifest; only those under the folders
            and in the manifests of `sources`, so nothing that came from memory.
        insist, trash, dry_run: as of `ingest_images`; a dry run reads no document, so it says nothing of images in it.
        encoders: where those come from that are not given, as for `search`.
        on_progress: called with the growing report after each batch.

    Raises:
        CollectionMismatch, CollectionNotOurs, StoreError, UnreadableSource. A bad document is no
        exception but a Failure in the report.
    """
    into = Collection(store, collection)

    def begin(seen: ScannedSources) -> DocumentWork:
        target = DocumentTarget(
            into,
            encoder,
            cross_encoder=cross_encoder,
            sparse_encoder=sparse_encoder,
            late_encoder=late_encoder,
            images_into=images_into,
            encoders=encoders,
            options=RunOptions(
                seen.roots, workers, shards=shards, replicas=replicas, dry_run=dry_run, language=language
            ),
        )
        return DocumentWork(target)

    entries = Entries("text", DOCUMENT_SUFFIXES, exclude)
    report = IngestReport(images=IngestReport() if images_into and not dry_run else None)
    removal = SyncOptions(sync, insist, trash, dry_run)
    return run_index(into, sources, begin, entries=entries, report=report, removal=removal, on_progress=on_progress)


class DocumentWork:
    """An index run of documents; see `mmembed.ingest.run.Work`."""

    modality: Modality = "text"
    batch_size = _PASSAGES_A_BATCH

    def __init__(self, target: DocumentTarget) -> None:
        self.target = target
        self.collection, self.options = target.collection, target.options
        self.workers = target.options.workers or min(_READERS, os.cpu_count() or 1)
        self.ahead = 2 * self.workers
        self.required: Sequence[str] = target.vectors
        self._seen_images: set[str] = set()  # uris: where two documents show one, the first captions it
        self._bare = documents_of_bare_images(target)

    def settle(self, planned: PlannedItem) -> PlannedItem | IngestReport:
        if planned.action != "unchanged":
            return planned
        if old := (planned.stored or {}).get("moved_from"):  # it was cut short after its new place was stored
            forget_old_place(self.target, planned, str(old))
        if self._wants_images(planned):
            return replace(planned, action="refresh")
        linked = [Item(uri, "image", Path(uri)) for uri in (planned.stored or {}).get("images", ())]
        return IngestReport(unchanged=1, images=self._index_images(linked))

    def _index_images(self, shown: Sequence[Item]) -> IngestReport:
        if not shown:
            return IngestReport()
        with self.target.images_turn():
            return index_images_of(self.target, shown, self._seen_images)

    def _wants_images(self, planned: PlannedItem) -> bool:
        """Whether a stored document's images are wanted and were left out, or not all there, when it was stored."""
        left_out = self.target.wants_images and "images" not in (planned.stored or {})
        return left_out or planned.item.uri in self._bare

    def read(self, planned: PlannedItem) -> ReadDocument:
        if planned.action == "refresh" and not self._wants_images(planned):
            return ReadDocument(planned.without_content(), None, [])
        item = planned.item
        if item.text is not None:
            document = text_document(item.text, uri=item.uri)
        else:
            source = item.path if item.path is not None else item.content
            assert isinstance(source, Path | bytes)  # the entries of a run are checked
            wanted, linked = self.target.wants_images, self.options.linked_images
            document = read_document(source, uri=item.uri, images=wanted, linked=linked)
        passages = self.target.cut(document) if planned.action == "read" else []
        return ReadDocument(planned.without_content(), document, passages)

    def size(self, ready: ReadDocument) -> int:
        return max(1, len(ready.passages))

    def write(self, batch: Sequence[ReadDocument]) -> IngestReport:
        """Store images, then passages, the first passage of each document last: it says that all are there."""
        images = IngestReport()
        problems: list[Failure] = []
        for ready in batch:
            if ready.document is not None:
                problems += ready.document.problems
                shown = image_items(ready.planned, ready.document)
                images.add(self._index_images(shown))
        fresh: list[ReadDocument] = []
        outcomes: list[ItemOutcome] = []
        for ready in batch:
            outcome: ItemOutcome | None = None  # its passages have to be encoded
            if ready.planned.action == "refresh":
                refresh(self.target, ready)
                outcome = "unchanged"
            elif ready.planned.action == "reuse":
                outcome = reuse(self.target, ready)
                if outcome is None:  # its donor has no passages to give after all
                    assert ready.document is not None
                    ready = replace(ready, passages=self.target.cut(ready.document))
            if outcome is None:
                fresh.append(ready)
            outcomes.append(outcome or "embedded")
        self._encode(_latest(fresh))
        return IngestReport.of(outcomes, problems, images)

    def _encode(self, fresh: Sequence[ReadDocument]) -> None:
        target, store = self.target, self.collection.store
        points: list[Point] = []
        target.indexes.cover(ready.planned.item.payload for ready in fresh)
        drop_other_documents(target, fresh)
        for ready in fresh:
            drop_passages_from(target, ready.planned, len(ready.passages))
            points.extend(reversed(points_of(target, ready)))
        for some in batched(points, PASSAGES_AN_UPSERT if "late" not in target.vectors else _WITH_LATE_AN_UPSERT):
            vectors = target.encode([str(point.payload.pop("embedded_text")) for point in some])
            written = [replace(point, vectors=of_one) for point, of_one in zip(some, vectors, strict=True)]
            store.upsert(self.collection.name, written)
        for planned in (ready.planned for ready in fresh if ready.planned.moved and ready.planned.donor):
            # it was encoded anew because it lacked a vector at its old place
            for head in store.retrieve(self.collection.name, [str(planned.donor)]):
                forget_old_place(target, planned, str(head.payload["uri"]))

    def finish(self) -> None:
        for target in (self.target, self.target.images):
            if target is not None:
                target.collection.store.optimize(target.collection.name)


def _latest(fresh: Sequence[ReadDocument]) -> list[ReadDocument]:
    """Of documents with one id or one uri the later one, in the order given."""
    kept: list[ReadDocument] = []
    taken: set[str] = set()
    for ready in reversed(fresh):
        names = {f"id {ready.planned.id}", f"uri {ready.planned.item.uri}"}
        if not names & taken:
            kept.append(ready)
        taken |= names
    return kept[::-1]
