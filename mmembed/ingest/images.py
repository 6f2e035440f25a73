"""Pictures in: scan, skip unchanged, load (threads, bounded, in order), batch, encode, upsert."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from mmembed.collection.payload import tags_in
from mmembed.collection.thumbnails import remove_thumbnails, thumbnail_path, write_thumbnail
from mmembed.errors import InputError
from mmembed.images import IMAGE_SUFFIXES, MAX_PIXELS, read_picture, thumbnail_webp
from mmembed.ingest.plan import Planned, note_manifests, plan, remove_gone, roots_of, until_first_item
from mmembed.ingest.report import IngestReport
from mmembed.ingest.targets import ImageTarget
from mmembed.sources import scan
from mmembed.streams import load_in_order
from mmembed.types import (
    DenseArray,
    Embeddings,
    Encoder,
    Failure,
    Item,
    Payload,
    PixelEncoder,
    Pixels,
    Point,
    Store,
    Vector,
)
from mmembed.vectors import check_embeddings

__all__ = ["ingest_images", "write_pictures"]

_FROM_PICTURE = ("width", "height", "format", "taken_at")


def ingest_images(
    store: Store,
    collection: str,
    sources: Sequence[str | Path],
    *,
    encoder: Encoder,
    caption_encoder: Encoder | None = None,
    late_encoder: Encoder | None = None,
    sync: bool = False,
    exclude: Sequence[str] = (),
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    shards: int | None = None,
    replicas: int | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    on_progress: Callable[[IngestReport], None] | None = None,
) -> IngestReport:
    """Index the pictures of folders, files, globs and manifests into `collection`.

    Doing it twice changes nothing; killed at any moment and run again, it ends in the same state.

    Args:
        encoder: makes the vector `image`; must be the one that the collection remembers.
        caption_encoder: makes the vector `caption` where an item has one; None: the one that the
            collection remembers, else minilm, loaded when the first caption appears.
        late_encoder: makes the vector `late`, one for each patch of a page (ColPali), which orders the best
            candidates of a text anew; None: the one that the collection remembers, if any. Pictures that
            were indexed without it are read and encoded again.
        sync: also remove the points of files that are gone from the disk or from their manifest.
        workers: decoding threads; None: one a core, at most 8.
        max_pixels: larger pictures become failures.
        shards, replicas: of the collection, where it is created in a cluster.
        run: device and dtype of a caption encoder that is loaded here.
        on_progress: called with the growing report after each batch.

    Raises:
        CollectionMismatch, CollectionNotOurs, StoreError, UnreadableSource. A bad picture is no
        exception but a Failure in the report.
    """
    started = time.perf_counter()
    report = IngestReport()
    manifests: dict[str, set[str]] = {}
    items = note_manifests(scan(sources, modality="image", suffixes=IMAGE_SUFFIXES, exclude=exclude), manifests)
    first = until_first_item(items)
    if not any(isinstance(entry, Item) for entry in first) and collection not in store.collections():
        report.failures.extend(entry for entry in first if isinstance(entry, Failure))
        return report  # a collection without a picture would only bind its name to this encoder
    target = ImageTarget(
        store,
        collection,
        encoder,
        caption_encoder,
        roots=roots_of(sources),
        shards=shards,
        replicas=replicas,
        encoders=encoders,
        late_encoder=late_encoder,
    )
    for _ in write_pictures(target, chain(first, items), report, workers=workers, max_pixels=max_pixels):
        report.seconds = time.perf_counter() - started
        if on_progress is not None:
            on_progress(report)
    if sync:
        gone = remove_gone(store, collection, target.roots, manifests, modality="image")
        remove_thumbnails(store, collection, [id for id, _ in gone])
        report.removed = len(gone)
    if report.embedded or report.moved or report.copied or report.removed:
        store.optimize(collection)
    report.seconds = time.perf_counter() - started
    return report


@dataclass(eq=False)
class _Read:
    """One file after its turn in the pool."""

    planned: Planned
    pixels: Pixels | Image.Image | None = None  # None where nothing had to be decoded
    page: Image.Image | None = None  # the picture itself, where `late` is made of it
    thumbnail: bytes | None = None
    facts: Payload = field(default_factory=dict)  # width, height, format, taken_at


def write_pictures(
    target: ImageTarget,
    items: Iterable[Item | Failure],
    report: IngestReport,
    *,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[IngestReport]:
    """Plan, load, encode and store; yields `report` after each batch."""
    workers = workers or min(8, os.cpu_count() or 1)
    ahead = max(2 * workers, target.batch_size if isinstance(target.encoder, PixelEncoder) else 0)

    def read(planned: Planned | Failure) -> _Read:
        assert isinstance(planned, Planned)
        return _read(target, planned, max_pixels) if planned.action == "read" else _Read(planned)

    def work() -> Iterator[Planned]:
        required = target.vectors if target.late is not None else []  # there is no picture without `image`
        roots = target.roots
        for planned in plan(target.store, target.collection, items, modality="image", vectors=required, roots=roots):
            if isinstance(planned, Failure):
                report.failures.append(planned)
            elif planned.action == "unchanged":
                report.unchanged += 1
                _finish_move(target, planned)
            else:
                yield planned

    pending: list[_Read] = []
    for planned, loaded in load_in_order(work(), read, workers=workers, ahead=ahead):
        if isinstance(loaded, InputError):
            report.failures.append(Failure(planned.item.uri, str(loaded)))
            continue
        pending.append(loaded)
        if len(pending) >= target.batch_size:
            _store_batch(target, pending, report, max_pixels)
            pending = []
            yield report
    if pending:
        _store_batch(target, pending, report, max_pixels)
    yield report


def _read(target: ImageTarget, planned: Planned, max_pixels: int) -> _Read:
    """Decode one picture, in a thread of the pool."""
    item = planned.item
    source = item.path if item.path is not None else item.content or b""
    picture = read_picture(source, uri=item.uri, max_pixels=max_pixels)
    encoder = target.encoder
    pixels = encoder.preprocess_image(picture.image) if isinstance(encoder, PixelEncoder) else picture.image
    facts = {key: getattr(picture, key) for key in _FROM_PICTURE if getattr(picture, key) is not None}
    thumbnail = thumbnail_webp(picture.image) if target.store.folder is not None else None
    return _Read(planned, pixels, picture.image if target.late is not None else None, thumbnail, facts)


def _store_batch(target: ImageTarget, batch: list[_Read], report: IngestReport, max_pixels: int) -> None:
    """Encode what was read, take over what is reused, and write the points; only then forget what moved."""
    store, collection = target.store, target.collection
    donors = _stored_points(target, batch)
    # 1. a donor that went away since the plan was made is no donor: read the file after all
    for ready in [r for r in batch if r.pixels is None and not _has_donor(r, batch, donors)]:
        batch.remove(ready)
        try:
            batch.append(_read(target, ready.planned, max_pixels))
        except InputError as exc:
            report.failures.append(Failure(ready.planned.item.uri, str(exc)))
    # 2. encode
    fresh = [r for r in batch if r.pixels is not None]
    vectors = dict(zip((r.planned.id for r in fresh), _encode(target, fresh), strict=True))
    facts = {r.planned.id: r.facts for r in fresh}
    for ready in batch:
        planned = ready.planned
        if ready.pixels is None:
            donor = _donor_id(planned)
            if donor not in vectors:  # one that is read in this batch is stored as it was before
                vectors[planned.id] = {name: donors[donor].vectors[name] for name in target.vectors}
                facts[planned.id] = _of_contents(donors[donor].payload)
            else:
                vectors[planned.id], facts[planned.id] = vectors[donor], facts[donor]
    # 3. points
    payloads = {r.planned.id: {**r.planned.payload(), **facts[r.planned.id]} for r in batch}
    for ready in batch:
        if ready.planned.moved:
            payloads[ready.planned.id]["moved_from"] = ready.planned.donor
    captioned = [id for id, payload in payloads.items() if payload.get("caption")]
    captions = dict(zip(captioned, target.caption_vectors([payloads[id]["caption"] for id in captioned]), strict=True))
    target.indexes.cover(r.planned.item.payload for r in batch)
    for ready in batch:
        _keep_thumbnail(target, ready)
    points = [Point(id, {**vectors[id], **captions.get(id, {})}, payload) for id, payload in payloads.items()]
    store.upsert(collection, points)
    # 4. only now is what was moved forgotten at its old place
    moved = {r.planned.id: r.planned.donor for r in batch if r.planned.moved and r.planned.donor}
    if moved:
        store.delete(collection, list(moved.values()))
        store.set_payload(collection, list(moved), {"moved_from": None})
        remove_thumbnails(store, collection, moved.values())
    _count(batch, report)


def _encode(target: ImageTarget, fresh: Sequence[_Read]) -> list[dict[str, Vector]]:
    """n pictures -> their `image` vectors, and `late` where there is an encoder for it."""
    made: list[dict[str, Vector]] = [{"image": row} for row in _encode_whole(target.encoder, fresh)]
    if target.late is not None and fresh:
        pages = target.late.encode_image([r.page for r in fresh if r.page is not None])
        for vectors, page in zip(made, pages, strict=True):
            vectors["late"] = page
    return made


def _encode_whole(encoder: Encoder, fresh: Sequence[_Read]) -> DenseArray:
    pixels = [r.pixels for r in fresh]
    vectors: Embeddings
    if isinstance(encoder, PixelEncoder):
        vectors = encoder.encode_pixels([p for p in pixels if isinstance(p, np.ndarray)])
    else:
        vectors = encoder.encode_image([p for p in pixels if isinstance(p, Image.Image)])
    assert isinstance(vectors, np.ndarray)  # ImageTarget takes dense encoders only
    return check_embeddings(vectors, n=len(fresh), dim=encoder.spec.dim, encoder=encoder.spec.name)


def _of_contents(payload: Payload) -> Payload:
    """What is true of every file with these contents: facts of the picture, and its tags."""
    return {key: payload[key] for key in _FROM_PICTURE if key in payload} | tags_in(payload)


def _donor_id(planned: Planned) -> str:
    return planned.donor or planned.id


def _stored_points(target: ImageTarget, batch: Sequence[_Read]) -> dict[str, Point]:
    wanted = sorted({_donor_id(r.planned) for r in batch if r.pixels is None})
    if not wanted:
        return {}
    found = target.store.retrieve(target.collection, wanted, vectors=target.vectors)
    return {point.id: point for point in found if set(target.vectors) <= point.vectors.keys()}


def _has_donor(ready: _Read, batch: Sequence[_Read], donors: dict[str, Point]) -> bool:
    donor = _donor_id(ready.planned)
    return donor in donors or any(r.planned.id == donor and r.pixels is not None for r in batch)


def _keep_thumbnail(target: ImageTarget, ready: _Read) -> None:
    path = thumbnail_path(target.store, target.collection, ready.planned.id)
    if path is None:
        return
    if ready.thumbnail is not None:
        write_thumbnail(path, ready.thumbnail)
    elif ready.planned.donor is not None:
        donated = thumbnail_path(target.store, target.collection, ready.planned.donor)
        if donated is not None and donated.exists() and donated != path:
            write_thumbnail(path, donated.read_bytes())


def _finish_move(target: ImageTarget, planned: Planned) -> None:
    """Forget the old place of a move that was cut short after its new place was stored."""
    old = (planned.stored or {}).get("moved_from")
    if old:
        target.store.delete(target.collection, [old])
        target.store.set_payload(target.collection, [planned.id], {"moved_from": None})
        remove_thumbnails(target.store, target.collection, [old])


def _count(batch: Sequence[_Read], report: IngestReport) -> None:
    for ready in batch:
        planned = ready.planned
        if ready.pixels is not None:
            report.embedded += 1
        elif planned.moved:
            report.moved += 1
        elif planned.action == "reuse":
            report.copied += 1
        else:
            report.unchanged += 1
