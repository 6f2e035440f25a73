"""Our dataclasses <-> the classes of qdrant_client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from mmembed.collection.contract import uses_idf
from mmembed.stores.checks import fusion_weights
from mmembed.types import Examples, Leg, Ranking, SparseVector, StoreQuery, Vector, VectorContract

_DISTANCES = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT}
_MAX_SIM = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)

NO_GRAPH = models.HnswConfigDiff(m=0)


# --- configuration ------------------------------------------------------------------------------


def dense_params(vectors: Mapping[str, VectorContract]) -> dict[str, models.VectorParams]:
    """Dense vectors and multivectors by name. Multivectors get no graph: MaxSim is searched exactly."""
    return {
        name: models.VectorParams(
            size=vector.dim or 0,
            distance=_DISTANCES[vector.distance],
            multivector_config=_MAX_SIM if vector.kind == "multi" else None,
            hnsw_config=NO_GRAPH if vector.kind == "multi" else None,
        )
        for name, vector in vectors.items()
        if vector.kind != "sparse"
    }


def sparse_params(vectors: Mapping[str, VectorContract]) -> dict[str, models.SparseVectorParams]:
    """Sparse vectors by name, weighed by rarity where `uses_idf` says so."""
    return {
        name: models.SparseVectorParams(modifier=_modifier(vector))
        for name, vector in vectors.items()
        if vector.kind == "sparse"
    }


def new_vector(vector: VectorContract) -> models.DenseVectorNameConfig | models.SparseVectorNameConfig:
    """The configuration of a vector that is added to a collection. A graph is configured afterwards."""
    if vector.kind == "sparse":
        return models.SparseVectorNameConfig(sparse=models.SparseVectorConfig(modifier=_modifier(vector)))
    return models.DenseVectorNameConfig(
        dense=models.DenseVectorConfig(
            size=vector.dim or 0,
            distance=_DISTANCES[vector.distance],
            multivector_config=_MAX_SIM if vector.kind == "multi" else None,
        )
    )


def _modifier(vector: VectorContract) -> models.Modifier | None:
    return models.Modifier.IDF if uses_idf(vector.encoder) else None


# --- points -------------------------------------------------------------------------------------


def wire_vectors(vectors: Mapping[str, Vector]) -> dict[str, Any]:
    """The named vectors of one point."""
    return {name: _wire_vector(vector) for name, vector in vectors.items()}


def _wire_vector(vector: Vector) -> Any:
    if isinstance(vector, SparseVector):
        return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    return vector.tolist()


# --- queries ------------------------------------------------------------------------------------


def query_arguments(query: StoreQuery, params: models.SearchParams | None) -> dict[str, Any]:
    """Arguments of `QdrantClient.query_points`.

    One leg is a plain search; several are prefetched, each under the filter, and fused by Qdrant's RRF; with
    `rerank` the candidates of all of them are compared with one more vector.
    """

    def prefetch(ranking: Ranking) -> models.Prefetch:
        if isinstance(ranking, Leg):
            return models.Prefetch(
                query=_wire_query(ranking.query),
                using=ranking.vector_name or None,
                filter=query.filter,
                params=params,
                limit=query.depth,
            )
        fusion = _fusion(ranking, query.rrf_k)
        return models.Prefetch(prefetch=[prefetch(leg) for leg in ranking], query=fusion, limit=query.depth)

    return {
        "prefetch": [prefetch(ranking) for ranking in query.prefetched] or None,
        "query": _fusion(query.fused, query.rrf_k) if query.scored is None else _wire_query(query.scored.query),
        "using": query.vector_name or None,
        "query_filter": None if query.prefetched else query.filter,
        "search_params": None if query.prefetched else params,
        "score_threshold": query.score_threshold,
        "limit": query.limit,
        "offset": query.offset,
        "with_payload": True,
    }


def _wire_query(query: Vector | Examples) -> Any:
    if not isinstance(query, Examples):
        return _wire_vector(query)
    return models.RecommendQuery(
        recommend=models.RecommendInput(
            positive=[_wire_vector(vector) for vector in query.positive],
            negative=[_wire_vector(vector) for vector in query.negative],
            strategy=models.RecommendStrategy(query.strategy),
        )
    )


def _fusion(rankings: Sequence[Ranking], k: int) -> models.RrfQuery:
    return models.RrfQuery(rrf=models.Rrf(k=k, weights=fusion_weights(rankings)))
