"""A tree of HTML -> sections and pictures. Markdown comes here too, rendered."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import lxml.html
from lxml import etree

from mmembed.documents.parts import EmbeddedImage, Section, SectionBuilder, collapse, image_uri
from mmembed.types import Failure

_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_UNSEEN = {"head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select", "button"}
_BLOCKS = set(
    "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form "  # noqa: SIM905
    "header hr html legend li main nav ol p pre section summary table tbody tfoot thead tr ul".split()
)
_LISTS = {"ul", "ol", "dl", "table"}
_LINES = {"li", "tr", "dt", "dd"}  # of a list: one below the other, without an empty line
_CELLS = {"td", "th"}


def parse(html: str) -> lxml.html.HtmlElement | None:
    """The tree of a page or a fragment; None where there is nothing in it."""
    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    if not html.strip():
        return None
    try:
        return lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    except etree.ParserError:  # only comments, say
        return None


def read_sections(tree: lxml.html.HtmlElement) -> tuple[Section, ...]:
    """All text that a reader would see, under its headings; blocks apart, rows of tables on a line each."""
    return _Reader(SectionBuilder()).read(tree)


class _Reader:
    """One walk over a tree. The text since the last end of a block waits in `_words`."""

    def __init__(self, builder: SectionBuilder) -> None:
        self._builder = builder
        self._words: list[str] = []
        self._tight = False
        self._first_line = False
        self._in_list = 0
        self._in_row = 0
        self._in_pre = 0

    def read(self, tree: lxml.html.HtmlElement) -> tuple[Section, ...]:
        steps = etree.iterwalk(tree, events=("start", "end"))
        for event, element in steps:
            if event == "end":
                self._end(element.tag)
                self._words.append(element.tail or "")
            elif element.tag in _UNSEEN:
                steps.skip_subtree()
            else:
                self._start(element.tag)
                self._words.append(element.text or "")
        self._flush()
        return self._builder.finish()

    def _start(self, tag: str) -> None:
        if tag in _HEADINGS or (tag in _BLOCKS and not self._in_row):
            self._flush()
        elif tag in _BLOCKS or tag == "br":
            self._words.append(" " if self._in_row else "\n" if self._in_pre else " ")
        if tag in _LISTS:
            self._first_line = self._first_line or not self._in_list
        elif tag in _LINES:
            self._tight, self._first_line = not self._first_line, False
        self._in_list += tag in _LISTS
        self._in_row += tag == "tr"
        self._in_pre += tag == "pre"

    def _end(self, tag: str) -> None:
        if tag in _HEADINGS:
            text, self._words = collapse("".join(self._words)), []
            self._builder.heading(_HEADINGS[tag], text)
        elif tag in _CELLS:
            self._words.append(" | ")
        elif tag == "tr":
            self._in_row -= 1
            self._words = [collapse("".join(self._words)).rstrip(" |")]
            self._flush()
        elif tag in _BLOCKS and not self._in_row:
            self._flush()
        if tag in _LISTS:
            self._in_list -= 1
            self._tight = self._first_line = False
        self._in_pre -= tag == "pre"

    def _flush(self) -> None:
        raw = "".join(self._words)
        text = raw.strip("\n").rstrip() if self._in_pre else collapse(raw)
        if text.strip():
            self._builder.add(text, tight=self._tight)
            self._tight = False
        self._words = []


def read_images(tree: lxml.html.HtmlElement, source: Path | bytes, uri: str) -> Iterator[EmbeddedImage | Failure]:
    """The pictures that `img` names on this machine, or holds as data: URIs; those on the web are left out.

    `source` is what the tree was read from: bytes stand in no folder, and the files that they name are left out.
    """
    for number, image in enumerate(tree.iter("img"), start=1):
        named = (image.get("src") or "").strip()
        caption = collapse(image.get("alt") or "") or collapse(image.get("title") or "") or None
        address = image_uri(uri, number)
        if named.lower().startswith("data:"):
            yield _from_data_uri(named, address, caption)
        elif isinstance(source, Path) and (name := _local_name(named)):
            yield _from_file(source, named, name, caption)


def _local_name(source: str) -> str | None:
    """The path in an address on this machine; None for one on the web, or that is no address at all."""
    try:
        parts = urlsplit(source)
    except ValueError:  # brackets where a host should be
        return None
    return unquote(parts.path) if parts.scheme in ("", "file") and not parts.netloc and parts.path else None


def _from_file(document: Path, source: str, name: str, caption: str | None) -> EmbeddedImage | Failure:
    found = Path(os.path.abspath(document.parent / name))
    try:
        is_file = found.is_file()
    except (OSError, ValueError):  # a name too long, or with a NUL
        is_file = False
    if not is_file:
        return Failure(str(found), f"{document}: the picture {source!r} that it shows is not there")
    return EmbeddedImage(str(found), caption, path=found)


def _from_data_uri(source: str, address: str, caption: str | None) -> EmbeddedImage | Failure:
    kind, comma, body = source.partition(",")
    try:
        content = b64decode(unquote(body), validate=False) if kind.endswith(";base64") else unquote_to_bytes(body)
    except ValueError as exc:
        return Failure(address, f"{address}: a data: URI that cannot be decoded ({exc})")
    if not (comma and content):
        return Failure(address, f"{address}: a data: URI without content")
    return EmbeddedImage(address, caption, content=content)
