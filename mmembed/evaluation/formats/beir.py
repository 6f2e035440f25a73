"""BEIR's layout: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv in one folder.

Rows of the corpus: `{"_id": "d1", "title": "...", "text": "..."}`; of the queries: `{"_id": "q1", "text": "..."}`.
Either may have `"image": "photos/cat.jpg"`, relative to the folder, instead of text, and `"uri"`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.formats.lines import TextLine, first_of, rows_of, wrong
from mmembed.evaluation.formats.trec import read_qrels
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet, check_test_set

SPLITS = ("test", "dev", "train")  # the first that there is


def read_beir(folder: Path, *, split: str | None = None) -> TestSet:
    """The test set of one split: test, else dev, else train, else qrels.tsv. Pictures are named, not read.

    Queries of other splits, which have no judgement here, stay among the queries and are not asked. Raises
    InvalidTestSet for a file that is missing, a malformed line or an id that comes twice, UnreadableSource for a file
    that cannot be read.
    """
    corpus_file, queries_file = first_of(folder, "corpus.jsonl"), first_of(folder, "queries.jsonl")
    if corpus_file is None or queries_file is None:
        missing = "corpus.jsonl" if corpus_file is None else "queries.jsonl"
        raise InvalidTestSet(f"test set {folder} lacks {missing}: BEIR's layout has corpus.jsonl and queries.jsonl")
    corpus = {id: _document(line, row, folder) for line, id, row in _identified(corpus_file, "document")}
    queries = {id: _query(line, row, folder) for line, id, row in _identified(queries_file, "query")}
    if not corpus:
        raise InvalidTestSet(f"{corpus_file} holds no document: there is nothing to find")
    names = [f"qrels/{split}.tsv"] if split else [*(f"qrels/{name}.tsv" for name in SPLITS), "qrels.tsv"]
    judgements = first_of(folder, *names)
    if judgements is None:
        raise InvalidTestSet(f"test set {folder} has no judgements: looked for {', '.join(names)}")
    return check_test_set(queries, corpus, read_qrels(judgements), name=folder.resolve().name)


def _identified(file: Path, what: str) -> Iterator[tuple[TextLine, str, dict[str, Any]]]:
    """The rows, each with its `_id`."""
    seen: set[str] = set()
    for line, row in rows_of(file):
        value = row.get("_id")
        id = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        if not id.strip():
            raise wrong(line, f"this {what} has no `_id`: give it one, of its own")
        if id in seen:
            raise wrong(line, f"{what} {id!r} comes twice: each has an id of its own")
        seen.add(id)
        yield line, id, row


def _document(line: TextLine, row: dict[str, Any], folder: Path) -> CorpusDocument:
    title, text, uri = (_text(line, row, key) for key in ("title", "text", "uri"))
    image = _text(line, row, "image")
    if title is None and text is None and image is None:
        raise wrong(line, "this document has neither `text` nor `image`: give one, which may be empty text")
    return CorpusDocument(title or "", text or "", folder / image if image else None, uri)


def _query(line: TextLine, row: dict[str, Any], folder: Path) -> Query:
    text, image = _text(line, row, "text"), _text(line, row, "image")
    if not (text and text.strip()) and not image:
        raise wrong(line, "this query asks nothing: give it `text` or `image`")
    return Query(text or None, folder / image if image else None)


def _text(line: TextLine, row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise wrong(line, f"`{key}` is a JSON {type(value).__name__}, not a string")
    return value


def write_beir(folder: Path, testset: TestSet, *, split: str = "test") -> None:
    """The layout that `read_beir` reads. Pictures stay where they are: inside the folder they are named relative to it.

    Each file is written whole or not at all. Raises InvalidTestSet for an id with a tab, a line break or another
    control character in it: the judgements are told apart by them.
    """
    broken = next((id for id in (*testset.queries, *testset.corpus) if breaks_rows(id)), None)
    if broken is not None:
        raise InvalidTestSet(f"the id {broken!r} has a tab or a line break in it: qrels/{split}.tsv cannot hold it")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = (
        {"_id": id, "title": d.title, "text": d.text, "image": _named(d.image, folder), "uri": d.uri}
        for id, d in testset.corpus.items()
    )
    write_lines(folder / "corpus.jsonl", map(_as_json, documents))
    queries = ({"_id": id, "text": q.text, "image": _named(q.image, folder)} for id, q in testset.queries.items())
    write_lines(folder / "queries.jsonl", map(_as_json, queries))
    judged = (f"{query}\t{id}\t{grade}" for query, grades in testset.qrels.items() for id, grade in grades.items())
    write_lines(folder / "qrels" / f"{split}.tsv", chain(["query-id\tcorpus-id\tscore"], judged))


def breaks_rows(id: str) -> bool:
    """Whether rows of judgements, which are parted by tabs and line breaks, cannot hold this id."""
    return any(unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") for letter in id)


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Beside the file first, then in its place: a run that is stopped leaves the old one."""
    new = file.with_name(f".{file.name}.new")
    try:
        with new.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in lines)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _as_json(row: Mapping[str, str | None]) -> str:
    return json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False)


def _named(image: Path | None, folder: Path) -> str | None:
    if image is None:
        return None
    inside = image.is_relative_to(folder)
    return (image.relative_to(folder) if inside else image.absolute()).as_posix()
