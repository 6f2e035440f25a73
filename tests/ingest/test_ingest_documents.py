"""Documents in: passages, their vectors, their pictures; once, twice, moved, shorter, gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import files
import numpy as np
import pytest
from PIL import Image
from qdrant_client import models

from mmembed.collection.payload import item_id
from mmembed.demo import DOCUMENTS
from mmembed.encoders.registry import load_encoder
from mmembed.encoders.wrapper import WrappedEncoder
from mmembed.errors import CollectionMismatch, SettingsError, StoreError, UnsupportedModality
from mmembed.ingest import IngestReport, ingest_documents
from mmembed.ingest.targets import MAX_TOKENS
from mmembed.retrieval.api import search
from mmembed.stores import open_store
from mmembed.types import Embeddings, Encoder, Point, Role, SparseVector, Store


@pytest.fixture
def fake() -> Encoder:
    return load_encoder("fake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A long document with headings, one with pictures, and a plain one."""
    root = tmp_path / "texts"
    root.mkdir()
    chapters = [f"# Chapter {n}\n\n" + f"word{n} and more words of chapter {n}. " * 40 for n in range(5)]
    (root / "long.md").write_text("\n\n".join(chapters))
    Image.new("RGB", (40, 40), "red").save(root / "red.png")
    Image.new("RGB", (40, 40), "blue").save(root / "blue.png")
    (root / "shown.md").write_text("# Colours\n\nTwo walls.\n\n![a red wall](red.png)\n\n![the sea](blue.png)\n")
    (root / "plain.txt").write_text("A short note about foxes.")
    return root


def ingest(store: Store, folder: Path, fake: Encoder, *, sync: bool = False, images: bool = True) -> IngestReport:
    into = "images" if images else None
    return ingest_documents(store, "documents", [folder], encoder=fake, cross_encoder=fake, images_into=into, sync=sync)


def passages(store: Store, path: Path) -> list[Point]:
    """The points of one document, first passage first."""
    condition = models.FieldCondition(key="uri", match=models.MatchValue(value=str(path)))
    found = store.scroll("documents", filter=models.Filter(must=[condition]), vectors=True)
    return sorted(found, key=lambda point: int(point.payload["passage"]))


def test_a_document_becomes_passages_with_three_vectors(store: Store, folder: Path, fake: Encoder) -> None:
    """Each passage fits the encoder, knows its place, and has the vectors text, bm25 and cross."""
    report = ingest(store, folder, fake)
    assert (report.embedded, report.failures) == (3, [])
    found = passages(store, folder / "long.md")
    assert len(found) >= 5
    for number, point in enumerate(found):
        assert point.id == item_id("text", str(folder / "long.md"), number)
        assert point.payload["passages"] == len(found)
        assert point.payload["headings"]
        assert fake.count_tokens(str(point.payload["text"])) <= MAX_TOKENS
        assert set(point.vectors) == {"text", "bm25", "cross"}
        cross = np.asarray(point.vectors["cross"])
        assert cross.ndim == 2
        np.testing.assert_allclose(np.linalg.norm(cross, axis=1), 1, atol=1e-5)
        assert "embedded_text" not in point.payload
    (note,) = passages(store, folder / "plain.txt")
    expected = np.asarray(fake.encode_text(["A short note about foxes."], role="document"))[0]
    np.testing.assert_allclose(note.vectors["text"], expected, atol=1e-6)


def test_a_second_run_changes_nothing(store: Store, folder: Path, fake: Encoder) -> None:
    """Unchanged documents and their pictures are neither read nor encoded again."""
    ingest(store, folder, fake)
    before = store.count("documents")
    again = ingest(store, folder, fake)
    assert (again.unchanged, again.embedded) == (3, 0)
    assert again.images is not None
    assert (again.images.unchanged, again.images.embedded) == (2, 0)
    assert store.count("documents") == before


