"""The Cranfield collection in its own format: cran.all.1400, cran.qry and cranqrel (Cleverdon, 1967)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mmembed.errors import InvalidTestSet
from mmembed.evaluation.formats.lines import TextLine, text_lines, wrong
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet, check_test_set

_RELEVANT = range(1, 5)  # 1 the most; -1 is the abstract that a question came from, judged of no interest


def read_cranfield(folder: Path) -> TestSet:
    """The abstracts (title and text), the questions and their judgements, binary: 1 for the grades 1 to 4, else 0.

    Judgements name questions by position from 1, not by the numbers that the questions carry. Two abstracts are
    empty and stay in the corpus; one has two texts, which are joined. Raises InvalidTestSet for a malformed file,
    UnreadableSource for one that cannot be read.
    """
    corpus: dict[str, CorpusDocument] = {}
    for line, number, fields in _records(folder / "cran.all.1400"):
        if number in corpus:
            raise wrong(line, f"abstract {number!r} comes twice: each has a number of its own")
        corpus[number] = CorpusDocument(title=fields.get("T", ""), text=fields.get("W", ""))
    questions = enumerate(_records(folder / "cran.qry"), 1)
    queries = {str(position): Query(fields.get("W", "")) for position, (_, _, fields) in questions}
    qrels: dict[str, dict[str, int]] = {}
    for line in text_lines(folder / "cranqrel"):
        words = line.text.split()
        if len(words) != 3 or re.fullmatch(r"-?\d+", words[2]) is None:
            raise wrong(line, "not a judgement: a question, an abstract and a grade, separated by spaces")
        qrels.setdefault(words[0], {})[words[1]] = int(int(words[2]) in _RELEVANT)
    return check_test_set(queries, corpus, qrels, name=folder.resolve().name)


def _records(file: Path) -> Iterator[tuple[TextLine, str, dict[str, str]]]:
    """Where each record begins, its number and its fields by letter; runs of white space become one space."""
    begun: TextLine | None = None
    number, field, parts = "", "", dict[str, list[str]]()
    for line in text_lines(file):
        if line.text.startswith(".I "):
            if begun is not None:
                yield begun, number, _joined(parts)
            begun, number, field, parts = line, line.text[3:].strip(), "", {}
        elif re.fullmatch(r"\.[A-Z]\s*", line.text):
            field = line.text[1]
            parts.setdefault(field, [])
        elif begun is None or not field:
            raise wrong(line, "text outside of a record: one begins with `.I NUMBER`, its fields with .T, .A, .B or .W")
        else:
            parts[field].append(line.text)
    if begun is None:
        raise InvalidTestSet(f"{file} holds no record: each begins with `.I NUMBER`")
    yield begun, number, _joined(parts)


def _joined(parts: dict[str, list[str]]) -> dict[str, str]:
    return {field: " ".join(" ".join(lines).split()) for field, lines in parts.items()}
