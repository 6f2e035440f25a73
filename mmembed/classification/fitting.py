"""Temperature, Platt and thresholds from a labelled sample: arrays in, numbers out.

Logits are `(n, m)` float64. A temperature is Guo et al. 2017; a Platt pair (slope, intercept) is Platt 1999, with
his smoothed targets, so that a sample that is told apart perfectly gives finite numbers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mmembed.vectors import Floats, sigmoid, softmax

NEVER = 2.0
"""A threshold that no probability reaches: the label is never given."""

_SPAN = 1e6  # temperatures that are tried: the spread of the logits, by this factor up and down


def fit_temperature(logits: Floats, truth: npt.NDArray[np.integer]) -> float:
    """The T at which softmax(logits / T) makes the true columns likeliest.

    Where every row is right already no T is the best: the colder, the likelier. Then, as Platt does, a true column
    counts for (n + 1) / (n + 2) only. Where the true columns are no higher than others, T is very large: all alike.
    """
    from scipy.optimize import brentq

    n, m = logits.shape
    centred = logits - logits.max(axis=1, keepdims=True)
    spread = float(-centred.mean())
    if spread == 0:
        return 1.0  # every row is flat: no temperature changes it
    scaled = centred / spread
    rows = np.arange(n)
    true = scaled[rows, truth]
    if (true == 0).all():
        true = true * (n + 1) / (n + 2) + (scaled.sum(axis=1) - true) / (m - 1) / (n + 2)

    def slope(log_inverse: float) -> float:  # of the negative log-likelihood, which is convex in 1 / T
        return float(((softmax(scaled * math.exp(log_inverse)) * scaled).sum(axis=1) - true).mean())

    low, high = -math.log(_SPAN), math.log(_SPAN)
    if slope(low) >= 0:
        return spread * _SPAN
    if slope(high) <= 0:
        return spread / _SPAN
    return spread / math.exp(brentq(slope, low, high, xtol=1e-12))


def fit_platt(logits: Floats, targets: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """`(n,)` logits and whether the label is true -> (a, b) of p = sigmoid(a * logit + b).

    a is never negative: a label whose logits say the opposite of the truth gets its frequency instead, for any logit.
    """
    from scipy.optimize import minimize

    positives = int(targets.sum())
    negatives = len(targets) - positives
    smoothed = np.where(targets, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    x = (logits - centre) / spread

    def loss(line: Floats) -> tuple[float, Floats]:
        z = line[0] * x + line[1]
        wrong = sigmoid(z) - smoothed
        return float((np.logaddexp(0, z) - smoothed * z).sum()), np.array([wrong @ x, wrong.sum()])

    start = [0.0, math.log((positives + 1) / (negatives + 1))]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000}
    optimum = minimize(loss, start, jac=True, bounds=[(0, None), (None, None)], method="L-BFGS-B", options=options)
    slope = float(optimum.x[0]) / spread
    return slope, float(optimum.x[1]) - slope * centre


def threshold_at_precision(probabilities: Floats, targets: npt.NDArray[np.bool_], precision: float) -> float:
    """The lowest threshold above which at least `precision` of the sample is true, or NEVER where there is none.

    It lies midway between the lowest probability that is let through and the next one below, or 0.
    """
    order = np.argsort(-probabilities, kind="stable")
    p, hits = probabilities[order], targets[order].cumsum()
    last = np.append(p[1:] != p[:-1], True)  # equal ones are let through together
    reached = np.flatnonzero(last & (hits / np.arange(1, len(p) + 1) >= precision))
    if not reached.size:
        return NEVER
    lowest = reached[-1]
    return _midway(float(p[lowest + 1]) if lowest + 1 < len(p) else 0.0, float(p[lowest]))


def threshold_at_false_positive_rate(probabilities: Floats, targets: npt.NDArray[np.bool_], rate: float) -> float:
    """The lowest threshold that at most `rate` of the sample's negatives reach, or NEVER where one of them has 1.

    It lies midway between the highest negative that is kept out and the next probability above, or 1.
    """
    negatives = np.sort(probabilities[~targets])[::-1]
    allowed = math.floor(rate * len(negatives) + 1e-9)  # 0.1 * 30 is 3
    if allowed >= len(negatives):
        return 0.0
    kept_out = float(negatives[allowed])
    if kept_out >= 1:
        return NEVER
    return _midway(kept_out, float(probabilities[probabilities > kept_out].min(initial=1.0)))


def _midway(low: float, high: float) -> float:
    """Halfway, and never `low` itself, however close the two are."""
    middle = (low + high) / 2
    return middle if middle > low else high
