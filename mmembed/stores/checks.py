"""The door of every store: what may be written and asked, checked before Qdrant sees it.

Qdrant Edge stores NaN without a word, and a server drops a point of the wrong size that was written without waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np

from mmembed.collection.payload import FACET_TYPES, _uuid, canonical_ids
from mmembed.errors import InvalidQuery, StoreError
from mmembed.streams import batched_by
from mmembed.types import (
    Contract,
    Examples,
    IndexType,
    Kind,
    Leg,
    Payload,
    Point,
    Ranking,
    SparseVector,
    StoreQuery,
    Vector,
)

MAX_BATCH_POINTS = 256
MAX_BATCH_BYTES = 8 * 2**20
_JSON_BYTES = 20  # of one coordinate, written out


def got_stuck(query: StoreQuery, found: int) -> bool:
    """Whether the walk of a graph under a filter may have ended early; sparse vectors are always searched exactly."""
    due = query.limit if query.rerank is not None else min(query.limit, query.depth)
    return found < due and any(not isinstance(leg.query, SparseVector) for leg in query.legs)


def weighted(query: StoreQuery) -> bool:
    """Whether a weight makes a difference somewhere."""
    if query.rerank is not None:
        return False
    fusions = [query.fused, *(ranking for ranking in query.rankings if not isinstance(ranking, Leg))]
    return any(fusion_weights(fusion) for fusion in fusions)


def fusion_weights(rankings: Sequence[Ranking]) -> list[float] | None:
    """The weight of each ranking in a fusion, 1 for one that is itself a fusion; None where all are alike."""
    weights = [ranking.weight if isinstance(ranking, Leg) else 1.0 for ranking in rankings]
    return weights if len(set(weights)) > 1 else None


def check_query(collection: str, contract: Contract | None, query: StoreQuery) -> StoreQuery:
    """The query as a store answers it. A sparse vector without terms ranks nothing: its leg falls away.

    Raises InvalidQuery, or StoreError for a vector of the wrong size.
    """
    legs, last = query.legs, query.rerank
    if not legs:
        raise InvalidQuery(f"a search of {collection!r} without any vector asks for nothing: give at least one leg")
    for name, least in (("limit", 1), ("offset", 0), ("depth", 1), ("rrf_k", 1)):
        number = getattr(query, name)
        if number < least:
            raise InvalidQuery(f"{name} {number} makes no sense in a search of {collection!r}: give {least} or more")
    if len(legs) > 1 and query.score_threshold is not None and last is None:
        raise InvalidQuery(
            f"a score threshold ({query.score_threshold}) means nothing for {len(legs)} fused rankings, whose scores "
            f"come from ranks: leave it out, or search by one vector"
        )
    for leg in [*legs, *([last] if last is not None else [])]:
        _check_leg(collection, contract, leg)
    if last is not None and isinstance(last.query, SparseVector):
        raise InvalidQuery(
            f"candidates in {collection!r} were to be reranked by the sparse vector {last.vector_name!r}, which has "
            f"no score for most of them: rerank by a multivector or a dense one"
        )
    kept: list[Ranking] = [ranking for ranking in map(_without_empty, query.rankings) if ranking]
    if len(legs) == 1:
        kept = [leg for ranking in kept for leg in _legs(ranking)]
    elif len(kept) == 1:
        kept = [_legs(kept[0])]  # what is left of a fusion has the scores of one
    depth = query.depth if last is not None else max(query.depth, query.limit + query.offset)
    return replace(query, rankings=tuple(kept), depth=depth)


def _legs(ranking: Ranking) -> tuple[Leg, ...]:
    return (ranking,) if isinstance(ranking, Leg) else tuple(ranking)


def _without_empty(ranking: Ranking) -> Ranking:
    kept = tuple(leg for leg in _legs(ranking) if not _is_empty(leg))
    if isinstance(ranking, Leg):
        return kept[0] if kept else ()
    return replace(kept[0], weight=1.0) if len(kept) == 1 else kept


def _is_empty(leg: Leg) -> bool:
    vectors = leg.query.vectors if isinstance(leg.query, Examples) else (leg.query,)
    return all(isinstance(vector, SparseVector) and vector.indices.size == 0 for vector in vectors)


def _check_leg(collection: str, contract: Contract | None, leg: Leg) -> None:
    if not (np.isfinite(leg.weight) and leg.weight > 0):
        raise InvalidQuery(f"weight {leg.weight} of vector {leg.vector_name!r} is not a positive number")
    what = f"the query for vector {leg.vector_name!r} of collection {collection!r}"
    if contract is not None and leg.vector_name not in contract.vectors:
        raise InvalidQuery(
            f"collection {collection!r} has no vector {leg.vector_name!r}: it has {', '.join(sorted(contract.vectors))}"
        )
    known = None if contract is None else contract.vectors[leg.vector_name]
    for vector in leg.query.vectors if isinstance(leg.query, Examples) else (leg.query,):
        kind: Kind = "sparse" if isinstance(vector, SparseVector) else "dense" if vector.ndim == 1 else "multi"
        _check_vector(vector, known.kind if known else kind, known.dim if known else None, what)


def check_points(collection: str, contract: Contract, points: Sequence[Point]) -> list[Point]:
    """The points with canonical ids and payloads that are exactly JSON; all are checked before one is written.

    Raises StoreError naming the point, what was found and what the collection holds.
    """
    checked = []
    for point in points:
        for name, vector in point.vectors.items():
            if name not in contract.vectors:
                raise StoreError(
                    f"point {point.id} has a vector {name!r}, and collection {collection!r} has only "
                    f"{', '.join(sorted(contract.vectors))}: add it with add_vector first"
                )
            known = contract.vectors[name]
            _check_vector(vector, known.kind, known.dim, f"vector {name!r} of point {point.id} for {collection!r}")
        payload = check_payload(point.payload, f"point {point.id}")
        checked.append(replace(point, id=_uuid(point.id), payload=payload))
    return checked


def check_new(collection: str, contract: Contract) -> None:
    """Raise StoreError for a collection that cannot be made: no name, no vectors, or one without a size."""
    if not collection or not collection.isprintable():
        raise StoreError(f"{collection!r} cannot name a collection: use letters and digits")
    if not contract.vectors:
        raise StoreError(f"collection {collection!r} was asked for without vectors: name at least one")
    for name, vector in contract.vectors.items():
        if not name or (vector.kind != "sparse" and not (vector.dim or 0) > 0):
            raise StoreError(f"vector {name!r} of {collection!r} needs a name and a dim, not {vector.dim}")


def check_payload(payload: Payload, what: str) -> Payload:
    """The payload as JSON has it (tuples become lists). Raises StoreError for what JSON has no word for."""
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False)
        text.encode()  # a file name that is not UTF-8 has surrogates
        checked: Payload = json.loads(text)
    except (TypeError, ValueError, RecursionError) as exc:
        raise StoreError(
            f"the payload of {what} is not JSON ({exc}): write dates as ISO 8601 text and leave out NaN"
        ) from exc
    return checked


def check_payloads(payloads: Mapping[str, Payload]) -> list[Point]:
    """Points of canonical ids that carry these payloads and no vectors; all are checked before one is written.

    Raises StoreError for what JSON has no word for, and for an id that is there twice, written differently.
    """
    points = [
        Point(id=id, payload=check_payload(payload, f"point {id}"))
        for id, payload in zip(canonical_ids(list(payloads)), payloads.values(), strict=True)
    ]
    if len({point.id for point in points}) < len(points):
        raise StoreError("payloads were given for one point under two spellings of its id: give each point once")
    return points


def _check_vector(vector: Vector, kind: Kind, dim: int | None, what: str) -> None:
    if isinstance(vector, SparseVector) != (kind == "sparse"):
        raise StoreError(f"{what} is {'sparse' if isinstance(vector, SparseVector) else 'dense'}, not {kind}")
    if isinstance(vector, SparseVector):
        if vector.indices.ndim != 1 or vector.indices.shape != vector.values.shape or vector.indices.dtype.kind != "u":
            raise StoreError(f"{what} needs one value for each unsigned index: {vector.indices.shape} indices of "
                             f"{vector.indices.dtype}, {vector.values.shape} values")  # fmt: skip
        if len(np.unique(vector.indices)) != len(vector.indices):
            raise StoreError(f"{what} names an index twice: add their values up first")
        numbers = vector.values
    else:
        axes = 2 if kind == "multi" else 1
        found = vector.shape[-1] if vector.ndim else 0
        if vector.ndim != axes or 0 in vector.shape or (dim is not None and found != dim):
            wanted = f"(windows, {dim})" if kind == "multi" else f"({dim},)"
            raise StoreError(f"{what} has {found} dimensions (shape {vector.shape}), not {dim} (shape {wanted})")
        numbers = vector
    if numbers.dtype != np.float32:
        raise StoreError(f"{what} is {numbers.dtype}, not float32")
    if not np.isfinite(numbers).all():
        raise StoreError(f"{what} holds NaN or infinity: it would never be found")


def check_there(collection: str, ids: Sequence[str], there: Set[str]) -> None:
    """Raise StoreError where a point is missing."""
    missing = [each for each in ids if each not in there]
    if missing:
        raise StoreError(
            f"collection {collection!r} has no point {missing[0]} ({len(missing)} of {len(ids)} are missing)"
        )


def plain_point(record: Any) -> Point:
    """A record of Qdrant or Edge, with arrays by name; the unnamed vector of a foreign collection is ""."""
    stored = {} if record.vector is None else record.vector
    named = stored if isinstance(stored, dict) else {"": stored}
    vectors = {name: _plain_vector(vector) for name, vector in named.items()}
    return Point(id=str(record.id), vectors=vectors, payload=record.payload or {})


def _plain_vector(vector: Any) -> Vector:
    if hasattr(vector, "indices"):  # sparse, of a class of either library
        return SparseVector(np.array(vector.indices, dtype=np.uint32), np.array(vector.values, dtype=np.float32))
    return np.array(vector, dtype=np.float32)


def point_batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """At most 256 points and 8 MB of JSON at a time, and never none: one point may be larger alone."""
    return batched_by(points, _size_bytes, most=MAX_BATCH_POINTS, room=MAX_BATCH_BYTES)


def _size_bytes(point: Point) -> int:
    """About how long the point is as JSON."""
    coordinates = sum(v.values.size if isinstance(v, SparseVector) else v.size for v in point.vectors.values())
    return coordinates * _JSON_BYTES + len(str(point.payload)) + 64


# --- Which payload keys have values that Qdrant counts ---


def check_facet(collection: str, key: str, indexes: Mapping[str, IndexType], limit: int) -> None:
    """Raise StoreError unless the values of this key can be counted, InvalidQuery for a limit below 1."""
    if limit < 1:
        raise InvalidQuery(f"the {limit} most frequent values of {key!r} were asked for: ask for at least 1")
    kind = indexes.get(key)
    if kind not in FACET_TYPES:
        has = f"an index of type {kind}" if kind else "no index"
        counted = ", ".join(sorted(name for name, found in indexes.items() if found in FACET_TYPES)) or "none"
        raise StoreError(
            f"the values of {key!r} in collection {collection!r} cannot be counted, because it has {has}: keys whose "
            f"values can be are {counted}"
        )
