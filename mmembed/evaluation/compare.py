"""The three numbers of a system: exact search over its vectors, the collection as it is, and their difference.

The collection is asked as its users ask it. Qdrant walks a graph with a beam at least as wide as the number of hits
that are asked for, so a search for 1,000 loses less than one for 10: measures of the first 10 are taken from searches
for 10, those of the first 100 from searches for 100, and only what reads further (MAP) from searches for 1,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.corpus_index import OnProgress
from mmembed.evaluation.measures import Qrels, Run, Scores, depth_of, evaluate_run, parse_measures
from mmembed.evaluation.report import Compared, Report, System
from mmembed.types import Encoder

__all__ = ["Found", "Search", "compare", "depths_of", "facts_of", "measure_search"]

Found: TypeAlias = dict[str, float]
"""What one search found: document -> score."""

Search: TypeAlias = Callable[[str, int, bool], Found]
"""Query id, how many documents, whether exactly -> what is found; nothing where the query cannot be asked."""

_STEPS = (10, 100, 1000)
_BEYOND = 10  # asked for beyond the cut, so that documents of one score are cut off by their ids and not by chance


def depths_of(measures: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """How many documents are searched for -> the measures that are taken from these searches, shallow ones first.

    >>> depths_of(["nDCG@10", "hit_rate@1", "recall@100", "MAP"])
    {10: ('nDCG@10', 'hit_rate@1'), 100: ('recall@100',), 1000: ('MAP',)}
    """
    groups: dict[int, list[str]] = {}
    for measure in parse_measures(measures):
        needed = depth_of([measure])
        groups.setdefault(next((step for step in _STEPS if step >= needed), needed), []).append(measure)
    return {depth: tuple(groups[depth]) for depth in sorted(groups)}


def measure_search(
    name: str,
    search: Search,
    queries: Sequence[str],
    qrels: Qrels,
    *,
    measures: Sequence[str],
    on_progress: OnProgress | None = None,
) -> System:
    """Ask every query exactly and as the collection is, and judge both. Errors are those of `evaluate_run`.

    The runs of the result are those of the deepest searches.
    """
    groups = depths_of(measures)
    deepest = max(groups, default=0)
    exact: dict[str, Found] = {}
    as_is: dict[int, dict[str, Found]] = {depth: {} for depth in groups}
    for done, query in enumerate(queries, 1):
        exact[query] = _cut(search(query, deepest + _BEYOND, True), deepest)
        for depth, run in as_is.items():
            run[query] = _cut(search(query, depth + _BEYOND, False), depth)
        if on_progress is not None:
            on_progress("searches", done, len(queries))
    judged = {depth: evaluate_run(run, qrels, groups[depth]) for depth, run in as_is.items()}
    together = {measure: values for scores in judged.values() for measure, values in scores.per_query.items()}
    asked = parse_measures(measures)
    whole = Scores({m: together[m] for m in asked}, judged[deepest].left_out, judged[deepest].missing)
    runs: tuple[Run, ...] = (exact, as_is[deepest])
    return System(name, Compared(evaluate_run(exact, qrels, asked), whole), runs)


def _cut(found: Found, depth: int) -> Found:
    """The first `depth` in the order of trec_eval: by score as float32, those of one score by id, last first."""
    ordered = sorted(found, key=lambda document: (np.float32(found[document]), document), reverse=True)
    return {document: found[document] for document in ordered[:depth]}


def compare(reports: Sequence[Report]) -> Report:
    """Reports of one task on the same queries, of a system each -> one report that compares them.

    A single one is itself. Raises InvalidTestSet where they are of different tasks.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    if any(report.task != first.task for report in reports):
        tasks = " and ".join(sorted({report.task for report in reports}))
        raise InvalidTestSet(f"reports of {tasks} cannot be compared: evaluate both systems on one test set")
    return replace(
        first,
        systems=tuple(system for report in reports for system in report.systems),
        documents=max(report.documents for report in reports),
        warnings=tuple(dict.fromkeys(warning for report in reports for warning in report.warnings)),
        facts={key: [report.facts.get(key) for report in reports] for key in first.facts},
    )


def facts_of(encoder: Encoder, collection: str, points: int) -> dict[str, Any]:
    """What tells one result from another: which vectors, in which collection."""
    spec = encoder.spec
    return {"encoder": spec.name, "fingerprint": spec.fingerprint, "collection": collection, "points": points}
