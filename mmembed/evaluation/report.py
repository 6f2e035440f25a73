"""What an evaluation found: numbers with their intervals, side by side, for one system or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.evaluation.measures import MEASURES, Qrels, Run, Scores, evaluate_run
from mmembed.statistics import Interval, bootstrap_intervals, differences, randomisation_test

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Compared", "Comparison", "Estimate", "Report", "Row", "System", "evaluate_system"]


@dataclass(frozen=True)
class Compared:
    """One system twice: by exact search over its vectors, and by the collection as it is, with its index loss."""

    exact: Scores
    as_is: Scores | None = None  # None: there is one ranking only, which no collection gave


@dataclass(frozen=True)
class System:
    """What is measured: an encoder, a collection, a file of rankings."""

    name: str
    compared: Compared
    runs: tuple[Run, ...] = ()  # exact, as it is; none where no documents are ranked


@dataclass(frozen=True)
class Estimate:
    """A mean over the queries; `interval` is None where one query says nothing about others."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Row:
    """One measure of one system. `difference` is as it is - exact: what the index loses, if below 0."""

    system: str
    measure: str
    exact: Estimate
    as_is: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """One measure of two systems, second - first; p of the paired two-sided randomisation test."""

    systems: tuple[str, str]
    measure: str
    exact: Estimate
    exact_p: float
    as_is: Estimate | None
    as_is_p: float | None


@dataclass(frozen=True)
class Report:
    """Every number there is of one task; see `rows`, `comparisons`, `as_json`, `table` and `plot`."""

    task: str  # "image-text retrieval, text to image"
    systems: tuple[System, ...]
    measures: tuple[str, ...]  # in the order in which they are shown
    queries: int  # that count: with a relevant document
    documents: int  # that could be found
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON: the encoder's fingerprint, the depth, ...
    seed: int = 0  # of the intervals and tests
    counted: tuple[str, str] = ("queries", "documents")  # what these are called where they are something else

    @property
    def left_out(self) -> int:
        """Queries without a relevant document: they are in no mean."""
        return max((system.compared.exact.left_out for system in self.systems), default=0)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader of the numbers must know: the warnings, and what the rankings lack."""
        few = ("one query counts: it says nothing about others, so there are no intervals",) * (self.queries == 1)
        return (*self.warnings, *few, *(caution for system in self.systems for caution in _lacking(system)))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Systems in order, of each the measures in order."""
        return tuple(row for system in self.systems for row in self._rows_of(system))

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Of every two systems; p is that of one test, not corrected for there being many."""
        pairs = combinations(self.systems, 2)
        return tuple(comparison for first, second in pairs for comparison in self._compare(first, second))

    def _rows_of(self, system: System) -> list[Row]:
        exact, as_is = system.compared.exact, system.compared.as_is
        if as_is is None:
            values = self._estimates([_values(exact, measure) for measure in self.measures])
            return [Row(system.name, m, value, None, None) for m, value in zip(self.measures, values, strict=True)]
        columns = [
            column
            for m in self.measures
            for column in (_values(exact, m), _values(as_is, m), differences(as_is.per_query[m], exact.per_query[m]))
        ]
        found = self._estimates(columns)
        return [
            Row(system.name, m, *three)
            for m, three in zip(self.measures, zip(found[::3], found[1::3], found[2::3], strict=True), strict=True)
        ]

    def _compare(self, first: System, second: System) -> list[Comparison]:
        exact = self._differences(first.compared.exact, second.compared.exact)
        before, after = first.compared.as_is, second.compared.as_is
        as_is = self._differences(before, after) if before is not None and after is not None else None
        return [
            Comparison((first.name, second.name), m, *exact[m], *(as_is[m] if as_is is not None else (None, None)))
            for m in self.measures
        ]

    def _differences(self, first: Scores, second: Scores) -> dict[str, tuple[Estimate, float]]:
        columns = [differences(second.per_query[m], first.per_query[m]) for m in self.measures]
        estimates = self._estimates(columns)
        return {
            measure: (estimate, randomisation_test(column, seed=self.seed))
            for measure, estimate, column in zip(self.measures, estimates, columns, strict=True)
        }

    def _estimates(self, columns: Sequence[Any]) -> list[Estimate]:
        """The mean of each column and its interval; columns of one length share their draws."""
        lengths = {len(column) for column in columns}
        intervals: dict[int, Interval | None] = {}
        for length in lengths:
            alike = [i for i, column in enumerate(columns) if len(column) == length]
            found = bootstrap_intervals(np.stack([columns[i] for i in alike], axis=1), seed=self.seed)
            intervals |= dict(zip(alike, found, strict=True))
        return [Estimate(float(np.mean(column)), intervals[i]) for i, column in enumerate(columns)]

    def as_json(self, *, per_query: bool = False) -> dict[str, Any]:
        """Every number; with `per_query` also each query's."""
        from mmembed.evaluation.tables import report_json

        return report_json(self, per_query=per_query)

    def table(self) -> Group:
        """What rich prints: a table of each system, one of every two, and the warnings."""
        from mmembed.evaluation.tables import report_tables

        return report_tables(self)

    def plot(self, file: Path) -> None:
        """Every measure with its interval, exact and as it is, as PNG or SVG by the file's suffix."""
        from mmembed.evaluation.plots import plot_reports

        plot_reports([self], file)


def _lacking(system: System) -> list[str]:
    """Queries for which a run has nothing."""
    cautions = []
    for what, scores in (("", system.compared.exact), (" as it is", system.compared.as_is)):
        if scores is not None and scores.missing:
            of = max(len(values) for values in scores.per_query.values())
            lacking = "any query" if scores.missing == of else f"{scores.missing} of {of} queries"
            cautions.append(f"{system.name}{what} found nothing for {lacking}: that counts 0")
    return cautions


def _values(scores: Scores, measure: str) -> Any:
    return np.fromiter(scores.per_query[measure].values(), dtype=np.float64)


def evaluate_system(
    name: str, exact: Run, as_is: Run | None, qrels: Qrels, *, measures: Sequence[str] = MEASURES
) -> System:
    """Both runs of a system by the same judgements; see `evaluate_run` for what raises."""
    found = evaluate_run(exact, qrels, measures)
    if as_is is None:
        return System(name, Compared(found), (exact,))
    return System(name, Compared(found, evaluate_run(as_is, qrels, measures)), (exact, as_is))
