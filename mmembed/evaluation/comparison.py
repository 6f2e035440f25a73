"""The three numbers of a system: exact search over its vectors, the collection as it is, and their difference.

The collection is asked as its users ask it. Qdrant walks a graph with a beam at least as wide as the number of hits
that are asked for, so a search for 1,000 loses less than one for 10: measures of the first 10 are taken from searches
for 10, those of the first 100 from searches for 100, and only what reads further (MAP) from searches for 1,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from mmembed.collection import Collection
from mmembed.errors import InvalidTestSet
from mmembed.evaluation.corpus_index import OnStep
from mmembed.evaluation.measures import Qrels, Scores, depth_of, evaluate_run, parse_measures, ranked
from mmembed.evaluation.report import Report, System
from mmembed.types import Encoder

DocumentScores: TypeAlias = dict[str, float]
"""What one search finds: document -> score."""

Ranker: TypeAlias = Callable[[str, int, bool], DocumentScores]
"""Query id, how many documents, whether exactly -> what is found; nothing where the query cannot be asked."""

UNASKED = "queries cannot be asked and count 0"
_STEPS = (10, 100, 1000)
_BEYOND = 10  # asked for beyond the cut, so that documents of one score are cut off by their ids and not by chance


def depths_of(measures: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """How many documents are searched for -> the measures that are taken from these searches, shallow ones first.

    >>> depths_of(["nDCG@10", "hit_rate@1", "recall@100", "MAP"])
    {10: ('nDCG@10', 'hit_rate@1'), 100: ('recall@100',), 1000: ('MAP',)}
    """
    needed = {measure: depth_of([measure]) for measure in parse_measures(measures)}
    depths = {measure: next((step for step in _STEPS if step >= depth), depth) for measure, depth in needed.items()}
    return {depth: tuple(m for m in depths if depths[m] == depth) for depth in sorted(set(depths.values()))}


def measure_search(
    name: str,
    search: Ranker,
    queries: Sequence[str],
    qrels: Qrels,
    *,
    measures: Sequence[str],
    on_progress: OnStep | None = None,
) -> System:
    """Ask every query exactly and as the collection is, and judge both. Errors are those of `evaluate_run`.

    The runs of the result are those of the deepest searches.
    """
    groups = depths_of(measures)
    deepest = max(groups, default=0)
    exact: dict[str, DocumentScores] = {}
    as_is: dict[int, dict[str, DocumentScores]] = {depth: {} for depth in groups}
    for done, query in enumerate(queries, 1):
        exact[query] = dict(ranked(search(query, deepest + _BEYOND, True))[:deepest])
        for depth, run in as_is.items():
            run[query] = dict(ranked(search(query, depth + _BEYOND, False))[:depth])
        if on_progress is not None:
            on_progress("searches", done, len(queries))
    judged = {depth: evaluate_run(run, qrels, groups[depth]) for depth, run in as_is.items()}
    together = {measure: values for scores in judged.values() for measure, values in scores.per_query.items()}
    names = parse_measures(measures)
    whole = Scores({m: together[m] for m in names}, judged[deepest].left_out, judged[deepest].missing)
    return System(name, evaluate_run(exact, qrels, names), whole, runs=(exact, as_is[deepest]))


def compare(reports: Sequence[Report]) -> Report:
    """Reports of one task on the same queries, of a system each -> one report that compares them.

    A single one is itself. Raises InvalidTestSet where they are of different tasks.
    """
    first = reports[0]
    if len(reports) == 1:
        return first
    if len(tasks := {report.task for report in reports}) > 1:
        names = " and ".join(sorted(tasks))
        raise InvalidTestSet(f"reports of {names} cannot be compared: evaluate both systems on one test set")
    return replace(
        first,
        systems=tuple(system for report in reports for system in report.systems),
        documents=max(report.documents for report in reports),
        warnings=tuple(dict.fromkeys(warning for report in reports for warning in report.warnings)),
        facts={key: [report.facts.get(key) for report in reports] for key in first.facts},
    )


def facts_of(encoder: Encoder, collection: Collection) -> dict[str, Any]:
    """What tells one result from another: which vectors, in which collection, of how many points."""
    spec, points = encoder.spec, collection.store.count(collection.name)
    return {"encoder": spec.name, "fingerprint": spec.fingerprint, "collection": collection.name, "points": points}
