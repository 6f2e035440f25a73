"""Items in memory: arrays, images, bytes and texts become points without a file."""

from __future__ import annotations

import io
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import files
import numpy as np
import numpy.typing as npt
import pytest
from counting import Counting
from PIL import Image

import mmembed
from mmembed import Item, ingest_documents, ingest_images, load_encoder, open_store, search
from mmembed.collection import Collection
from mmembed.collection.payload import item_id
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.types import Encoder, Store

OWN = str(uuid.uuid5(uuid.NAMESPACE_URL, "https://shop.example/17"))


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"edge:{tmp_path / 'store.mm'}")
    yield store
    store.close()


@pytest.fixture
def fake() -> Encoder:
    return load_encoder("fake")


def array(seed: int) -> npt.NDArray[np.uint8]:
    return np.asarray(files.photo(seed=seed))


def png(seed: int) -> bytes:
    return files.encoded(files.photo(seed=seed))


def test_an_item_comes_back_by_its_own_image(edge: Store, fake: Encoder, tmp_path: Path) -> None:
    """An array, an image, bytes and a path each come back first by their pixels, with their id and payload."""
    files.photo(seed=4).save(tmp_path / "four.png")
    items = [
        Item("shop/17", "image", content=array(1), id=OWN.upper(), payload={"price": 12.5}),
        Item("shop/18", "image", content=files.photo(seed=2), payload={"price": 3.0}),
        Item("shop/19", "image", content=png(3), payload={"price": 4.0}),
        Item("shop/20", "image", tmp_path / "four.png", payload={"price": 5.0}),
    ]
    report = ingest_images(edge, "images", items, encoder=fake)
    assert (report.embedded, report.failures) == (4, [])
    for seed, item in enumerate(items, start=1):
        (hit,) = search(edge, "images", image=files.photo(seed=seed), encoder=fake, limit=1)
        assert hit.id == (OWN if seed == 1 else item_id("image", item.uri))
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert (hit.payload["uri"], hit.payload["price"]) == (item.uri, item.payload["price"])
        assert (hit.payload["width"], hit.payload["height"]) == (48, 32)
        thumbnail = thumbnail_path(Collection(edge, "images"), hit.id)
        assert thumbnail is not None
        with Image.open(thumbnail) as shown:
            assert shown.size == (48, 32)


def test_no_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: Encoder) -> None:
    """Items in memory are indexed in an empty folder, and no file is opened for it."""
    monkeypatch.chdir(tmp_path)
    load_encoder("tiny"), load_encoder("bm25")
    pdf = files.pdf(tmp_path / "made.pdf", ["Owls hunt at night."]).read_bytes()
    word = files.word(tmp_path / "made.docx", [(0, "Herons"), "They fish.", (files.photo(90, 90), "one")]).read_bytes()
    for made in tmp_path.iterdir():
        made.unlink()
    documents = [
        Item("note-1", "text", text="Foxes hunt at dusk."),
        *(Item("owls.pdf", "text", content=pdf), Item("mail/herons.docx", "text", content=word)),
        Item("page.html", "text", content=b"<h1>Storks</h1><p>Storks clatter.</p><img src='stork.png'>"),
        Item("read.md", "text", content=b"# Geese\n\nThey honk. ![a goose](goose.png)"),
    ]
    store = open_store(":memory:")
    # the first run imports the modules that read
    ingest_documents(store, "warm", documents, encoder=fake, cross_encoder=fake, images_into="warm-images")
    ingest_images(store, "warm-images", [Item("a", "image", content=png(9))], encoder=fake)
    opened: list[tuple[str, int]] = []
    listening = False

    def listen(event: str, args: tuple[Any, ...]) -> None:
        if listening and event == "open":
            opened.append((str(args[0]), int(args[2] or 0)))

    sys.addaudithook(listen)
    listening = True
    images = [Item("a", "image", content=array(1)), Item("b", "image", content=png(2))]
    assert ingest_images(store, "images", images, encoder=fake).embedded == 2
    report = ingest_documents(store, "documents", documents, encoder=fake, cross_encoder=fake)
    listening = False  # the interpreter's own files, where it looks for plugins, are read from elsewhere
    assert [path for path, _ in opened if not os.path.isabs(path) or Path(path).is_relative_to(tmp_path)] == []
    assert [path for path, flags in opened if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)] == []
    assert list(tmp_path.iterdir()) == []
    assert (report.embedded, report.failures) == (5, [])
    assert report.images is not None
    assert report.images.embedded == 1
    titles = {str(p.payload["uri"]): p.payload["title"] for p in store.scroll("documents")}
    assert titles == {
        "note-1": "note-1",
        "owls.pdf": "owls",
        "mail/herons.docx": "Herons",
        "page.html": "Storks",
        "read.md": "Geese",
    }


