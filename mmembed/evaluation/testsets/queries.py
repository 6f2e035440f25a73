"""Queries without a model: the captions of pictures, the headings and titles of documents; and what no query may be."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmembed.evaluation.testsets.sampling import QuerySource

MOST_RELEVANT = 10
"""Sources that share a caption or heading: what more of them say ("Introduction") tells none of them apart."""

_LONGEST_QUERY = 300  # characters: nobody types more
_COPIED_WORDS = 10  # as many in a row, word for word, are a quotation


@dataclass(frozen=True)
class Candidate:
    """A query, before it was filtered, and the uris of what it was made from."""

    text: str
    uris: frozenset[str]


def one_line(text: str) -> str:
    """NFC, every run of white space and control characters as one blank.

    >>> one_line("  a sad\\n cat ")
    'a sad cat'
    """
    printable = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
    return " ".join(unicodedata.normalize("NFC", printable).split())


def query_key(text: str) -> str:
    """Two queries of one key are the same query."""
    return one_line(text).casefold()


def captions_of(source: QuerySource) -> list[str]:
    caption = one_line(source.caption)
    return [caption] if caption else []


def headings_of(source: QuerySource) -> list[str]:
    """The title, unless it is the file's name alone, and the heading of each passage: each once, in reading order."""
    title = "" if source.title == Path(source.uri).stem else source.title
    found = [title, *(passage.headings[-1] for passage in source.passages if passage.headings)]
    distinct: dict[str, str] = {}
    for text in filter(str.strip, found):
        distinct.setdefault(query_key(text), one_line(text))
    return list(distinct.values())


def refusal(text: str, source: QuerySource) -> str | None:
    """Why this is no query for a source: "empty", "too long" or "copied"; None: it is one."""
    key = query_key(text)
    if not any(letter.isalnum() for letter in key):
        return "empty"
    for passage in source.passages:
        stands = query_key(passage.text)
        if stands and (stands in key or (len(key.split()) >= _COPIED_WORDS and key in stands)):
            return "copied"
    return "too long" if len(key) > _LONGEST_QUERY else None


def merged(written: Iterable[tuple[str, Iterable[str]]]) -> list[Candidate]:
    """(query, uris) -> each query once, as it was first written and in that order, with the uris of all."""
    texts: dict[str, str] = {}
    uris: dict[str, set[str]] = defaultdict(set)
    for text, relevant in written:
        texts.setdefault(query_key(text), text)
        uris[query_key(text)].update(relevant)
    return [Candidate(text, frozenset(uris[key])) for key, text in texts.items()]
