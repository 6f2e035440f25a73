"""A logistic probe: multinomial regression on picture vectors, without their texts."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from mmembed.classification.fitting import fit_temperature
from mmembed.classification.measures import accuracy_at
from mmembed.types import DenseArray

STRENGTHS = tuple(10.0**power for power in range(-2, 7))  # C, the inverse of the L2 penalty; rows have norm 1


def fit_probe(vectors: DenseArray, truth: npt.NDArray[np.integer], *, strength: float) -> Any:
    """`(n, dim)` vectors and the label of each -> sklearn's LogisticRegression, which is deterministic."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=10_000).fit(vectors.astype(np.float64), truth)


def probe_logits(probe: Any, vectors: DenseArray, n_labels: int) -> npt.NDArray[np.float64]:
    """`(n, n_labels)`, whose softmax is the probe's probabilities: -inf for labels that no picture was learnt of."""
    found = probe.decision_function(vectors.astype(np.float64))
    logits = np.full((len(vectors), n_labels), -np.inf)
    logits[:, probe.classes_] = np.stack([np.zeros(len(vectors)), found], axis=1) if found.ndim == 1 else found
    return logits


def probe_temperature(logits: npt.NDArray[np.float64], truth: npt.NDArray[np.integer]) -> float:
    """That of the labels that pictures were learnt of; a strong probe is far too sure of what it has not seen."""
    learnt = np.flatnonzero(np.isfinite(logits[0]))
    return fit_temperature(logits[:, learnt], np.searchsorted(learnt, truth))


def choose_probe(
    train: tuple[DenseArray, npt.NDArray[np.integer]],
    validation: tuple[DenseArray, npt.NDArray[np.integer]],
    n_labels: int,
) -> tuple[float, float]:
    """The C of the most accurate probe, of equal ones the smallest, and its accuracy on the validation part."""

    def accuracy(strength: float) -> float:
        logits = probe_logits(fit_probe(*train, strength=strength), validation[0], n_labels)
        return float(accuracy_at(logits, validation[1], 1).mean())

    return max(((strength, accuracy(strength)) for strength in STRENGTHS), key=itemgetter(1))  # the first of equal ones
