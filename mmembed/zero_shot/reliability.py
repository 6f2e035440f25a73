"""Do 80 % sure and 80 % right go together? Reliability bins, the expected calibration error, and their plot.

Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmembed.errors import SettingsError

__all__ = ["ReliabilityBin", "check_plot_file", "expected_calibration_error", "plot_reliability", "reliability_bins"]

Floats = npt.NDArray[np.float64]


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
