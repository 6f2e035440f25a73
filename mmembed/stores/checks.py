"""The door of every store: what may be written and asked, checked before Qdrant sees it.

Qdrant Edge stores NaN without a word, and a server drops a point of the wrong size that was written without waiting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmembed.collection.payload import FACET_TYPES, _uuid, canonical_ids
from mmembed.errors import InvalidQuery, StoreError
from mmembed.types import Contract, IndexType, Kind, Leg, Payload, Point, Ranking, SparseVector, Vector

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_POINTS",
    "Search",
    "batches",
    "check_facet",
    "check_new",
    "check_payload",
    "check_payloads",
    "check_points",
    "check_search",
    "fusion_weights",
]

MAX_BATCH_POINTS = 256
MAX_BATCH_BYTES = 8 * 2**20
_JSON_BYTES = 20  # of one coordinate, written out


@dataclass(frozen=True)
class Search:
    """One checked search, as both stores take it."""

    rankings: tuple[Ranking, ...]  # those that can rank anything; a tuple has at least two legs
    fused: bool
    limit: int
    offset: int
    depth: int  # candidates of each ranking of a fusion
    rrf_k: int
    score_threshold: float | None
    exact: bool
    rerank: Leg | None = None  # orders the candidates of all rankings

    @property
    def legs(self) -> list[Leg]:
        """Every leg of every ranking."""
        return [leg for ranking in self.rankings for leg in _legs(ranking)]

    @property
    def vector_name(self) -> str | None:
        """The vector whose scores the hits carry; None where they come from a fusion."""
        if self.rerank is not None:
            return self.rerank.vector_name
        return None if self.fused else self.legs[0].vector_name

    @property
    def due(self) -> int:
        """Fewer hits than this under a filter: the walk of a graph may have got stuck."""
        return self.limit if self.rerank is None else min(self.limit, self.depth)

    @property
    def weighted(self) -> bool:
        """Whether a weight makes a difference somewhere."""
        if self.rerank is not None:
            return False
        fusions = [self.rankings, *(ranking for ranking in self.rankings if not isinstance(ranking, Leg))]
        return any(fusion_weights(fusion) for fusion in fusions)

    @property
    def approximate(self) -> bool:
        """Whether a graph may be walked at all: sparse vectors are always searched exactly."""
        return not self.exact and any(not isinstance(leg.query, SparseVector) for leg in self.legs)


def fusion_weights(rankings: Sequence[Ranking]) -> list[float] | None:
    """The weight of each ranking in a fusion, 1 for one that is itself a fusion; None where all are alike."""
    weights = [ranking.weight if isinstance(ranking, Leg) else 1.0 for ranking in rankings]
    return weights if len(set(weights)) > 1 else None


def check_search(
    collection: str,
    contract: Contract | None,
    rankings: Sequence[Ranking],
    *,
    limit: int,
    offset: int,
    score_threshold: float | None,
    exact: bool,
    depth: int,
    rrf_k: int,
    rerank: Leg | None = None,
) -> Search:
    """Check a search against the contract. A sparse query without terms ranks nothing: its leg falls away.

    Raises InvalidQuery, or StoreError for a vector of the wrong size.
    """
    legs = [leg for ranking in rankings for leg in _legs(ranking)]
    if not legs:
        raise InvalidQuery(f"a search of {collection!r} without any vector asks for nothing: give at least one leg")
    for name, number, least in (("limit", limit, 1), ("offset", offset, 0), ("depth", depth, 1), ("rrf_k", rrf_k, 1)):
        if number < least:
            raise InvalidQuery(f"{name} {number} makes no sense in a search of {collection!r}: give {least} or more")
    if len(legs) > 1 and score_threshold is not None and rerank is None:
        raise InvalidQuery(
            f"a score threshold ({score_threshold}) means nothing for {len(legs)} fused rankings, whose scores come "
            f"from ranks: leave it out, or search by one vector"
        )
    for leg in [*legs, *([rerank] if rerank is not None else [])]:
        _check_leg(collection, contract, leg)
    if rerank is not None and isinstance(rerank.query, SparseVector):
        raise InvalidQuery(
            f"candidates in {collection!r} were to be reranked by the sparse vector {rerank.vector_name!r}, which has "
            f"no score for most of them: rerank by a multivector or a dense one"
        )
    kept = [ranking for ranking in map(_without_empty, rankings) if ranking]
    if len(kept) == 1:
        kept = list(_legs(kept[0]))
    return Search(
        rankings=tuple(kept),
        fused=len(legs) > 1,
        limit=limit,
        offset=offset,
        depth=max(depth, limit + offset) if rerank is None else depth,
        rrf_k=rrf_k,
        score_threshold=score_threshold,
        exact=exact,
        rerank=rerank,
    )


def _legs(ranking: Ranking) -> tuple[Leg, ...]:
    return (ranking,) if isinstance(ranking, Leg) else tuple(ranking)


def _without_empty(ranking: Ranking) -> Ranking:
    kept = tuple(
        leg for leg in _legs(ranking) if not (isinstance(leg.query, SparseVector) and leg.query.indices.size == 0)
    )
    if isinstance(ranking, Leg):
        return kept[0] if kept else ()
    return replace(kept[0], weight=1.0) if len(kept) == 1 else kept


def _check_leg(collection: str, contract: Contract | None, leg: Leg) -> None:
    if not (np.isfinite(leg.weight) and leg.weight > 0):
        raise InvalidQuery(f"weight {leg.weight} of vector {leg.vector_name!r} is not a positive number")
    what = f"the query for vector {leg.vector_name!r} of collection {collection!r}"
    if contract is None:
        kind: Kind = "sparse" if isinstance(leg.query, SparseVector) else "dense" if leg.query.ndim == 1 else "multi"
        _check_vector(leg.query, kind, None, what)
    elif leg.vector_name not in contract.vectors:
        raise InvalidQuery(
            f"collection {collection!r} has no vector {leg.vector_name!r}: it has {', '.join(sorted(contract.vectors))}"
        )
    else:
        vector = contract.vectors[leg.vector_name]
        _check_vector(leg.query, vector.kind, vector.dim, what)


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


def batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """At most 256 points and 8 MB of JSON at a time, and never none: one point may be larger alone."""
    batch: list[Point] = []
    room = MAX_BATCH_BYTES
    for point in points:
        size = _size_bytes(point)
        if batch and (len(batch) == MAX_BATCH_POINTS or size > room):
            yield batch
            batch, room = [], MAX_BATCH_BYTES
        batch.append(point)
        room -= size
    if batch:
        yield batch


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
