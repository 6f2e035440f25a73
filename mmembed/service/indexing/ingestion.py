"""Uploads into a collection: kept, encoded by encoders that are served, stored; one bad file is a failure alone."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mmembed.batching.memory import give_back_soon
from mmembed.collection import Collection
from mmembed.collection.payload import RESERVED, item_id
from mmembed.documents import DOCUMENT_SUFFIXES
from mmembed.errors import CollectionNotOurs, InputError, UnknownEncoder
from mmembed.images import IMAGE_SUFFIXES
from mmembed.ingest import IngestReport
from mmembed.ingest.documents import DocumentWork
from mmembed.ingest.images import ImageWork
from mmembed.ingest.run import drive
from mmembed.ingest.targets import DocumentTarget, ImageTarget, RunOptions
from mmembed.service.indexing.uploads import forget_uploads, keep_upload, sweep_partial, uploads_folder
from mmembed.service.state import Service
from mmembed.types import Contract, Encoder, Failure, Item, Modality, Payload, Store

__all__ = ["Contents", "Sent", "contents_of", "index_sent"]

Contents = Literal["images", "documents"]

_SUFFIXES: Mapping[Contents, frozenset[str]] = {"images": IMAGE_SUFFIXES, "documents": DOCUMENT_SUFFIXES}
_MODALITY: Mapping[Contents, Modality] = {"images": "image", "documents": "text"}
_OURS = RESERVED["image"] | RESERVED["text"] | {"caption", "document"}
_SAID_BY = "upload"  # the `source` of what a client said of a file: it has the last word, as a manifest has


@dataclass(frozen=True)
class Sent:
    """One file of a request, and what the client says of it: None, nothing."""

    name: str  # cleaned
    file: BinaryIO
    size: int  # bytes
    caption: str | None = None
    payload: Payload | None = None


@dataclass
class _Run:
    """What one request has come to."""

    kept: list[Path | None] = field(default_factory=list)  # parallel to what was sent; None: of no kind that is read
    report: IngestReport = field(default_factory=IngestReport)


def contents_of(store: Store, collection: str, asked: Contents | None) -> Contents:
    """What a collection is to hold: what was asked, else what it holds, else images."""
    if asked is not None or collection not in store.collections():
        return asked or "images"
    contract = store.contract(collection)
    return contract.kind if contract is not None else "images"


def index_sent(
    service: Service,
    collection: str,
    sent: Sequence[Sent],
    *,
    contents: Contents,
    encoder: str | None,
    images_into: str | None,
) -> dict[str, Any]:
    """Index what was sent; gives the report as JSON, with `ids` parallel to `sent`: null where nothing is stored.

    Of a document the id is that of its first passage. Sent again, whether or not the first time was cut short, it
    ends in the same state. To be run while nobody else writes to the collections.

    Raises InputError, with the sentence of the first failure, where nothing could be stored.
    """
    started = time.perf_counter()
    store = service.store
    folder = uploads_folder(service.folder, collection)
    there = collection in store.collections()
    contract = store.contract(collection) if there else None
    if there and contract is None:
        raise CollectionNotOurs(collection)
    run = _Run()
    _refuse_other_kinds(sent, contents, run.report)
    if len(run.report.failures) == len(sent):
        raise InputError(run.report.failures[0].error)
    made_by = _encoder(service, contract, contents, encoder)
    captioned = any(one.caption for one in sent)
    if contents == "images":
        target: ImageTarget | DocumentTarget = _image_target(service, collection, made_by, captioned=captioned)
    else:
        target = _document_target(service, collection, contract, made_by, images_into)
    try:
        _write(target, folder, sent, contents, run)
    finally:
        if not there and store.count(collection) == 0:
            store.drop(collection)  # it would only bind its name to this encoder
    run.report.seconds = time.perf_counter() - started
    return _answer(run, folder, ids=_stored_ids(service, collection, folder, contents, run, gone=not there))


def _refuse_other_kinds(sent: Sequence[Sent], contents: Contents, report: IngestReport) -> None:
    kinds = ", ".join(sorted(_SUFFIXES[contents]))
    for one in sent:
        if Path(one.name).suffix.lower() not in _SUFFIXES[contents]:
            report.failures.append(Failure(one.name, f"{one.name}: its name does not end in any of {kinds}"))


def _encoder(service: Service, contract: Contract | None, contents: Contents, name: str | None) -> Encoder:
    """The one that was asked for, else the collection's own, else the default for such contents."""
    vector = contract.vectors.get("image" if contents == "images" else "text") if contract is not None else None
    if name is None and vector is None and contents == "documents":
        return _default_text_encoder(service)
    return service.engine.encoders()[name or (vector.encoder if vector is not None else "tiny")]


