"""Plain dicts and arrays <-> the classes of qdrant_edge, which are not those of qdrant_client.

Filters come as `dump_filter` gives them, so the process that owns the shards never imports qdrant_client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, cast
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from mmembed.collection.contract import Json, uses_idf
from mmembed.errors import InvalidQuery
from mmembed.stores.checks import fusion_weights
from mmembed.stores.filters import clauses
from mmembed.types import Examples, Leg, Ranking, SparseVector, StoreQuery, Vector

_DISTANCES = {"cosine": edge.Distance.Cosine, "dot": edge.Distance.Dot}
_MAX_SIM = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
_NO_GRAPH = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000)


# --- configuration ------------------------------------------------------------------------------


def edge_config(vectors: Mapping[str, Json]) -> edge.EdgeConfig:
    """The "vectors" of a contract's JSON -> the configuration of a shard, its write-ahead log on.

    Multivectors get no graph: MaxSim is searched exactly.
    """
    dense = {
        name: edge.EdgeVectorParams(
            size=row["dim"],
            distance=_DISTANCES[row["distance"]],
            multivector_config=_MAX_SIM if row["kind"] == "multi" else None,
            hnsw_config=_NO_GRAPH if row["kind"] == "multi" else None,
        )
        for name, row in vectors.items()
        if row["kind"] != "sparse"
    }
    sparse = {
        name: edge.EdgeSparseVectorParams(modifier=_modifier(row))
        for name, row in vectors.items()
        if row["kind"] == "sparse"
    }
    return edge.EdgeConfig(vectors=dense or None, sparse_vectors=sparse or None)


def new_vector_operation(name: str, row: Json) -> edge.UpdateOperation:
    """A further named vector, as one update."""
    if row["kind"] == "sparse":
        return edge.UpdateOperation.create_sparse_vector(name, modifier=_modifier(row))
    multi = _MAX_SIM if row["kind"] == "multi" else None
    return edge.UpdateOperation.create_dense_vector(
        name, row["dim"], _DISTANCES[row["distance"]], multivector_config=multi
    )


def new_index_operation(field: str, index_type: str) -> edge.UpdateOperation:
    """A payload index, as one update: "keyword" is PayloadSchemaType.Keyword."""
    return edge.UpdateOperation.create_field_index(field, getattr(edge.PayloadSchemaType, index_type.capitalize()))


def _modifier(row: Json) -> edge.Modifier | None:
    return edge.Modifier.Idf if uses_idf(row["encoder"]) else None


# --- vectors ------------------------------------------------------------------------------------


def edge_vector(vector: Vector) -> Any:
    """Lists, not arrays: qdrant_edge takes them twice as fast."""
    if isinstance(vector, SparseVector):
        return edge.SparseVector(vector.indices.tolist(), vector.values.tolist())
    return vector.tolist()


def edge_vectors(vectors: Mapping[str, Vector]) -> dict[str, Any]:
    """The named vectors of one point."""
    return {name: edge_vector(vector) for name, vector in vectors.items()}


# --- queries ------------------------------------------------------------------------------------


def edge_query(query: StoreQuery, filter: Json | None, *, exact: bool) -> edge.QueryRequest:
    """One leg is a plain search; several are prefetched, each under the filter, and fused or reranked by Qdrant."""
    condition = optional_filter(filter)
    params = edge.SearchParams(exact=True) if exact else None

    def prefetch(ranking: Ranking) -> edge.Prefetch:
        if isinstance(ranking, Leg):
            return edge.Prefetch(limit=query.depth, query=_scored(ranking), filter=condition, params=params)
        fusion = _fusion(ranking, query.rrf_k)
        return edge.Prefetch(limit=query.depth, prefetches=[prefetch(leg) for leg in ranking], query=fusion)

    return edge.QueryRequest(
        limit=query.limit,
        offset=query.offset,
        prefetches=[prefetch(ranking) for ranking in query.prefetched],
        query=_fusion(query.fused, query.rrf_k) if query.scored is None else _scored(query.scored),
        filter=None if query.prefetched else condition,
        score_threshold=query.score_threshold,
        params=None if query.prefetched else params,
        with_payload=True,
    )


def _scored(leg: Leg) -> edge.Query:
    if not isinstance(leg.query, Examples):
        return edge.Query.Nearest(edge_vector(leg.query), using=leg.vector_name)
    positive, negative = ([edge_vector(each) for each in some] for some in (leg.query.positive, leg.query.negative))
    examples = edge.RecommendQuery(positive, negative)
    if leg.query.strategy == "best_score":
        return edge.Query.RecommendBestScore(examples, using=leg.vector_name)
    return edge.Query.RecommendSumScores(examples, using=leg.vector_name)


def _fusion(rankings: Sequence[Ranking], k: int) -> edge.Fusion:
    return cast(edge.Fusion, edge.Fusion.Rrf(k=k, weights=fusion_weights(rankings)))  # its stub names another class


# --- filters ------------------------------------------------------------------------------------


def optional_filter(filter: Json | None) -> edge.Filter | None:
    return None if filter is None else edge_filter(filter)


def edge_filter(filter: Json) -> edge.Filter:
    """A dumped `qdrant_client.models.Filter` -> the filter of Edge. Raises InvalidQuery naming what Edge cannot do."""
    unknown = filter.keys() - {"must", "should", "must_not", "min_should"}
    if unknown:
        raise _untranslatable(sorted(unknown)[0])
    parts: dict[str, Any] = {
        clause: [_condition(c) for c in clauses(filter, clause)]
        for clause in ("must", "should", "must_not")
        if clause in filter
    }
    if least := filter.get("min_should"):
        parts["min_should"] = edge.MinShould([_condition(c) for c in least["conditions"]], least["min_count"])
    return edge.Filter(**parts)


def _condition(condition: Json) -> edge.ConditionType:
    if "key" in condition:
        return _field(condition)
    for kind, make in _CONDITIONS.items():
        if kind in condition:
            made: edge.ConditionType = make(condition[kind])
            return made
    return edge_filter(condition)


_CONDITIONS: dict[str, Callable[[Any], Any]] = {
    "is_empty": lambda value: edge.IsEmptyCondition(value["key"]),
    "is_null": lambda value: edge.IsNullCondition(value["key"]),
    "has_id": lambda ids: edge.HasIdCondition({n if isinstance(n, int) else str(UUID(str(n))) for n in ids}),
    "has_vector": edge.HasVectorCondition,
    "nested": lambda value: edge.NestedCondition(value["key"], edge_filter(value["filter"])),
}


def _field(condition: Json) -> edge.FieldCondition:
    unknown = condition.keys() - {"key", "is_empty", "is_null", *_FIELD_PARTS}
    if unknown:
        raise _untranslatable(sorted(unknown)[0])
    made = {name: make(condition[name]) if name in condition else None for name, make in _FIELD_PARTS.items()}
    flags = {name: condition.get(name) for name in ("is_empty", "is_null")}
    return edge.FieldCondition(condition["key"], **made, **flags)


def _match(match: Json) -> edge.MatchType:
    ((kind, value),) = match.items()
    if kind not in _MATCHES:
        raise _untranslatable(f"match {kind}")
    made: edge.MatchType = _MATCHES[kind](value)
    return made


def _range(bounds: Json) -> edge.RangeType:
    limits = {name: bound for name, bound in bounds.items() if bound is not None}
    if any(isinstance(bound, date) for bound in limits.values()):
        return edge.RangeDateTime(**{name: bound.isoformat() for name, bound in limits.items()})
    return edge.RangeFloat(**limits)


def _geo(point: Json) -> edge.GeoPoint:
    return edge.GeoPoint(point["lon"], point["lat"])


def _ring(line: Json) -> list[edge.GeoPoint]:
    return [_geo(point) for point in line["points"]]


_MATCHES: dict[str, Callable[[Any], Any]] = {
    # qdrant_edge 0.9 reads True as the integer 1, which no bool equals; numpy's bool it takes for what it is.
    "value": lambda value: edge.MatchValue(np.bool_(value) if isinstance(value, bool) else value),  # type: ignore[arg-type]
    "text": edge.MatchText,
    "text_any": edge.MatchTextAny,
    "phrase": edge.MatchPhrase,
    "prefix": edge.MatchPrefix,
    "substring": edge.MatchSubstring,
    "any": edge.MatchAny,
    "except": edge.MatchExcept,
}
_FIELD_PARTS: dict[str, Callable[[Any], Any]] = {
    "match": _match,
    "range": _range,
    "geo_bounding_box": lambda box: edge.GeoBoundingBox(_geo(box["top_left"]), _geo(box["bottom_right"])),
    "geo_radius": lambda circle: edge.GeoRadius(_geo(circle["center"]), circle["radius"]),
    "geo_polygon": lambda shape: edge.GeoPolygon(
        _ring(shape["exterior"]), [_ring(ring) for ring in shape["interiors"]] if "interiors" in shape else None
    ),
    "values_count": lambda c: edge.ValuesCount(lt=c.get("lt"), gt=c.get("gt"), lte=c.get("lte"), gte=c.get("gte")),
}


def _untranslatable(what: str) -> InvalidQuery:
    return InvalidQuery(f"a filter has the condition {what!r}, which Qdrant Edge does not support: use a server")
