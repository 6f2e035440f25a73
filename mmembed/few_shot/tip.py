"""Tip-Adapter: zero-shot logits, and on top of them the votes of labelled pictures that look alike.

Zhang et al.: Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, 2022 (arXiv 2111.03930).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmembed.few_shot.keys import Neighbours
from mmembed.zero_shot.accuracy import accuracy_at

__all__ = ["ALPHAS", "BETAS", "TipChoice", "choose_tip", "tip_logits"]

Floats = npt.NDArray[np.float64]

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
    best = TipChoice(0.0, BETAS[0], -1.0)
    votes = {beta: neighbours.votes(beta, cosines.shape[1]) for beta in BETAS}
    for alpha in ALPHAS:
        for beta in BETAS:
            accuracy = float(accuracy_at(SCALE * cosines + alpha * votes[beta], truth, 1).mean())
            if accuracy > best.accuracy:
                best = TipChoice(alpha, beta, accuracy)
    return best