def test_images_in_documents_are_found_by_their_alt_text(store: Store, folder: Path, fake: Encoder) -> None:
    """They go to the images collection, with the alt text as caption and the document they stand in."""
    report = ingest(store, folder, fake)
    assert report.images is not None
    assert report.images.embedded == 2
    found = {Path(p.payload["uri"]).name: p for p in store.scroll("images", vectors=True)}
    assert found["red.png"].payload["caption"] == "a red wall"
    assert found["red.png"].payload["document"] == str(folder / "shown.md")
    assert set(found["blue.png"].vectors) == {"image", "caption", "caption_bm25"}


def test_images_can_be_left(store: Store, folder: Path, fake: Encoder) -> None:
    """Without them no images collection is made."""
    assert ingest(store, folder, fake, images=False).images is None
    assert store.collections() == ["documents"]


def test_a_shorter_version_leaves_no_old_passages(store: Store, folder: Path, fake: Encoder) -> None:
    """After an edit the document has the passages of its new text only."""
    ingest(store, folder, fake)
    (folder / "long.md").write_text("# Chapter 0\n\nonly this")
    assert ingest(store, folder, fake).embedded == 1
    (only,) = passages(store, folder / "long.md")
    assert only.payload["passages"] == 1
    assert only.payload["text"] == "only this"


def test_a_touched_document_is_not_encoded_again(store: Store, folder: Path, fake: Encoder) -> None:
    """Same contents under a new date: only the date is written, on every passage."""
    ingest(store, folder, fake)
    os.utime(folder / "long.md", ns=(5, 5))
    assert ingest(store, folder, fake).unchanged == 3
    found = passages(store, folder / "long.md")
    assert {p.payload["mtime_ns"] for p in found} == {5}
    assert [p.payload["passage"] for p in found] == list(range(len(found)))
    assert found[1].payload["text"] != found[0].payload["text"]


def test_a_moved_document_keeps_its_vectors(store: Store, folder: Path, fake: Encoder) -> None:
    """Every passage moves, the old ones are gone; a copy is a document of its own."""
    ingest(store, folder, fake)
    before = passages(store, folder / "long.md")
    (folder / "sub").mkdir()
    (folder / "long.md").rename(folder / "sub" / "moved.md")
    report = ingest(store, folder, fake)
    assert (report.moved, report.embedded) == (1, 0)
    assert passages(store, folder / "long.md") == []
    after = passages(store, folder / "sub" / "moved.md")
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(np.asarray(old.vectors["text"]), np.asarray(new.vectors["text"]), atol=1e-6)
        assert new.payload["text"] == old.payload["text"]
    shutil.copyfile(folder / "sub" / "moved.md", folder / "copy.md")
    report = ingest(store, folder, fake)
    assert (report.copied, report.embedded, report.unchanged) == (1, 0, 3)
    assert len(passages(store, folder / "copy.md")) == len(after)


def test_a_copy_of_what_a_document_has_become(store: Store, folder: Path, fake: Encoder) -> None:
    """A new file equal to one that changed in the same run has the new text, not the one that is still stored."""
    ingest(store, folder, fake)
    for name in ("plain.txt", "the same.txt"):
        (folder / name).write_text("A longer note about geese.")
    ingest(store, folder, fake)
    assert [p.payload["text"] for p in passages(store, folder / "the same.txt")] == ["A longer note about geese."]


def test_sync_removes_documents_that_are_gone(store: Store, folder: Path, fake: Encoder) -> None:
    """All passages of a document that was deleted go, and count as one."""
    ingest(store, folder, fake)
    (folder / "long.md").unlink()
    assert ingest(store, folder, fake, sync=True).removed == 1
    assert passages(store, folder / "long.md") == []
    assert len(passages(store, folder / "plain.txt")) == 1


def test_bad_documents_are_reported(store: Store, folder: Path, fake: Encoder) -> None:
    """An empty file, binary junk called .txt and a PDF that is none fail alone."""
    (folder / "empty.md").write_text("  \n")
    (folder / "junk.txt").write_bytes(b"\x00\x01\x02" * 50)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    report = ingest(store, folder, fake)
    assert report.embedded == 3
    assert sorted(Path(f.uri).name for f in report.failures) == ["broken.pdf", "empty.md", "junk.txt"]


