"""Measures of a ranking, by trec_eval itself, per query and named as IR and CLIP papers name them.

A run is what a system found: query -> document -> score. Documents are ranked by score, compared as float32, and
those of one score by id, last first, as trec_eval does. `hit_rate@k` (1 where a relevant document is among the first
k) is what papers on CLIP print as R@k; `recall@k` is the share of the relevant documents that are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mmembed.errors import InvalidTestSet, SettingsError
from mmembed.streams import check_several

Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""Query -> document -> score, higher is better."""

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query -> document -> grade: 1 and above is relevant, 0 and below is not."""

MEASURES = (
    *("nDCG@10", "hit_rate@1", "hit_rate@5", "hit_rate@10", "recall@10", "recall@100"),
    *("precision@10", "MRR@10", "MAP"),
)
_WHOLE = 1000  # documents that a measure without a cutoff reads, as TREC's runs hold

# name in lower case -> how it is written, trec_eval's name of it with a cutoff, and without one; trec_eval knows no
# cutoff of the reciprocal rank
_KINDS: dict[str, tuple[str, str | None, str | None]] = {
    "ndcg": ("nDCG", "ndcg_cut.{}", "ndcg"),
    "hit_rate": ("hit_rate", "success.{}", None),
    "recall": ("recall", "recall.{}", None),
    "precision": ("precision", "P.{}", None),
    "mrr": ("MRR", "recip_rank", "recip_rank"),
    "map": ("MAP", "map_cut.{}", "map"),
    "rprec": ("Rprec", None, "Rprec"),
}
_KNOWN = "nDCG@k, hit_rate@k (what papers on CLIP print as R@k), recall@k, precision@k, MRR@k, MAP@k, and without @k "
_KNOWN += "nDCG, MRR, MAP and Rprec"


@dataclass(frozen=True)
class _Measure:
    name: str  # "nDCG@10"
    trec: str  # what trec_eval is asked for: "ndcg_cut.10", or "recip_rank"
    cutoff: int | None

    def value(self, answer: Mapping[str, float]) -> float:
        """Of one query, from trec_eval's answer on it."""
        value = float(answer[self.trec.replace(".", "_")])
        beyond = self.trec == "recip_rank" and self.cutoff is not None and value > 0 and round(1 / value) > self.cutoff
        return 0.0 if beyond else value


@dataclass(frozen=True)
class Scores:
    """What one run reached: `per_query` is measure -> query -> value, over the queries that count."""

    per_query: Mapping[str, Mapping[str, float]]
    left_out: int = 0  # queries without a relevant document: they are in no mean
    missing: int = 0  # queries with one for which the run has nothing: they count 0

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(self.per_query)

    def mean(self, measure: str) -> float:
        """Over the queries that count; `measure` as it is written in `measures`."""
        values = self.per_query[measure].values()
        return math.fsum(values) / len(values)


def parse_measures(names: Iterable[str]) -> tuple[str, ...]:
    """Names in any case -> as they are written, each once. Raises SettingsError for those that do not exist."""
    check_several(names, "measures")
    return tuple(dict.fromkeys(_parsed(name).name for name in names))


def depth_of(names: Iterable[str]) -> int:
    """How many documents of each ranking the measures read: the largest cutoff, 1000 for one without a cutoff."""
    return max((_parsed(name).cutoff or _WHOLE for name in names), default=0)


def ranked(documents: Mapping[str, float]) -> list[tuple[str, float]]:
    """In trec_eval's order: by score, compared as float32, those of one score by id, last first."""
    return sorted(documents.items(), key=lambda entry: (np.float32(entry[1]), entry[0]), reverse=True)


def evaluate_run(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> Scores:
    """Every measure of every query that has a relevant document.

    Of those, a query that is not in the run, or has no document there, counts 0 in every measure. Queries without a
    relevant document, whether judged or only in the run, are left out and counted. Judged documents count whether or
    not anybody could have found them. Raises InvalidTestSet where no query has a relevant document or a score is not
    a number, SettingsError for an unknown measure.
    """
    import pytrec_eval

    parsed = [_parsed(name) for name in dict.fromkeys(measures)]
    if not parsed:
        raise SettingsError(f"no measure to evaluate by was given: there are {_KNOWN}")
    # only these are handed on: pytrec_eval may not return from a query that has negative judgements alone
    judged = {query: dict(grades) for query, grades in qrels.items() if any(g > 0 for g in grades.values())}
    if not judged:
        raise InvalidTestSet(
            f"none of {len(qrels)} judged queries has a relevant document (a grade of 1 or more): nothing to measure"
        )
    rankings = {query: {id: float(score) for id, score in run[query].items()} for query in judged if run.get(query)}
    for query, ranking in rankings.items():
        for document, score in ranking.items():
            if math.isnan(score):  # trec_eval ranks it anywhere
                raise InvalidTestSet(
                    f"the score of document {document!r} for query {query!r} is not a number: correct the run"
                )
    answers = pytrec_eval.RelevanceEvaluator(judged, {measure.trec for measure in parsed}).evaluate(rankings)
    per_query = {
        measure.name: {query: measure.value(answers[query]) if query in answers else 0.0 for query in judged}
        for measure in parsed
    }
    left_out = len({*qrels, *run} - judged.keys())
    return Scores(per_query, left_out=left_out, missing=len(judged) - len(rankings))


def _parsed(name: str) -> _Measure:
    parts = re.fullmatch(r"([A-Za-z_]+)(?:@([1-9]\d{0,8}))?", name.strip())
    kind = _KINDS.get(parts[1].lower()) if parts else None
    cutoff = int(parts[2]) if parts and parts[2] else None
    trec = None if kind is None else kind[2 if cutoff is None else 1]
    if kind is None or trec is None:
        raise SettingsError(f"no measure {name!r}: there are {_KNOWN}")
    return _Measure(kind[0] if cutoff is None else f"{kind[0]}@{cutoff}", trec.format(cutoff), cutoff)
