"""Plain text, and the bytes of every format that is text -> str."""

from __future__ import annotations

import codecs
from pathlib import Path

from mmembed.documents.parts import Document, Section, opened
from mmembed.errors import UnreadableDocument

MAX_TEXT_BYTES = 64 * 2**20

_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read(source: Path | bytes, uri: str, images: bool) -> Document:  # noqa: ARG001  # plain text has no pictures
    """One section without headings; markup of reStructuredText stays as it is."""
    return of_text(read_text(source, uri), uri)


def of_text(text: str, uri: str) -> Document:
    """Plain text as a document: one section, or none where there is no word."""
    return Document(uri, None, (Section(_newlines(text).strip()),) if text.strip() else ())


def read_text(source: Path | bytes, uri: str) -> str:
    """The text of a file of at most 64 MiB, with lines ended by \\n."""
    return decode_text(read_bytes(source, uri), uri)


def read_bytes(source: Path | bytes, uri: str) -> bytes:
    with opened(source) as stream:
        content = stream.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise UnreadableDocument(f"{uri}: text of more than {MAX_TEXT_BYTES >> 20} MiB: split the file")
    return content


def decode_text(content: bytes, uri: str, *, declared: str | None = None) -> str:
    """Bytes -> text: a byte order mark, else UTF-8, else the `declared` encoding, else a guess.

    The guess is Windows-1252, which nearly all Western text that is not UTF-8 is in, unless four
    bytes in ten are outside ASCII: then charset-normalizer tells Cyrillic from Greek from Japanese.
    Raises UnreadableDocument for binary content.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            try:
                return _newlines(content.decode(encoding))
            except UnicodeDecodeError as exc:
                raise UnreadableDocument(f"{uri}: begins as {encoding.upper()} and goes on as something else") from exc
    if b"\0" in content:
        raise UnreadableDocument(f"{uri}: binary content, not text: its suffix says otherwise")
    for known in ("utf-8-sig", declared):
        try:
            if known:
                return _newlines(content.decode(known))
        except (UnicodeDecodeError, LookupError):  # not this one, or not an encoding at all: the next
            continue
    return _newlines(_guess(content, uri))


def _guess(content: bytes, uri: str) -> str:
    written = content.translate(None, b" \t\r\n")
    foreign = len(written.translate(None, bytes(range(128)))) / len(written)
    if foreign < 0.4:
        try:
            return content.decode("cp1252")
        except UnicodeDecodeError:  # five bytes are no character there: not Western after all
            pass
    from charset_normalizer import from_bytes

    best = from_bytes(content).best()
    if best is None:
        raise UnreadableDocument(f"{uri}: text in an unknown encoding: save it as UTF-8")
    return str(best)


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
