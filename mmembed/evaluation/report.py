"""What an evaluation found: numbers with their intervals, side by side, for one system or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, groupby
from typing import Any

import numpy as np

from mmembed.evaluation.measures import MEASURES, Qrels, Run, Scores, evaluate_run
from mmembed.statistics import CONFIDENCE, Interval, bootstrap_intervals, differences, randomisation_test


@dataclass(frozen=True)
class System:
    """What is measured: an encoder, a collection, a file of rankings."""

    name: str
    exact: Scores  # by exact search over its vectors
    as_is: Scores | None = None  # by the collection, with its index loss; None: there is one ranking only
    runs: tuple[Run, ...] = ()  # exact, as it is; none where no documents are ranked


@dataclass(frozen=True)
class Estimate:
    """A mean over the queries; `interval` is None where one query says nothing about others."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class MeasureRow:
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
    """Every number there is of one task: `rows`, `comparisons`, `as_json`; shown by `report_tables`, `plot_reports`."""

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
        return max((system.exact.left_out for system in self.systems), default=0)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader of the numbers must know: the warnings, and what the rankings lack."""
        few = ("one query counts: it says nothing about others, so there are no intervals",) * (self.queries == 1)
        return (*self.warnings, *few, *(caution for system in self.systems for caution in _lacking(system)))

    @cached_property
    def rows(self) -> tuple[MeasureRow, ...]:
        """Systems in order, of each the measures in order."""
        found: list[MeasureRow] = []
        for system in self.systems:
            exact, as_is, n = system.exact, system.as_is, len(self.measures)
            runs = [exact] if as_is is None else [exact, as_is]
            columns = [np.array([*scores.per_query[m].values()]) for scores in runs for m in self.measures]
            if as_is is not None:
                columns += [differences(as_is.per_query[m], exact.per_query[m]) for m in self.measures]
            estimates = self._estimates(columns)
            for i, m in enumerate(self.measures):
                found.append(MeasureRow(system.name, m, estimates[i], *(estimates[n + i :: n] or (None, None))))
        return tuple(found)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Of every two systems; p is that of one test, not corrected for there being many."""
        pairs = combinations(self.systems, 2)
        return tuple(comparison for first, second in pairs for comparison in self._compare(first, second))

    def _compare(self, first: System, second: System) -> list[Comparison]:
        exact = self._differences(first.exact, second.exact)
        as_is = self._differences(first.as_is, second.as_is) if first.as_is and second.as_is else None
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
        intervals: dict[int, Interval | None] = {}
        for length in {len(column) for column in columns}:
            alike = [i for i, column in enumerate(columns) if len(column) == length]
            found = bootstrap_intervals(np.stack([columns[i] for i in alike], axis=1), seed=self.seed)
            intervals |= dict(zip(alike, found, strict=True))
        return [Estimate(float(np.mean(column)), intervals[i]) for i, column in enumerate(columns)]

    def as_json(self, *, per_query: bool = False) -> dict[str, Any]:
        """Every number, unrounded, with `per_query` also each query's; intervals as [low, high], null for none."""
        shown = ("exact", "as_is", "difference")
        systems = []
        for system in self.systems:
            rows = [row for row in self.rows if row.system == system.name]
            measures = {row.measure: {what: _estimate_json(getattr(row, what)) for what in shown} for row in rows}
            entry: dict[str, Any] = {"name": system.name, "measures": measures}
            if per_query:
                as_is = None if system.as_is is None else system.as_is.per_query
                entry["per_query"] = {"exact": system.exact.per_query, "as_is": as_is}
            systems.append(entry)
        return {
            "task": self.task,
            "queries": self.queries,
            "left_out": self.left_out,
            "documents": self.documents,
            "confidence": CONFIDENCE,
            "seed": self.seed,
            "systems": systems,
            "comparisons": list(_comparisons_json(self.comparisons)),
            "warnings": list(self.cautions),
            "facts": dict(self.facts),
        }


def _lacking(system: System) -> list[str]:
    """Queries for which a run has nothing."""
    cautions = []
    for what, scores in (("", system.exact), (" as it is", system.as_is)):
        if scores is not None and scores.missing:
            of = max(len(values) for values in scores.per_query.values())
            lacking = "any query" if scores.missing == of else f"{scores.missing} of {of} queries"
            cautions.append(f"{system.name}{what} found nothing for {lacking}: that counts 0")
    return cautions


def evaluate_system(
    name: str, exact: Run, as_is: Run | None, qrels: Qrels, *, measures: Sequence[str] = MEASURES
) -> System:
    """Both runs of a system by the same judgements; see `evaluate_run` for what raises."""
    runs = (exact,) if as_is is None else (exact, as_is)
    scores = [evaluate_run(run, qrels, measures) for run in runs]
    return System(name, scores[0], scores[-1] if as_is is not None else None, runs)


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
    interval = None if estimate.interval is None else list(estimate.interval)
    numbers = {"value": estimate.value, "interval": interval}
    return numbers if p is None else numbers | {"p": p}
