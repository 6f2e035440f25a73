"""A test set: what is asked, what there is to find, and what should be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.measures import Qrels


@dataclass(frozen=True)
class Query:
    """Words, or a picture, or both."""

    text: str | None = None
    image: Path | None = None


@dataclass(frozen=True)
class CorpusDocument:
    """Something to be found: a text, which may be empty, or a picture."""

    title: str = ""
    text: str = ""
    image: Path | None = None
    uri: str | None = None  # where it lies, or what a collection calls it

    @property
    def whole_text(self) -> str:
        """Title and text joined by a space, as the benchmarks encode them; the text alone where there is no title."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class TestSet:
    """Queries, corpus and judgements, checked by `check_test_set`."""

    __test__: ClassVar[bool] = False  # pytest takes every class whose name begins with Test for tests

    queries: Mapping[str, Query]
    corpus: Mapping[str, CorpusDocument]  # empty: what there is to find lies in a collection
    qrels: Qrels  # of the queries above only
    name: str = ""
    warnings: tuple[str, ...] = field(default=())

    @property
    def judged(self) -> dict[str, Query]:
        """The queries that have a relevant document: those that are worth asking, in the order of `queries`."""
        return {id: query for id, query in self.queries.items() if any(g > 0 for g in self.qrels.get(id, {}).values())}

    @property
    def left_out(self) -> int:
        """Judged queries without a relevant document: they are in no mean."""
        return sum(not any(g > 0 for g in grades.values()) for grades in self.qrels.values())


def check_test_set(
    queries: Mapping[str, Query],
    corpus: Mapping[str, CorpusDocument],
    qrels: Qrels,
    *,
    name: str = "",
    warnings: tuple[str, ...] = (),
) -> TestSet:
    """The test set, with a warning for each of its faults that an evaluation survives.

    Judgements of unknown queries are dropped: nobody can ask them. Documents that are judged but not in the corpus
    stay relevant, so they lower recall. Raises InvalidTestSet where no query is left that has a relevant document.
    """
    known = {query: dict(grades) for query, grades in qrels.items() if query in queries}
    relevant = {document for grades in known.values() for document, grade in grades.items() if grade > 0}
    faults = {
        "queries judged, but not among the queries, so not asked": [q for q in qrels if q not in queries],
        "documents relevant, but not in the corpus, so never found": sorted(relevant - corpus.keys()) if corpus else [],
        "queries judged, but without a relevant document, so left out": [
            query for query, grades in known.items() if not any(grade > 0 for grade in grades.values())
        ],
    }
    found = (
        f"{fault}: {len(ids)} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
        for fault, ids in faults.items()
        if ids
    )
    result = TestSet(queries, corpus, known, name, (*warnings, *found))
    if not relevant:
        raise InvalidTestSet(
            f"test set {name!r}: none of its {len(queries)} queries has a relevant document (a grade of 1 or more), "
            f"so there is nothing to measure: look whether the judgements name these queries"
        )
    return result
