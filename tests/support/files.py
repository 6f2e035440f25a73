"""Makers of real files, good and bad, for the tests of everything that reads them."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import docx
import numpy as np
from docx.shared import Inches
from fpdf import FPDF
from PIL import ExifTags, Image


def photo(width: int = 48, height: int = 32, *, seed: int = 0) -> Image.Image:
    """An RGB picture of smooth colours; no two corners alike, so that a turn is seen."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", *, exif: Image.Exif | None = None, **options: object) -> bytes:
    """A picture as the bytes of a file."""
    out = io.BytesIO()
    if exif is not None:
        options["exif"] = exif
    image.save(out, format, **options)
    return out.getvalue()


def exif(*, orientation: int | None = None, taken: str | None = None, offset: str | None = None) -> Image.Exif:
    """What a camera writes."""
    tags = Image.Exif()
    if orientation is not None:
        tags[ExifTags.Base.Orientation] = orientation
    if taken is not None:
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    if offset is not None:
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.OffsetTimeOriginal] = offset
    return tags


def huge_png(width: int, height: int) -> bytes:
    """A valid 1-bit PNG of any size, some kilobytes long."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" * (1 + (width + 7) // 8)
    squeeze = zlib.compressobj(9)
    pixels = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def pdf(
    path: Path,
    pages: Sequence[str | Image.Image | tuple[str, Image.Image]],
    *,
    title: str = "",
    password: str | None = None,
) -> Path:
    """A PDF with a text, a picture, or a text above a picture on each page."""
    document = FPDF()
    document.set_font("helvetica", size=12)
    if title:
        document.set_title(title)
    if password is not None:
        document.set_encryption(owner_password="owner", user_password=password)
    for page in pages:
        document.add_page()
        for part in page if isinstance(page, tuple) else (page,):
            if isinstance(part, str):
                document.multi_cell(0, text=part)
            else:
                document.image(part, w=60, h=60)
    document.output(str(path))
    return path


def word(path: Path, parts: Sequence[object], *, title: str = "") -> Path:
    """A DOCX: (level, heading), text, a table as a list of rows, or (picture, its alternative text)."""
    document = docx.Document()
    document.core_properties.title = title
    for part in parts:
        if isinstance(part, str):
            document.add_paragraph(part)
        elif isinstance(part, list):
            table = document.add_table(len(part), len(part[0]))
            for row, cells in zip(table.rows, part, strict=True):
                for cell, text in zip(row.cells, cells, strict=True):
                    cell.text = text
        elif isinstance(part, tuple) and isinstance(part[0], int):
            document.add_heading(part[1], part[0])
        elif isinstance(part, tuple):
            shape = document.add_picture(io.BytesIO(encoded(part[0])), width=Inches(1))
            shape._inline.docPr.set("descr", part[1])
    document.save(str(path))
    return path


def with_bad_name_in_zip(content: bytes) -> bytes:
    """A zip whose first name in the table of contents is said to be UTF-8 and is not."""
    made, entry = bytearray(content), content.index(b"PK\1\2")
    made[entry + 9] |= 0x08  # bit 11 of the flags: names in UTF-8
    made[entry + 46] = 0xB2
    return bytes(made)


def zip_bomb(path: Path, *, megabytes: int) -> Path:
    """A DOCX by its first bytes, small on the disk, that unpacks to `megabytes`."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package,
        package.open("word/document.xml", "w", force_zip64=True) as member,
    ):
        for _ in range(megabytes):
            member.write(bytes(2**20))
    return path


@contextmanager
def public_folder() -> Iterator[Path]:
    """A temporary folder that other users can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whom permissions bind, also where the tests are run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