def test_indexing_twice_encodes_nothing_twice(edge: Store, fake: Encoder) -> None:
    """Unchanged content is told by its hash; a new payload costs no vector, and what is no longer said goes."""
    encoder = Counting(fake)

    def run(**payload: Any) -> tuple[int, int]:
        items = [Item(f"{n}", "image", content=content, payload=dict(payload)) for n, content in enumerate(contents)]
        report = ingest_images(edge, "images", items, encoder=encoder)
        return report.embedded, report.unchanged

    contents = [array(1), files.photo(seed=2), png(3)]
    assert run(a=1) == (3, 0)
    assert run(a=1) == (0, 3)
    assert run(b=2) == (0, 3)
    assert encoder.images == 3
    (point,) = edge.retrieve("images", [item_id("image", "0")])
    assert (point.payload["b"], "a" in point.payload) == (2, False)
    contents[0] = array(5)
    assert run() == (1, 2)
    (point,) = edge.retrieve("images", [item_id("image", "0")])
    assert point.payload["b"] == 2, "an item that says nothing leaves what was said"
    notes = [Item("n", "text", text="Foxes."), Item("n.md", "text", content=b"# Geese")]
    for embedded in (2, 0):
        report = ingest_documents(edge, "documents", notes, encoder=fake, cross_encoder=fake, images_into=None)
        assert (report.embedded, report.unchanged) == (embedded, 2 - embedded)


def test_what_is_equal_is_encoded_once(edge: Store, fake: Encoder) -> None:
    """The same pixels as array and image are copies; neither is ever taken for a file that moved."""
    encoder = Counting(fake)
    report = ingest_images(edge, "images", [Item("a", "image", content=array(1))], encoder=encoder)
    report = ingest_images(edge, "images", [Item("b", "image", content=files.photo(seed=1))], encoder=encoder)
    assert (report.copied, report.moved, encoder.images, edge.count("images")) == (1, 0, 1, 2)
    assert all(thumbnail_path(Collection(edge, "images"), p.id).is_file() for p in edge.scroll("images"))


def test_a_file_does_not_move_into_memory(edge: Store, fake: Encoder, tmp_path: Path) -> None:
    """An item with the contents of a file that is gone takes its vector, and the file's point stays."""
    (tmp_path / "a.png").write_bytes(png(1))
    ingest_images(edge, "images", [tmp_path / "a.png"], encoder=fake)
    (tmp_path / "a.png").unlink()
    report = ingest_images(edge, "images", [Item("b", "image", content=png(1))], encoder=fake)
    assert (report.copied, report.moved, edge.count("images")) == (1, 0, 2)


def test_files_under_names_of_their_own(edge: Store, fake: Encoder, tmp_path: Path) -> None:
    """Two names for one file are two points: a uri that is no path says nothing of where a file is or was."""
    (tmp_path / "a.png").write_bytes(png(1))
    for name in ("shop/1", "shop/2"):
        report = ingest_images(edge, "images", [Item(name, "image", tmp_path / "a.png")], encoder=fake, sync=True)
        assert (report.moved, report.removed) == (0, 0)
    assert edge.count("images") == 2


@pytest.mark.parametrize("shape", [(32, 48), (32, 48, 1), (32, 48, 3), (32, 48, 4)])
def test_shapes_of_arrays(fake: Encoder, shape: tuple[int, ...]) -> None:
    """Grey with and without an axis for it, RGB, and RGBA, which is laid on white."""
    values = np.full(shape, 40, np.uint8)
    if shape[-1] == 4:
        values[..., 3] = 0
    shown = Image.new("RGB", (48, 32), (255, 255, 255) if shape[-1] == 4 else (40, 40, 40))
    store = open_store(":memory:")
    assert ingest_images(store, "images", [Item("a", "image", content=values)], encoder=fake).embedded == 1
    (point,) = store.scroll("images", vectors=True)
    np.testing.assert_allclose(point.vectors["image"], np.asarray(fake.encode_image([shown]))[0], atol=1e-6)


