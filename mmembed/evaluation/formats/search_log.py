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

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from qdrant_client.models import Filter

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.measures import Qrels
from mmembed.evaluation.testset import Query, TestSet

__all__ = ["SearchLog", "log_of", "read_searches"]


@dataclass(frozen=True)
class SearchLog:
    """What was asked and what is relevant, in the words of the file: uris, ids of points or file names."""

    name: str
    folder: Path  # that relative paths start from
    queries: Mapping[str, Query]  # numbered from 1 in the order of the file
    qrels: Qrels  # query -> what is relevant to it -> grade
    filters: Mapping[str, Filter] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    query: Query
    grades: Mapping[str, int]
    filter: str | None = None  # as JSON, its keys sorted


def read_searches(file: str | Path) -> SearchLog:
    """A .jsonl or .csv of searches.

    Raises InvalidTestSet where it cannot be read, a line is not as above, or no search has anything relevant.
    """
    file = Path(file).expanduser()
    reader = {".jsonl": _jsonl_lines, ".csv": _csv_lines}.get(file.suffix.lower())
    if reader is None:
        raise InvalidTestSet(f"{file.name}: a log of searches ends in .jsonl or .csv, or is a folder as BEIR has it")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise InvalidTestSet(f"{file.name}: cannot be read ({exc.strerror}): name a log of searches") from exc
    except UnicodeDecodeError as exc:
        raise InvalidTestSet(f"{file.name}: is not UTF-8 (byte {exc.start}): convert it") from exc
    ids: dict[tuple[Query, str | None], str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for line in reader(file, text):
        id = ids.setdefault((line.query, line.filter), str(len(ids) + 1))
        grades = qrels.setdefault(id, {})
        for uri, grade in line.grades.items():
            grades[uri] = max(grade, grades.get(uri, grade))
    if not ids:
        raise InvalidTestSet(f"{file.name}: the log is empty: write one search a line, with what is relevant to it")
    queries = {id: query for (query, _), id in ids.items()}
    filters = {id: Filter.model_validate_json(condition) for (_, condition), id in ids.items() if condition}
    return _checked(SearchLog(file.name, file.parent, queries, qrels, filters))


def log_of(test_set: TestSet) -> SearchLog:
    """A test set as a log: its documents are looked for by their uri, or by their id where they have none."""
    uris = {id: document.uri for id, document in test_set.corpus.items() if document.uri is not None}
    qrels = {q: {uris.get(id, id): grade for id, grade in grades.items()} for q, grades in test_set.qrels.items()}
    return SearchLog(test_set.name, Path(), test_set.queries, qrels, {}, test_set.warnings)


def _checked(log: SearchLog) -> SearchLog:
    barren = sum(not any(grade > 0 for grade in grades.values()) for grades in log.qrels.values())
    if barren == len(log.qrels):
        raise InvalidTestSet(
            f"{log.name}: none of {barren:,} searches has anything relevant: say for some what should be found"
        )
    return log


def _jsonl_lines(file: Path, text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold U+2028 as it is
        if not line.strip():
            continue
        try:
            yield _line(json.loads(line), file.parent)
        except (ValueError, TypeError) as exc:
            raise InvalidTestSet(f"{file.name}: line {number} is no search ({_reason(exc)}): correct it") from exc


def _line(row: Any, folder: Path) -> _Line:
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
        for uri, given in some.items():
            grade = _grade(given)
            grades[uri] = max(grade, grades.get(uri, grade))
    asked = Filter.model_validate(row["filter"]) if row.get("filter") else None
    condition = None if asked is None else json.dumps(row["filter"], sort_keys=True)
    query = Query(text.strip() if isinstance(text, str) and text.strip() else None, folder / image if image else None)
    return _Line(query, grades, condition)


def _csv_lines(file: Path, text: str) -> Iterator[_Line]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        columns = reader.fieldnames or ()
        if text.strip() and not {"query", "uri"} <= set(columns):
            raise InvalidTestSet(f"{file.name}: has the columns {', '.join(columns)}: it needs query and uri")
        for row in reader:
            yield _csv_line(row)
    except (csv.Error, ValueError) as exc:
        raise InvalidTestSet(f"{file.name}: line {reader.line_num} is no search ({exc}): correct it") from exc


def _csv_line(row: Mapping[str, str | None]) -> _Line:
    query, uri, grade = row["query"], row["uri"], row.get("grade")
    if not query or not query.strip():
        raise ValueError("its query is empty")
    return _Line(Query(query.strip()), {uri: _grade(float(grade)) if grade else 1} if uri else {})


def _grade(given: object) -> int:
    """Spreadsheets and data frames write 2 as 2.0."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not float(given).is_integer():
        raise ValueError("a grade is a whole number, 1 and above for what is relevant")
    return int(given)


def _reason(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return f"its filter is not one of Qdrant: {exc.errors()[0]['msg']}"
    return str(exc)
