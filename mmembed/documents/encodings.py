"""Bytes -> text: what the web knows of labels, and what letters say where there is none."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass

import webencodings

from mmembed.errors import UnreadableDocument
from mmembed.types import Failure

_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = bytes({*range(0x20), 0x7F} - set(b"\b\t\n\f\r\x1b"))
_HIGH = re.compile(rb"[\x80-\xff]+")
_QUIET = set("“”„‘’‚–—…«»€§°·•©®\u00a0")  # they tell of no language

# Languages that one byte a letter can write, and most of their letters in ASCII: codecs in the order of how common
# they are, and the letters beyond ASCII. The first of equals wins, so that those of Windows-1252 come first.
_WESTERN = ("cp1252", "mac_roman", "cp850")
_CENTRAL = ("cp1250", "iso8859-2", "cp852")
_ALPHABETS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("de", _WESTERN, "äöüß"),
    ("fr", _WESTERN, "àâæçéèêëîïôœùûüÿ"),
    ("es", _WESTERN, "áéíóúüñ¿¡ªº"),
    ("pt", _WESTERN, "áâãàçéêíóôõúªº"),
    ("it", _WESTERN, "àèéìòù"),
    ("ca", _WESTERN, "àçèéíïòóúü·"),
    ("sv", _WESTERN, "åäöé"),
    ("fi", _WESTERN, "åäöšž"),
    ("da", _WESTERN, "æøåé"),
    ("nl", _WESTERN, "éèëïöüóíáê"),
    ("is", _WESTERN, "áðéíóúýþæö"),
    ("pl", _CENTRAL, "ąćęłńóśźż"),
    ("cs", _CENTRAL, "áčďéěíňóřšťúůýž"),
    ("sk", _CENTRAL, "áäčďéíĺľňóôŕšťúýž"),
    ("hu", _CENTRAL, "áéíóöőúüű"),
    ("hr", _CENTRAL, "čćđšž"),
    ("ro", (*_CENTRAL, "iso8859-16"), "ăâîşţșț"),
    ("tr", ("cp1254", "cp857"), "çğıöşüâîûi̇"),
    ("lt", ("cp1257", "iso8859-13"), "ąčęėįšųūž"),
    ("lv", ("cp1257", "iso8859-13"), "āčēģīķļņšūž"),
    ("et", ("cp1257", "iso8859-13"), "äõöüšž"),
)
_FOREIGN = {  # languages of another script: codecs to choose among
    **dict.fromkeys(("ru", "uk", "bg", "be", "sr", "mk"), ("cp1251", "koi8_r", "koi8_u", "cp866", "iso8859_5")),
    "el": ("cp1253", "iso8859_7"),
    "he": ("cp1255", "iso8859_8"),
    "ar": ("cp1256", "iso8859_6"),
    "fa": ("cp1256",),
    "th": ("cp874",),
    "ja": ("cp932", "euc_jp"),
    "zh": ("gb18030", "big5hkscs"),
    "ko": ("cp949",),
}


@dataclass(frozen=True)
class Decoded:
    """A text with lines ended by \\n, and what of it could not be read."""

    text: str
    problems: tuple[Failure, ...] = ()


def decode(content: bytes, uri: str, *, declared: str | None = None, language: str | None = None) -> Decoded:
    """A byte order mark, else UTF-8, else the `declared` label, else what the letters say, `language` first.

    Labels mean what the Encoding Standard says: `iso-8859-1` is Windows-1252, `gb2312` is GB 18030; one that the web
    does not know is none. UTF-8 with a few bytes that are not stays UTF-8, with a problem. NUL is dropped.
    Raises UnreadableDocument for binary content.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _decoded(content, encoding, uri)
    if wide := _wide(content):
        return _decoded(content, wide, uri)
    controls = len(content) - len(content.translate(None, _CONTROL))
    if controls > max(1, len(content) // 20):
        raise UnreadableDocument(f"{uri}: binary content, not text: its suffix says otherwise")
    content = content.replace(b"\0", b"")
    label = _codec(declared)
    if label == "iso2022_jp" or b"\x1b$B" in content or b"\x1b$@" in content:  # seven bits: UTF-8 takes them for ASCII
        return _decoded(content, "iso2022_jp", uri)
    try:
        return Decoded(_newlines(content.decode("utf-8-sig")))
    except UnicodeDecodeError:
        pass
    if label != "utf-8" and label is not None:
        return _decoded(content, label, uri)
    if _is_damaged_utf8(content):
        return _decoded(content, "utf-8-sig", uri)
    return _decoded(content, _guess(content, uri, (language or "").lower().replace("_", "-").split("-")[0]), uri)


def _decoded(content: bytes, encoding: str, uri: str) -> Decoded:
    """Five bytes are no character of Windows-1252: as browsers do, they are taken for controls, and go."""
    if encoding == "cp1252":
        content = content.translate(None, b"\x81\x8d\x8f\x90\x9d")
    text = content.decode(encoding, "replace")
    bad = text.count("\ufffd") - content.count(b"\xef\xbf\xbd")
    name = encoding.upper().removesuffix("-SIG")
    sentence = f"{uri}: bytes that are not {name} (places: {bad}) were read as \ufffd: save it anew as UTF-8"
    return Decoded(_newlines(text.replace("\0", "")), (Failure(uri, sentence),) if bad > 0 else ())


def _codec(label: str | None) -> str | None:
    """The Python codec of a label as it stands in a page of bytes that begin like ASCII; None where it is none."""
    known = webencodings.lookup(label) if label else None
    if known is None or known.name == "replacement":
        return None
    if known.name.startswith("utf-16"):  # it could not have been read as ASCII then
        return "utf-8"
    return str({"gbk": "gb18030", "x-user-defined": "cp1252"}.get(known.name, known.codec_info.name))


def _wide(content: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of Western text is NUL, and no other one is."""
    head = content[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < max(2, len(head) // 5) or min(even, odd):
        return None
    return "utf-16-le" if odd else "utf-16-be"


def _is_damaged_utf8(content: bytes) -> bool:
    """Whether most of what is beyond ASCII is UTF-8: by chance that is next to impossible."""
    text = content.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return sum(1 for c in text if c > "\x7f") - bad > 2 * bad


def _guess(content: bytes, uri: str, language: str) -> str:
    runs = _HIGH.findall(content)
    total = sum(map(len, runs))
    foreign = sum(len(run) for run in runs if len(run) > 1) >= total / 2  # letters of ASCII between them are rare
    if language not in _FOREIGN:
        codec, share = _by_letters(Counter(b"".join(runs)), language)
        if share > 0.8 or not foreign:
            return codec
    from charset_normalizer import from_bytes

    among = list(_FOREIGN.get(language, ()))
    best = from_bytes(content, cp_isolation=among or None).best()
    if best is None:
        if not foreign:
            return _by_letters(Counter(b"".join(runs)), language)[0]
        raise UnreadableDocument(f"{uri}: text in an unknown encoding: save it as UTF-8")
    return {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}.get(
        best.encoding, best.encoding
    )


def _by_letters(often: Counter[int], language: str) -> tuple[str, float]:
    """The codec that makes most of these bytes letters of one language, and how many more than it makes others."""
    best, most = "cp1252", -1.0
    for of, encodings, alphabet in sorted(_ALPHABETS, key=lambda row: row[0] != language):
        for encoding in encodings:
            made = {byte: bytes([byte]).decode(encoding, "replace") for byte in often}
            points = sum(n * _points(made[byte], alphabet) for byte, n in often.items()) / often.total()
            points += 0.2 * (encoding == encodings[0]) + 0.1 * (of == language)
            if points > most + 1e-9:
                best, most = encoding, points
    return best, most


def _points(character: str, alphabet: str) -> float:
    if character in _QUIET:
        return 0.9
    return 1 if character in alphabet or character.lower() in alphabet else -1


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
