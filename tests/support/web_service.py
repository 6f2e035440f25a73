"""What the tests of the web page search in, and what they read of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from browser import Tab
from playwright.sync_api import Page, expect
from service_app import running

import mmembed
from mmembed import ingest_documents, ingest_images, load_encoder, open_store
from mmembed.collection.prepare import vector_contract
from mmembed.types import Contract, Point

__all__ = ["DEMO", "DROP", "EVIL", "OpenTab", "cards", "searchable"]

DEMO = Path(mmembed.__file__).parent / "demo"
EVIL = "<img src=x onerror=\"document.title='hacked'\">"
OpenTab = Callable[..., AbstractContextManager[Tab]]
DROP = """([name, bytes, type]) => {
  const moved = new DataTransfer();
  moved.items.add(new File([new Uint8Array(bytes)], name, {type}));
  return moved;
}"""


def write_pictograms(folder: Path) -> Path:
    """120 pictograms under their Unicode names, and a manifest that says to which group each belongs."""
    folder.mkdir()
    rows = []
    for path in sorted((DEMO / "pictograms").glob("1f[34]*.png"))[:120]:
        code = int(path.stem.split("-")[0], 16)
        name = unicodedata.name(chr(code)).lower()
        shutil.copy(path, folder / f"{name}.png")
        group = "animals" if code >= 0x1F400 else "food" if 0x1F32D <= code < 0x1F380 else "things"
        rows.append({"uri": f"{name}.png", "group": group, "lucky": code % 2 == 0})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "list.jsonl"


def write_hostile(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(DEMO / "pictograms" / "1f404.png", folder / "cow.png")
    row = {"uri": "cow.png", "caption": EVIL, "group": EVIL, "note": {"deep": [EVIL]}, "__proto__": EVIL}
    (folder / "list.jsonl").write_text(json.dumps(row))
    return folder / "list.jsonl"


@contextlib.contextmanager
def searchable(root: Path) -> Iterator[str]:
    """A service over `images` and `documents`, `hostile`, whose payload is full of HTML, and `notes`; gives its URL."""
    store, tiny = open_store(f"edge:{root / 'store.mm'}"), load_encoder("tiny")
    ingest_images(store, "images", [write_pictograms(root / "pictures")], encoder=tiny)
    ingest_images(store, "hostile", [write_hostile(root / "hostile")], encoder=tiny, caption_encoder=tiny)
    ingest_documents(store, "documents", [DEMO / "documents"], encoder=tiny, images_into=None)
    notes = vector_contract(tiny, "text")  # no `cross`, so no picture finds them
    store.create("notes", Contract("documents", {"text": notes}), indexes={})
    vector = tiny.encode_text(["Milk the cow."], role="document")[0]
    store.upsert("notes", [Point(str(uuid.UUID(int=1)), {"text": vector}, {"uri": "note", "text": "Milk the cow."})])
    store.close()
    with running(root) as service:
        yield service.url


def cards(page: Page) -> list[str]:
    """Titles of the results, once they are there."""
    expect(page.locator("#results:not([aria-busy]) .card:not(.ghost)").first).to_be_visible()
    return page.locator(".picture .title, .passage h3").all_inner_texts()
