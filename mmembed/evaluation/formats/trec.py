"""TREC's files: judgements, rankings, queries and documents, one a line; BEIR's judgements too.

Judgements: `query 0 document grade`, or with tabs and a header `query-id corpus-id score`. Ranking:
`query Q0 document rank score name`; only the score ranks, as in trec_eval. Queries: `id TAB text`. Documents:
`id TAB text` or `id TAB title TAB text`. All of them may be gzipped.
"""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

from mmembed.errors import InvalidTestSet, SettingsError
from mmembed.evaluation.formats.lines import first_of, text_lines, wrong
from mmembed.evaluation.measures import Qrels, Run, ranked
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet, check_test_set

QRELS = ("qrels.txt", "qrels.tsv", "qrels")
_CORPUS = ("corpus.tsv", "collection.tsv")
_HEADERS = frozenset({"score", "relevance", "rel", "label", "grade"})


def read_qrels(file: Path) -> dict[str, dict[str, int]]:
    """Judgements of four columns (TREC) or three (BEIR): query -> document -> grade, in the order of the file.

    Raises InvalidTestSet for a malformed line, or a document judged twice and differently for one query.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, line in enumerate(text_lines(file)):
        fields = [field.strip() for field in line.text.split("\t")]
        if len(fields) not in (3, 4):
            fields = line.text.split()
        if len(fields) == 4:
            del fields[1]
        if len(fields) != 3 or not all(fields):
            raise wrong(line, "not a judgement: `query 0 document grade`, or with tabs `query-id corpus-id score`")
        query, document, grade = fields
        if place == 0 and grade.casefold() in _HEADERS:
            continue
        if not _number(grade).is_integer():
            raise wrong(line, f"the grade {grade!r} is not a whole number: 1 and above is relevant, 0 is not")
        value = int(float(grade))
        if qrels.setdefault(query, {}).setdefault(document, value) != value:
            raise wrong(line, f"document {document!r} is judged twice for query {query!r}, and differently: keep one")
    if not qrels:
        raise InvalidTestSet(f"{file} holds no judgement: its lines are `query 0 document grade`")
    return qrels


def _number(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_run(file: Path) -> dict[str, dict[str, float]]:
    """A ranking: query -> document -> score. An empty file is an empty run. Raises InvalidTestSet as `read_qrels`."""
    run: dict[str, dict[str, float]] = {}
    for line in text_lines(file):
        fields = line.text.split()
        if len(fields) != 6:
            raise wrong(line, f"{len(fields)} columns, not the 6 of `query Q0 document rank score name`")
        query, _, document, _, score, _ = fields
        value = _number(score)
        if not math.isfinite(value):
            raise wrong(line, f"the score {score!r} is not a finite number: in the columns it comes fifth")
        if document in run.setdefault(query, {}):
            raise wrong(line, f"document {document!r} comes twice for query {query!r}: keep one")
        run[query][document] = value
    return run


def read_queries(file: Path) -> dict[str, Query]:
    """`id TAB text`, in the order of the file. Raises InvalidTestSet for a malformed line or an id that comes twice."""
    queries: dict[str, Query] = {}
    for line in text_lines(file):
        id, tab, text = line.text.partition("\t")
        if not tab or not id.strip() or not text.strip():
            raise wrong(line, "not a query: an id, a tab and its words")
        if id.strip() in queries:
            raise wrong(line, f"query {id.strip()!r} comes twice: each has an id of its own")
        queries[id.strip()] = Query(text.strip())
    return queries


def read_trec(folder: Path) -> TestSet:
    """A folder with queries.tsv, qrels.txt (or qrels, qrels.tsv) and corpus.tsv (or collection.tsv)."""
    queries, corpus, qrels = (first_of(folder, *names) for names in (("queries.tsv",), _CORPUS, QRELS))
    if queries is None or corpus is None or qrels is None:
        found = {"queries.tsv": queries, "corpus.tsv": corpus, "qrels.txt": qrels}
        missing = " and ".join(name for name, file in found.items() if file is None)
        raise InvalidTestSet(f"test set {folder} lacks {missing}: a folder of TREC files has all three")
    return check_test_set(read_queries(queries), _read_corpus(corpus), read_qrels(qrels), name=folder.resolve().name)


def _read_corpus(file: Path) -> dict[str, CorpusDocument]:
    corpus: dict[str, CorpusDocument] = {}
    for line in text_lines(file):
        id, *parts = (part.strip() for part in line.text.split("\t"))
        if not id or len(parts) not in (1, 2):
            raise wrong(line, "not a document: an id, a tab and its text, or an id, a title and a text")
        if id in corpus:
            raise wrong(line, f"document {id!r} comes twice: each has an id of its own")
        corpus[id] = CorpusDocument(title=parts[0] if len(parts) == 2 else "", text=parts[-1])
    if not corpus:
        raise InvalidTestSet(f"{file} holds no document: its lines are an id, a tab and a text")
    return corpus


def write_run(file: Path, run: Run, *, name: str = "mmembed") -> None:
    """TREC's six columns, in trec_eval's order: by score, compared as float32, then by id, last first.

    Scores are written in full, so that reading them back ranks alike. Raises SettingsError for a query, document or
    name with white space in it: the columns are told apart by it.
    """
    _refuse_spaces([name, *run, *chain.from_iterable(run.values())])
    with file.open("w", encoding="utf-8") as lines:
        for query, documents in run.items():
            lines.writelines(
                f"{query} Q0 {document} {rank} {float(score)!r} {name}\n"
                for rank, (document, score) in enumerate(ranked(documents), 1)
            )


def write_qrels(file: Path, qrels: Qrels) -> None:
    """TREC's four columns. Raises SettingsError for an id with white space in it."""
    _refuse_spaces([*qrels, *chain.from_iterable(qrels.values())])
    with file.open("w", encoding="utf-8") as lines:
        for query, grades in qrels.items():
            lines.writelines(f"{query} 0 {document} {grade}\n" for document, grade in grades.items())


def _refuse_spaces(ids: list[str]) -> None:
    spaced = next((id for id in ids if not id or any(c.isspace() for c in id)), None)
    if spaced is not None:
        raise SettingsError(
            f"{spaced!r} cannot be written to a TREC file, whose columns are separated by white space: write the "
            f"report as JSON, or rename it"
        )
