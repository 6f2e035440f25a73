"""One way to write a character: what is stored of a text, and what documents, captions and queries are matched by."""

from __future__ import annotations

import re
import unicodedata

# Line ends and tabs are white space. What is left of C0 and C1 is never text but for NEL, a line end.
_CONTROLS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r\f\x0b\x1c\x1d\x1e\x85"
}
_CONTROLS_TO_BLANKS = {ord(c): " " for c in "\f\x0b\x1c\x1d\x1e"} | {0x85: "\n", 0x2028: "\n", 0x2029: "\n\n"}
# Soft hyphens, zero-width blanks, joiners of words, marks of direction, byte order marks, tags, non-characters.
# Joiners (U+200C, U+200D) spell words of Persian and Hindi and hold emoji together: they stay in what is stored.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffc\ufffe\uffff\U000e0001-\U000e007f]"
)
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_STRANGE = re.compile(r"[^\t\n\x20-\x7e]")
_RAISED = re.compile("(?<![^\\W\\d_]{3})(?<=[^\\W\\d_])[²³¹⁰⁴-⁹]+|([\u2070-\u207f²³¹]+|[™℠])")
_HYPHENS = str.maketrans(dict.fromkeys("\u2010\u2011\u2043\ufe63\uff0d", "-"))


def visible(text: str) -> str:
    """What is stored of a text and embedded: composed (NFC), without controls and what is invisible inside words."""
    if not _STRANGE.search(text):
        return text
    clean = text.translate(_CONTROLS).translate(_CONTROLS_TO_BLANKS)
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", clean))


def matched(text: str) -> str:
    """What words are matched by: `visible`, and ligatures, full width and other forms of a letter as the letter (NFKC).

    Figures that are raised stand apart from a word, where they number a note, and from a figure, where they are its
    power; after one or two letters they are figures of a unit.

    >>> matched("the oﬃce¹, 10⁵ m² of ＸＺ‑９９００Ｋ")
    'the office 1 , 10 5  m2 of XZ-9900K'
    """
    if text.isascii():
        return visible(text)
    spelt = _JOINERS.sub("", visible(text)).translate(_HYPHENS)
    apart = _RAISED.sub(lambda found: f" {found[1]} " if found[1] else found[0], spelt)
    return unicodedata.normalize("NFKC", apart)
