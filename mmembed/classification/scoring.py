"""Class embeddings and picture vectors -> scores, probabilities and verdicts, many pictures at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmembed.classification.classes import Classes
from mmembed.classification.labels import clean
from mmembed.errors import InvalidLabels, SettingsError
from mmembed.types import DenseArray
from mmembed.vectors import sigmoid, softmax

Cosines = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]
Threshold = float | Mapping[str, float]


@dataclass(frozen=True)
class LabelScore:
    """One label, or group of labels, of one picture."""

    label: str
    score: float  # cosine
    probability: float | None  # None where the encoder has no scale and nothing was calibrated


@dataclass(frozen=True)
class Verdict:
    """What one picture shows."""

    labels: tuple[LabelScore, ...]  # best first; equal ones in the order of the labels
    none_of_these: bool  # no label reaches its threshold, or a background text is nearer than every label
    groups: tuple[LabelScore, ...] = ()  # of a hierarchy, by their paths ("animal > pet"), best first


def score(classes: Classes, vectors: DenseArray) -> Cosines:
    """(n, dim) rows of norm 1 -> (n, m) cosines: labels in their order, then background."""
    return np.asarray(vectors, dtype=np.float32) @ classes.embeddings.T  # (n, m)


def logits(classes: Classes, scores: Cosines) -> Probabilities:
    """(n, m) cosines -> (n, m) `logit_scale * cosine + logit_bias`; the cosines where there is no scale."""
    scaled = np.asarray(scores, dtype=np.float64) * (1.0 if classes.logit_scale is None else classes.logit_scale)
    return scaled if classes.logit_bias is None else scaled + classes.logit_bias


def probabilities(classes: Classes, scores: Cosines) -> Probabilities | None:
    """(n, m) cosines -> (n, m) probabilities of labels, then background.

    As calibrated, if it was. Else CLIP's softmax, whose rows sum to 1 over labels and background together, or with a
    `logit_bias` SigLIP's sigmoids (Zhai et al. 2023), each for itself. None without a scale.

    With cosines 0.3, 0.2 and a scale of 10, softmax gives 0.731, 0.269; sigmoids with a bias of -3: 0.5, 0.269.
    """
    values = logits(classes, scores)  # (n, m)
    if classes.calibration is not None:
        return classes.calibration.apply(values, classes.columns)
    return own_probabilities(classes, values)


def own_probabilities(classes: Classes, values: Probabilities) -> Probabilities | None:
    """(n, m) logits -> (n, m) probabilities of the encoder itself, whatever was calibrated."""
    if classes.logit_scale is None:
        return None
    return softmax(values) if classes.logit_bias is None else sigmoid(values)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Labels of n pictures as arrays; `counts` says how many of each picture hold, which stand first in its row."""

    order: npt.NDArray[np.intp]  # (n, number of labels) columns, best first
    counts: npt.NDArray[np.intp]  # (n,)
    none_of_these: npt.NDArray[np.bool_]  # (n,)


def rank(
    classes: Classes,
    scores: Cosines,
    probs: Probabilities | None,
    *,
    threshold: Threshold | None = None,
    top_k: int | None = None,
) -> Ranked:
    """Order the labels of each picture, and say how many hold; `probs` is what `probabilities` gave.

    See `decide`, which makes objects of it: this is the part that a million pictures can afford.
    """
    if top_k is not None and top_k < 1:
        raise SettingsError(f"top_k is {top_k}: give 1 or more")
    m = len(classes.labels.labels)
    cosines = scores[:, :m]
    values = cosines.astype(np.float64) if probs is None else probs[:, :m]
    lowest = _thresholds(classes, threshold)
    passes = np.ones(values.shape, dtype=bool) if lowest is None else values >= lowest  # (n, m)
    background = np.zeros(len(scores), dtype=bool)
    if classes.labels.background:
        background = scores[:, m:].max(axis=1) > cosines.max(axis=1)
        if lowest is not None:
            passes &= ~background[:, None]
    order = np.lexsort((-cosines, -values, ~passes), axis=1)  # stable: equal ones in the order of the labels
    counts = passes.sum(axis=1)
    none = background | (counts == 0)
    return Ranked(order, counts if top_k is None else np.minimum(counts, min(top_k, m)), none)


