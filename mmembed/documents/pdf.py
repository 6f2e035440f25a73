"""PDF: the text of every page, and the pictures on it."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import Image

from mmembed.documents.parts import Document, EmbeddedImage, Section, collapse, image_uri
from mmembed.errors import UnreadableDocument
from mmembed.types import Failure

MIN_IMAGE_SIDE = 32  # pixels: smaller ones are bullets, rules and tracking dots
MAX_IMAGE_PIXELS = 128_000_000

_pdfium = threading.Lock()  # PDFium is not thread-safe, not even across documents


def read(source: Path | bytes, uri: str, images: bool) -> Document:
    """One section a page that has text; JPEGs as they are stored, other pictures as PNG.

    A page or picture that cannot be read is a problem, not an error. Lines that were broken by
    the margin are joined. Soft masks of pictures are ignored.
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
            title = collapse(pdf.get_metadata_value("Title"))
            parts = [part for number in range(len(pdf)) for part in _read_page(pdf, number, uri, images)]
    sections = tuple(part for part in parts if isinstance(part, Section))
    return Document.of(uri, title or None, sections, [part for part in parts if not isinstance(part, Section)])


def _read_page(
    pdf: pypdfium2.PdfDocument, index: int, uri: str, images: bool
) -> Iterator[Section | EmbeddedImage | Failure]:
    number = index + 1
    where = f"{uri}#page={number}"
    try:
        page = pdf[index]
    except pypdfium2.PdfiumError as exc:
        yield Failure(where, f"{where}: the page is broken ({exc})")
        return
    with closing(page):
        try:
            with closing(page.get_textpage()) as written:
                text = _unwrap(written.get_text_bounded())
        except pypdfium2.PdfiumError as exc:
            text = ""
            yield Failure(where, f"{where}: the text of the page is broken ({exc})")
        if text:
            yield Section(text, page=number)
        if images:
            yield from _read_images(page, uri, number)


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


def _unwrap(text: str) -> str:
    """Join lines where a sentence or a hyphenated word runs on; keep those of headings, lists and tables."""
    lines: list[str] = []
    for line in map(str.strip, text.replace("\0", "").splitlines()):
        if not lines or not line:
            lines.append(line)
        elif lines[-1].endswith(("\x02", "\xad", "\ufffe")):  # how PDFium writes a hyphen at a line's end
            lines[-1] = lines[-1][:-1] + line
        elif line[0].islower() and lines[-1]:
            lines[-1] += " " + line
        else:
            lines.append(line)
    return "\n".join(lines).translate(dict.fromkeys((0x02, 0xAD, 0xFFFE))).strip()
