"""Which vectors of a collection answer a search, and the encoder that the collection remembers for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.conditions import has_any, has_value
from mmembed.collection.payload import qdrant_id
from mmembed.encoders.encoding import encode_texts
from mmembed.encoders.presets import PRESETS
from mmembed.errors import InvalidQuery
from mmembed.retrieval.encode import average, encode_examples, encode_query, given_vector
from mmembed.retrieval.query import BoundSearch, Search
from mmembed.types import Contract, Encoder, Examples, Leg, Ranking, StoreQuery, Vector

_MOSTLY = 0.8


def store_query(bound: BoundSearch) -> StoreQuery:
    """What the store is asked: the rankings that answer the search, and as `rerank` the leg of the late stage.

    A fused score means nothing, so with a score threshold there is one ranking alone. Points that the search asks
    with do not pass the filter, of documents none of their passages.
    """
    collection, contract, search = bound.collection, bound.contract, bound.search
    name = search.vector_name if search.vector_name is not None else _default_vector(contract, search)
    if contract is not None and name not in contract.vectors:
        raise InvalidQuery(
            f"collection {collection.name!r} has no vector {name!r}, only {', '.join(sorted(contract.vectors))}"
            + (": index it again with `cross_encoder=` to find its texts by picture" if name == "cross" else "")
        )
    rankings: list[Ranking]
    late: Leg | None = None
    encoder = bound.encoder(name) if search.texts or search.images else None
    if search.vector is not None:
        known = contract.vectors[name] if contract is not None else None
        rankings = [Leg(name, given_vector(search.vector, name, known))]
    elif search.id is not None:
        rankings = [Leg(name, _stored(collection, [search.id], name)[search.id])]
    elif search.examples:
        rankings = [Leg(name, _of_examples(bound, name, encoder))]
    else:
        assert encoder is not None  # there are words or images
        alone = search.vector_name is not None or search.score_threshold is not None
        if contract is not None and not alone and search.is_one_text:
            names, last = _vectors_for_words(collection, contract, search, name)
            encoders = [encoder, *(collection.encoder(each, bound.encoders) for each in [*names[1:], *last])]
            rows = encode_texts(encoders, search.texts, role="query", task=search.task)
            legs = [Leg(each, row[0]) for each, row in zip([*names, *last], rows, strict=True)]
            rankings, late = _rankings(contract, legs[: len(names)]), legs[-1] if last else None
        else:
            rankings = [Leg(name, _as_stored(encode_query(encoder, search), name, contract))]
    return StoreQuery(
        rankings,
        filter=_without_points(bound),
        score_threshold=search.score_threshold,
        exact=search.exact,
        rerank=late,
    )


def _vectors_for_words(
    collection: Collection, contract: Contract, search: Search, first: str
) -> tuple[list[str], list[str]]:
    """Every vector of the collection that words can be compared with, from `first` on; and that of the late stage."""
    names = [first]
    if contract.kind == "documents":
        names += ["bm25"] if "bm25" in contract.vectors else []
        names += ["sparse"] if _mostly_has(collection, contract, "sparse") else []
    elif _mostly_has(collection, contract, "caption"):
        names += [name for name in ("caption", "caption_bm25") if name in contract.vectors]  # the first is added first
    return names, ["late"] if search.late and _mostly_has(collection, contract, "late") else []


def _rankings(contract: Contract, legs: Sequence[Leg]) -> list[Ranking]:
    """Which of the legs count, and how: each alike, but for captions, which are one ranking together."""
    first, *others = legs
    if contract.kind == "documents" or not others:
        return list(legs)
    preset = PRESETS.get(contract.vectors["image"].encoder)
    if preset is not None and not preset.photographs:
        return [*others]  # measured on photographs: its ranking is noise that drowns theirs
    return [first, tuple(others)]  # the captions count as one ranking, as much as the pictures


def _of_examples(bound: BoundSearch, name: str, encoder: Encoder | None) -> Vector | Examples:
    """One vector for their average, else all of them; an encoder where some are not stored points."""
    search, ids = bound.search, bound.search.point_ids
    stored = _stored(bound.collection, ids, name) if ids else {}
    encoded = encode_examples(encoder, search.examples, stored, search.task)
    vectors = [_as_stored(vector, name, bound.contract) for vector in encoded]
    positive, negative = vectors[: len(search.positive)], vectors[len(search.positive) :]
    if search.strategy == "average_vector":
        return average(positive, negative)
    return Examples(tuple(positive), tuple(negative), search.strategy)


def _as_stored(vector: Vector, name: str, contract: Contract | None) -> Vector:
    """A dense vector as one window, (dim,) -> (1, dim), where the collection holds multivectors."""
    is_dense = isinstance(vector, np.ndarray) and vector.ndim == 1
    if contract is not None and contract.vectors[name].kind == "multi" and is_dense:
        return np.atleast_2d(np.asarray(vector))
    return vector


def _stored(collection: Collection, ids: Sequence[str], name: str) -> dict[str, Vector]:
    """The vector of each of these points. Raises InvalidQuery for one that is not there, or has no such vector."""
    found = {
        point.id: point
        for point in collection.store.retrieve(collection.name, ids, vectors=[name] if name else True, payload=False)
    }
    vectors = {}
    for id in ids:
        point = found.get(str(qdrant_id(id)))
        if point is None:
            raise InvalidQuery(f"collection {collection.name!r} has no point {id!r}")
        if name not in point.vectors:
            raise InvalidQuery(f"point {id!r} of collection {collection.name!r} has no vector {name!r}")
        vectors[id] = point.vectors[name]
    return vectors


def _without_points(bound: BoundSearch) -> models.Filter | None:
    """The filter, and not the points that are asked with, nor another passage of their documents."""
    collection, search, ids = bound.collection, bound.search, bound.search.point_ids
    if not ids:
        return search.filter
    itself: models.Condition = models.HasIdCondition(has_id=[qdrant_id(id) for id in ids])
    if bound.by_document:
        uris = sorted({str(point.payload["uri"]) for point in collection.store.retrieve(collection.name, ids)})
        itself = has_value("uri", uris[0]) if len(uris) == 1 else has_any("uri", uris)
    return models.Filter(must=[search.filter] if search.filter is not None else None, must_not=[itself])


def _mostly_has(collection: Collection, contract: Contract, name: str) -> bool:
    """Whether a vector that points may lack takes part: those few that have it would come up in every search."""
    if name not in contract.vectors:
        return False
    having = models.Filter(must=[models.HasVectorCondition(has_vector=name)])
    store = collection.store
    return store.count(collection.name, filter=having) >= _MOSTLY * store.count(collection.name)


def _default_vector(contract: Contract | None, search: Search) -> str:
    if contract is None:
        return ""  # the unnamed vector
    if contract.kind == "images":
        return "image"
    return "cross" if search.images else "text"
