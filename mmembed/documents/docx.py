"""DOCX: paragraphs under their headings, tables as rows, pictures with their alternative text."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docx
from docx.oxml.ns import qn

from mmembed.documents.parts import Document, EmbeddedImage, SectionBuilder, collapse, image_uri, opened
from mmembed.errors import UnreadableDocument
from mmembed.types import Failure

MAX_UNPACKED_BYTES = 256 * 2**20

_OLE = b"\xd0\xcf\x11\xe0"  # the container of encrypted DOCX, and of DOC
_HEADING = re.compile(r"heading (\d)")


def read(source: Path | bytes, uri: str, images: bool) -> Document:
    """The body, without headers, footers and what tracked changes deleted; footnotes are left out too."""
    has_properties = _check_zip(source, uri)
    try:
        with opened(source) as stream:
            document = docx.Document(stream)
        builder = SectionBuilder()
        titles = [collapse(document.core_properties.title)] if has_properties else []
        levels = _levels(document)
        for block in _blocks(document.element.body):
            _add(block, levels, builder, titles)
        found = list(_images(document, uri)) if images else []
    except OSError:
        raise
    except Exception as exc:  # python-docx has no error of its own for a package that is not a document
        raise UnreadableDocument(f"{uri}: broken DOCX ({collapse(str(exc)) or type(exc).__name__})") from exc
    title = next((title for title in [*titles[1:], *titles] if title), None)
    return Document.of(uri, title, builder.finish(), found)


def _check_zip(source: Path | bytes, uri: str) -> bool:
    """Refuse what is no DOCX or would fill the memory; whether it has properties (a made-up title otherwise)."""
    with opened(source) as stream:
        if stream.read(4) == _OLE:
            raise UnreadableDocument(f"{uri}: encrypted, or an old DOC: save a copy as DOCX without a password")
        try:
            with zipfile.ZipFile(stream) as package:
                unpacked = sum(member.file_size for member in package.infolist())
                names = set(package.namelist())
        except Exception as exc:  # a bad name, flag or number in its table of contents: zipfile raises nearly anything
            raise UnreadableDocument(f"{uri}: not a DOCX, or a broken one ({collapse(str(exc))})") from exc
    if unpacked > MAX_UNPACKED_BYTES:
        raise UnreadableDocument(f"{uri}: unpacks to {unpacked >> 20} MiB, more than {MAX_UNPACKED_BYTES >> 20}")
    return "docProps/core.xml" in names


def _blocks(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, content controls opened."""
    for child in parent.iterchildren():
        if child.tag in (qn("w:p"), qn("w:tbl")):
            yield child
        elif child.tag == qn("w:sdt"):
            for content in child.iterchildren(qn("w:sdtContent")):
                yield from _blocks(content)


def _add(block: Any, levels: dict[str, int], builder: SectionBuilder, titles: list[str]) -> None:
    if block.tag == qn("w:tbl"):
        for number, row in enumerate(block.iter(qn("w:tr"))):
            cells = (collapse(" ".join(map(_text, cell.iter(qn("w:p"))))) for cell in row.iterchildren(qn("w:tc")))
            builder.add(" | ".join(cells).strip(" |"), tight=number > 0)
        return
    text = _text(block).strip()
    level = levels.get(block.style)
    if level is None:
        builder.add(text)
    else:
        builder.heading(level, collapse(text))
    if level == 0 and text:
        titles.append(collapse(text))


def _levels(document: Any) -> dict[str, int]:
    """Style id -> 1 for "Heading 1" and styles based on it, 0 for "Title"; styles of text are not there."""
    levels = {}
    for style in document.styles:
        ancestor: Any = style
        for _ in range(10):  # a style may be based on itself, through others
            name = (getattr(ancestor, "name", None) or "").lower()
            if heading := _HEADING.fullmatch("heading 0" if name == "title" else name):
                levels[style.style_id] = int(heading[1])
                break
            ancestor = getattr(ancestor, "base_style", None)
    return levels


def _text(paragraph: Any) -> str:
    """All that is shown, tracked insertions and links included; drawings in two versions once."""
    pieces = []
    for node in paragraph.iter(qn("w:t"), qn("w:tab"), qn("w:br"), qn("w:cr")):
        if any(parent.tag.endswith("}Fallback") for parent in node.iterancestors()):
            continue
        if node.tag == qn("w:t"):
            pieces.append(node.text or "")
        elif node.getparent().tag != qn("w:tabs"):  # those are tab stops, part of the format
            pieces.append("\t" if node.tag == qn("w:tab") else "\n")
    return "".join(pieces)


def _images(document: Any, uri: str) -> Iterator[EmbeddedImage | Failure]:
    """Every drawing in the body that shows an embedded picture; linked ones lie elsewhere and are left out."""
    number = 0
    for drawing in document.element.body.iter(qn("w:drawing")):
        described = next(drawing.iter(qn("wp:docPr")), None)
        caption = collapse((described.get("descr") or described.get("title") or "") if described is not None else "")
        for blip in drawing.iter(qn("a:blip")):
            relation = blip.get(qn("r:embed"))
            if relation is None:
                continue
            number += 1
            part = document.part.related_parts.get(relation)
            address = image_uri(uri, number)
            if part is None:
                yield Failure(address, f"{address}: the picture is missing from the file")
            else:
                yield EmbeddedImage(address, caption or None, content=part.blob)
