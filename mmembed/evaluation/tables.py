"""A report as tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from mmembed.evaluation.report import Estimate, Report
from mmembed.statistics import CONFIDENCE

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def report_tables(report: Report) -> Group:
    """The task and its sizes, a table of each system, one of every two systems, then the cautions."""
    from rich.console import Group
    from rich.text import Text

    searches, searched = report.counted
    left_out = f" ({report.left_out:,} more have nothing relevant and are left out)" if report.left_out else ""
    head = f"{report.task}, {searches}: {report.queries:,}{left_out}, {searched}: {report.documents:,}"
    tables = []
    for name, of_one in groupby(report.rows, key=lambda row: row.system):
        rows = [(r.measure, _shown(r.exact), _shown(r.as_is), _shown(r.difference, sign="+")) for r in of_one]
        as_is = any(row[2] for row in rows)
        tables.append(_table(name, ("exact search", "as it is", "difference") if as_is else ("value",), rows))
    for (first, second), of_two in groupby(report.comparisons, key=lambda comparison: comparison.systems):
        tests = [(c.measure, *_tested(c.exact, c.exact_p), *_tested(c.as_is, c.as_is_p)) for c in of_two]
        as_is = any(test[3] for test in tests)
        columns = ("exact search", "p", "as it is", "p") if as_is else ("difference", "p")
        tables.append(_table(f"{second} - {first}", columns, tests))
    foot = f"In brackets: {CONFIDENCE:.0%} bootstrap intervals."
    if report.comparisons:
        foot += " p: paired two-sided randomisation test, not corrected for many tests."
    cautions = [Text(f"warning: {caution}", style="yellow") for caution in report.cautions]
    spaced = [part for table in tables for part in (table, Text())]
    return Group(Text(head, style="bold"), Text(), *spaced, Text(foot, style="dim"), *cautions)


def _table(title: str, numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Columns of numbers keep their width, a narrow terminal folds the names of the measures; cells beyond are cut."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    bold = Text(title, style="bold")
    table = Table(title=bold, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("measure", overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    return table


def _shown(estimate: Estimate | None, *, sign: str = "") -> str:
    """0.3995 [.369, .431], or with the sign "+" -0.0012 [-.003, +.001]: of one width, so that points align."""
    if estimate is None:
        return ""
    value = f"{round(estimate.value, 4) + 0.0:{sign}.4f}"
    if estimate.interval is None:
        return value
    low, high = (_short(bound, sign) for bound in estimate.interval)
    return f"{value} [{low}, {high}]"


def _short(bound: float, sign: str) -> str:
    """Four characters and a sign: .369, 1.00."""
    rounded = round(bound, 3) + 0.0  # -0.0 becomes 0.0
    return f"{rounded:{sign}.2f}" if abs(rounded) >= 1 else f"{rounded:{sign}.3f}".replace("0.", ".", 1)


def _tested(difference: Estimate | None, p: float | None) -> tuple[str, str]:
    if p is None:
        return "", ""
    return _shown(difference, sign="+"), "<.001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)