def test_bad_items_fail_alone(edge: Store, fake: Encoder) -> None:
    """Each is a Failure that names its uri and says what is wrong; the rest is indexed."""
    bad: dict[str, tuple[Item, str]] = {
        "floats": (Item("floats", "image", content=np.zeros((4, 4, 3))), "array of float64 of the shape (4, 4, 3)"),
        "five": (Item("five", "image", content=np.zeros((4, 4, 5), np.uint8)), "(height, width, 1, 3 or 4)"),
        "empty": (Item("empty", "image", content=np.zeros((0, 4, 3), np.uint8)), "is no image"),
        "junk": (Item("junk", "image", content=b"no image"), "not a picture in any of the formats"),
        "torn": (Item("torn", "image", content=Image.open(io.BytesIO(png(1)[:200]))), "cannot be decoded"),
        "text": (Item("text", "text", text="words"), "its modality is 'text', and images are indexed here"),
        "id": (Item("id", "image", content=png(1), id="17"), "no UUID"),
        "none": (Item("none", "image"), "it has none of them"),
        "two": (Item("two", "image", Path("a.png"), png(1)), "it has path and content"),
        "kind": (Item("kind", "image", content="a.png"), "a str is no image"),  # type: ignore[arg-type]
        "gone": (Item("gone", "image", Path("/nowhere/a.png")), "cannot be read"),
    }
    items = [Item("first", "image", content=png(7)), *(item for item, _ in bad.values())]
    report = ingest_images(edge, "images", [*items, Item("last", "image", content=png(8))], encoder=fake)
    assert report.embedded == 2
    said = {failure.uri: failure.error for failure in report.failures}
    assert said.keys() == bad.keys()
    for uri, (_, sentence) in bad.items():
        assert sentence in said[uri]
        assert said[uri].startswith(f"{uri}: " if uri != "gone" else "/nowhere/a.png: ")
    documents = [
        Item("none.bin", "text", content=b"words"),
        *(Item("blank", "text", text=" \n"), Item("image", "image", content=png(1)), Item("good", "text", text="good")),
    ]
    report = ingest_documents(edge, "documents", documents, encoder=fake, cross_encoder=fake)
    assert report.embedded == 1
    assert [failure.uri for failure in report.failures] == ["none.bin", "image", "blank"]


def test_a_large_item_is_a_failure(edge: Store, fake: Encoder) -> None:
    """`max_pixels` counts for what is in memory too."""
    report = ingest_images(edge, "images", [Item("a", "image", content=array(1))], encoder=fake, max_pixels=1000)
    assert "48 x 32 pixels" in report.failures[0].error


def test_of_two_with_one_id_the_later_one_wins(edge: Store, fake: Encoder) -> None:
    """In one call as in two: there is one point, and it is the later item's, whatever their uris."""
    for name, batch in (("one", [1, 2]), ("two", [1]), ("two", [2])):
        items = [Item(f"item {seed}", "image", content=png(seed), id=OWN, payload={"seed": seed}) for seed in batch]
        ingest_images(edge, name, items, encoder=fake)
    texts = [Item("a", "text", text="word " * 2000, id=OWN), Item("b", "text", text="Geese.", id=OWN)]
    ingest_documents(edge, "texts", texts, encoder=fake, cross_encoder=fake, images_into=None)
    for name in ("one", "two"):
        (point,) = edge.scroll(name, vectors=True)
        assert (point.id, point.payload["uri"], point.payload["seed"]) == (OWN, "item 2", 2)
        expected = np.asarray(fake.encode_image([files.photo(seed=2)]))[0]
        np.testing.assert_allclose(point.vectors["image"], expected, atol=1e-6)
    assert [(p.id, p.payload["uri"]) for p in edge.scroll("texts")] == [(OWN, "b")]


def test_a_copy_of_what_was_overwritten_is_read(edge: Store, fake: Encoder) -> None:
    """An item equal to the first of two with one id does not get the vector of the second."""
    items = [Item("a", "image", content=png(1)), Item("a", "image", content=png(2)), Item("b", "image", content=png(1))]
    ingest_images(edge, "images", items, encoder=fake)
    (point,) = edge.retrieve("images", [item_id("image", "b")], vectors=True)
    expected = np.asarray(fake.encode_image([files.photo(seed=1)]))[0]
    np.testing.assert_allclose(point.vectors["image"], expected, atol=1e-6)


