"""What decides the tags of a collection: its labels as the encoder sees them, thresholds, and the payload keys."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np

from mmembed.classification.classes import Classes
from mmembed.classification.scoring import Threshold, probabilities, rank, score
from mmembed.collection.payload import TagKeys
from mmembed.errors import SettingsError
from mmembed.types import DenseArray, Payload, Point

Payloads: TypeAlias = dict[str, Payload]
"""Id of a point -> what is written to it."""

_DIGITS = 6  # of a stored probability or score
_SIGMOID_THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Rule:
    """What decides which labels a picture gets."""

    classes: Classes
    keys: TagKeys
    threshold: Threshold | None
    top_k: int | None
    by: str  # stands for all of it

    def tags(
        self, points: Sequence[Point], vectors: DenseArray, only: Mapping[str, set[int]] | None = None
    ) -> Payloads:
        """n points and their (n, dim) vectors -> what is written to each; `only`: the columns that each may have."""
        names, keys = self.classes.names, self.keys
        scores = score(self.classes, vectors)  # (n, m)
        probs = probabilities(self.classes, scores)  # (n, m)
        ranked = rank(self.classes, scores, probs, threshold=self.threshold, top_k=self.top_k if only is None else None)
        counts = np.where(ranked.none_of_these, 0, ranked.counts)
        order = ranked.order[:, : counts.max(initial=0)]  # (n, most labels of one point)
        values = np.take_along_axis(scores if probs is None else probs, order, axis=1).astype(np.float64)
        payloads: Payloads = {}
        for point, n, columns, numbers in zip(
            points, counts.tolist(), order.tolist(), values.round(_DIGITS).tolist(), strict=True
        ):
            pairs: Iterable[tuple[int, float]] = zip(columns[:n], numbers[:n], strict=True)
            if only is not None:
                pairs = islice([(c, v) for c, v in pairs if c in only[point.id]], self.top_k)
            values_of = {names[column]: value for column, value in pairs}
            payloads[point.id] = {keys.labels: list(values_of), keys.scores: values_of, keys.by: self.by}
        return payloads


def rule_of(classes: Classes, keys: TagKeys, threshold: Threshold | None, top_k: int | None, best: int | None) -> Rule:
    """Fill in what was not said. Raises SettingsError and InvalidLabels as `rank` does."""
    if best is not None and best < 1:
        raise SettingsError(f"best is {best}: the nearest pictures of a label are at least 1")
    numbers = threshold.values() if isinstance(threshold, Mapping) else [] if threshold is None else [threshold]
    if unreal := [number for number in numbers if not math.isfinite(number)]:
        raise SettingsError(f"a threshold is {unreal[0]}: give a number between 0 and 1")
    calibration = classes.calibration
    limits = calibration.thresholds if calibration is not None else {}
    if threshold is None and top_k is None and best is None and not limits:
        scaled = classes.logit_scale is not None or calibration is not None
        top_k, threshold = (None, _SIGMOID_THRESHOLD) if scaled and not classes.exclusive else (1, None)
    none = np.zeros((0, len(classes.embeddings)), dtype=np.float32)
    rank(classes, none, None, threshold=threshold, top_k=top_k)  # raises now, before anything is written
    whole = {
        "fingerprint": classes.fingerprint,
        "scale": [classes.logit_scale, classes.logit_bias],
        "labels": classes.labels.key,
        "threshold": {k: float(v) for k, v in threshold.items()} if isinstance(threshold, Mapping) else threshold,
        "top_k": top_k,
        "best": best,
        "calibration": None if calibration is None else calibration.to_json(),
    }
    by = hashlib.sha256(json.dumps(whole, sort_keys=True, default=float).encode()).hexdigest()[:32]
    return Rule(classes, keys, threshold, top_k, by)
