"""The text of a page of PDF by geometry: characters in lines, cells apart, lines of a paragraph joined."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import pypdfium2
import pypdfium2.raw as pdfium_c

_CELL = " | "
_CELL_GAP = 1.5  # heights of a letter: wider than the blanks of justified text
_WRITTEN_BLANK = "\xa0"  # one that the page itself has, as opposed to those that PDFium sees between words
_NO_TEXT = {"Cc", "Co", "Cs", "Cn"}  # controls, private characters of a font, halves, what is unassigned
_HYPHENS = ("\x02", "\xad", "\ufffe")  # how PDFium writes a hyphen at a line's end
_ENUMERATED = re.compile(r"([•◦▪‣·*–—-]|\(?([0-9]{1,3}|[a-zA-Z]|[ivxIVX]{2,4})[.)])(\s|$)")
_SENTENCE_END = (".", "!", "?", ":", "。", "！", "？")
_UNSPACED = re.compile("[\u2e80-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U000323af]")
_CONTINUED = re.compile(r"(und|bzw|and|or|et|ou|y|o|e|en|of|od[e]r)\b")  # after it, a hyphen at a line's end stays
_DIGITS = re.compile(r"\d+")


@dataclass
class Line:
    """One line of a page, in points from its lower left corner."""

    words: list[str]
    left: float
    right: float
    bottom: float
    top: float
    gaps: list[float] = field(default_factory=list)  # between the words, in heights; 0 for a blank of whatever width

    def add(self, character: str, gap: float, *, blank: bool, stretched: bool) -> None:
        heights = gap / max(self.height, 1.0)
        if blank or heights > _CELL_GAP:
            self.words.append(character)
            self.gaps.append(0.0 if stretched else heights)
        else:
            self.words[-1] += character

    @property
    def height(self) -> float:
        return self.top - self.bottom

    @cached_property
    def text(self) -> str:
        """Its words; cells apart, unless all its gaps are the same, as those of a justified line are."""
        justified = len(self.gaps) > 1 and max(self.gaps) < 4 and max(self.gaps) - min(self.gaps) < 0.3
        text = self.words[0]
        for gap, word in zip(self.gaps, self.words[1:], strict=True):
            cell = gap > _CELL_GAP and not justified and not _ENUMERATED.fullmatch(text)
            text += (_CELL if cell else " ") + word
        return text


def lines_of(page: pypdfium2.PdfTextPage) -> list[Line]:
    """Lines in PDFium's order, which is a reader's; what stands far apart on one line is cells, with " | " between.

    PDFium breaks lines where a narrow cell follows, never where none ends: only its breaks are looked at.
    """
    lines: list[Line] = []
    gap = "\n"  # what PDFium has between the last character and this one
    for character, left, right, bottom, top in _characters(page):
        if character.isspace():
            gap += character
            continue
        line = lines[-1] if lines else None
        broken = line is None or "\n" in gap or line.words[-1].endswith(_HYPHENS)  # after those it has no break
        if line is None or (broken and not _on(line, left, bottom, top)):
            lines.append(Line([character], left, right, bottom, top))
        else:
            line.add(character, left - line.right, blank=bool(gap), stretched=0 < gap.count(_WRITTEN_BLANK) < 3)
            if character not in _HYPHENS:  # their boxes are made up
                line.left, line.right = min(line.left, left), max(line.right, right)
                line.bottom, line.top = min(line.bottom, bottom), max(line.top, top)
        gap = ""
    return lines


def _characters(page: pypdfium2.PdfTextPage) -> Iterator[tuple[str, float, float, float, float]]:
    """Each with its box, left, right, bottom and top, as high as its font; without what is no text."""
    box = pdfium_c.FS_RECTF()
    for index in range(page.count_chars()):
        character = chr(pdfium_c.FPDFText_GetUnicode(page, index))
        if character.isspace():
            written = pdfium_c.FPDFText_IsGenerated(page, index) != 1
            yield "\n" if character in "\r\n" else _WRITTEN_BLANK if written else " ", 0, 0, 0, 0
        elif character in _HYPHENS or unicodedata.category(character) not in _NO_TEXT:
            pdfium_c.FPDFText_GetLooseCharBox(page, index, box)
            yield character, box.left, box.right, box.bottom, box.top


def _on(line: Line, left: float, bottom: float, top: float) -> bool:
    """Whether a character goes on with the line: beside it, and not back at its beginning."""
    shared = min(line.top, top) - max(line.bottom, bottom)
    return shared > 0.5 * min(line.height, top - bottom) and left > line.right - line.height


def running_text(lines: Sequence[Line]) -> str:
    """Lines of a paragraph joined, hyphens at their ends taken back; headings, items and rows on lines of their own."""
    if not lines:
        return ""
    texts = [lines[0].text]
    for above, line, margin in zip(lines, lines[1:], _margins(lines), strict=False):
        if texts[-1].endswith(_HYPHENS):
            texts[-1] = _unhyphenated(texts[-1], line.text)
        elif _goes_on(above, line, margin):
            unspaced = _UNSPACED.match(line.text) or _UNSPACED.match(texts[-1][-1])
            texts[-1] += ("" if unspaced else " ") + line.text
        else:
            texts.append(line.text)
    return "\n".join(texts).translate(dict.fromkeys((0x02, 0xAD, 0xFFFE))).strip()


def _unhyphenated(before: str, after: str) -> str:
    return f"{before[:-1]}- {after}" if _CONTINUED.match(after) else before[:-1] + after


@dataclass(frozen=True)
class _Margin:
    right: float
    sure: bool  # of three lines or more: of two, the longer one need not have been ended by it


def _margins(lines: Sequence[Line]) -> list[_Margin]:
    """For each line the right margin of the run of lines that stand below each other at one left edge."""
    runs: list[list[Line]] = []
    for line in lines:
        if runs and _below(runs[-1][-1], line):
            runs[-1].append(line)
        else:
            runs.append([line])
    return [_Margin(max(line.right for line in run), len(run) > 2) for run in runs for _ in run]


def _below(above: Line, line: Line) -> bool:
    height = max(above.height, line.height)
    near = 0 < above.bottom - line.bottom < 2.2 * height
    return near and abs(above.left - line.left) < 2.5 * height and _as_high(above, line)


def _as_high(above: Line, line: Line) -> bool:
    return abs(above.height - line.height) < 0.35 * max(above.height, line.height)


def _goes_on(above: Line, line: Line, margin: _Margin) -> bool:
    """Whether a line was ended by the margin: its successor's first word had no room on it."""
    if _CELL in above.text or _CELL in line.text or _ENUMERATED.match(line.text):
        return False
    next_column = line.left > above.right and line.bottom > above.bottom and _as_high(above, line)
    if not next_column and not _below(above, line):
        return False
    indented = not next_column and line.left > above.left + 0.8 * line.height and above.text.endswith(_SENTENCE_END)
    if indented:
        return False
    letter = (line.right - line.left) / max(1, len(line.text))
    unspaced = _UNSPACED.match(line.text)
    first = letter if unspaced else letter * (1 + len(line.text.split()[0]))
    if above.text.endswith(_SENTENCE_END) and not margin.sure:
        return False
    full = above.right + first > margin.right - 0.3 * letter
    enough = len(above.text) >= (6 if unspaced else 12)
    return (full and enough) or (line.text[0].islower() and not above.text.endswith(_SENTENCE_END))


