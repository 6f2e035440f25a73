"""One way to write a character: what is stored of a text, and what documents, captions and queries are matched by."""

from __future__ import annotations

import re
import unicodedata

# C0 and C1, but for white space; soft hyphens, zero-width blanks, joiners of words, marks of direction, byte order
# marks, tags, non-characters. The joiners U+200C and U+200D spell words of Persian and Hindi and hold emoji together:
# they stay in what is stored.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b"
    "\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffc\ufffe\uffff\U000e0001-\U000e007f]+"
)
_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_RAISED = re.compile("(?<![^\\W\\d_]{3})(?<=[^\\W\\d_])[²³¹⁰⁴-⁹]+|([\u2070-\u207f²³¹]+|[™℠])")
_HYPHENS = re.compile("[\u2010\u2011\u2043\ufe63\uff0d]")


def visible(text: str) -> str:
    """What is stored of a text and embedded: composed (NFC), without controls and what is invisible inside words."""
    clean = _LINE_ENDS.sub("\n", _INVISIBLE.sub("", text))
    return clean if clean.isascii() else unicodedata.normalize("NFC", clean)


def matched(text: str) -> str:
    """What words are matched by: `visible`, and ligatures, full width and other forms of a letter as the letter (NFKC).

    Figures that are raised stand apart from a word, where they number a note, and from a figure, where they are its
    power; after one or two letters they are figures of a unit.

    >>> matched("the oﬃce¹, 10⁵ m² of ＸＺ‑９９００Ｋ")
    'the office 1 , 10 5  m2 of XZ-9900K'
    """
    if text.isascii():
        return visible(text)
    spelt = _HYPHENS.sub("-", _JOINERS.sub("", visible(text)))
    if unicodedata.is_normalized("NFKC", spelt):
        return spelt
    apart = _RAISED.sub(lambda found: f" {found[1]} " if found[1] else found[0], spelt)
    return unicodedata.normalize("NFKC", apart)
