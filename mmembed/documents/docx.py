"""DOCX: paragraphs under their headings, tables as rows, pictures with their alternative text."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docx
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.oxml.ns import qn
from lxml import etree

from mmembed.documents.docx_text import text_boxes, text_of
from mmembed.documents.parts import Document, EmbeddedImage, SectionBuilder, collapse, image_uri, opened
from mmembed.errors import UnreadableDocument
from mmembed.types import Failure

MAX_UNPACKED_BYTES = 256 * 2**20

_OLE = b"\xd0\xcf\x11\xe0"  # the container of encrypted DOCX, and of DOC
_WRAPPERS = {qn(f"w:{tag}") for tag in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag")}
_IMAGE_DATA = "{urn:schemas-microsoft-com:vml}imagedata"
_HEADING = re.compile(r"heading (\d)")


def read(source: Path | bytes, uri: str, images: bool) -> Document:
    """The body, without headers, footers and what tracked changes deleted; notes follow their paragraph."""
    has_properties = _check_zip(source, uri)
    try:
        with opened(source) as stream:
            document = docx.Document(stream)
        builder = SectionBuilder()
        titles = [collapse(document.core_properties.title)] if has_properties else []
        levels, notes = _levels(document), _notes(document)
        for block in _blocks(document.element.body):
            _add(block, levels, builder, titles, notes)
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


def _inside(parent: Any, *tags: str) -> Iterator[Any]:
    """Its children of these kinds in order, content controls and tracked insertions opened."""
    for child in parent.iterchildren():
        if child.tag in tags:
            yield child
        elif child.tag in _WRAPPERS:
            yield from _inside(child, *tags)


def _blocks(parent: Any) -> Iterator[Any]:
    return _inside(parent, qn("w:p"), qn("w:tbl"))


def _add(block: Any, levels: dict[str, int], builder: SectionBuilder, titles: list[str], notes: dict[str, Any]) -> None:
    if block.tag == qn("w:tbl"):
        for number, row in enumerate(_inside(block, qn("w:tr"))):
            cells = (collapse(" ".join(_cell_texts(cell))) for cell in _inside(row, qn("w:tc")))
            builder.add(" | ".join(cells).strip(" |"), tight=number > 0)
    else:
        text = text_of(block).strip()
        level = levels.get(block.style)
        if level is None:
            builder.add(text)
        else:
            builder.heading(level, collapse(text))
        if level == 0 and text:
            titles.append(collapse(text))
        for box in text_boxes(block):
            for inner in _blocks(box):
                _add(inner, levels, builder, titles, notes)
    for kind in ("footnote", "endnote"):
        for reference in block.iter(qn(f"w:{kind}Reference")):
            note = notes.pop(f"{kind} {reference.get(qn('w:id'))}", None)  # once, though in two versions of a box
            builder.add(" ".join(_cell_texts(note)).strip() if note is not None else "")


def _cell_texts(cell: Any) -> Iterator[str]:
    """The texts of its paragraphs and boxes, and of the cells of tables in it, each once."""
    for block in _blocks(cell):
        if block.tag == qn("w:tbl"):
            for row in _inside(block, qn("w:tr")):
                for inner in _inside(row, qn("w:tc")):
                    yield from _cell_texts(inner)
        else:
            yield text_of(block)
            for box in text_boxes(block):
                yield from _cell_texts(box)


def _notes(document: Any) -> dict[str, Any]:
    """ "footnote 3" -> its element, footnotes and endnotes alike."""
    kinds = {RELATIONSHIP_TYPE.FOOTNOTES: "footnote", RELATIONSHIP_TYPE.ENDNOTES: "endnote"}
    found = {}
    for relation in document.part.rels.values():
        kind = kinds.get(relation.reltype)
        if kind is not None and not relation.is_external:
            parser = etree.XMLParser(resolve_entities=False, recover=True)
            for note in etree.fromstring(relation.target_part.blob, parser).iter(qn(f"w:{kind}")):
                found[f"{kind} {note.get(qn('w:id'))}"] = note
    return found


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


def _images(document: Any, uri: str) -> Iterator[EmbeddedImage | Failure]:
    """Every drawing in the body that shows an embedded picture; linked ones lie elsewhere and are left out."""
    for number, (caption, relation) in enumerate(_shown(document.element.body), start=1):
        part = document.part.related_parts.get(relation)
        address = image_uri(uri, number)
        if part is None:
            yield Failure(address, f"{address}: the picture is missing from the file")
        else:
            yield EmbeddedImage(address, caption or None, content=part.blob)


def _shown(body: Any) -> Iterator[tuple[str, str]]:
    """Caption and relation of each picture, in drawings and in the VML of older files."""
    for drawing in body.iter(qn("w:drawing"), qn("w:pict")):
        if any(parent.tag.endswith("}Fallback") for parent in drawing.iterancestors()):
            continue
        described = next(drawing.iter(qn("wp:docPr")), None)
        caption = (described.get("descr") or described.get("title") or "") if described is not None else ""
        for shape in drawing.iter(_IMAGE_DATA):
            if relation := shape.get(qn("r:id")):
                yield collapse(shape.getparent().get("alt") or ""), relation
        for blip in drawing.iter(qn("a:blip")):
            if relation := blip.get(qn("r:embed")):
                yield collapse(caption), relation
