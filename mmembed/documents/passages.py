"""Passages: a document cut into pieces that an encoder reads whole, counted by its own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile

from semantic_text_splitter import TextSplitter

from mmembed.documents.parts import Document, Section
from mmembed.errors import SettingsError

_JOINT = " > "
_STRETCH = 50_000  # characters: the splitter's time grows faster than its text, so it gets stretches of this length
_LEAST_ROOM = 8  # tokens: with less, a word may not fit
_LONGEST_TOKEN = 20  # characters: some tokenizers take any word, however long, for a single unknown token


@dataclass(frozen=True)
class Passage:
    """One piece of a document."""

    text: str  # what is embedded: "Heading > Heading\nbody"
    body: str
    number: int  # from 0, in reading order through the document
    page: int | None  # from 1; None where the format has no pages
    headings: tuple[str, ...]  # all of them, also where `text` has no room


def cut_passages(
    document: Document, *, count_tokens: Callable[[str], int], max_tokens: int = 256, overlap: int = 32
) -> list[Passage]:
    """Cut a document where its meaning breaks: between paragraphs, lines, sentences, then words.

    Each `text` is of at most `max_tokens` by `count_tokens`, special tokens included; neighbours
    from the same section share up to `overlap` tokens. A passage lies on one page. Small sections
    beside each other under one heading become one passage. Headings take at most half of a
    passage: the outermost are left out first.
    """
    count = _counter(count_tokens, remember=4096)
    room = max_tokens - count("")
    if room < _LEAST_ROOM or overlap < 0:
        raise SettingsError(
            f"passages of {max_tokens} tokens with an overlap of {overlap} cannot be cut: "
            f"allow {_LEAST_ROOM + count('')} tokens or more and an overlap of 0 or more"
        )
    passages: list[Passage] = []
    for section in _merged(document.sections, count, max_tokens):
        prefix = _prefix(section.headings, count, count("") + room // 2)
        for body in _cut(section.text, prefix, count, max_tokens, overlap):
            passages.append(Passage(prefix + body, body, len(passages), section.page, section.headings))
    return passages


def windows(text: str, *, count_tokens: Callable[[str], int], max_tokens: int) -> list[str]:
    """Cut a text into pieces of at most `max_tokens`, without overlap; at least one, if only an empty one."""
    if max_tokens <= count_tokens(""):
        raise SettingsError(
            f"windows of {max_tokens} tokens have no room for text beside {count_tokens('')} special ones"
        )
    count = _counter(count_tokens, remember=1024)
    return list(_cut(text, "", count, max_tokens, 0)) or [""]


def _counter(count_tokens: Callable[[str], int], *, remember: int) -> Callable[[str], int]:
    """Tokens of a text, at least one for twenty characters."""

    @lru_cache(maxsize=remember)
    def count(text: str) -> int:
        return max(count_tokens(text), len(text) // _LONGEST_TOKEN)

    return count


def _cut(text: str, prefix: str, count: Callable[[str], int], max_tokens: int, overlap: int) -> Iterator[str]:
    """Pieces for which `count(prefix + piece)` is at most `max_tokens`."""
    if len(text) < _STRETCH and count(prefix + text.strip()) <= max_tokens:
        yield from [text.strip()] if text.strip() else []
        return
    used = count(prefix)
    room = max_tokens - used

    def added(piece: str) -> int:  # tokenizers may merge across the joint, so the piece alone does not tell
        return max(0, count(prefix + piece) - used)

    splitter = TextSplitter.from_callback(added, room, min(overlap, room // 2))
    for stretch in _stretches(text):
        yield from splitter.chunks(stretch)


def _stretches(text: str) -> Iterator[str]:
    """Runs of at most _STRETCH characters that end with a paragraph, a line or a word where possible."""
    start = 0
    while len(text) - start > _STRETCH:
        end = start + _STRETCH
        middle = start + _STRETCH // 2
        breaks = (text.rfind(mark, middle, end) for mark in ("\n\n", "\n", ". ", " "))
        end = next((at + 1 for at in breaks if at >= 0), end)
        yield text[start:end]
        start = end
    yield text[start:]


def _prefix(headings: tuple[str, ...], count: Callable[[str], int], max_tokens: int) -> str:
    """ "Outer > inner" and a new line, without its outermost headings or the end of the innermost if it is too long."""
    for first in range(len(headings)):
        prefix = _JOINT.join(headings[first:]) + "\n"
        if count(prefix) <= max_tokens:
            return prefix
    if not headings:
        return ""
    return next(_cut(headings[-1], "", lambda text: count(text + "\n"), max_tokens, 0)) + "\n"


def _merged(sections: tuple[Section, ...], count: Callable[[str], int], max_tokens: int) -> Iterator[Section]:
    """Sections with small neighbours under the same heading put together, their own headings kept in the text.

    A group grows to half a passage and by sections of a fourth: larger ones deserve a vector of their own.
    """
    group: list[Section] = []
    tokens = 0
    for section in sections:
        size = count(_joined([section]).text) if len(section.text) < 16 * max_tokens else max_tokens
        if group and not (_belong(group, section) and tokens + size <= max_tokens // 2 and size <= max_tokens // 4):
            yield _joined(group)
            group, tokens = [], 0
        group.append(section)
        tokens += size + count(_JOINT.join(section.headings[-1:]))
    if group:
        yield _joined(group)


def _belong(group: list[Section], section: Section) -> bool:
    """Same page, and siblings or a heading's own text with the sections right below it."""
    first, shared = group[0], _shared([*group, section])
    return first.page == section.page and all(len(shared) >= len(s.headings) - 1 for s in (*group, section))


def _shared(sections: list[Section]) -> tuple[str, ...]:
    paths = sorted(section.headings for section in sections)  # what the first and the last share, all share
    return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(paths[0], paths[-1], strict=False)))


def _joined(sections: list[Section]) -> Section:
    if len(sections) == 1:
        return sections[0]
    shared = _shared(sections)
    texts: list[str] = []
    above: tuple[str, ...] = ()
    for section in sections:
        own = section.headings[len(shared) :]
        texts.append(f"{_JOINT.join(own)}\n{section.text}" if own and own != above else section.text)
        above = own
    return replace(sections[0], text="\n\n".join(texts), headings=shared)
