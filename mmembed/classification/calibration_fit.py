"""How a calibration is fitted: the sample checked, fitted on all of it, judged on the parts that a fit had not seen."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmembed.classification.calibration import Calibration, Method
from mmembed.classification.classes import Classes
from mmembed.classification.fitting import (
    NEVER,
    fit_platt,
    fit_temperature,
    threshold_at_false_positive_rate,
    threshold_at_precision,
)
from mmembed.classification.measures import reliability_bins
from mmembed.classification.scoring import logits, own_probabilities, score
from mmembed.collection import Collection
from mmembed.errors import InvalidSample, SettingsError
from mmembed.types import Store
from mmembed.vectors import Floats

Ints = npt.NDArray[np.intp]

_RULES = {
    "precision": (">=", threshold_at_precision),
    "false_positive_rate": ("<=", threshold_at_false_positive_rate),
}
_MIN_IMAGES = 10
_MIN_OF_EACH = 5  # pictures with a label, and without it, for a line of its own


def fit_calibration(
    classes: Classes,
    vectors: npt.NDArray[np.floating],
    truth: Sequence[str | None],
    *,
    method: Method | Literal["auto"] = "auto",
    precision: float | None = None,
    false_positive_rate: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Calibration:
    """`(n, dim)` unit vectors of pictures and the label of each -> calibration and, if asked for, thresholds.

    Args:
        truth: None for a picture of no label. In a softmax it counts only where there is background: as the
            background text that is nearest.
        method: "auto" takes Platt for an encoder with a logit_bias (SigLIP), else temperature (CLIP).
        precision: of each label alone: the share of what it is given to that is right, such as 0.9.
        false_positive_rate: of each label alone: the share of the other pictures that it is given to, such as 0.01.
        folds, seed: of the cross-validation that the error after calibration comes from.

    Raises:
        InvalidSample: fewer than 10 pictures or two labels, or a label that is not among those of `classes`.
        SettingsError: both rules, or one that is not between 0 and 1.
    """
    sample = _sample_of(classes, vectors, truth, method)
    levels = {"precision": precision, "false_positive_rate": false_positive_rate}
    rules = {name: level for name, level in levels.items() if level is not None}
    if len(rules) > 1:
        raise SettingsError("thresholds follow one rule: give a precision or a false-positive rate, not both")
    for name, level in rules.items():
        if not 0 <= level <= 1:
            raise SettingsError(f"a {name.replace('_', ' ')} is a number between 0 and 1, not {level}")
    if folds < 2:
        raise SettingsError(f"cross-validation needs at least two folds, not {folds}")
    fitted = _fit(sample)
    unseen = np.empty_like(sample.logits)
    fold = _fold_numbers(sample.truth, folds, seed)
    for part in np.unique(fold):
        unseen[fold == part] = _fit(sample.rows(fold != part)).apply(sample.logits[fold == part], sample.classes.names)
    probabilities = fitted.apply(sample.logits, sample.classes.names)
    thresholds = {
        label: _RULES[name][1](probabilities[:, i], sample.truth == i, level)
        for name, level in rules.items()
        for i, label in enumerate(sample.classes.names)
    }
    own = own_probabilities(sample.classes, sample.logits)
    return replace(
        fitted,
        thresholds=thresholds,
        rule=next((f"{name}{_RULES[name][0]}{level:g}" for name, level in rules.items()), None),
        unreached=tuple(name for name, threshold in thresholds.items() if threshold == NEVER),
        before=() if own is None else reliability_bins(*_judged(sample, own)),
        after=reliability_bins(*_judged(sample, unseen)),
    )


@dataclass(frozen=True)
class _Sample:
    """Labelled pictures as a fit sees them."""

    classes: Classes
    method: Method
    logits: Floats  # (n, m), labels first, then background
    truth: Ints  # (n,) column of the label, -1 for a picture of none

    @property
    def targets(self) -> npt.NDArray[np.bool_]:
        """`(n, labels)`: which label each picture has."""
        return np.asarray(self.truth[:, None] == np.arange(len(self.classes.names)))

    @property
    def columns_true(self) -> Ints:
        """`(n,)` as `truth`, where a picture of none has the nearest background text, if there is any."""
        n_labels = len(self.classes.names)
        if self.logits.shape[1] == n_labels:
            return self.truth
        nearest = n_labels + self.logits[:, n_labels:].argmax(axis=1)
        return np.where(self.truth < 0, nearest, self.truth)

    def rows(self, chosen: npt.NDArray[np.bool_]) -> _Sample:
        return replace(self, logits=self.logits[chosen], truth=self.truth[chosen])


def _sample_of(
    classes: Classes, vectors: npt.NDArray[np.floating], truth: Sequence[str | None], method: Method | Literal["auto"]
) -> _Sample:
    """Check what was given and compare pictures with classes. Raises InvalidSample and SettingsError."""
    if method not in ("auto", "temperature", "platt"):
        raise SettingsError(f"a calibration is auto, temperature or platt, not {method!r}")
    if vectors.shape != (len(truth), classes.embeddings.shape[1]):
        raise InvalidSample(
            f"{len(truth)} labels of pictures need {len(truth)} vectors of {classes.embeddings.shape[1]} dimensions, "
            f"not an array of shape {vectors.shape}"
        )
    chosen: Method = method if method != "auto" else "temperature" if classes.logit_bias is None else "platt"
    compared = logits(classes, score(classes, vectors.astype(np.float32, copy=False)))
    sample = _Sample(classes, chosen, compared, column_numbers(classes.names, truth))
    counted = sample.truth if chosen == "platt" or classes.labels.background else sample.truth[sample.truth >= 0]
    if len(counted) < _MIN_IMAGES:
        raise InvalidSample(
            f"the sample has {len(counted)} labelled pictures, and {_MIN_IMAGES} are the least that a calibration "
            f"takes: add some to each label"
        )
    if len(set(counted.tolist())) < 2:
        only = classes.names[int(counted[0])] if counted[0] >= 0 else "none of the labels"
        raise InvalidSample(
            f"every picture of the sample has the label {only!r}: a calibration needs pictures of two labels at least"
        )
    return sample


def column_numbers(names: Sequence[str], truth: Sequence[str | None]) -> Ints:
    """The label of each picture -> `(n,)` its place among `names`, -1 for None. Raises InvalidSample for another."""
    places = {name: place for place, name in enumerate(names)}
    for label in truth:
        if label is not None and label not in places:
            nearest = difflib.get_close_matches(label, names, n=1)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(names[:10])}"
            raise InvalidSample(f"the sample has pictures of {label!r}, which is not among the labels: {advice}")
    return np.array([-1 if label is None else places[label] for label in truth], dtype=np.intp)


def _fold_numbers(truth: Ints, folds: int, seed: int) -> Ints:
    """`(n,)` a fold for each picture: those of one label are dealt out evenly, and all folds are of a size."""
    order = np.random.default_rng(seed).permutation(len(truth))
    dealt = order[np.argsort(truth[order], kind="stable")]
    fold = np.empty(len(truth), dtype=np.intp)
    fold[dealt] = np.arange(len(truth)) % folds
    return fold


def _fit(sample: _Sample) -> Calibration:
    """The lines or the temperature alone."""
    names = sample.classes.names
    bare = Calibration(
        sample.method, sample.classes.fingerprint, sample.classes.labels.key, names, images=len(sample.truth)
    )
    if sample.method == "temperature":
        known = sample.columns_true >= 0
        return replace(bare, temperature=fit_temperature(sample.logits[known], sample.columns_true[known]))
    targets = sample.targets
    decided = sample.logits[:, : len(names)]
    counts = targets.sum(axis=0)
    enough = (counts >= _MIN_OF_EACH) & (len(targets) - counts >= _MIN_OF_EACH)
    return replace(
        bare,
        shared=fit_platt(decided.ravel(), targets.ravel()),
        platt={name: fit_platt(decided[:, i], targets[:, i]) for i, name in enumerate(names) if enough[i]},
        borrowed=tuple(name for name, own in zip(names, enough, strict=True) if not own),
    )


def _judged(sample: _Sample, probabilities: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """What is promised and whether it comes true: of the best column of each picture, or of every decision."""
    n_labels = len(sample.classes.names)
    if sample.method == "platt":
        return probabilities[:, :n_labels].ravel(), sample.targets.ravel()
    known = sample.columns_true >= 0
    best = probabilities.argmax(axis=1)
    right = np.where(sample.truth < 0, best >= n_labels, best == sample.truth)
    return probabilities.max(axis=1)[known], right[known]


def save_calibration(store: Store, collection: str, calibration: Calibration) -> None:
    """Keep it beside the collection, in place of an earlier one of this encoder and these labels."""
    key = note_key("calibration", calibration.fingerprint, calibration.labels_key)
    store.set_note(collection, key, calibration.to_json())


def load_calibration(store: Store, collection: str, classes: Classes) -> Calibration | None:
    """The calibration of these labels, in any order, and this encoder; None where there is none."""
    stored = Collection(store, collection).note(note_key("calibration", classes.fingerprint, classes.labels.key))
    return None if stored is None else Calibration.from_json(stored)


def note_key(what: str, fingerprint: str, labels_key: str) -> str:
    """What is kept beside a collection, for one encoder and one set of labels, has this key."""
    return f"{what}:{fingerprint[:16]}:{labels_key[:16]}"