class _Picky(WrappedEncoder):
    """A tokenizer that cannot count one text."""

    def count_tokens(self, text: str) -> int:
        if "indivisible" in text:
            raise ZeroDivisionError("no tokens")
        return super().count_tokens(text)


def test_what_a_reader_raises_is_the_failure_of_its_file(
    store: Store, folder: Path, fake: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken table of contents in a DOCX, or a fault of our own while reading, is named and the rest is indexed."""
    sound = files.word(folder / "sound.docx", ["text"]).read_bytes()
    (folder / "names.docx").write_bytes(files.with_bad_name_in_zip(sound))
    (folder / "odd.txt").write_text("indivisible")
    report = ingest(store, folder, _Picky(fake))
    assert report.embedded == 4
    errors = {Path(f.uri).name: f.error for f in report.failures}
    assert sorted(errors) == ["names.docx", "odd.txt"]
    assert "names.docx: not a DOCX, or a broken one (" in errors["names.docx"]
    assert "odd.txt: cannot be read (no tokens)" in errors["odd.txt"]
    assert "odd.txt: reading it raised ZeroDivisionError" in caplog.text


def test_the_language_of_words_is_remembered(store: Store, tmp_path: Path, fake: Encoder) -> None:
    """BM25 of German is in the contract and made the next time too; another language is a mismatch."""
    (tmp_path / "a.txt").write_text("Die Häuser am See")
    options: dict[str, Any] = {"encoder": fake, "cross_encoder": fake, "images_into": None}
    ingest_documents(store, "docs", [tmp_path], language="german", **options)
    contract = store.contract("docs")
    assert contract is not None
    assert contract.vectors["bm25"].encoder == "bm25?language=german"
    (tmp_path / "b.txt").write_text("Das Haus im Wald")
    assert ingest_documents(store, "docs", [tmp_path], **options).embedded == 1
    german = "bm25?language=german"
    found = search(store, "docs", text="Haus", vector_name="bm25", encoders={german: load_encoder(german)})
    assert len(found) == 2
    with pytest.raises(CollectionMismatch, match="vector 'bm25'"):
        ingest_documents(store, "docs", [tmp_path], language="french", **options)


def test_another_text_encoder_is_refused(store: Store, folder: Path, fake: Encoder) -> None:
    """Also for one vector of the three: another cross encoder is named."""
    ingest(store, folder, fake, images=False)
    with pytest.raises(CollectionMismatch, match="vector 'cross'"):
        ingest_documents(
            store, "documents", [folder], encoder=fake, cross_encoder=load_encoder("fake:b"), images_into=None
        )


def test_cross_defaults_to_the_encoder_of_the_images(store: Store, folder: Path, fake: Encoder) -> None:
    """With an images collection there, its own encoder makes passages findable by picture; without one, tiny."""
    ingest_documents(store, "first", [folder / "plain.txt"], encoder=fake, images_into=None)
    contract = store.contract("first")
    assert contract is not None
    assert contract.vectors["cross"].encoder == "tiny"
    ingest(store, folder, fake)
    ingest_documents(store, "second", [folder / "plain.txt"], encoder=fake)
    contract = store.contract("second")
    assert contract is not None
    assert contract.vectors["cross"].encoder == "fake"


KILLED = """
import sys, time
from mmembed import ingest_documents, load_encoder, open_store
from mmembed.stores.edge.store import EdgeStore

fake = load_encoder("fake")
store = open_store(sys.argv[1])
upsert = EdgeStore.upsert
def slow(self, collection, points):
    for point in points:
        upsert(self, collection, [point])
        print("point", flush=True)
        time.sleep(0.02)
EdgeStore.upsert = slow
ingest_documents(store, "documents", [sys.argv[2]], encoder=fake, cross_encoder=fake)
"""


@pytest.mark.parametrize("points", [1, 4, 7])
def test_killed_within_a_document_it_ends_the_same(tmp_path: Path, folder: Path, fake: Encoder, points: int) -> None:
    """A document counts as done only with its first passage, which is written last."""
    url = f"edge:{tmp_path / 'killed.mm'}"
    with subprocess.Popen([sys.executable, "-c", KILLED, url, str(folder)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(points):
            assert child.stdout.readline() == b"point\n"
        child.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    store = open_store(url)
    ingest(store, folder, fake)
    killed = {p.id: p.payload["text"] for p in store.scroll("documents")}
    images = store.count("images")
    store.close()
    whole = open_store(":memory:")
    ingest(whole, folder, fake)
    assert killed == {p.id: p.payload["text"] for p in whole.scroll("documents")}
    assert images == whole.count("images")


def test_the_documents_that_ship(store: Store) -> None:
    """Markdown, HTML and text of ours become passages with the real text encoder."""
    report = ingest_documents(store, "documents", [DOCUMENTS], encoder=load_encoder("minilm"))
    assert (report.embedded, report.failures) == (8, [])
    titles = {str(p.payload["title"]) for p in store.scroll("documents")}
    assert {"Getting there", "The small kitchen", "Learning an instrument"} <= titles


def test_lessons_mixed_with_images(store: Store, data: Path) -> None:
    """A folder of real Markdown lessons: passages with headings, pictures with alt texts."""
    lessons = data / "iot-lessons" / "2-farm" / "lessons" / "1-predict-plant-growth"
    minilm = load_encoder("minilm")
    report = ingest_documents(store, "documents", [lessons], encoder=minilm, cross_encoder=load_encoder("tiny"))
    assert report.embedded >= 4
    assert report.images is not None
    assert report.images.embedded >= 1
    assert any(p.payload.get("caption") for p in store.scroll("images"))
    for point in store.scroll("documents"):
        assert minilm.count_tokens(str(point.payload["text"])) <= 256


def test_what_a_manifest_no_longer_says_of_a_document_is_forgotten(store: Store, folder: Path, fake: Encoder) -> None:
    """A column taken out of a row leaves every passage, without encoding one again."""
    manifest = folder / "list.csv"
    for text in ("uri,shelf,year\nlong.md,b,1999\n", "uri,year\nlong.md,2020\n", "uri,year\nlong.md,2020\n"):
        manifest.write_text(text)
        report = ingest_documents(store, "documents", [manifest], encoder=fake, cross_encoder=fake, images_into=None)
        assert report.embedded == ("shelf" in text)
    found = passages(store, folder / "long.md")
    assert len(found) >= 5
    for point in found:
        assert (point.payload["year"], "shelf" in point.payload) == ("2020", False)
        assert {"text", "headings", "title", "passages"} <= set(point.payload)


def test_images_that_were_left_out_come_later(store: Store, folder: Path, fake: Encoder) -> None:
    """Asked for in a later run, or put where a document names them, they are indexed without encoding a passage."""
    (folder / "gap.md").write_text("# Gap\n\n![green](green.png)\n\nSomething green.\n")
    first = ingest(store, folder, fake, images=False)
    assert (first.embedded, first.failures) == (4, [])
    second = ingest(store, folder, fake)
    assert (second.embedded, second.unchanged) == (0, 4)
    assert second.images is not None
    assert second.images.embedded == 2
    assert [Path(f.uri).name for f in second.failures] == ["green.png"]
    Image.new("RGB", (40, 40), "green").save(folder / "green.png")
    third = ingest(store, folder, fake)
    assert (third.unchanged, third.failures) == (4, [])
    assert third.images is not None
    assert third.images.embedded == 1
    assert {Path(p.payload["uri"]).name for p in store.scroll("images")} == {"red.png", "blue.png", "green.png"}


# --- learned sparse and late interaction --------------------------------------------------------


def ingest_more(store: Store, folder: Path, fake: Encoder, **encoders: Encoder | None) -> IngestReport:
    return ingest_documents(
        store, "documents", [folder], encoder=fake, cross_encoder=fake, images_into=None, **encoders
    )


def assert_has_all(store: Store) -> None:
    """Every passage has `sparse` and `late` as their encoders make them of its headings and text."""
    sparse, late = load_encoder("fake?kind=sparse"), load_encoder("fake?kind=multi")
    for point in store.scroll("documents", vectors=True):
        assert set(point.vectors) == {"text", "bm25", "cross", "sparse", "late"}
        assert point.payload["vectors"] == ["bm25", "cross", "late", "sparse", "text"]
        stored, rows = point.vectors["sparse"], np.asarray(point.vectors["late"])
        assert isinstance(stored, SparseVector)
        text = " ".join([*point.payload["headings"], str(point.payload["text"])])
        words = sparse.encode_text([text.replace("#", "")], role="document")[0]
        assert isinstance(words, SparseVector)
        assert set(words.indices.tolist()) == set(stored.indices.tolist())
        tail = np.asarray(late.encode_text([text.split()[-1]], role="document")[0])
        assert rows.shape[1] == 32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        if len(rows) < 64:
            np.testing.assert_allclose(rows[-1:], tail, atol=1e-6)


def test_learned_sparse_and_late_vectors(store: Store, folder: Path, fake: Encoder) -> None:
    """Every passage gets them, the collection remembers them, and a later run makes them without being told."""
    encoders = {"sparse_encoder": load_encoder("fake?kind=sparse"), "late_encoder": load_encoder("fake?kind=multi")}
    assert ingest_more(store, folder, fake, **encoders).embedded == 3
    assert_has_all(store)
    contract = store.contract("documents")
    assert contract is not None
    assert [(contract.vectors[name].encoder, contract.vectors[name].kind) for name in ("sparse", "late")] == [
        ("fake?kind=sparse", "sparse"),
        ("fake?kind=multi", "multi"),
    ]
    (folder / "new.md").write_text("A new note about hens.")
    again = ingest_more(store, folder, fake)
    assert (again.embedded, again.unchanged) == (1, 3)
    assert_has_all(store)


def test_vectors_that_come_later_are_made_up_for(store: Store, folder: Path, fake: Encoder) -> None:
    """Documents that were indexed without them are encoded again: copies, moved and touched ones too, and once."""
    shutil.copyfile(folder / "long.md", folder / "copy.md")
    (folder / "moving.txt").write_text("A short note about geese.")
    ingest_more(store, folder, fake)
    (folder / "sub").mkdir()
    (folder / "moving.txt").rename(folder / "sub" / "moved.txt")
    shutil.copyfile(folder / "shown.md", folder / "sub" / "shown too.md")
    os.utime(folder / "plain.txt", ns=(5, 5))
    late = load_encoder("fake?kind=multi")
    first = ingest_more(store, folder, fake, late_encoder=late)
    assert (first.unchanged, first.embedded + first.copied, first.failures) == (0, 6, [])
    assert passages(store, folder / "moving.txt") == []
    assert all("late" in point.vectors for point in store.scroll("documents", vectors=["late"]))
    second = ingest_more(store, folder, fake, sparse_encoder=load_encoder("fake?kind=sparse"))
    assert (second.unchanged, second.embedded + second.copied) == (0, 6)
    assert_has_all(store)
    third = ingest_more(store, folder, fake)
    assert (third.unchanged, third.embedded, third.copied) == (6, 0, 0)


def test_a_text_without_learned_terms(store: Store, folder: Path, fake: Encoder) -> None:
    """An empty sparse vector, or a multivector without a row, is stored as far as it goes; the rest is searched."""

    class Silent(WrappedEncoder):
        """Has nothing to say of texts about foxes."""

        def __init__(self, name: str) -> None:
            super().__init__(load_encoder(name))

        def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
            made: Any = super().encode_text(texts, role=role)
            if self.spec.kind == "multi":
                return [row[:0] if "foxes" in text else row for text, row in zip(texts, made, strict=True)]
            return [
                SparseVector(v.indices[:0], v.values[:0]) if "foxes" in text else v
                for text, v in zip(texts, made, strict=True)
            ]

    report = ingest_more(
        store, folder, fake, sparse_encoder=Silent("fake?kind=sparse"), late_encoder=Silent("fake?kind=multi")
    )
    assert (report.embedded, report.failures) == (3, [])
    (note,) = passages(store, folder / "plain.txt")
    assert "late" not in note.vectors
    assert {Path(hit.payload["uri"]).name for hit in search(store, "documents", text="foxes")} == {
        "long.md",
        "shown.md",
        "plain.txt",
    }
    assert ingest_more(store, folder, fake).unchanged == 3


def test_encoders_of_the_wrong_kind(store: Store, folder: Path, fake: Encoder) -> None:
    """Each vector takes encoders of one kind, of texts; of another encoder than the remembered, the option is named."""
    sparse, late = load_encoder("fake?kind=sparse"), load_encoder("fake?kind=multi")
    with pytest.raises(StoreError, match=r"'fake' makes dense vectors, and the vector 'late' is for multivectors"):
        ingest_more(store, folder, fake, late_encoder=fake)
    with pytest.raises(StoreError, match=r"makes multivectors, and the vector 'sparse' is for sparse vectors"):
        ingest_more(store, folder, fake, sparse_encoder=late)
    with pytest.raises(StoreError, match=r"makes sparse vectors, and the vector 'text' is for dense vectors"):
        ingest_more(store, folder, sparse)
    with pytest.raises(UnsupportedModality, match="cannot encode pictures, only text"):
        ingest_documents(store, "documents", [folder], encoder=fake, cross_encoder=load_encoder("minilm"))
    assert store.collections() == []
    ingest_more(store, folder, fake, late_encoder=late)
    other = load_encoder("fake:other?kind=multi")
    with pytest.raises(CollectionMismatch, match=r"vector 'late'.*`late_encoder='fake\?kind=multi'`"):
        ingest_more(store, folder, fake, sparse_encoder=sparse, late_encoder=other)
    contract = store.contract("documents")
    assert contract is not None
    assert "sparse" not in contract.vectors


class Joint(WrappedEncoder):
    """One of three encoders of one body: a pass over texts is counted for all of them."""

    passes: list[int] = []  # noqa: RUF012  of the body that all share

    def __init__(self, kind: str) -> None:
        super().__init__(load_encoder(f"fake?kind={kind}"))

    def shares_forward(self, other: Encoder) -> bool:
        return isinstance(other, Joint)

    def encode_text_jointly(
        self,
        texts: Sequence[str],
        others: Sequence[Encoder],
        *,
        role: Role,
        task: str | None = None,
    ) -> list[Embeddings]:
        self.passes.append(len(texts))
        return [each.encoder.encode_text(texts, role=role) for each in (self, *others) if isinstance(each, Joint)]

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        return self.encode_text_jointly(texts, [], role=role)[0]


def test_encoders_of_one_body_share_a_pass(store: Store, folder: Path, fake: Encoder) -> None:
    """Dense, sparse and late vectors of each batch come from one pass, whichever of the encoders share it."""
    for dense in (Joint("dense"), fake):
        Joint.passes.clear()
        collection = "shared" if isinstance(dense, Joint) else "documents"
        extra = {"sparse_encoder": Joint("sparse"), "late_encoder": Joint("multi")}
        ingest_documents(store, collection, [folder], encoder=dense, cross_encoder=fake, images_into=None, **extra)
        assert sum(Joint.passes) == store.count(collection)
    separate = {p.id: p for p in store.scroll("documents", vectors=True)}
    for point in store.scroll("shared", vectors=True):
        for name in ("text", "late"):
            np.testing.assert_array_equal(point.vectors[name], separate[point.id].vectors[name])


def test_a_word_without_end_is_cut(fake: Encoder) -> None:
    """A tokenizer that takes any word for one token does not make passages of fifty thousand characters."""
    from mmembed.documents import windows

    pieces = windows("word" * 5000, count_tokens=fake.count_tokens, max_tokens=64)
    assert max(map(len, pieces)) < 64 * 20 + 20
    assert "".join(pieces) == "word" * 5000


def test_an_encoder_that_joins_the_texts_of_a_call_is_refused(store: Store, tmp_path: Path) -> None:
    """Late chunking would mix the passages of several files: refused before a collection is made."""
    (tmp_path / "a.txt").write_text("a text")
    joining = load_encoder("fake")
    joining.spec = replace(joining.spec, whole_call=frozenset({"document"}))
    with pytest.raises(SettingsError, match="reads all texts of a call as one document"):
        ingest_documents(store, "late_chunked", [tmp_path], encoder=joining)
    assert "late_chunked" not in store.collections()