def test_a_document_has_its_own_id(edge: Store, fake: Encoder) -> None:
    """Its first passage has it; under another id, or none, the document of that uri is the same document."""
    long = "Foxes hunt at dusk. " * 400
    for own in (None, OWN, None):
        item = Item("note", "text", text=long, id=own, payload={"author": "Ada"})
        ingest_documents(edge, "documents", [item], encoder=fake, cross_encoder=fake, images_into=None)
        points = sorted(edge.scroll("documents"), key=lambda point: int(point.payload["passage"]))
        assert [p.payload["passage"] for p in points] == list(range(points[0].payload["passages"]))
        assert len(points) > 2
        assert points[0].id == (own or item_id("text", "note", 0))
        assert {p.payload["author"] for p in points} == {"Ada"}
    (hit,) = search(edge, "documents", text="foxes", limit=1, encoder=fake)
    assert hit.payload["uri"] == "note"


def test_sync_leaves_what_came_from_memory(edge: Store, fake: Encoder, tmp_path: Path) -> None:
    """Files that are gone are removed, items are not: neither one named like such a file, nor its neighbours."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(png(ord(name[0])))
    items = [
        Item("x", "image", content=png(1), payload={"a": 1}),
        Item(str(tmp_path / "images/c.png"), "image", content=png(2)),
    ]
    ingest_images(edge, "images", [tmp_path / "images", *items], encoder=fake)
    (tmp_path / "images" / "a.png").unlink()
    report = ingest_images(edge, "images", [tmp_path / "images", items[0]], encoder=fake, sync=True)
    assert (report.removed, edge.count("images")) == (1, 3)
    assert ingest_images(edge, "images", [items[0]], encoder=fake, sync=True).removed == 0


def test_a_generator_is_consumed_lazily() -> None:
    """Items are pulled as they are needed, and few of them are in memory at a time."""
    alive = most = 0

    class Frame(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def frames() -> Iterator[Item]:
        nonlocal alive, most
        for number in range(24):
            frame = np.full((1500, 1500, 3), number, np.uint8).view(Frame)
            alive += 1
            most = max(most, alive)
            yield Item(f"film#{number}", "image", content=frame)
            del frame

    stored: list[int] = []
    store = open_store(":memory:")
    encoder = load_encoder("fake", batch_size=2)
    ingest_images(
        store, "images", frames(), encoder=encoder, workers=1, on_progress=lambda report: stored.append(report.done)
    )
    assert store.count("images") == 24
    assert stored[:2] == [2, 4]
    assert most <= 20, "a plan looks at 64 MiB of content at a time, and those were ten frames"


def test_captions_of_items(edge: Store, fake: Encoder) -> None:
    """A caption becomes the vectors of captions, in memory as in a manifest."""
    item = Item("a", "image", content=array(1), caption="a red kite")
    ingest_images(edge, "images", [item], encoder=fake, caption_encoder=fake)
    (point,) = edge.scroll("images", vectors=True)
    assert set(point.vectors) == {"image", "caption", "caption_bm25"}
    (hit,) = search(edge, "images", text="kite", vector_name="caption_bm25", limit=1)
    assert hit.payload["caption"] == "a red kite"


def test_sources_that_are_none(edge: Store, fake: Encoder) -> None:
    """One source in place of several, and an image without an Item around it, are TypeErrors with a sentence."""
    for one in ("folder", Path("folder"), Item("a", "image", content=png(1))):
        with pytest.raises(TypeError, match=r"wanted in a list, and a single .* was given: write \[...\] around it"):
            ingest_images(edge, "images", one, encoder=fake)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an Item with it as its content"):
        ingest_images(edge, "images", [files.photo()], encoder=fake)  # type: ignore[list-item]
    assert edge.collections() == []


def test_a_turned_image_is_upright(edge: Store, fake: Encoder) -> None:
    """The orientation that an image carries counts in memory as in its file."""
    content = files.encoded(
        files.photo(), "JPEG", quality=100, exif=files.exif(orientation=6, taken="2024:05:06 07:08:09")
    )
    with Image.open(io.BytesIO(content)) as opened:
        items = [Item("bytes", "image", content=content), Item("image", "image", content=opened)]
        assert ingest_images(edge, "images", items, encoder=fake).embedded == 2
    first, second = edge.retrieve("images", [item_id("image", item.uri) for item in items], vectors=True)
    np.testing.assert_allclose(first.vectors["image"], second.vectors["image"], atol=1e-6)
    assert (second.payload["width"], second.payload["height"]) == (32, 48)
    assert second.payload["taken_at"] == first.payload["taken_at"] == "2024-05-06T07:08:09"


def test_item_is_public() -> None:
    """`mmembed.Item` is the one that ingest takes."""
    assert mmembed.Item is Item
