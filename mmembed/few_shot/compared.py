"""Ways to name the same test pictures, side by side: accuracy, how sure it is, and whether a difference is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmembed.zero_shot.accuracy import accuracy_at, mean_per_class_recall

__all__ = ["ZERO_SHOT", "Measured", "Outcome", "compare", "interval", "paired_p"]

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Measured:
    """One way, on the test part."""

    name: str
    accuracy: float
    low: float  # of the 95 % interval of the accuracy
    high: float
    mean_per_class_recall: float
    p_value: float | None  # that it differs from zero-shot by chance; None for zero-shot itself


@dataclass(frozen=True)
class Outcome:
    """One test picture."""

    id: str
    label: str
    predicted: Mapping[str, str]  # by each way


def compare(
    logits: Mapping[str, npt.NDArray[np.float64]],
    truth: npt.NDArray[np.integer],
    *,
    names: Sequence[str],
    ids: Sequence[str],
    seed: int = 0,
) -> tuple[tuple[Measured, ...], tuple[Outcome, ...]]:
    """`(n, labels)` logits of each way, zero-shot among them -> what is measured of each, and of each picture."""
    right = {way: accuracy_at(found, truth, 1) for way, found in logits.items()}
    measured = tuple(
        Measured(
            way,
            float(right[way].mean()),
            *interval(right[way], seed=seed),
            mean_per_class_recall(found, truth),
            None if way == ZERO_SHOT else paired_p(right[ZERO_SHOT], right[way]),
        )
        for way, found in logits.items()
    )
    best = {way: found.argmax(axis=1) for way, found in logits.items()}
    outcomes = tuple(
        Outcome(id, names[truth[row]], {way: names[columns[row]] for way, columns in best.items()})
        for row, id in enumerate(ids)
    )
    return measured, outcomes


def interval(right: npt.NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean of two or more 0 and 1."""
    from scipy.stats import bootstrap

    rng = np.random.default_rng(seed)
    found = bootstrap((right,), np.mean, n_resamples=2000, method="percentile", rng=rng).confidence_interval
    return float(found.low), float(found.high)


def paired_p(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """McNemar's exact test, two-sided: pictures that only one of the two names right are a coin's throws."""
    from scipy.stats import binomtest

    only_first, only_second = int((first > second).sum()), int((second > first).sum())
    thrown = only_first + only_second
    return float(binomtest(only_first, thrown, 0.5).pvalue) if thrown else 1.0
