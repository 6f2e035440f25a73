"""A report as a plot: every measure with its interval, by exact search and by the collection as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.errors import SettingsError
from mmembed.evaluation.report import Report, System

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = frozenset({".png", ".svg"})
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: for every eye
_LINE = 0.14  # inches of height of one marker with its interval
_INK, _FAINT = "#333333", "#dddddd"


def plot_reports(reports: Sequence[Report], file: Path) -> None:
    """Writes a PNG or SVG, one report above the other.

    Filled: exact search; open: the collection as it is; bars: the intervals.

    Raises SettingsError for another suffix.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise SettingsError(f"{file.name} is neither .png nor .svg: name a file of one of these")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    marks = [sum(1 if system.as_is is None else 2 for system in report.systems) for report in reports]  # of a measure
    heights = [  # in inches: of each measure at least 0.36
        1.5 + max(0.36, _LINE * (n + 1)) * len(report.measures) + 0.22 * len(report.systems)
        for report, n in zip(reports, marks, strict=True)
    ]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(reports), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, report, n in zip(parts, reports, marks, strict=True):
        axes = part.add_subplot()
        _frame(axes, report)
        drawn: list[tuple[Any, str]] = []
        for number, system in enumerate(report.systems):
            drawn += _draw(axes, report, system, _COLOURS[number % len(_COLOURS)], len(drawn), n)
        markers, labels = zip(*drawn, strict=True)
        legend = part.legend(markers, labels, loc="outside lower left", frameon=False, fontsize=9, labelcolor=_INK)
        for text in (*legend.get_texts(), axes.title):
            text.set_parse_math(False)  # names may have dollars in them
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmembed"}):  # text as text, the same file each time
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)


def _frame(axes: Axes, report: Report) -> None:
    """One row a measure, the first on top; a line from the left where it ends."""
    searches, searched = report.counted
    sizes = f"{searches}: {report.queries:,}, {searched}: {report.documents:,}"
    axes.set_title(f"{report.task}\n{sizes}", loc="left", fontsize=10, color=_INK)
    axes.set_yticks(range(len(report.measures)), report.measures, fontsize=9, color=_INK)
    axes.set_ylim(len(report.measures) - 0.5, -0.5)
    estimates = [e for row in report.rows for e in (row.exact, row.as_is) if e is not None]
    highest = max(e.value if e.interval is None else e.interval.high for e in estimates)
    axes.set_xlim(-0.01, min(1.0, 1.05 * highest + 0.02) + 0.01)  # scores are never shown from elsewhere than 0
    axes.tick_params(length=0, labelcolor=_INK, labelsize=9)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for row in range(1, len(report.measures)):
        axes.axhline(row - 0.5, color=_FAINT, linewidth=0.8)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw(axes: Axes, report: Report, system: System, colour: str, before: int, marks: int) -> list[tuple[Any, str]]:
    """The markers of one system and what they are; there are `before` of a measure's `marks` already."""
    rows = [row for row in report.rows if row.system == system.name]
    found = [("exact search", [row.exact for row in rows])]
    as_is = [row.as_is for row in rows if row.as_is is not None]
    if as_is:
        found.append(("as it is", as_is))
    drawn = []
    for at, (what, estimates) in enumerate(found, before):
        values = np.array([e.value for e in estimates])
        low, high = np.transpose([(e.value, e.value) if e.interval is None else e.interval for e in estimates])
        marker = axes.errorbar(
            values,
            np.arange(len(values)) + 0.8 * ((at + 0.5) / marks - 0.5),
            xerr=np.maximum(0.0, [values - low, high - values]),  # how far each interval reaches to either side
            fmt="o",
            markersize=5,
            color=colour,
            markerfacecolor=colour if what == "exact search" else "white",
            elinewidth=1.2,
        )
        drawn.append((marker, f"{system.name}, {what}" if as_is else system.name))
    return drawn