def _thresholds(classes: Classes, threshold: Threshold | None) -> Probabilities | None:
    """(number of labels,) what each must reach; None: nothing is left out."""
    if threshold is None:
        threshold = classes.calibration.thresholds if classes.calibration is not None else {}
        if not threshold:
            return None
    names = classes.names
    if isinstance(threshold, Mapping):
        threshold = {clean(name, "a label with a threshold"): value for name, value in threshold.items()}
        if unknown := [name for name in threshold if name not in names]:
            raise InvalidLabels(f"a threshold was given for {unknown[0]!r}, which is not a label: name one that is")
        lowest = np.array([threshold.get(name, -np.inf) for name in names], dtype=np.float64)
    else:
        lowest = np.full(len(names), threshold, dtype=np.float64)
    if np.isnan(lowest).any():
        raise SettingsError("a threshold is not a number: give one between 0 and 1")
    return lowest


def decide(
    classes: Classes,
    scores: Cosines,
    *,
    learnt: Probabilities | None = None,
    threshold: Threshold | None = None,
    top_k: int | None = None,
) -> list[Verdict]:
    """(n, m) cosines -> n verdicts.

    Labels are ordered by probability (by score where there is none), then by score, then as they were given.

    Args:
        learnt: (n, number of labels) probabilities that something else than the texts gave, such as a few-shot
            classifier, in place of theirs.
        threshold: labels below it are left out: of the probability, or of the score where there is none. One number,
            or one for each label (a label without one is never left out). None: those of the calibration, if it has
            any; else all labels are kept.
        top_k: keep only so many.

    A background text that is nearer than every label means none of these: labels are then still ranked, unless
    a threshold is to say which of them hold. Groups are neither cut nor held against a threshold.

    Raises InvalidLabels for a threshold of a label that does not exist, SettingsError for a top_k below 1.
    """
    probs = probabilities(classes, scores) if learnt is None else learnt
    ranked = rank(classes, scores, probs, threshold=threshold, top_k=top_k)
    groups = _groups(classes, scores, probs) if classes.labels.is_hierarchy else [()] * len(scores)
    return [
        Verdict(
            _label_scores(classes.names, scores, probs, row, ranked.order[row, :count]),
            bool(ranked.none_of_these[row]),
            groups[row],
        )
        for row, count in enumerate(ranked.counts)
    ]


def _groups(classes: Classes, scores: Cosines, probs: Probabilities | None) -> list[tuple[LabelScore, ...]]:
    """For each picture its groups, best first. The score of a group is that of its nearest leaf.

    Its probability is the sum of those of its leaves where exactly one label is meant, else the largest.
    """
    columns: dict[str, list[int]] = {}  # path of each group, at every depth -> those of the labels below it
    for column, label in enumerate(classes.labels.labels):
        for depth in range(1, len(label.parents) + 1):
            columns.setdefault(" > ".join(label.parents[:depth]), []).append(column)
    paths, leaves = list(columns), list(columns.values())
    cosines = np.stack([scores[:, c].max(axis=1) for c in leaves], axis=1)  # (n, groups)
    sums = None
    if probs is not None:
        together = np.sum if classes.exclusive else np.max
        sums = np.stack([together(probs[:, c], axis=1) for c in leaves], axis=1)
    order = np.lexsort((-cosines, -(cosines.astype(np.float64) if sums is None else sums)), axis=1)
    return [_label_scores(paths, cosines, sums, row, best) for row, best in enumerate(order)]


def _label_scores(
    names: Sequence[str], scores: Cosines, probs: Probabilities | None, row: int, columns: npt.NDArray[np.intp]
) -> tuple[LabelScore, ...]:
    """Those of the picture in `row`, in the order of `columns`."""
    return tuple(
        LabelScore(names[c], float(scores[row, c]), None if probs is None else float(probs[row, c])) for c in columns
    )
