"""Indexing where something goes wrong or takes long: nothing is left over, and nobody waits who need not."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from files import encoded, photo
from service_app import running

from mmembed.demo import DOCUMENTS
from mmembed.errors import StoreError
from mmembed.ingest.documents import DocumentWork
from mmembed.ingest.images import ImageWork
from mmembed.retrieval.api import search_collection
from mmembed.service.indexing.uploads import keep_upload, uploads_folder
from mmembed.service.routes import search
from mmembed.service.server import Server

PAGE = b"""<p>A gull on a pier, seen from the harbour at noon.</p>
<img src="data:image/png;base64,%b" alt="a gull">"""


def post(service: Server, collection: str, name: str, content: bytes, **query: str) -> httpx.Response:
    files = {"file": (name, content)}
    return httpx.post(f"{service.url}/v1/index/{collection}", files=files, params=query, timeout=60)


def kept(service: Server, collection: str) -> list[Path]:
    return [path for path in uploads_folder(service.app.state.service.folder, collection).rglob("*") if path.is_file()]


def test_uploads_that_no_point_names_are_swept_at_the_start(tmp_path: Path) -> None:
    """What was kept and never stored is gone after the next start, also of a collection that never came to be."""
    with running(tmp_path, encoder=("fake",)) as service:
        assert post(service, "images", "a.png", encoded(photo(seed=1))).status_code == 200
        note = (DOCUMENTS / "kitchen.md").read_bytes()
        assert post(service, "notes", "n.md", note, kind="documents", encoder="fake").status_code == 200
        named = [*kept(service, "images"), *kept(service, "notes")]
        for collection in ("images", "notes", "never", ".dot é"):
            folder = uploads_folder(service.app.state.service.folder, collection)
            for name in ("x.png", "y.md"):
                source = tmp_path / name
                source.write_bytes(name.encode())
                with source.open("rb") as stream:
                    keep_upload(folder, name, stream, size=5)
    with running(tmp_path, encoder=("fake",)) as service:
        left = [path for path in (tmp_path / "store.mm" / "uploads").rglob("*") if path.is_file()]
        assert sorted(left) == sorted(named)
        assert len(named) == 2


@pytest.mark.parametrize("kind", ["images", "documents"])
def test_a_write_that_fails_leaves_no_upload(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request kept goes again where its points cannot be stored, and what was stored before stays."""
    name, content = ("a.png", encoded(photo(seed=1))) if kind == "images" else ("a.txt", b"a gull on a pier")
    with running(tmp_path, encoder=("fake",)) as service:
        assert post(service, "things", name, content, kind=kind, encoder="fake").status_code == 200
        stored = kept(service, "things")

        def fail(*_: object) -> None:
            raise StoreError("the store has hiccups")

        monkeypatch.setattr(ImageWork if kind == "images" else DocumentWork, "write", fail)
        for other in (name, "b" + name):
            answer = post(service, "things", other, content + b" ", kind=kind, encoder="fake")
            assert "hiccups" in answer.text
        assert post(service, "others", name, content, kind=kind, encoder="fake").status_code == 400
        assert kept(service, "things") == stored
        assert kept(service, "others") == []


def test_documents_of_different_collections_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long document is read for one collection, others take documents and pictures, and the shared one too."""
    page = PAGE % base64.b64encode(encoded(photo(seed=1)))
    reading, go_on = threading.Event(), threading.Event()
    read = DocumentWork.read

    def slowly(self: DocumentWork, planned: Any) -> Any:
        if self.collection.name == "slow":
            reading.set()
            assert go_on.wait(60)
        return read(self, planned)

    monkeypatch.setattr(DocumentWork, "read", slowly)
    with running(tmp_path, encoder=("fake",)) as service:
        answers: list[httpx.Response] = []

        def upload() -> None:
            answers.append(post(service, "slow", "a.html", page, kind="documents", encoder="fake"))

        thread = threading.Thread(target=upload)
        thread.start()
        try:
            assert reading.wait(30)
            quick = post(service, "quick", "b.html", page, kind="documents", encoder="fake")
            assert quick.status_code == 200
            assert quick.json()["images"]["embedded"] == 1
            id = post(service, "images", "c.png", encoded(photo(seed=2))).json()["ids"][0]
            assert httpx.delete(f"{service.url}/v1/points/images/{id}", timeout=30).json() == {"removed": 1}
        finally:
            go_on.set()
            thread.join()
        assert answers[0].json()["images"]["copied"] == 1


def test_a_search_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that takes too long is 503 with a sentence, and its client waits no longer."""
    go_on = threading.Event()

    def slowly(*arguments: Any, **options: Any) -> Any:
        assert go_on.wait(60)
        return search_collection(*arguments, **options)

    monkeypatch.setattr(search, "search_collection", slowly)
    with running(tmp_path, search_seconds=0.2) as service:
        try:
            answer = httpx.post(f"{service.url}/v1/search/x", json={"text": "a"}, timeout=30)
        finally:
            go_on.set()
    assert (answer.status_code, "not answered within 0.2 s" in answer.json()["error"]) == (503, True)
