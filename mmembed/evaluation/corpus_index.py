"""What an evaluation searches: a collection that holds every document of a test set, as one vector each.

A collection that an evaluation made carries a note that says so. It is taken up again by the next run, which encodes
only what is new in it. One that was there before is measured as it is and never written to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL.Image import Image

from mmembed.collection.contract import check_fingerprint
from mmembed.collection.payload import item_id
from mmembed.collection.prepare import prepare_collection, vector_contract
from mmembed.errors import CollectionNotOurs, InputError, InvalidTestSet
from mmembed.evaluation.testset import Document
from mmembed.images import load_image
from mmembed.ingest import IngestReport, ingest_images
from mmembed.sources import content_hash
from mmembed.streams import batched, load_in_order
from mmembed.types import Contract, Encoder, Failure, Payload, Point, SparseVector, Store, Vector

__all__ = ["NOTE", "Indexed", "OnProgress", "index_corpus", "index_pictures", "load_pictures", "may_write"]

NOTE = "evaluation"
"""Key of the note of a collection that an evaluation made and may add to."""

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Told what is done, how many of it are done, and of how many."""

_DOCUMENTS_AN_UPSERT = 256
_VECTOR = {"dense": "text", "sparse": "sparse", "multi": "late"}
_WORKERS, _AHEAD = 4, 16


