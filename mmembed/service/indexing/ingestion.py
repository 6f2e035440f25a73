"""Uploads into a collection: kept, encoded by encoders that are served, stored; one bad file is a failure alone."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mmembed.batching.memory import give_back_soon
from mmembed.collection import Collection
from mmembed.collection.payload import RESERVED, item_id
from mmembed.documents import DOCUMENT_SUFFIXES
from mmembed.errors import InputError, MmembedError, UnknownEncoder, UnreadableImage
from mmembed.images import IMAGE_SUFFIXES, check_quick
from mmembed.ingest import IngestReport
from mmembed.ingest.documents import DocumentWork
from mmembed.ingest.images import ImageWork
from mmembed.ingest.run import drive
from mmembed.ingest.targets import DocumentTarget, ImageTarget, RunOptions
from mmembed.service.error_responses import as_fields
from mmembed.service.indexing.sweeping import forget_unnamed
from mmembed.service.indexing.uploads import forget_uploads, keep_upload, sweep_partial, uploads_folder
from mmembed.service.state import Service
from mmembed.types import Contract, Encoder, Failure, Item, Modality, Payload

Contents = Literal["images", "documents"]

_SUFFIXES: Mapping[Contents, frozenset[str]] = {"images": IMAGE_SUFFIXES, "documents": DOCUMENT_SUFFIXES}
_MODALITY: Mapping[Contents, Modality] = {"images": "image", "documents": "text"}
_DEFAULTS: Mapping[Contents, str] = {"images": "tiny", "documents": "minilm"}
_OURS = RESERVED["image"] | RESERVED["text"] | {"caption", "document"}
_SOURCE = "upload"  # the `source` of what a client said of a file: it has the last word, as a manifest has


@dataclass(frozen=True)
class UploadedFile:
    """One file of a request, and what the client says of it: None, nothing."""

    name: str  # cleaned
    file: BinaryIO
    size: int  # bytes
    caption: str | None = None
    payload: Payload | None = None

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix.lower()


def contents_of(collection: Collection, requested: Contents | None) -> Contents:
    """What a collection is to hold: what was requested, else what it holds, else images."""
    contract = collection.contract if requested is None and collection.exists else None
    return requested or ("images" if contract is None else contract.kind)


def index_uploads(
    service: Service,
    name: str,
    files: Sequence[UploadedFile],
    *,
    contents: Contents,
    encoder: str | None,
    images_into: str | None,
) -> dict[str, Any]:
    """Index uploads; gives the report as JSON, with `ids` parallel to `files`: null where nothing is stored.

    Of a document the id is that of its first passage. Sent again, whether or not the first time was cut short, it
    ends in the same state. To be run while nobody else writes to the collections.

    Raises InputError, with the sentence of the first failure, where nothing could be stored.
    """
    started = time.perf_counter()
    collection, folder = Collection(service.store, name), uploads_folder(service.folder, name)
    existed = collection.exists
    contract = collection.require_ours() if existed else None
    suffixes = _SUFFIXES[contents]
    wrong = f"its name does not end in any of {', '.join(sorted(suffixes))}"
    report = IngestReport(failures=[Failure(f.name, f"{f.name}: {wrong}") for f in files if f.suffix not in suffixes])
    if len(report.failures) == len(files):
        raise InputError(report.failures[0].error)
    target = _target(
        service,
        collection,
        _encoder(service, contract, contents, encoder),
        contents,
        captioned=any(file.caption for file in files),
        images_into=images_into,
    )
    paths: list[Path | None] = []
    try:
        _write(target, folder, files, contents, report, paths)
    except BaseException:
        with contextlib.suppress(MmembedError):  # a store that is gone cannot say; the next start sweeps
            forget_unnamed(collection, folder, [path for path in paths if path is not None])
        raise
    finally:
        if not existed and service.store.count(name) == 0:
            service.store.drop(name)  # it would only bind its name to this encoder
    report.seconds = time.perf_counter() - started
    ids = _stored_ids(collection, folder, contents, paths, existed=existed)
    _in_the_clients_words(report, folder)
    if not any(ids):
        raise InputError(report.failures[0].error)
    return {**report.as_json(), "ids": ids}


def _encoder(service: Service, contract: Contract | None, contents: Contents, name: str | None) -> Encoder:
    """The one that was asked for, else the collection's own, else the default for such contents."""
    vector = contract.vectors.get("image" if contents == "images" else "text") if contract is not None else None
    own = name or (vector.encoder if vector is not None else None)
    try:
        return service.engine.encoders()[own or _DEFAULTS[contents]]
    except UnknownEncoder as exc:
        if own is not None:
            raise
        names = service.served.names()
        hint = "documents are encoded by it unless ?encoder= names another, and the service runs without it; "
        raise UnknownEncoder(_DEFAULTS[contents], names, hint=f"{hint}served are {', '.join(names)}") from exc


