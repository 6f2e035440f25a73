"""What a document is made of, whatever its format."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mmembed.types import Failure


@dataclass(frozen=True)
class Section:
    """A run of text under one heading; paragraphs are separated by an empty line."""

    text: str
    headings: tuple[str, ...] = ()  # the path of headings above it, outermost first
    page: int | None = None  # from 1; None where the format has no pages


@dataclass(frozen=True)
class EmbeddedImage:
    """A picture in a document: a file that it names (`path`), or bytes that it holds (`content`)."""

    uri: str  # the file's absolute path, or "DOCUMENT#page=3&picture=1", counted from 1 on each page
    caption: str | None = None
    path: Path | None = None
    content: bytes | None = None
    page: int | None = None


@dataclass(frozen=True)
class Document:
    """A document, read. It holds at least one section if `read_document` returned it."""

    uri: str
    title: str | None
    sections: tuple[Section, ...]
    images: tuple[EmbeddedImage, ...] = ()
    problems: tuple[Failure, ...] = ()  # parts that could not be read

    @classmethod
    def of(
        cls, uri: str, title: str | None, sections: tuple[Section, ...], found: Sequence[EmbeddedImage | Failure]
    ) -> Document:
        """A document and what was found in it: each picture once, and what could not be read."""
        images = distinct(part for part in found if isinstance(part, EmbeddedImage))
        return cls(uri, title, sections, images, tuple(part for part in found if isinstance(part, Failure)))


@dataclass
class SectionBuilder:
    """Blocks of text and headings, in reading order -> sections.

    A heading that nothing follows is text itself, so that no word is lost.
    """

    sections: list[Section] = field(default_factory=list)
    _path: list[tuple[int, str]] = field(default_factory=list)
    _blocks: list[str] = field(default_factory=list)

    def add(self, text: str, *, tight: bool = False) -> None:
        """One block; a tight one (a list's item, a table's row) follows on the next line."""
        if text and self._blocks:
            self._blocks.append("\n" if tight else "\n\n")
        if text:
            self._blocks.append(text)

    def heading(self, level: int, text: str) -> None:
        if text:
            self._close(level)
            self._path = [(above, title) for above, title in self._path if above < level] + [(level, text)]

    def finish(self) -> tuple[Section, ...]:
        self._close(0)
        return tuple(self.sections)

    def _close(self, next_level: int) -> None:
        headings = tuple(title for _, title in self._path)
        has_sections_below = bool(self.sections) and self.sections[-1].headings[: len(headings)] == headings
        if self._blocks:
            self.sections.append(Section("".join(self._blocks), headings))
        elif self._path and next_level <= self._path[-1][0] and not has_sections_below:
            self.sections.append(Section(headings[-1], headings[:-1]))
        self._blocks = []


def opened(source: Path | bytes) -> IO[bytes]:
    """A file, or its bytes, to be read from the start."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def image_uri(uri: str, number: int, page: int | None = None) -> str:
    return f"{uri}#picture={number}" if page is None else f"{uri}#page={page}&picture={number}"


def collapse(text: str) -> str:
    """All white space as single blanks."""
    return " ".join(text.split())


def distinct(images: Iterable[EmbeddedImage]) -> tuple[EmbeddedImage, ...]:
    """Each picture once, however often it is shown: the first with a caption, or the first."""
    first: dict[str | bytes, EmbeddedImage] = {}
    for image in images:
        key = image.content if image.content is not None else image.uri
        if key not in first or (image.caption and not first[key].caption):
            first[key] = image
    return tuple(first.values())
