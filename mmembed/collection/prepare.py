"""The collection an index run writes to: made or checked before the first vector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from mmembed.collection import Collection
from mmembed.collection.payload import INDEXES
from mmembed.errors import CollectionMismatch, SettingsError
from mmembed.types import Contract, Encoder, IndexType, Kind, Modality, Payload, VectorContract

_NAMED = ("caption", "cross", "late", "sparse")  # vectors that have a parameter of their own; others have `encoder`
_MAX_INDEXES = 64
_PLAIN_KEY = re.compile(r"[\w-]{1,256}")  # another one is no JSON path, or that of something else: "a.b" is b in a
_MAX_KEYWORD = 256  # longer strings are texts, not keywords
_INDEX_TYPES: Mapping[type, IndexType] = {
    bool: "bool",
    int: "integer",
    float: "float",
    str: "keyword",
}  # bool is an int


def vector_contract(encoder: Encoder, modality: Modality, *, kind: Kind | None = None) -> VectorContract:
    """What a collection will remember of a vector made by `encoder`."""
    spec = encoder.spec
    return VectorContract(
        encoder=spec.name,
        fingerprint=spec.fingerprint,
        modality=modality,
        kind=kind or spec.kind,
        dim=spec.dim,
        distance=spec.distance,
        dtype=encoder.dtype,
    )


def prepare_collection(
    collection: Collection,
    kind: Literal["images", "documents"],
    encoders: Mapping[str, Encoder],
    *,
    shards: int | None = None,
    replicas: int | None = None,
) -> None:
    """Create the collection, or check that its vectors were made by these encoders and add those it lacks.

    Raises CollectionNotOurs, CollectionMismatch, StoreError for a collection of the other kind, or SettingsError
    for an encoder that reads all documents of a call as one (late chunking): here a call holds those of many files.
    """
    vectors = check_encoders(collection, kind, encoders)
    store, indexes = collection.store, INDEXES["image" if kind == "images" else "text"]
    if not collection.exists:
        contract = Contract(kind=kind, vectors=vectors)
        store.create(collection.name, contract, indexes=indexes, shards=shards, replicas=replicas)
        return
    store.add_indexes(collection.name, indexes)  # a creation that timed out may lack them
    remembered = collection.require_ours(kind)
    for name, vector in vectors.items():
        if name not in remembered.vectors:
            store.add_vector(collection.name, name, vector)


def check_encoders(
    collection: Collection, kind: Literal["images", "documents"], encoders: Mapping[str, Encoder]
) -> dict[str, VectorContract]:
    """What the collection will remember of vectors by these encoders; writes nothing, raises as prepare_collection."""
    vectors: dict[str, VectorContract] = {}
    for name, encoder in encoders.items():
        if "document" in encoder.spec.whole_call:
            raise SettingsError(
                f"encoder {encoder.spec.name!r} reads all texts of a call as one document, and an index hands it "
                f"passages of several for the vector {name!r}: leave ?late_chunking= out"
            )
        of_images = kind == "images" and name not in ("caption", "caption_bm25")
        windows: Kind | None = "multi" if name == "cross" else None  # a passage is several texts of the image encoder
        vectors[name] = vector_contract(encoder, "image" if of_images else "text", kind=windows)
    remembered = collection.require_ours(kind).vectors if collection.exists else {}
    for name, encoder in encoders.items():
        stored = remembered.get(name)
        if stored is not None and stored.fingerprint != encoder.spec.fingerprint:
            parameter = f"{name}_encoder" if name in _NAMED else "encoder"
            advice = f"index with `{parameter}={stored.encoder!r}`, or into another collection"
            raise CollectionMismatch(
                collection.name, name, stored=stored.encoder, given=encoder.spec.name, advice=advice
            )
    return vectors


class PayloadIndexes:
    """Indexes for the payload keys of the user's items, made before the first vector that carries them.

    A key that is filtered on without an index silently loses hits once the search graph is built.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._keys: set[str] = set()  # that have one; none before the first payloads

    def cover(self, payloads: Iterable[Payload]) -> None:
        new: dict[str, IndexType] = {}
        if not self._keys:  # those of earlier runs count too: a server's memory is not without end
            self._keys = {*INDEXES["text"], *self._collection.store.indexes(self._collection.name)}
        for payload in payloads:
            for key, value in payload.items():
                if key in self._keys or len(self._keys) >= _MAX_INDEXES or not _PLAIN_KEY.fullmatch(key):
                    continue
                if kind := _index_type(value):
                    new[key] = kind
                    self._keys.add(key)
        if new:
            self._collection.store.add_indexes(self._collection.name, new)


def _index_type(value: Any) -> IndexType | None:
    if isinstance(value, list):
        return _index_type(value[0]) if value else None
    if isinstance(value, str) and len(value) > _MAX_KEYWORD:
        return None
    return next((index for type_, index in _INDEX_TYPES.items() if isinstance(value, type_)), None)