def _default_text_encoder(service: Service) -> Encoder:
    try:
        return service.engine.encoders()["minilm"]
    except UnknownEncoder as exc:
        served = service.served
        raise UnknownEncoder(
            "minilm",
            served.names(),
            hint="documents are encoded by it unless ?encoder= names another, and the service runs without it; "
            f"served are {', '.join(served.names())}",
        ) from exc


def _image_target(service: Service, collection: str, encoder: Encoder, *, captioned: bool) -> ImageTarget:
    return ImageTarget(
        Collection(service.store, collection),
        encoder,
        default_caption_encoder=_caption_encoder(service.engine.encoders(), encoder) if captioned else None,
        encoders=service.engine.encoders(),
        options=RunOptions(max_pixels=service.settings.max_pixels),
    )


def _caption_encoder(encoders: Mapping[str, Encoder], encoder: Encoder) -> Encoder:
    """Minilm where it is served, else what makes the pictures' vectors, if it reads texts too."""
    try:
        return encoders["minilm"]
    except UnknownEncoder:
        return encoder if "text" in encoder.spec.modalities else encoders["tiny"]


def _document_target(
    service: Service, collection: str, contract: Contract | None, encoder: Encoder, images_into: str | None
) -> DocumentTarget:
    store, encoders = service.store, service.engine.encoders()
    images = store.contract(images_into) if images_into in store.collections() and images_into else None
    remembered = [(contract, "cross"), (images, "image")]
    cross = next((c.vectors[name].encoder for c, name in remembered if c is not None and name in c.vectors), "tiny")
    return DocumentTarget(
        Collection(store, collection),
        encoder,
        cross_encoder=encoders[cross],
        images_into=images_into,
        encoders=encoders,
        # what a stranger's document names on this machine is not his to see
        options=RunOptions(max_pixels=service.settings.max_pixels, linked_images=False),
    )


def _write(
    target: ImageTarget | DocumentTarget, folder: Path, sent: Sequence[Sent], contents: Contents, run: _Run
) -> None:
    """Keep every file, then read, encode and store them."""
    sweep_partial(folder)
    items: dict[Path, Item] = {}
    for one in sent:
        path = None
        if Path(one.name).suffix.lower() in _SUFFIXES[contents]:
            path = keep_upload(folder, one.name, one.file, size=one.size)
            items[path] = _item(path, one, _MODALITY[contents])
        run.kept.append(path)
    if isinstance(target, ImageTarget):
        drive(ImageWork(target), items.values(), run.report)
    else:
        run.report.images = IngestReport() if target.wants_images else None
        drive(DocumentWork(target), items.values(), run.report)
    give_back_soon()


def _item(path: Path, one: Sent, modality: Modality) -> Item:
    payload = {key: value for key, value in (one.payload or {}).items() if key not in _OURS}
    said = one.caption is not None or one.payload is not None
    caption = one.caption or None
    return Item(str(path), modality, path, caption=caption, payload=payload, source=_SAID_BY if said else None)


def _stored_ids(
    service: Service, collection: str, folder: Path, contents: Contents, run: _Run, *, gone: bool
) -> list[str | None]:
    """The id of each file that is stored; the uploads of the others are removed."""
    number = 0 if contents == "documents" else None
    ids = [None if path is None else item_id(_MODALITY[contents], str(path), number) for path in run.kept]
    stored: set[str] = set()
    if not gone or collection in service.store.collections():
        asked = [id for id in ids if id is not None]
        stored = {point.id for point in service.store.retrieve(collection, asked, payload=False)}
    forget_uploads(folder, [str(path) for path, id in zip(run.kept, ids, strict=True) if path and id not in stored])
    return [id if id in stored else None for id in ids]


def _answer(run: _Run, folder: Path, *, ids: Sequence[str | None]) -> dict[str, Any]:
    """The report in the client's words: names as it gave them, no path of this machine."""
    place = re.compile(re.escape(f"{folder}/") + "[0-9a-f]{32}/")
    for report in filter(None, (run.report, run.report.images)):
        report.failures = [Failure(place.sub("", f.uri), place.sub("", f.error)) for f in report.failures]
    if not any(ids):
        raise InputError(run.report.failures[0].error)
    return {**run.report.as_json(), "ids": list(ids)}
