"""The key cache of Tip-Adapter: labelled points of a Qdrant collection, found by its own search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.types import DenseArray, Leg, Store

__all__ = ["Neighbours", "find_neighbours", "has_value"]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of n pictures the nearest keys, best first; where there are fewer, similarity -inf and column 0."""

    similarity: npt.NDArray[np.float64]  # (n, k) cosines
    columns: npt.NDArray[np.intp]  # (n, k) label of each key

    def votes(self, beta: float, n_labels: int) -> npt.NDArray[np.float64]:
        """exp(-beta (1 - similarity)), summed for each label: `(n, n_labels)`."""
        n = len(self.similarity)
        closeness = np.exp(-beta * (1 - self.similarity))  # (n, k), 0 where there is no key
        places = np.arange(n)[:, None] * n_labels + self.columns
        counted = np.bincount(places.ravel(), weights=closeness.ravel(), minlength=n * n_labels)
        return np.asarray(counted.reshape(n, n_labels), dtype=np.float64)


def find_neighbours(
    store: Store,
    collection: str,
    vectors: DenseArray,
    names: Sequence[str],
    *,
    key: str,
    filter: models.Filter,
    limit: int,
    exact: bool = False,
) -> Neighbours:
    """Ask for the `limit` nearest points that pass the filter and whose payload `key` is one of `names`.

    With as many as there are this is the whole of Tip-Adapter's matrix product; fewer leave out what is farthest.
    """
    places = {name: place for place, name in enumerate(names)}
    similarity = np.full((len(vectors), limit), -np.inf)
    columns = np.zeros((len(vectors), limit), dtype=np.intp)
    for row, vector in enumerate(vectors):
        hits = store.query(collection, [Leg("image", vector)], limit=limit, filter=filter, exact=exact)
        known = [(hit.score, places[hit.payload[key]]) for hit in hits if hit.payload.get(key) in places]
        for place, (score, column) in enumerate(known):
            similarity[row, place], columns[row, place] = score, column
    return Neighbours(similarity, columns)


def has_value(key: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))
