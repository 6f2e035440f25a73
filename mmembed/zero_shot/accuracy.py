"""How well scores name classes, in numpy: the measures that CLIP papers report.

Scores are `(n, m)`, a row a picture and a column a class; truth is `(n,)` column numbers. Equal scores go to the
earlier class.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmembed.vectors import top_k

__all__ = ["accuracy_at", "average_precision_per_class", "mean_per_class_recall"]

Scores = npt.NDArray[np.floating]


def accuracy_at(scores: Scores, truth: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """`(n, m)` scores -> `(n,)`: 1 where the true class is among the k best of its row, else 0.

    >>> accuracy_at(np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.7]]), np.array([2, 0]), 1)
    array([0., 1.])
    """
    _check(scores, truth)
    if k < 1:
        raise ValueError(f"k is a number of classes, not {k}")
    return np.asarray((top_k(scores, k) == truth[:, None]).any(axis=1), dtype=np.float64)


def mean_per_class_recall(scores: Scores, truth: npt.NDArray[np.integer]) -> float:
    """Share of the pictures of a class that are given it, averaged over the classes that have pictures.

    With classes of unequal size the one number that guessing the largest does not raise (balanced accuracy).

    >>> mean_per_class_recall(np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.7]]), np.array([2, 0]))
    0.5
    """
    correct = accuracy_at(scores, truth, 1)
    if not correct.size:
        raise ValueError("without a picture there is no recall")
    return float(np.mean([correct[truth == c].mean() for c in np.unique(truth)]))


def average_precision_per_class(scores: Scores, targets: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """`(n, m)` scores, `(n, m)` whether a picture shows a class -> `(m,)`; their mean is mAP.

    For pictures that show several classes: each column ranks the pictures, best first, equal ones in their order,
    and precision is averaged at the places of those that show it. A class that no picture shows has 0.

    >>> average_precision_per_class(np.array([[0.9, 0.1], [0.8, 0.3]]), np.array([[False, False], [True, True]]))
    array([0.5, 1. ])
    """
    if scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} differ in shape")
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(targets.astype(bool), order, axis=0)
    precision = ranked.cumsum(axis=0) / np.arange(1, len(ranked) + 1)[:, None]
    return np.asarray((precision * ranked).sum(axis=0) / np.maximum(ranked.sum(axis=0), 1), dtype=np.float64)


def _check(scores: Scores, truth: npt.NDArray[np.integer]) -> None:
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"{scores.shape} scores need {scores.shape[:1]} class numbers, not {truth.shape}")
    if truth.size and not 0 <= truth.min() <= truth.max() < scores.shape[1]:
        raise ValueError(f"class numbers must be between 0 and {scores.shape[1] - 1}")