def _target(
    service: Service,
    collection: Collection,
    encoder: Encoder,
    contents: Contents,
    *,
    captioned: bool,
    images_into: str | None,
) -> ImageTarget | DocumentTarget:
    encoders = service.engine.encoders()
    # what a stranger's document names on this machine is not his to see
    options = RunOptions(
        max_pixels=service.settings.max_pixels, linked_images=False, images_turn=service.writes.images_turn
    )
    if contents == "images":
        captions = _caption_encoder(encoders, encoder) if captioned else None
        return ImageTarget(collection, encoder, default_caption_encoder=captions, encoders=encoders, options=options)
    cross = collection.remembered("cross", encoders)
    if cross is None and images_into is not None:
        cross = Collection(service.store, images_into).remembered("image", encoders)
    return DocumentTarget(
        collection,
        encoder,
        cross_encoder=cross or encoders["tiny"],
        images_into=images_into,
        encoders=encoders,
        options=options,
    )


def _caption_encoder(encoders: Mapping[str, Encoder], encoder: Encoder) -> Encoder:
    """Minilm where it is served, else what makes the pictures' vectors, if it reads texts too."""
    try:
        return encoders["minilm"]
    except UnknownEncoder:
        return encoder if "text" in encoder.spec.modalities else encoders["tiny"]


def _write(
    target: ImageTarget | DocumentTarget,
    folder: Path,
    files: Sequence[UploadedFile],
    contents: Contents,
    report: IngestReport,
    paths: list[Path | None],
) -> None:
    """Keep every file, then read, encode and store them. `paths` is filled: None for one of no kind that is read."""
    sweep_partial(folder)
    for file in files:
        is_read = file.suffix in _SUFFIXES[contents]
        paths.append(keep_upload(folder, file.name, file.file, size=file.size) if is_read else None)
    items: dict[Path, Item | Failure] = {
        path: _checked(_item(path, file, _MODALITY[contents])) for path, file in zip(paths, files, strict=True) if path
    }
    if isinstance(target, ImageTarget):
        drive(ImageWork(target), items.values(), report)
    else:
        report.images = IngestReport() if target.wants_images else None
        drive(DocumentWork(target), items.values(), report)
    give_back_soon()


def _checked(item: Item) -> Item | Failure:
    """A picture that would hold up everything else while it is decoded is a failure before that."""
    if item.modality == "image" and item.path is not None:
        try:
            check_quick(item.path, uri=item.uri)
        except UnreadableImage as exc:
            return Failure(item.uri, str(exc))
    return item


def _item(path: Path, file: UploadedFile, modality: Modality) -> Item:
    payload = {key: value for key, value in (file.payload or {}).items() if key not in _OURS}
    source = _SOURCE if file.caption is not None or file.payload is not None else None
    return Item(str(path), modality, path, caption=file.caption or None, payload=payload, source=source)


def _stored_ids(
    collection: Collection, folder: Path, contents: Contents, paths: Sequence[Path | None], *, existed: bool
) -> list[str | None]:
    """The id of each file that is stored; the uploads of the others are removed."""
    number = 0 if contents == "documents" else None
    ids = [None if path is None else item_id(_MODALITY[contents], str(path), number) for path in paths]
    stored: set[str] = set()
    if existed or collection.exists:
        query = [id for id in ids if id is not None]
        stored = {point.id for point in collection.store.retrieve(collection.name, query, payload=False)}
    forget_uploads(folder, [str(path) for path, id in zip(paths, ids, strict=True) if path and id not in stored])
    return [id if id in stored else None for id in ids]


def _in_the_clients_words(report: IngestReport, folder: Path) -> None:
    """Names of files as the client gave them, and parameters as fields of JSON: no path of this machine."""
    place = re.compile(re.escape(f"{folder}/") + "[0-9a-f]{32}/")
    for part in filter(None, (report, report.images)):
        part.failures = [Failure(place.sub("", f.uri), as_fields(place.sub("", f.error))) for f in part.failures]