@dataclass(frozen=True)
class Indexed:
    """A collection and where the documents of a test set are in it."""

    collection: str
    vector_name: str
    documents: Mapping[str, tuple[str, ...]]  # point id -> ids of the documents that it is
    failures: tuple[Failure, ...] = ()  # documents that could not be encoded: nothing finds them
    others: int = 0  # points that are no document of the test set: they are found in place of those that are

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each way in which this is not the test set alone and in full."""
        said = []
        if self.failures:
            first = self.failures[0].error
            said.append(f"{len(self.failures):,} documents cannot be encoded and are not found by any search: {first}")
        if self.others:
            said.append(
                f"collection {self.collection!r} holds {self.others:,} points beside the documents of this test set, "
                f"and each that is found counts as a wrong answer"
            )
        return tuple(said)


def index_corpus(
    store: Store,
    collection: str,
    corpus: Mapping[str, Document],
    *,
    encoder: Encoder,
    on_progress: OnProgress | None = None,
) -> Indexed:
    """Every document as one vector: its title and text joined by a space and truncated, or its picture.

    Texts are encoded in the role of documents. A corpus of pictures alone becomes a collection of pictures. Documents
    that are there already, unchanged, are not encoded again.

    Raises:
        InvalidTestSet: there is no document, none can be encoded, or the collection is not one to be written to and
            lacks some.
        CollectionMismatch, CollectionNotOurs, UnsupportedModality, StoreError.
    """
    if corpus and all(document.image is not None for document in corpus.values()):
        files = {id: document.image for id, document in corpus.items() if document.image is not None}
        return index_pictures(store, collection, files, encoder=encoder, on_progress=on_progress)
    return _index_rows(store, collection, corpus, encoder, on_progress)


def index_pictures(
    store: Store,
    collection: str,
    pictures: Mapping[str, Path],
    *,
    encoder: Encoder,
    on_progress: OnProgress | None = None,
) -> Indexed:
    """Pictures by document id -> a collection of pictures, as `ingest_images` makes it; errors of `index_corpus`."""
    ids: dict[str, list[str]] = {}
    for id, path in pictures.items():
        ids.setdefault(os.path.abspath(path), []).append(id)
    there = [uri for uri in ids if Path(uri).is_file()]
    failures = [Failure(uri, f"{Path(uri).name}: there is no such file") for uri in ids if not Path(uri).is_file()]
    if may_write(store, collection) and there:
        prepare_collection(store, collection, "images", {"image": (encoder, vector_contract(encoder, "image"))})
        store.set_note(collection, NOTE, {"holds": "pictures"})

        def tell(report: IngestReport) -> None:
            if on_progress is not None:
                on_progress("pictures", report.done, len(there))

        failures += ingest_images(store, collection, there, encoder=encoder, on_progress=tell).failures
        stored = _stored(store, collection, "uri")
    elif there:
        contract = _ours(store, collection)
        if contract.kind != "images":
            raise InvalidTestSet(f"collection {collection!r} holds documents, not pictures: name another")
        check_fingerprint(collection, "image", contract.vectors["image"], encoder)
        stored = _stored(store, collection, "uri")
        lacking = len(ids.keys() - stored.keys())
        if lacking:
            raise InvalidTestSet(
                f"collection {collection!r} lacks {lacking:,} of the {len(ids):,} pictures of the test set, and an "
                f"evaluation adds nothing to a collection that it did not make: index them, or name a new collection"
            )
    else:
        stored = {}
    found = {stored[uri]: tuple(some) for uri, some in ids.items() if uri in stored}
    _check_found(collection, found, len(ids), failures)
    return Indexed(collection, "image", found, tuple(failures), len(stored) - len(found))


def _index_rows(
    store: Store, collection: str, corpus: Mapping[str, Document], encoder: Encoder, on_progress: OnProgress | None
) -> Indexed:
    if not corpus:
        raise InvalidTestSet("the test set has no documents: there is nothing to be found")
    if not may_write(store, collection):
        raise InvalidTestSet(
            f"collection {collection!r} was not made by an evaluation, so documents of a test set are not added to "
            f"it: name a collection that is not there yet, or measure this one with judged queries of your own"
        )
    vector = _VECTOR[encoder.spec.kind]
    prepare_collection(store, collection, "documents", {vector: (encoder, vector_contract(encoder, "text"))})
    store.set_note(collection, NOTE, {"holds": "documents"})
    known = {p.id: p.payload.get("content_hash") for p in store.scroll(collection, payload=["content_hash"])}
    failures: list[Failure] = []
    hashes = dict(_hashes(corpus, failures))
    points = {id: item_id("text", f"evaluation:{id}") for id in hashes}
    fresh = [id for id in hashes if known.get(points[id]) != hashes[id]]
    done = len(hashes) - len(fresh)
    for some in batched(fresh, _DOCUMENTS_AN_UPSERT):
        vectors = _encoded({id: corpus[id] for id in some}, encoder, failures)
        store.upsert(
            collection,
            [
                Point(points[id], {vector: row} if _has_rows(row) else {}, _payload(id, corpus[id], hashes[id]))
                for id, row in vectors.items()
            ],
        )
        done += len(some)
        if on_progress is not None:
            on_progress("documents", done, len(hashes))
    if fresh:
        store.optimize(collection)
    lost = {failure.uri for failure in failures}
    found = {points[id]: (id,) for id in hashes if id not in lost}
    _check_found(collection, found, len(corpus), failures)
    return Indexed(collection, vector, found, tuple(failures), len(known.keys() - found.keys()))


def may_write(store: Store, collection: str) -> bool:
    """Whether the collection is not there yet, or an evaluation made it."""
    return collection not in store.collections() or NOTE in _ours(store, collection).notes


def _ours(store: Store, collection: str) -> Contract:
    contract = store.contract(collection)
    if contract is None:
        raise CollectionNotOurs(collection)
    return contract


def _stored(store: Store, collection: str, key: str) -> dict[str, str]:
    """Value of a payload key -> the point that has it."""
    return {str(point.payload.get(key)): point.id for point in store.scroll(collection, payload=[key])}


def _check_found(collection: str, found: Mapping[str, object], wanted: int, failures: Sequence[Failure]) -> None:
    if not found:
        why = f" ({failures[0].error})" if failures else ""
        raise InvalidTestSet(f"none of {wanted:,} documents could be brought into {collection!r}{why}: correct them")


def _hashes(corpus: Mapping[str, Document], failures: list[Failure]) -> Iterator[tuple[str, str]]:
    """Document id -> what changes when it must be encoded again. A picture that is not there is a failure."""
    for id, document in corpus.items():
        if document.image is None:
            yield id, hashlib.blake2b(document.whole_text.encode(), digest_size=16).hexdigest()
            continue
        try:
            yield id, content_hash(document.image)
        except InputError as exc:
            failures.append(Failure(id, str(exc)))


def _payload(id: str, document: Document, hashed: str) -> Payload:
    uri = document.uri or (str(document.image) if document.image is not None else id)
    own: Payload = {"uri": uri, "document_id": id, "content_hash": hashed, "passage": 0, "passages": 1}
    if document.title:
        own["title"] = document.title
    return {**own, "text": document.text}


def _encoded(documents: Mapping[str, Document], encoder: Encoder, failures: list[Failure]) -> dict[str, Vector]:
    """Document id -> its vector; a picture that cannot be read has none and is a failure."""
    texts = {id: document.whole_text for id, document in documents.items() if document.image is None}
    files = {id: document.image for id, document in documents.items() if document.image is not None}
    made: dict[str, Vector] = {}
    if texts:
        made |= dict(zip(texts, encoder.encode_text(list(texts.values()), role="document"), strict=True))
    for some in batched(load_pictures(files, failures), encoder.batch_size):
        rows = encoder.encode_image([picture for _, picture in some])
        made |= dict(zip((id for id, _ in some), rows, strict=True))
    return made


def load_pictures(files: Mapping[str, Path], failures: list[Failure]) -> Iterator[tuple[str, Image]]:
    """Pictures by id, decoded in threads, in order; one that cannot be read goes to `failures`."""
    loaded = load_in_order(
        files, lambda key: load_image(files[key], uri=files[key].name), workers=_WORKERS, ahead=_AHEAD
    )
    for id, picture in loaded:
        if isinstance(picture, InputError):
            failures.append(Failure(id, str(picture)))
        else:
            yield id, picture


def _has_rows(vector: Vector) -> bool:
    """False for the multivector of a text without a token: a store has no place for it, and nothing finds it."""
    return isinstance(vector, SparseVector) or np.asarray(vector).size > 0
