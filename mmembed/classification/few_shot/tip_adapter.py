"""Tip-Adapter: zero-shot logits, and on top of them the votes of labelled pictures that look alike.

Zhang et al.: Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, 2022 (arXiv 2111.03930).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.classification.measures import accuracy_at
from mmembed.collection import Collection
from mmembed.types import DenseArray, Leg, StoreQuery
from mmembed.vectors import Floats

SCALE = 100.0  # of the cosines, as in the paper
ALPHAS = (0.0, *np.geomspace(0.05, 100, 20).tolist())  # 0 is zero-shot
BETAS = tuple(np.geomspace(0.1, 100, 16).tolist())


@dataclass(frozen=True)
class TipChoice:
    alpha: float  # weight of the votes
    beta: float  # how fast a vote fades with distance
    accuracy: float  # of the validation part


def tip_logits(cosines: npt.NDArray[np.floating], neighbours: Neighbours, *, alpha: float, beta: float) -> Floats:
    """100 * cos(picture, text) + alpha * exp(-beta (1 - cos(picture, keys))) @ onehot: `(n, labels)`.

    Two labels with cosines 0.3 and 0.2, one key of the second label at cosine 1, alpha 20: 30 and 40.
    """
    return np.asarray(SCALE * cosines.astype(np.float64) + alpha * neighbours.votes(beta, cosines.shape[1]))


def choose_tip(cosines: npt.NDArray[np.floating], neighbours: Neighbours, truth: npt.NDArray[np.integer]) -> TipChoice:
    """The alpha and beta of the most accurate logits; of equal ones the smallest alpha, then the smallest beta."""
    votes = {beta: neighbours.votes(beta, cosines.shape[1]) for beta in BETAS}
    choices = (
        TipChoice(alpha, beta, float(accuracy_at(SCALE * cosines + alpha * votes[beta], truth, 1).mean()))
        for alpha, beta in product(ALPHAS, BETAS)
    )
    return max(choices, key=lambda choice: choice.accuracy)  # the first of equal ones


# --- The key cache of Tip-Adapter: labelled points of a Qdrant collection, found by its own search ---


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
    collection: Collection,
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
    store, places = collection.store, {name: place for place, name in enumerate(names)}
    similarity = np.full((len(vectors), limit), -np.inf)
    columns = np.zeros((len(vectors), limit), dtype=np.intp)
    for row, vector in enumerate(vectors):
        hits = store.query(collection.name, StoreQuery([Leg("image", vector)], limit=limit, filter=filter, exact=exact))
        for place, hit in enumerate(hit for hit in hits if hit.payload.get(key) in places):
            similarity[row, place], columns[row, place] = hit.score, places[hit.payload[key]]
    return Neighbours(similarity, columns)
