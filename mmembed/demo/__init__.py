"""`mmembed demo`: everything that mmembed does, on 300 pictograms and eight short documents that ship with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmembed.demo.sheet import SheetSection, write_sheet
from mmembed.encoders.registry import load_encoder
from mmembed.errors import CollectionMismatch, SettingsError
from mmembed.ingest import ingest_documents, ingest_images
from mmembed.retrieval.api import search
from mmembed.stores import open_store
from mmembed.types import Encoder, Hit, Store

__all__ = ["DOCUMENTS", "PICTOGRAMS", "run_demo"]

PICTOGRAMS = Path(__file__).parent / "pictograms"
DOCUMENTS = Path(__file__).parent / "documents"
_CAT = PICTOGRAMS / "1f63f.png"
_VIOLIN = PICTOGRAMS / "1f3bb.png"


def run_demo(output: Path, *, store: str | None = None) -> Iterator[str]:
    """Index, search in every way, and write the contact sheet `output`; yields what happens, a line at a time.

    Args:
        store: what `open_store` takes; None: an Edge folder that is removed afterwards.

    Raises SettingsError, before any work, where `output` is a folder or lies in none.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise SettingsError(f"the contact sheet cannot be written to {output}: name a file in a folder that exists")
    with tempfile.TemporaryDirectory(prefix="mmembed-demo-") as folder:
        opened = open_store(store or f"edge:{folder}/demo.mm")
        try:
            yield from _run(opened, output)
        finally:
            opened.close()


def _run(store: Store, output: Path) -> Iterator[str]:
    tiny, minilm = load_encoder("tiny"), load_encoder("minilm")
    manifest = PICTOGRAMS / "pictograms.csv"
    images = ingest_images(store, "demo_images", [manifest], encoder=tiny)
    yield f"images: {images.embedded} pictograms embedded, {images.unchanged} unchanged in {images.seconds:.1f} s"
    documents = ingest_documents(
        store, "demo_documents", [DOCUMENTS], encoder=minilm, cross_encoder=tiny, images_into="demo_images"
    )
    yield (
        f"documents: {documents.embedded} embedded, {documents.unchanged} unchanged in {documents.seconds:.1f} s, "
        f"{store.count('demo_documents')} passages"
    )

    sections = []
    for section in _searches(store, tiny):
        sections.append(section)
        yield from ("", f"{section.kind}: {section.asked}")
        yield from (_line(hit) for hit in section.hits)

    yield from ("", "wrong encoder: the images searched with another one than they were made by")
    refusal = _refused(store)
    yield f"   refused: {refusal}"
    write_sheet(output, sections, refusal)
    yield from ("", f"contact sheet: {output}")


def _searches(store: Store, tiny: Encoder) -> Iterator[SheetSection]:
    images, documents = "demo_images", "demo_documents"
    for words in ("sad cat", "rain cloud"):
        yield SheetSection("text to image", words, None, search(store, images, text=words, encoder=tiny, limit=6))
    found = search(store, images, image=_CAT, limit=6)
    yield SheetSection("image to image", "pictograms like this one", _CAT, found)
    found = search(store, images, text="guitar", image=_CAT, minus=["sad"], limit=6)
    yield SheetSection("text and image", "this cat, plus guitar, minus sad", _CAT, found)
    found = search(store, documents, image=_VIOLIN, limit=3)
    yield SheetSection("image to text", "passages about what this shows", _VIOLIN, found)
    words = "how long does a cake stay in the oven?"
    found = search(store, documents, text=words, vector_name="text", limit=3)
    yield SheetSection("text to text", words, None, found)
    words = "who gives way to a ferry"
    yield SheetSection("hybrid (dense and BM25, fused)", words, None, search(store, documents, text=words, limit=3))


def _refused(store: Store) -> str:
    try:
        search(store, "demo_images", text="sad cat", encoder=load_encoder("fake?dim=256"))
    except CollectionMismatch as exc:
        return str(exc)
    raise AssertionError("a search with the wrong encoder was answered")


def _line(hit: Hit) -> str:
    probability = f" {hit.probability:6.1%}" if hit.probability is not None else ""
    name = hit.payload.get("label")
    if not name:
        heading = " > ".join(hit.payload["headings"]) or hit.payload["title"]
        name = f"{Path(hit.payload['uri']).name}: {heading}"
    return f"   {hit.score:7.4f}{probability}  {name}"
