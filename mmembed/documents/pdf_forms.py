"""What somebody entered in a PDF: the values of its form's fields, and notes on its pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import Array, c_ushort
from functools import partial

import pypdfium2
import pypdfium2.raw as pdfium_c

from mmembed.documents.parts import collapse

_WRITTEN = {pdfium_c.FPDF_ANNOT_TEXT, pdfium_c.FPDF_ANNOT_FREETEXT, pdfium_c.FPDF_ANNOT_HIGHLIGHT}
_FILLED = {pdfium_c.FPDF_FORMFIELD_TEXTFIELD, pdfium_c.FPDF_FORMFIELD_COMBOBOX, pdfium_c.FPDF_FORMFIELD_LISTBOX}


def entered_texts(pdf: pypdfium2.PdfDocument, page: pypdfium2.PdfPage) -> Iterator[str]:
    """One text for each field that is filled in, "label: value" where it says what it asks for, and for each note."""
    for index in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        note = pdfium_c.FPDFPage_GetAnnot(page, index)
        try:
            kind = pdfium_c.FPDFAnnot_GetSubtype(note)
            if kind in _WRITTEN:
                text = _text(partial(pdfium_c.FPDFAnnot_GetStringValue, note, b"Contents"))
                yield from [text] if text else []
            elif kind == pdfium_c.FPDF_ANNOT_WIDGET and pdf.formenv is not None:
                yield from _value(pdf.formenv, note)
        finally:
            pdfium_c.FPDFPage_CloseAnnot(note)


def _value(form: pypdfium2.PdfFormEnv, field: pdfium_c.FPDF_ANNOTATION) -> Iterator[str]:
    if pdfium_c.FPDFAnnot_GetFormFieldType(form, field) not in _FILLED:
        return
    value = _text(partial(pdfium_c.FPDFAnnot_GetFormFieldValue, form, field))
    label = _text(partial(pdfium_c.FPDFAnnot_GetFormFieldAlternateName, form, field))
    if value:
        yield f"{label}: {value}" if label else value


def _text(ask: Callable[[Array[c_ushort] | None, int], int]) -> str:
    """What PDFium answers, in UTF-16 with a NUL at its end: asked for its size first."""
    size = ask(None, 0)
    room = (c_ushort * (size // 2 + 1))()
    ask(room, size)
    return collapse(bytes(room)[:size].decode("utf-16-le", "replace").rstrip("\0"))
