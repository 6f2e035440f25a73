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

from mmembed.classification.collection_classes import image_encoder
from mmembed.collection import Collection
from mmembed.collection.payload import item_id
from mmembed.collection.prepare import prepare_collection
from mmembed.encoders.encoding import encode_images
from mmembed.errors import InputError, InvalidTestSet, SettingsError
from mmembed.evaluation.testset import CorpusDocument, Query
from mmembed.ingest import IngestReport, ingest_images
from mmembed.sources import content_hash
from mmembed.streams import batched
from mmembed.types import DenseArray, Encoder, Failure, Item, Payload, Point, Role, SparseVector, Vector
from mmembed.vectors import l2_normalize

NOTE = "evaluation"
"""Key of the note of a collection that an evaluation made and may add to."""

OnStep: TypeAlias = Callable[[str, int, int], None]
"""Told what is done, how many of it are done, and of how many."""

_BATCH = 256
_VECTOR = {"dense": "text", "sparse": "sparse", "multi": "late"}


@dataclass(frozen=True)
class IndexedCorpus:
    """A collection and where the documents of a test set are in it."""

    collection: Collection
    vector_name: str
    documents: Mapping[str, tuple[str, ...]]  # point id -> ids of the documents that it is
    failures: tuple[Failure, ...] = ()  # documents that could not be encoded: nothing finds them
    others: int = 0  # points that are no document of the test set: they are found in place of those that are

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each way in which this is not the test set alone and in full."""
        lost = warning_of(self.failures, "documents cannot be encoded and are not found by any search")
        beside = (
            f"collection {self.collection.name!r} holds {self.others:,} points beside the documents of this test set, "
            f"and each that is found counts as a wrong answer"
        )
        return (*lost, beside) if self.others else lost

    def vectors(self) -> dict[str, Vector]:
        """Document id -> its stored vector."""
        store, name, vector = self.collection.store, self.collection.name, self.vector_name
        return {
            document: point.vectors[vector]
            for ids in batched(self.documents, _BATCH)
            for point in store.retrieve(name, ids, vectors=[vector], payload=False)
            for document in self.documents[point.id]
        }


def index_corpus(
    collection: Collection,
    corpus: Mapping[str, CorpusDocument],
    *,
    encoder: Encoder,
    on_progress: OnStep | None = None,
) -> IndexedCorpus:
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
        return index_images(collection, files, encoder=encoder, on_progress=on_progress)
    return _index_rows(collection, corpus, encoder, on_progress)


def index_images(
    collection: Collection,
    images: Mapping[str, Path],
    *,
    encoder: Encoder,
    on_progress: OnStep | None = None,
) -> IndexedCorpus:
    """Pictures by document id -> a collection of pictures, as `ingest_images` makes it; errors of `index_corpus`."""
    ids: dict[str, list[str]] = {}
    for id, path in images.items():
        ids.setdefault(os.path.abspath(path), []).append(id)
    there = [uri for uri in ids if Path(uri).is_file()]
    failures = [Failure(uri, f"{Path(uri).name}: there is no such file") for uri in ids if not Path(uri).is_file()]
    if not there:
        stored = {}
    elif may_write(collection):
        store, name = collection.store, collection.name
        prepare_collection(collection, "images", {"image": encoder})
        store.set_note(name, NOTE, {"holds": "images"})
        tell = ingest_progress(on_progress, "pictures", len(there))
        failures += ingest_images(store, name, there, encoder=encoder, on_progress=tell).failures
        stored = _points_by_uri(collection)
    else:
        image_encoder(collection, {}, encoder)
        stored = _points_by_uri(collection)
        if lacking := sum(uri not in stored for uri in ids):
            raise InvalidTestSet(
                f"collection {collection.name!r} lacks {lacking:,} of the {len(ids):,} pictures of the test set, and "
                f"an evaluation adds nothing to a collection that it did not make: index them, or name a new collection"
            )
    documents = {stored[uri]: tuple(some) for uri, some in ids.items() if uri in stored}
    _check_any(collection, documents, len(ids), failures)
    return IndexedCorpus(collection, "image", documents, tuple(failures), len(stored) - len(documents))


def _index_rows(
    collection: Collection, corpus: Mapping[str, CorpusDocument], encoder: Encoder, on_progress: OnStep | None
) -> IndexedCorpus:
    if not corpus:
        raise InvalidTestSet("the test set has no documents: there is nothing to be found")
    store, name = collection.store, collection.name
    if not may_write(collection):
        raise InvalidTestSet(
            f"collection {name!r} was not made by an evaluation, so documents of a test set are not added to "
            f"it: name a collection that is not there yet, or measure this one with judged queries of your own"
        )
    vector = _VECTOR[encoder.spec.kind]
    prepare_collection(collection, "documents", {vector: encoder})
    store.set_note(name, NOTE, {"holds": "documents"})
    known = {p.id: p.payload.get("content_hash") for p in store.scroll(name, payload=["content_hash"])}
    failures: list[Failure] = []
    hashes = dict(_hashes(corpus, failures))
    points = {id: item_id("text", f"evaluation:{id}") for id in hashes}
    fresh = [id for id in hashes if known.get(points[id]) != hashes[id]]
    done = len(hashes) - len(fresh)
    for some in batched(fresh, _BATCH):
        queries = {id: Query(None if corpus[id].image else corpus[id].whole_text, corpus[id].image) for id in some}
        rows = encode_inputs(encoder, queries, failures, role="document")
        # a text without a token has a multivector of no rows: a store has no place for it, and nothing finds it
        found = {id: {vector: row} if isinstance(row, SparseVector) or len(row) else {} for id, row in rows.items()}
        store.upsert(name, [Point(points[id], row, _payload(id, corpus[id], hashes[id])) for id, row in found.items()])
        done += len(some)
        if on_progress is not None:
            on_progress("documents", done, len(hashes))
    if fresh:
        store.optimize(name)
    lost = {failure.uri for failure in failures}
    documents = {points[id]: (id,) for id in hashes if id not in lost}
    _check_any(collection, documents, len(corpus), failures)
    return IndexedCorpus(collection, vector, documents, tuple(failures), len(known.keys() - documents.keys()))


def warning_of(failures: Sequence[Failure], what: str) -> tuple[str, ...]:
    """The sentence that counts them, if there are any."""
    return (f"{len(failures):,} {what}: {failures[0].error}",) if failures else ()


def ingest_progress(on_progress: OnStep | None, what: str, total: int) -> Callable[[IngestReport], None] | None:
    """What the verbs of `mmembed.ingest` take as their `on_progress`."""
    return None if on_progress is None else lambda report: on_progress(what, report.done, total)


def may_write(collection: Collection) -> bool:
    """Whether the collection is not there yet, or an evaluation made it."""
    return not collection.exists or NOTE in collection.require_ours().notes


def _points_by_uri(collection: Collection) -> dict[str, str]:
    points = collection.store.scroll(collection.name, payload=["uri"])
    return {str(point.payload.get("uri")): point.id for point in points}


def _check_any(collection: Collection, indexed: Mapping[str, object], of: int, failures: Sequence[Failure]) -> None:
    if not indexed:
        why = f" ({failures[0].error})" if failures else ""
        raise InvalidTestSet(f"none of {of:,} documents could be brought into {collection.name!r}{why}: correct them")


def _hashes(corpus: Mapping[str, CorpusDocument], failures: list[Failure]) -> Iterator[tuple[str, str]]:
    """Document id -> what changes when it must be encoded again. A picture that is not there is a failure."""
    for id, document in corpus.items():
        of_text = hashlib.blake2b(document.whole_text.encode(), digest_size=16).hexdigest()
        try:
            yield id, content_hash(document.image) if document.image else of_text
        except InputError as exc:
            failures.append(Failure(id, str(exc)))


def _payload(id: str, document: CorpusDocument, hashed: str) -> Payload:
    uri = document.uri or str(document.image or id)
    title = {"title": document.title} if document.title else {}
    own = {"uri": uri, "document_id": id, "content_hash": hashed, "passage": 0, "passages": 1}
    return {**own, **title, "text": document.text}


def encode_inputs(
    encoder: Encoder, inputs: Mapping[str, Query], failures: list[Failure], *, role: Role, task: str | None = None
) -> dict[str, Vector]:
    """Id -> its vector: of its text, of its picture, or of both the sum.

    One whose picture cannot be read has none, and is a failure.
    """
    texts = {id: given.text for id, given in inputs.items() if given.text is not None}
    files = {id: given.image for id, given in inputs.items() if given.image is not None}
    vectors: dict[str, Vector] = {}
    if texts:
        vectors |= dict(zip(texts, encoder.encode_text(list(texts.values()), role=role, task=task), strict=True))
    items = (Item(file.name, "image", file) for file in files.values())
    for id, image in zip(files, encode_images(items, encoder), strict=True):
        if isinstance(image, Failure):
            failures.append(Failure(id, image.error))
            vectors.pop(id, None)
        else:
            vectors[id] = _sum(vectors[id], image.vector) if id in vectors else image.vector
    return vectors


def _sum(text: Vector, image: Vector) -> DenseArray:
    if not isinstance(text, np.ndarray) or not isinstance(image, np.ndarray) or text.ndim != 1:
        raise SettingsError("a query of words and a picture is the sum of two dense vectors: choose a dense encoder")
    return l2_normalize(text + image)
