"""What is written in a paragraph of DOCX: every element of a run that stands for a character is that character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docx.oxml.ns import qn

_MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_UNSEEN = {qn("w:moveFrom"), qn("w:del"), qn("w:pPr"), qn("w:rPr"), qn("w:txbxContent"), qn("w:tabs"), qn("w:rt")}
_CHARACTERS = {
    qn("w:tab"): "\t",
    qn("w:ptab"): "\t",
    qn("w:br"): "\n",
    qn("w:cr"): "\n",
    qn("w:noBreakHyphen"): "-",
    f"{_MATH}den": "/",
    f"{_MATH}sup": "^",
    f"{_MATH}sub": "_",  # before what is in them
}
_GREEK = "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ"
_SYMBOL = {  # Adobe's encoding of the font Symbol: what is met in prose and figures
    **dict(zip(range(0x61, 0x7B), _GREEK[0], strict=True)),
    **dict(zip(range(0x41, 0x5B), _GREEK[1], strict=True)),
    0x22: "∀",
    0x24: "∃",
    0xA0: "€",
    0xA2: "′",
    0xA3: "≤",
    0xA5: "∞",
    0xAB: "↔",
    0xAC: "←",
    0xAE: "→",
    0xB0: "°",
    0xB1: "±",
    0xB2: "″",
    0xB3: "≥",
    0xB4: "×",
    0xB6: "∂",
    0xB7: "•",
    0xB8: "÷",
    0xB9: "≠",
    0xBA: "≡",
    0xBB: "≈",
    0xBC: "…",
    0xC7: "∩",
    0xC8: "∪",
    0xCD: "⊆",
    0xCE: "∈",
    0xD0: "∠",
    0xD1: "∇",
    0xD2: "®",
    0xD3: "©",
    0xD4: "™",
    0xD6: "√",
    0xD7: "⋅",
    0xDE: "⇒",
    0xE5: "∑",
    0xF2: "∫",
}
_WINGDINGS = {0x28: "☎", 0x2A: "✉", 0x4A: "☺", 0x6F: "□", 0xA8: "□", 0xE0: "→", 0xFB: "✗", 0xFC: "✓", 0xFE: "☑"}


def text_of(paragraph: Any) -> str:
    """All that is shown in it, tracked insertions and links included; text boxes are paragraphs of their own."""
    return "".join(_pieces(paragraph))


def text_boxes(paragraph: Any) -> Iterator[Any]:
    """The contents of its text boxes, each once, though most are written in two versions."""
    for box in paragraph.iter(qn("w:txbxContent")):
        outer = [parent.tag for parent in box.iterancestors()]
        if not any(tag.endswith("}Fallback") or tag == qn("w:txbxContent") for tag in outer):
            yield box


def _pieces(element: Any) -> Iterator[str]:
    for node in element.iterchildren():
        if not isinstance(node.tag, str) or node.tag in _UNSEEN or node.tag.endswith("}Fallback"):
            continue
        if node.tag in (qn("w:t"), f"{_MATH}t"):
            yield node.text or ""
        elif node.tag == qn("w:sym"):
            yield _symbol(node.get(qn("w:font")) or "", node.get(qn("w:char")) or "")
        elif node.tag == f"{_MATH}chr":  # a sum, a product
            yield node.get(f"{_MATH}val") or ""
        elif not (node.tag == qn("w:r") and _hidden(node)):
            yield _CHARACTERS.get(node.tag, "")
            yield from _pieces(node)


def _hidden(run: Any) -> bool:
    mark = run.find(f"{qn('w:rPr')}/{qn('w:vanish')}")
    return mark is not None and mark.get(qn("w:val")) not in ("0", "false", "off")


def _symbol(font: str, code: str) -> str:
    """The character of a symbol's font; "" for one that only a drawing could show."""
    try:
        number = int(code, 16)
    except ValueError:
        return ""
    private = 0xF000 <= number <= 0xF0FF  # where Word keeps the bytes of symbol fonts
    byte = number & 0xFF
    if font.startswith(("Symbol", "Wingdings")):
        known = _SYMBOL if font.startswith("Symbol") else _WINGDINGS if font == "Wingdings" else {}
        shared = chr(byte) if font.startswith("Symbol") and 0x20 <= byte < 0x40 else ""
        return known.get(byte, shared)
    return chr(byte) if private else chr(number) if number < 0xD800 or 0xF900 <= number < 0x110000 else ""
