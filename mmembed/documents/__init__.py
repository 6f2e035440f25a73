"""Documents: text, Markdown, HTML, PDF and DOCX -> sections under their headings -> passages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from mmembed.documents.characters import visible
from mmembed.documents.parts import Document, EmbeddedImage, Section, collapse
from mmembed.documents.passages import Passage, cut_passages, windows
from mmembed.documents.plain import of_text
from mmembed.errors import UnreadableDocument

__all__ = [
    "DOCUMENT_SUFFIXES",
    "Document",
    "EmbeddedImage",
    "Passage",
    "Section",
    "cut_passages",
    "read_document",
    "text_document",
    "windows",
]

_READERS = {  # suffix -> module of this package, imported with its library when the first such file is read
    ".txt": "plain",
    ".text": "plain",
    ".rst": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}

DOCUMENT_SUFFIXES = frozenset(_READERS)

logger = logging.getLogger(__name__)


def read_document(source: Path | bytes, *, uri: str, images: bool = True, linked: bool = True) -> Document:
    """One file, or its bytes -> its text in sections, and the pictures in it with their alt texts as captions.

    The format is that of the suffix, of bytes that of the uri; bytes stand in no folder, so that they name no file.
    Pictures are those embedded and those that Markdown and
    HTML name on this machine; those on the web are left out, those that are not there are in
    `problems`. Without `linked`, no other file is looked at: what a stranger's document names is not his to show.
    Text files are UTF-8, or UTF-16 and UTF-32 with a byte order mark, or else what
    `mmembed.documents.encodings.decode` says.

    Raises:
        UnreadableDocument: another format, not there, broken, encrypted, too large, or without text.
    """
    suffix = (source if isinstance(source, Path) else Path(uri)).suffix
    reader = _READERS.get(suffix.lower())
    if reader is None:
        supported = ", ".join(sorted(DOCUMENT_SUFFIXES))
        raise UnreadableDocument(f"{uri}: {suffix or 'no suffix'} is not among the documents read: {supported}")
    read: Callable[[Path | bytes, str, bool], Document] = import_module(f"mmembed.documents.{reader}").read
    try:
        document = read(source, uri, images)
    except OSError as exc:
        raise UnreadableDocument(f"{uri}: cannot be read ({exc.strerror or exc})") from exc
    except UnreadableDocument:
        raise
    except Exception as exc:  # on broken files the libraries of the formats raise nearly anything
        logger.warning("%s: the reader of %s raised %r", uri, reader, exc)
        logger.debug("%s", uri, exc_info=exc)
        reason = collapse(str(exc)) or type(exc).__name__
        raise UnreadableDocument(f"{uri}: broken {suffix[1:].upper()} ({reason}): save it anew") from exc
    document = _visible(document)
    if not document.sections:
        advice = "run OCR over it first, if it was scanned" if reader == "pdf" else "it is empty"
        raise UnreadableDocument(f"{uri}: holds no text: {advice}")
    if linked:
        return document
    held = tuple(image for image in document.images if image.path is None)
    problems = tuple(
        problem for problem in document.problems if problem.uri == uri or problem.uri.startswith(f"{uri}#")
    )
    return replace(document, images=held, problems=problems)


def text_document(text: str, *, uri: str) -> Document:
    """Plain text that is in memory, as a document without a title. Raises UnreadableDocument where there is no word."""
    document = _visible(of_text(text, uri))
    if not document.sections:
        raise UnreadableDocument(f"{uri}: holds no text: it is empty")
    return document


def _visible(document: Document) -> Document:
    """The document without characters that nobody sees, in its words, headings, title and captions alike."""
    sections = tuple(
        replace(section, text=text, headings=tuple(map(visible, section.headings)))
        for section in document.sections
        if (text := visible(section.text).strip())
    )
    images = tuple(replace(image, caption=visible(image.caption or "") or None) for image in document.images)
    return replace(document, title=visible(document.title or "") or None, sections=sections, images=images)