def without_repeated(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Pages without the headers and footers that stand on three of five, but for their numbers; four pages or more."""
    kept = [list(lines) for lines in pages]
    filled = [lines for lines in kept if len(lines) > 2]
    if len(filled) < 4:
        return kept
    for _ in range(2):  # two lines at each end
        for outermost in (max, min):
            ends = [outermost(lines, key=lambda line: line.bottom) for lines in filled]
            often = Counter(_shape(line) for line in ends)
            for lines, line in zip(filled, ends, strict=True):
                if often[_shape(line)] >= max(3, 0.6 * len(filled)) and _is_apart(line, lines):
                    lines.remove(line)
    return kept


def _is_apart(line: Line, lines: Sequence[Line]) -> bool:
    """Whether it is not all of a page, nor part of a paragraph on it."""
    margin = _Margin(max(other.right for other in lines), sure=True)
    at = next(index for index, other in enumerate(lines) if other is line)
    around = lines[max(0, at - 1) : at + 2]
    return len(lines) > 1 and not any(_goes_on(above, below, margin) for above, below in pairwise(around))


def _shape(line: Line) -> tuple[str, int]:
    """What it says but for numbers, and where: the same sentence in the middle of a page is no header."""
    return _DIGITS.sub("#", line.text), round(line.bottom / 12)


def is_gibberish(text: str) -> bool:
    """Whether a font says nothing of its letters: most of the page is private characters or controls."""
    written = [character for character in text if not character.isspace()]
    strange = sum(unicodedata.category(character) in _NO_TEXT for character in written)
    return strange > 0.5 * len(written)
