"""How well scores name classes, in numpy: the measures that CLIP papers report.

Scores are `(n, m)`, a row a picture and a column a class; truth is `(n,)` column numbers. Equal scores go to the
earlier class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmembed.errors import SettingsError
from mmembed.vectors import top_k

ScoreMatrix = npt.NDArray[np.floating]


def accuracy_at(scores: ScoreMatrix, truth: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.float64]:
    """`(n, m)` scores -> `(n,)`: 1 where the true class is among the k best of its row, else 0.

    >>> accuracy_at(np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.7]]), np.array([2, 0]), 1)
    array([0., 1.])
    """
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"{scores.shape} scores need {scores.shape[:1]} class numbers, not {truth.shape}")
    if truth.size and not 0 <= truth.min() <= truth.max() < scores.shape[1]:
        raise ValueError(f"class numbers must be between 0 and {scores.shape[1] - 1}")
    if k < 1:
        raise ValueError(f"k is a number of classes, not {k}")
    return np.asarray((top_k(scores, k) == truth[:, None]).any(axis=1), dtype=np.float64)


def mean_per_class_recall(scores: ScoreMatrix, truth: npt.NDArray[np.integer]) -> float:
    """Share of the pictures of a class that are given it, averaged over the classes that have pictures.

    With classes of unequal size the one number that guessing the largest does not raise (balanced accuracy).

    >>> mean_per_class_recall(np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.7]]), np.array([2, 0]))
    0.5
    """
    correct = accuracy_at(scores, truth, 1)
    if not correct.size:
        raise ValueError("without a picture there is no recall")
    return float(np.mean([correct[truth == c].mean() for c in np.unique(truth)]))


def average_precision_per_class(scores: ScoreMatrix, targets: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
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


# --- Do 80 % sure and 80 % right go together? Reliability bins, the expected calibration error, and their plot ---


@dataclass(frozen=True)
class ReliabilityBin:
    """The probabilities in `(low, high]`: how many, their mean, and the share of them that came true."""

    low: float
    high: float
    count: int
    confidence: float  # 0 where there are none
    accuracy: float


def reliability_bins(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, *, bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """`(n,)` probabilities and whether each came true -> bins of equal width, empty ones too.

    The first bin holds 0 as well. Raises ValueError for what is no probability, or for arrays that differ in length.
    """
    p, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if p.ndim != 1 or p.shape != hits.shape:
        raise ValueError(f"{p.shape} probabilities need as many outcomes, not {hits.shape}")
    if bins < 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities lie between 0 and 1, in at least one bin")
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], p, side="left")
    counts = np.bincount(place, minlength=bins)
    many = np.maximum(counts, 1)
    means = np.bincount(place, weights=p, minlength=bins) / many
    shares = np.bincount(place, weights=hits, minlength=bins) / many
    rows = zip(edges[:-1], edges[1:], counts, means, shares, strict=True)
    return tuple(ReliabilityBin(float(a), float(b), int(n), float(c), float(s)) for a, b, n, c, s in rows)


def expected_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike, *, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their counts: 0 is calibrated, 1 the worst.

    >>> expected_calibration_error([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 0])
    0.25
    """
    return error_of(reliability_bins(confidence, correct, bins=bins))


def error_of(bins: Sequence[ReliabilityBin]) -> float:
    """The expected calibration error of bins that are there already; 0 where nothing is in them."""
    total = sum(b.count for b in bins)
    gaps = sum(b.count * abs(b.confidence - b.accuracy) for b in bins)
    return gaps / total if total else 0.0


def check_plot_file(file: Path) -> None:
    """Raise SettingsError for a file that `plot_reliability` would refuse, before anything is computed."""
    if file.suffix.lower() not in (".png", ".svg", ".pdf") or not file.absolute().parent.is_dir():
        raise SettingsError(f"a plot cannot be written to {file}: name a .png, .svg or .pdf in a folder that exists")


def plot_reliability(curves: Mapping[str, Sequence[ReliabilityBin]], file: Path) -> None:
    """One panel a curve, side by side: bars are the share that came true, the darker the more there are.

    Raises SettingsError for another kind of file than .png, .svg or .pdf, or one that cannot be written.
    """
    check_plot_file(file)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(curves), 4.4), layout="constrained")
    for column, (title, bins) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), column)
        most = max((b.count for b in bins), default=0) or 1
        for b in (b for b in bins if b.count):
            axes.bar(b.low, b.accuracy, b.high - b.low, align="edge", alpha=0.25 + 0.75 * b.count / most, color="C0")
            axes.plot(b.confidence, b.accuracy, marker="o", color="C1")
        axes.plot([0, 1], [0, 1], linestyle="--", color="grey")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="share that came true")
        axes.set_title(f"{title}: ECE {error_of(bins):.3f}")
    try:
        figure.savefig(file)
    except OSError as exc:
        raise SettingsError(f"the plot cannot be written to {file} ({exc.strerror}): name another file") from exc
