"""Search logs and judged queries of your own.

| file | what it looks like |
|---|---|
| `.jsonl` | `{"query": "red shoes", "relevant": ["a.jpg"]}` or `{"image": "q.jpg", "relevant": {"a.jpg": 2}}` |
| `.csv` | rows with the columns `query`, `uri` and, where there are grades, `grade` |
| a folder | a test set as BEIR has it: `queries.jsonl`, `qrels/test.tsv`, and `corpus.jsonl` for the uris |

`clicked` means what `relevant` means, and a line may have a Qdrant `filter` under which it was asked. A query that
comes again, as it does in a log, is one query, and what was clicked on any time is relevant, by its highest grade.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError
from qdrant_client.models import Filter

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.formats.lines import parsed_rows, whole_file
from mmembed.evaluation.measures import Qrels
from mmembed.evaluation.testset import Query, TestSet


@dataclass(frozen=True)
class SearchLog:
    """What was asked and what is relevant, in the words of the file: uris, ids of points or file names."""

    name: str
    folder: Path  # that relative paths start from
    queries: Mapping[str, Query]  # numbered from 1 in the order of the file
    qrels: Qrels  # query -> what is relevant to it -> grade
    filters: Mapping[str, Filter] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


_Line: TypeAlias = tuple[Query, Mapping[str, int], str | None]
"""What is asked, what is relevant, and the filter as JSON, its keys sorted."""


def read_searches(file: str | Path) -> SearchLog:
    """A .jsonl or .csv of searches.

    Raises InvalidTestSet where it cannot be read, a line is not as above, or no search has anything relevant.
    """
    file = Path(file).expanduser()
    if file.suffix.lower() not in (".jsonl", ".csv"):
        raise InvalidTestSet(f"{file.name}: a log of searches ends in .jsonl or .csv, or is a folder as BEIR has it")
    text = whole_file(file, "a log of searches")
    ids: dict[tuple[Query, str | None], str] = {}
    qrels: dict[str, dict[str, int]] = {}
    of_json = partial(_json_line, folder=file.parent)
    for query, relevant, filter in parsed_rows(file, text, ("query", "uri"), of_json, _csv_line, "a search"):
        id = ids.setdefault((query, filter), str(len(ids) + 1))
        grades = qrels.setdefault(id, {})
        for uri, grade in relevant.items():
            grades[uri] = max(grade, grades.get(uri, grade))
    if not ids:
        raise InvalidTestSet(f"{file.name}: the log is empty: write one search a line, with what is relevant to it")
    queries = {id: query for (query, _), id in ids.items()}
    filters = {id: Filter.model_validate_json(condition) for (_, condition), id in ids.items() if condition}
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        raise InvalidTestSet(
            f"{file.name}: none of {len(qrels):,} searches has anything relevant: say for some what should be found"
        )
    return SearchLog(file.name, file.parent, queries, qrels, filters)


def log_of(test_set: TestSet) -> SearchLog:
    """A test set as a log: its documents are looked for by their uri, or by their id where they have none."""
    uris = {id: document.uri for id, document in test_set.corpus.items() if document.uri is not None}
    qrels = {q: {uris.get(id, id): grade for id, grade in grades.items()} for q, grades in test_set.qrels.items()}
    return SearchLog(test_set.name, Path(), test_set.queries, qrels, {}, test_set.warnings)


def _json_line(row: Any, folder: Path) -> _Line:
    if not isinstance(row, dict):
        raise ValueError("a line is a JSON object")
    text, image = row.get("query"), row.get("image")
    if not (isinstance(text, str) and text.strip()) and not (isinstance(image, str) and image):
        raise ValueError('it has neither "query", a text, nor "image", a path')
    grades: dict[str, int] = {}
    for key in ("relevant", "clicked"):
        named = row.get(key) or {}
        named = [named] if isinstance(named, str) else named
        if not isinstance(named, list | dict) or not all(isinstance(uri, str) for uri in named):
            raise ValueError(f'"{key}" is a list of uris or ids, or an object of them with grades')
        some = named if isinstance(named, dict) else dict.fromkeys(named, 1)
        for uri, value in some.items():
            grade = _grade(value)
            grades[uri] = max(grade, grades.get(uri, grade))
    condition = row.get("filter") or None
    try:
        Filter.model_validate(condition or {})
    except ValidationError as exc:
        raise ValueError(f"its filter is not a Qdrant filter: {exc.errors()[0]['msg']}") from exc
    query = Query(text.strip() if isinstance(text, str) and text.strip() else None, folder / image if image else None)
    return query, grades, json.dumps(condition, sort_keys=True) if condition else None


def _csv_line(row: Mapping[str, str | None]) -> _Line:
    query, uri, grade = row["query"], row["uri"], row.get("grade")
    if not query or not query.strip():
        raise ValueError("its query is empty")
    return Query(query.strip()), {uri: _grade(float(grade)) if grade else 1} if uri else {}, None


def _grade(value: object) -> int:
    """Spreadsheets and data frames write 2 as 2.0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer():
        raise ValueError("a grade is a whole number, 1 and above for what is relevant")
    return int(value)
