"""Diverse hits: Maximal Marginal Relevance (Carbonell and Goldstein, 1998), as Qdrant computes it.

Qdrant's own `Mmr` takes one ranking of points; here the candidates may be fused, and of a document its best passage,
so the order is made of their stored vectors, the same on every store. A test holds it against Qdrant's.
"""

from __future__ import annotations

import numpy as np

from mmembed.errors import InvalidQuery
from mmembed.retrieval.hits import HitSource, TopHits, followed
from mmembed.types import Contract, DenseArray
from mmembed.vectors import l2_normalize


def diverse(source: HitSource, contract: Contract | None, top: TopHits, candidates: int, diversity: float) -> TopHits:
    """The first `candidates` hits in the order of marginal relevance, then the others as they were.

    The first dense vector of the search says how near a hit is to the query and to other hits; hits without it come
    after those with one. Scores and probabilities stay what they were. Raises InvalidQuery without a dense vector.
    """
    dense = [leg for leg in source.query.legs if isinstance(leg.query, np.ndarray) and leg.query.ndim == 1]
    if not dense:
        names = ", ".join(repr(leg.vector_name) for leg in source.query.legs)
        raise InvalidQuery(f"diversity compares hits by a dense vector, and this search is by {names}: leave it out")
    name, hits, collection = dense[0].vector_name, top(candidates), source.collection
    points = collection.store.retrieve(
        collection.name, [hit.id for hit in hits], vectors=[name] if name else True, payload=False
    )
    stored = {point.id: point.vectors[name] for point in points if name in point.vectors}
    having = [hit for hit in hits if hit.id in stored]
    if not having:
        return followed(hits, top, source.key)
    query = np.asarray(dense[0].query, dtype=np.float32)
    vectors = np.stack([np.asarray(stored[hit.id], dtype=np.float32) for hit in having])
    if contract is None or contract.vectors[name].distance == "cosine":
        query, vectors = l2_normalize(query), l2_normalize(vectors)
    order = marginal_relevance(vectors @ query, vectors @ vectors.T, diversity)
    first = [*(having[i] for i in order), *(hit for hit in hits if hit.id not in stored)]
    return followed(first, top, source.key)


def marginal_relevance(relevance: DenseArray, likeness: DenseArray, diversity: float) -> list[int]:
    """`(n,)` relevance and `(n, n)` likeness -> all n rows: next is always the one with the highest
    (1 - diversity) * relevance - diversity * likeness to the most similar row before it; ties in order.

    >>> marginal_relevance(np.float32([0.9, 0.8, 0.5]), np.float32([[1, 1, 0], [1, 1, 0], [0, 0, 1]]), 0.5)
    [0, 2, 1]
    """
    chosen = [int(np.argmax(relevance))]
    nearest = likeness[chosen[0]].copy()  # of each row, to those that are chosen
    left = np.ones(len(relevance), dtype=bool)
    left[chosen[0]] = False
    while left.any():
        scores = np.where(left, (1 - diversity) * relevance - diversity * nearest, -np.inf)
        best = int(np.argmax(scores))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, likeness[best])
    return chosen
