"""Images in: what an index run does with each, from a file or memory to a point with its vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from mmembed.collection import Collection
from mmembed.collection.payload import tags_in
from mmembed.collection.removal import remove_ids
from mmembed.collection.thumbnails import thumbnail_path, write_thumbnail
from mmembed.encoders.encoding import FACTS, PreparedImage, decoders, encode_loaded, images_ahead, load_for
from mmembed.errors import InputError
from mmembed.images import IMAGE_SUFFIXES, MAX_PIXELS
from mmembed.ingest.entries import Entries, IngestSource, ScannedSources
from mmembed.ingest.gone import SyncOptions
from mmembed.ingest.plan import PlannedItem
from mmembed.ingest.report import IngestReport, ItemOutcome, OnReport
from mmembed.ingest.run import run_index
from mmembed.ingest.targets import ImageTarget, RunOptions
from mmembed.types import Encoder, Failure, Modality, Point, Store, Vector


def ingest_images(
    store: Store,
    collection: str,
    sources: Iterable[IngestSource],
    *,
    encoder: Encoder,
    caption_encoder: Encoder | None = None,
    late_encoder: Encoder | None = None,
    sync: bool = False,
    insist: bool = False,
    trash: str | Path | None = None,
    dry_run: bool = False,
    exclude: Sequence[str] = (),
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    shards: int | None = None,
    replicas: int | None = None,
    language: str | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    on_progress: OnReport | None = None,
) -> IngestReport:
    """Index images, in folders, files, globs and manifests or in memory, into `collection`.

    Doing it twice changes nothing; killed at any moment and run again, it ends in the same state.

    >>> mmembed.ingest_images(store, "images", ["~/Pictures"], encoder=encoder)
    >>> frames = (mmembed.Item(f"film#{n}", "image", content=array) for n, array in enumerate(film))  # (h, w, 3) uint8
    >>> mmembed.ingest_images(store, "frames", frames, encoder=encoder).embedded
    250

    Args:
        sources: paths, and Items, whose content may be a path, bytes, a PIL.Image or an array of uint8. An iterator
            is consumed lazily. Items in memory are told apart by a hash of their content, so that one which is
            stored already is not encoded again. Of two with one id the later one wins. An item that has a caption
            or payload has the last word on both; one that has neither leaves what was said before.
        encoder: makes the vector `image`; must be the one that the collection remembers.
        caption_encoder: makes the vector `caption` where an item has one; None: the one that the
            collection remembers, else minilm, loaded when the first caption appears.
        late_encoder: makes the vector `late`, one for each patch of a page (ColPali), which orders the best
            candidates of a text anew; None: the one that the collection remembers, if any. Images that
            were indexed without it are read and encoded again.
        language: of BM25's stop words and stemmer, such as `german`, or `none`; None: the collection's, else English.
        sync: also remove the points of files that are gone from the disk or from their manifest; only files under
            the folders and in the manifests of `sources`, so nothing that came from memory. Held back, and told in
            the report, are files of a folder that is gone or holds no images any more (a disk that is not mounted),
            and more than a hundred at once that are more than a tenth of what is there.
        insist: remove these too.
        trash: a .jsonl to which the payload of each point is added before sync removes it: a manifest.
        dry_run: write nothing; the report counts and names what would be embedded, moved, copied and removed.
        workers: decoding threads; None: one a core, at most 8.
        max_pixels: larger images become failures.
        shards, replicas: of the collection, where it is created in a cluster.
        encoders: where those come from that are not given, as for `search`.
        on_progress: called with the growing report after each batch.

    Raises:
        CollectionMismatch, CollectionNotOurs, StoreError, UnreadableSource. A bad image is no
        exception but a Failure in the report.
    """
    into = Collection(store, collection)

    def begin(seen: ScannedSources) -> ImageWork:
        target = ImageTarget(
            into,
            encoder,
            caption_encoder=caption_encoder,
            late_encoder=late_encoder,
            encoders=encoders,
            options=RunOptions(
                seen.roots, workers, max_pixels, shards=shards, replicas=replicas, dry_run=dry_run, language=language
            ),
        )
        return ImageWork(target)

    entries = Entries("image", IMAGE_SUFFIXES, exclude)
    report, removal = IngestReport(), SyncOptions(sync, insist, trash, dry_run)
    return run_index(into, sources, begin, entries=entries, report=report, removal=removal, on_progress=on_progress)


@dataclass(frozen=True, eq=False)
class ReadImage:
    """One image after its turn in the pool."""

    planned: PlannedItem
    loaded: PreparedImage | None = None  # None where nothing had to be decoded


_Key: TypeAlias = tuple[str, str]  # the id of a point, and the hash of the contents that it has


class ImageWork:
    """An index run of images; see `mmembed.ingest.run.Work`."""

    modality: Modality = "image"

    def __init__(self, target: ImageTarget) -> None:
        self.target = target
        self.collection, self.options = target.collection, target.options
        self.workers = decoders(target.options.workers)
        self.ahead = images_ahead(target.encoder, self.workers, batch_size=target.batch_size)
        self.batch_size = target.batch_size
        self.required: Sequence[str] = target.vectors if target.late is not None else ()  # all images have `image`

    def settle(self, planned: PlannedItem) -> PlannedItem | IngestReport:
        if planned.action != "unchanged":
            return planned
        if old := (planned.stored or {}).get("moved_from"):  # it was cut short after its new place was stored
            remove_ids(self.collection, [old])
            self.collection.store.set_payload(self.collection.name, [planned.id], {"moved_from": None})
        return IngestReport(unchanged=1)

    def read(self, planned: PlannedItem) -> ReadImage:
        return self._load(planned) if planned.action == "read" else ReadImage(planned)

    def _load(self, planned: PlannedItem) -> ReadImage:
        loaded = load_for(
            self.target.encoder,
            planned.item,
            max_pixels=self.options.max_pixels,
            whole=self.target.late is not None,
            thumbnail=self.collection.store.folder is not None,
        )
        return ReadImage(planned.without_content(), loaded)

    def size(self, ready: ReadImage) -> int:  # images are alike
        return 1

    def write(self, batch: Sequence[ReadImage]) -> IngestReport:
        """Encode what was read, take over what is reused, and write the points; only then forget what moved."""
        store, name = self.collection.store, self.collection.name
        donated = _donated(self.target, batch)
        batch, failures = self._with_lost_read(batch, donated)
        failures += [Failure(r.planned.item.uri, r.loaded.problem) for r in batch if r.loaded and r.loaded.problem]
        made = {**donated, **_encoded(self.target, batch)}
        latest = {ready.planned.id: ready for ready in batch}  # of two with one id the later one
        points = _points(self.target, latest.values(), made)
        self.target.indexes.cover(ready.planned.item.payload for ready in latest.values())
        for ready in latest.values():
            _keep_thumbnail(self.collection, ready)
        store.upsert(name, points)
        moved = {r.planned.id: r.planned.donor for r in batch if r.planned.moved and r.planned.donor}
        if moved:
            remove_ids(self.collection, list(moved.values()))
            store.set_payload(name, list(moved), {"moved_from": None})
        return IngestReport.of([_outcome(ready) for ready in batch], failures)

    def _with_lost_read(
        self, batch: Sequence[ReadImage], donated: Mapping[_Key, Point]
    ) -> tuple[list[ReadImage], list[Failure]]:
        """A donor that went away since the plan was made is no donor: the image is read after all."""
        here = {_key(ready) for ready in batch if ready.loaded is not None} | donated.keys()
        found: list[ReadImage] = []
        failures: list[Failure] = []
        for ready in batch:
            try:
                found.append(ready if _key(ready) in here else self._load(ready.planned))
            except InputError as exc:
                failures.append(Failure(ready.planned.item.uri, str(exc)))
        return found, failures

    def finish(self) -> None:
        self.collection.store.optimize(self.collection.name)


def _key(ready: ReadImage) -> _Key:
    """Whose vectors these are: its own where it was read, else those of the donor that the plan names."""
    planned = ready.planned
    read = ready.loaded is not None
    return (planned.id if read or planned.donor is None else planned.donor, planned.content_hash)


def _donated(target: ImageTarget, batch: Sequence[ReadImage]) -> dict[_Key, Point]:
    """What stored points have of vectors for images that were not read."""
    wanted = sorted({_key(ready)[0] for ready in batch if ready.loaded is None})
    if not wanted:
        return {}
    stored = target.collection.store.retrieve(target.collection.name, wanted, vectors=target.vectors)
    return {
        (point.id, str(point.payload.get("content_hash"))): Point(
            point.id,
            {name: point.vectors[name] for name in target.vectors},
            # what is true of every file with these contents
            {key: point.payload[key] for key in FACTS if key in point.payload} | tags_in(point.payload),
        )
        for point in stored
        if set(target.vectors) <= point.vectors.keys()
    }


def _encoded(target: ImageTarget, batch: Sequence[ReadImage]) -> dict[_Key, Point]:
    """The images that were read -> their `image` vectors, and `late` where there is an encoder for it."""
    loaded = {_key(ready): ready.loaded for ready in batch if ready.loaded is not None}
    if not loaded:
        return {}
    images = list(loaded.values())
    rows = encode_loaded(target.encoder, images)
    assert isinstance(rows, np.ndarray)  # ImageTarget takes dense encoders only
    made: list[dict[str, Vector]] = [{"image": row} for row in rows]
    if target.late is not None:
        pages = target.late.encode_image([i.whole for i in images if isinstance(i.whole, Image.Image)])
        for vectors, page in zip(made, pages, strict=True):
            vectors["late"] = page
    return {key: Point(key[0], vectors, loaded[key].facts) for key, vectors in zip(loaded, made, strict=True)}


def _points(target: ImageTarget, batch: Iterable[ReadImage], made: Mapping[_Key, Point]) -> list[Point]:
    points = []
    for ready in batch:
        planned, its = ready.planned, made[_key(ready)]
        moved_from = {"moved_from": planned.donor} if planned.moved else {}
        points.append(Point(planned.id, its.vectors, {**planned.payload(), **its.payload, **moved_from}))
    captioned = [point for point in points if point.payload.get("caption")]
    made_of = target.caption_vectors([str(point.payload["caption"]) for point in captioned])
    captions = {point.id: vectors for point, vectors in zip(captioned, made_of, strict=True)}
    return [replace(point, vectors={**point.vectors, **captions.get(point.id, {})}) for point in points]


def _keep_thumbnail(collection: Collection, ready: ReadImage) -> None:
    path = thumbnail_path(collection, ready.planned.id)
    if path is None:
        return
    if ready.loaded is not None and ready.loaded.thumbnail is not None:
        write_thumbnail(path, ready.loaded.thumbnail)
    elif ready.planned.donor is not None:
        donated = thumbnail_path(collection, ready.planned.donor)
        if donated is not None and donated.exists() and donated != path:
            write_thumbnail(path, donated.read_bytes())


def _outcome(ready: ReadImage) -> ItemOutcome:
    if ready.loaded is not None:
        return "embedded"
    return "moved" if ready.planned.moved else "copied" if ready.planned.action == "reuse" else "unchanged"
