"""A report as tables that fit 80 columns, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mmembed.evaluation.report import Comparison, Estimate, Report, Row
from mmembed.statistics import CONFIDENCE

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["report_json", "report_tables"]


def report_tables(report: Report) -> Group:
    """The task and its sizes, a table of each system, one of every two systems, then the cautions."""
    from rich.console import Group
    from rich.text import Text

    asked, there = report.counted
    left_out = f" ({report.left_out:,} more have nothing relevant and are left out)" if report.left_out else ""
    head = f"{report.task}, {asked}: {report.queries:,}{left_out}, {there}: {report.documents:,}"
    tables = [_system_table(name, list(rows)) for name, rows in groupby(report.rows, key=lambda row: row.system)]
    pairs = groupby(report.comparisons, key=lambda comparison: comparison.systems)
    tables += [_comparison_table(systems, list(of_two)) for systems, of_two in pairs]
    foot = f"In brackets: {CONFIDENCE:.0%} bootstrap intervals."
    if report.comparisons:
        foot += " p: paired two-sided randomisation test, not corrected for many tests."
    cautions = [Text(f"warning: {caution}", style="yellow") for caution in report.cautions]
    spaced = [part for table in tables for part in (table, Text())]
    return Group(Text(head, style="bold"), Text(), *spaced, Text(foot, style="dim"), *cautions)


def _system_table(name: str, rows: Sequence[Row]) -> Table:
    table = _table(name)
    if all(row.as_is is None for row in rows):
        _numbers(table, "value")
    else:
        _numbers(table, "exact search", "as it is", "difference")
    for row in rows:
        cells = (_shown(row.exact), _shown(row.as_is), _shown(row.difference, sign="+"))
        table.add_row(row.measure, *cells[: len(table.columns) - 1])
    return table


def _comparison_table(systems: tuple[str, str], comparisons: Sequence[Comparison]) -> Table:
    table = _table(f"{systems[1]} - {systems[0]}")
    twice = any(comparison.as_is is not None for comparison in comparisons)
    _numbers(table, *(("exact search", "p", "as it is", "p") if twice else ("difference", "p")))
    for comparison in comparisons:
        cells = [_shown(comparison.exact, sign="+"), _probability(comparison.exact_p)]
        cells += [_shown(comparison.as_is, sign="+"), _probability(comparison.as_is_p)]
        table.add_row(comparison.measure, *cells[: len(table.columns) - 1])
    return table


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    bold = Text(title, style="bold")
    table = Table(title=bold, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("measure", overflow="fold")
    return table


def _numbers(table: Table, *titles: str) -> None:
    """Columns of numbers: they keep their width, a narrow terminal folds the names of the measures."""
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)


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


def _probability(p: float | None) -> str:
    if p is None:
        return ""
    return "<.001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)


def report_json(report: Report, *, per_query: bool) -> dict[str, Any]:
    """Every number, unrounded; intervals as [low, high], null where there is none."""
    systems = []
    for system in report.systems:
        rows = [row for row in report.rows if row.system == system.name]
        entry: dict[str, Any] = {"name": system.name, "measures": {row.measure: _row_json(row) for row in rows}}
        if per_query:
            exact, as_is = system.compared.exact, system.compared.as_is
            entry["per_query"] = {"exact": exact.per_query, "as_is": None if as_is is None else as_is.per_query}
        systems.append(entry)
    return {
        "task": report.task,
        "queries": report.queries,
        "left_out": report.left_out,
        "documents": report.documents,
        "confidence": CONFIDENCE,
        "seed": report.seed,
        "systems": systems,
        "comparisons": list(_comparisons_json(report.comparisons)),
        "warnings": list(report.cautions),
        "facts": dict(report.facts),
    }


def _row_json(row: Row) -> dict[str, Any]:
    numbers = {"exact": row.exact, "as_is": row.as_is, "difference": row.difference}
    return {what: _estimate_json(estimate) for what, estimate in numbers.items()}


def _comparisons_json(comparisons: Iterable[Comparison]) -> Iterable[dict[str, Any]]:
    for systems, of_two in groupby(comparisons, key=lambda comparison: comparison.systems):
        measures = {
            comparison.measure: {
                "exact": _estimate_json(comparison.exact, comparison.exact_p),
                "as_is": _estimate_json(comparison.as_is, comparison.as_is_p),
            }
            for comparison in of_two
        }
        yield {"systems": list(systems), "difference": "second - first", "measures": measures}


def _estimate_json(estimate: Estimate | None, p: float | None = None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    numbers: dict[str, Any] = {
        "value": estimate.value,
        "interval": None if estimate.interval is None else list(estimate.interval),
    }
    return numbers if p is None else numbers | {"p": p}
