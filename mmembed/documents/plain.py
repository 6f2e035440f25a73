"""Plain text, and the bytes of every format that is text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmembed.documents.encodings import Decoded, decode
from mmembed.documents.parts import Document, Section, opened
from mmembed.errors import UnreadableDocument

MAX_TEXT_BYTES = 64 * 2**20


def read(source: Path | bytes, uri: str, images: bool) -> Document:  # noqa: ARG001  # plain text has no pictures
    """One section without headings; markup of reStructuredText stays as it is."""
    decoded = read_text(source, uri)
    return replace(of_text(decoded.text, uri), problems=decoded.problems)


def of_text(text: str, uri: str) -> Document:
    """Plain text as a document: one section, or none where there is no word."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return Document(uri, None, (Section(lines.strip()),) if text.strip() else ())


def read_text(source: Path | bytes, uri: str) -> Decoded:
    """The text of a file of at most 64 MiB, with lines ended by \\n."""
    return decode(read_bytes(source, uri), uri)


def read_bytes(source: Path | bytes, uri: str) -> bytes:
    with opened(source) as stream:
        content = stream.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise UnreadableDocument(f"{uri}: text of more than {MAX_TEXT_BYTES >> 20} MiB: split the file")
    return content
