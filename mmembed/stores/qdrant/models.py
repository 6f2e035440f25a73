"""Our dataclasses <-> the classes of qdrant_client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from mmembed.collection.contract import uses_idf
from mmembed.stores.checks import Search, fusion_weights
from mmembed.types import Leg, Point, Ranking, SparseVector, Vector, VectorContract

__all__ = ["dense_params", "new_vector", "plain_point", "query_arguments", "sparse_params", "wire_vectors"]

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


def plain_point(record: models.Record) -> Point:
    """A stored point; the unnamed vector of a foreign collection is called ""."""
    stored: Any = record.vector
    named = stored if isinstance(stored, dict) else {} if stored is None else {"": stored}
    vectors = {name: _plain_vector(vector) for name, vector in named.items()}
    return Point(id=str(record.id), vectors=vectors, payload=record.payload or {})


def _plain_vector(vector: Any) -> Vector:
    if isinstance(vector, models.SparseVector):
        return SparseVector(np.array(vector.indices, dtype=np.uint32), np.array(vector.values, dtype=np.float32))
    return np.array(vector, dtype=np.float32)


# --- queries ------------------------------------------------------------------------------------


def query_arguments(search: Search, filter: models.Filter | None, params: models.SearchParams | None) -> dict[str, Any]:
    """Arguments of `QdrantClient.query_points`.

    One leg is a plain search; several are prefetched, each under the filter, and fused by Qdrant's RRF; with
    `rerank` the candidates of all of them are compared with one more vector.
    """
    if not search.fused and search.rerank is None:
        leg = search.legs[0]
        return {
            "query": _wire_vector(leg.query),
            "using": leg.vector_name or None,
            "query_filter": filter,
            "search_params": params,
            "score_threshold": search.score_threshold,
        }

    def prefetch(ranking: Ranking) -> models.Prefetch:
        if isinstance(ranking, Leg):
            return models.Prefetch(
                query=_wire_vector(ranking.query),
                using=ranking.vector_name or None,
                filter=filter,
                params=params,
                limit=search.depth,
            )
        fusion = _fusion(ranking, search.rrf_k)
        return models.Prefetch(prefetch=[prefetch(leg) for leg in ranking], query=fusion, limit=search.depth)

    if search.rerank is not None:
        return {
            "prefetch": [prefetch(leg) for leg in search.legs],
            "query": _wire_vector(search.rerank.query),
            "using": search.rerank.vector_name or None,
            "score_threshold": search.score_threshold,
        }
    return {
        "prefetch": [prefetch(ranking) for ranking in search.rankings],
        "query": _fusion(search.rankings, search.rrf_k),
    }


def _fusion(rankings: Sequence[Ranking], k: int) -> models.RrfQuery:
    return models.RrfQuery(rrf=models.Rrf(k=k, weights=fusion_weights(rankings)))
