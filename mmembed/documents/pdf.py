"""PDF: the text of every page, and the pictures on it."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import Image

from mmembed.documents.parts import Document, EmbeddedImage, Section, collapse, image_uri
from mmembed.documents.pdf_forms import entered_texts
from mmembed.documents.pdf_text import Line, is_gibberish, lines_of, running_text, without_repeated
from mmembed.errors import UnreadableDocument
from mmembed.types import Failure

MIN_IMAGE_SIDE = 32  # pixels: smaller ones are bullets, rules and tracking dots
MAX_IMAGE_PIXELS = 128_000_000

# what programs write where nobody named the document
_NO_TITLE = re.compile(r"^(untitled|document\d*|powerpoint presentation|microsoft \w+ - .*)$", re.IGNORECASE)

_pdfium = threading.Lock()  # PDFium is not thread-safe, not even across documents


@dataclass
class _Page:
    """What was read of one page."""

    number: int
    lines: list[Line]
    entered: list[str]  # values of a form, notes
    found: list[EmbeddedImage | Failure]


def read(source: Path | bytes, uri: str, images: bool) -> Document:
    """One section a page that has text; JPEGs as they are stored, other pictures as PNG.

    A page or picture that cannot be read is a problem, not an error, and so is one that shows something and holds no
    text. Lines are running text (`mmembed.documents.pdf_text`); headers and footers that are repeated are left out.
    Soft masks of pictures are ignored.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    with _pdfium:
        try:
            pdf = pypdfium2.PdfDocument(source)
        except pypdfium2.PdfiumError as exc:
            if exc.err_code in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
                raise UnreadableDocument(f"{uri}: the PDF is encrypted: save a copy without its password") from exc
            found = "the file is empty" if size == 0 else "not a PDF, or a broken one"
            raise UnreadableDocument(f"{uri}: {found}") from exc
        with pdf:
            pdf.init_forms()
            title = collapse(pdf.get_metadata_value("Title"))
            pages = [_read_page(pdf, index, uri, images) for index in range(len(pdf))]
    sections = []
    for page, lines in zip(pages, without_repeated([page.lines for page in pages]), strict=True):
        if text := "\n".join(filter(None, [running_text(lines), *page.entered])):
            sections.append(Section(text, page=page.number))
    return Document.of(
        uri, None if _NO_TITLE.match(title) else title or None, tuple(sections), [f for p in pages for f in p.found]
    )


def _read_page(pdf: pypdfium2.PdfDocument, index: int, uri: str, images: bool) -> _Page:
    read = _Page(index + 1, [], [], [])
    where = f"{uri}#page={read.number}"
    try:
        page = pdf[index]
    except pypdfium2.PdfiumError as exc:
        read.found.append(Failure(where, f"{where}: the page is broken ({exc})"))
        return read
    with closing(page):
        try:
            with closing(page.get_textpage()) as written:
                if not is_gibberish(written.get_text_bounded()):
                    read.lines = lines_of(written)
            read.entered = list(entered_texts(pdf, page))
            if not read.lines and not read.entered and next(page.get_objects(), None) is not None:
                sentence = f"{where}: the page holds no text: run OCR over it, if it was scanned"
                read.found.append(Failure(where, sentence))
        except pypdfium2.PdfiumError as exc:
            read.found.append(Failure(where, f"{where}: the text of the page is broken ({exc})"))
        if images:
            read.found.extend(_read_images(page, uri, read.number))
    return read


def _read_images(page: pypdfium2.PdfPage, uri: str, number: int) -> Iterator[EmbeddedImage | Failure]:
    images = page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE])
    for position, image in enumerate(images, start=1):
        address = image_uri(uri, position, number)
        try:
            width, height = image.get_px_size()
            if min(width, height) < MIN_IMAGE_SIDE:
                continue
            if width * height > MAX_IMAGE_PIXELS:
                yield Failure(address, f"{address}: {width} x {height} pixels are more than {MAX_IMAGE_PIXELS:,}")
                continue
            content = _content(image)
        except (pypdfium2.PdfiumError, ValueError, OSError) as exc:
            yield Failure(address, f"{address}: the picture is broken ({collapse(str(exc))})")
        else:
            yield EmbeddedImage(address, content=content, page=number)


def _content(image: pypdfium2.PdfImage) -> bytes:
    """A whole JPEG file as it lies in the PDF, or the decoded pixels as PNG."""
    if image.get_filters(skip_simple=True) == ["DCTDecode"]:
        return bytes(image.get_data(decode_simple=True))
    bitmap = image.get_bitmap()
    bitmap.warn_on_close = False  # its pixels are not used after; left to the garbage collector, it would go unlocked
    with closing(bitmap):
        decoded: Image.Image = bitmap.to_pil()
        out = io.BytesIO()
        decoded.save(out, "PNG", compress_level=1)
    return out.getvalue()
