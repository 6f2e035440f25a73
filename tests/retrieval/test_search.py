"""Every way to ask, held against plain numpy over the stored vectors, in Qdrant Edge and in memory."""

from __future__ import annotations

import json
import random
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qdrant_client import models
from searches import (
    assert_hits,
    best_of_documents,
    bm25_scores,
    by_cosine,
    by_windows,
    image_vector,
    points,
    ranked,
    text_vector,
)

import mmembed
from mmembed import ingest_documents, ingest_images, load_encoder, open_store, search
from mmembed.encoders.wrapper import WrappedEncoder
from mmembed.errors import (
    CollectionMismatch,
    CollectionNotFound,
    InvalidQuery,
    MmembedError,
    StoreError,
    UnknownEncoder,
    UnreadableImage,
    UnsupportedModality,
)
from mmembed.types import Contract, Encoder, Hit, Point, Store
from mmembed.vectors import l2_normalize

DEMO = Path(mmembed.__file__).parent / "demo"
WORDS = [
    "river",
    "stone",
    "cloud",
    "ember",
    "lantern",
    "harbour",
    "meadow",
    "copper",
    "violet",
    "winter",
    "thunder",
    "orchard",
]


class Scaled(WrappedEncoder):
    """The fake encoder with another scale and, for a sigmoid, a bias."""

    def __init__(self, scale: float | None, bias: float | None) -> None:
        super().__init__(load_encoder("fake"))
        self.logit_scale, self.logit_bias = scale, bias


def make_images(folder: Path) -> Path:
    """24 random pictures and a manifest that says of each a number, a nested number and a colour."""
    folder.mkdir()
    rng, rows = np.random.default_rng(7), []
    for n in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{n:02}.png")
        rows.append({"uri": f"{n:02}.png", "number": n, "shelf": {"aisle": n % 3}, "colour": ["red", "blue"][n % 2]})
    manifest = folder / "list.jsonl"
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    return manifest


def make_texts(folder: Path) -> Path:
    """30 documents of five sections each, of few words, so that many scores are equal."""
    folder.mkdir()
    rng = random.Random(7)
    for n in range(30):
        sections = [f"# Part {p}\n\n" + " ".join(rng.choices(WORDS, k=200)) for p in range(5)]
        (folder / f"{n:02}.md").write_text("\n\n".join(sections))
    return folder


@pytest.fixture(scope="module", params=["edge", "memory"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """`images` and `documents` by fake; `drawings` and `texts` by tiny and minilm, which ship with mmembed."""
    root = tmp_path_factory.mktemp("search")
    opened = open_store(f"edge:{root / 'store.mm'}" if request.param == "edge" else ":memory:")
    fake, tiny = load_encoder("fake"), load_encoder("tiny")
    ingest_images(opened, "images", [make_images(root / "pictures")], encoder=fake)
    texts = make_texts(root / "texts")
    ingest_documents(opened, "documents", [texts], encoder=fake, cross_encoder=fake, images_into=None)
    drawings = root / "drawings"
    shutil.copytree(DEMO / "pictograms", drawings, ignore=lambda _, names: [n for n in names if n > "1f440"])
    ingest_images(opened, "drawings", [drawings], encoder=tiny)
    minilm = load_encoder("minilm")
    ingest_documents(
        opened, "texts", [DEMO / "documents"], encoder=minilm, cross_encoder=tiny, images_into="text_pictures"
    )
    yield opened
    opened.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"edge:{tmp_path / 'own.mm'}")
    yield opened
    opened.close()


def is_value(key: str, value: Any) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])


# --- each way to ask ----------------------------------------------------------------------------


def test_text_to_image(store: Store) -> None:
    """Words are compared with the pictures by the encoder that the collection remembers."""
    hits = search(store, "drawings", text="guitar")
    assert_hits(hits, by_cosine(store, "drawings", "image", text_vector("tiny", "guitar")))
    assert Path(hits[0].payload["uri"]).name == "1f3b8.png"
    assert {(h.collection, h.vector_name) for h in hits} == {("drawings", "image")}


def test_image_to_image(store: Store) -> None:
    """A picture finds itself first, then what is like it."""
    guitar = DEMO / "pictograms" / "1f3b8.png"
    hits = search(store, "drawings", image=guitar, limit=5)
    assert_hits(hits, by_cosine(store, "drawings", "image", image_vector("tiny", guitar)), 5)
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert all(h.probability is None for h in hits)


def test_image_to_text(store: Store) -> None:
    """A picture is compared with every window of every passage; of a document only the best passage is a hit."""
    guitar = DEMO / "pictograms" / "1f3b8.png"
    expected = by_windows(store, "texts", image_vector("tiny", guitar))
    hits = search(store, "texts", image=guitar, limit=5)
    assert_hits(hits, best_of_documents(store, "texts", expected), 5)
    assert_hits(search(store, "texts", image=guitar, limit=5, all_passages=True), expected, 5)
    assert {h.vector_name for h in hits} == {"cross"}


def test_text_to_text_by_one_vector(store: Store) -> None:
    """Naming the vector, or a threshold, searches by it alone, with cosines for scores."""
    question = "how long does a cake stay in the oven?"
    cosines = by_cosine(store, "texts", "text", text_vector("minilm", question))
    best = best_of_documents(store, "texts", cosines)
    assert_hits(search(store, "texts", text=question, vector_name="text"), best)
    floor = ranked(best)[2][1] - 1e-4
    hits = search(store, "texts", text=question, score_threshold=floor)
    assert_hits(hits, best, 3)
    assert {h.vector_name for h in hits} == {"text"}


def test_a_score_threshold_above_all_finds_nothing(store: Store) -> None:
    """No hits is an empty list."""
    assert search(store, "images", text="river", score_threshold=0.999) == []


def fused(*rankings: dict[str, float]) -> dict[str, float]:
    """Reciprocal rank fusion with k = 60, ranks counted from 0."""
    total: dict[str, float] = {}
    for scores in rankings:
        for rank, (id, _) in enumerate(ranked(scores)[:100]):
            total[id] = total.get(id, 0.0) + 1 / (60 + rank)
    return total


@pytest.mark.parametrize("question", ["who gives way to a ferry", "how long does a cake stay in the oven?"])
def test_hybrid_is_the_default_for_documents(store: Store, question: str) -> None:
    """Dense and BM25 rankings are fused by reciprocal ranks with k = 60."""
    dense = by_cosine(store, "texts", "text", text_vector("minilm", question))
    words = bm25_scores(store, "texts", question)
    for scores in (dense, words):
        assert len({round(score, 6) for score in scores.values()}) == len(scores), "ranks would be a matter of chance"
    expected = fused(dense, words)
    assert_hits(search(store, "texts", text=question, all_passages=True, limit=50), expected, 50)
    hits = search(store, "texts", text=question)
    assert_hits(hits, best_of_documents(store, "texts", expected))
    assert {h.vector_name for h in hits} == {None}
    assert all(h.probability is None for h in hits)


def test_bm25_alone(store: Store) -> None:
    """By the sparse vector only passages that share a word are hits, scored with the inverse document frequency."""
    hits = search(store, "texts", text="ferry oven", vector_name="bm25", all_passages=True)
    expected = bm25_scores(store, "texts", "ferry oven")
    assert hits
    np.testing.assert_allclose([h.score for h in hits], [s for _, s in ranked(expected)][:10], rtol=1e-4)
    assert search(store, "texts", text="zzzzz", vector_name="bm25") == []


def test_words_that_bm25_does_not_know_still_find_by_meaning(store: Store) -> None:
    """Where no word is shared, the dense ranking answers alone."""
    hits = search(store, "texts", text="北京 🐈", limit=3)
    assert len(hits) == 3


def test_by_vector(store: Store) -> None:
    """A vector of any length and float type is compared by cosine; one for a multivector is one window."""
    query = np.random.default_rng(1).standard_normal(32)
    expected = by_cosine(store, "images", "image", l2_normalize(query))
    for given in (query, (3 * query).tolist(), query.astype(np.float32)):
        assert_hits(search(store, "images", vector=given), expected)
    windows = best_of_documents(store, "documents", by_windows(store, "documents", l2_normalize(query)))
    assert_hits(search(store, "documents", vector=l2_normalize(query), vector_name="cross"), windows)


def test_by_id_of_a_image(store: Store) -> None:
    """What is like a stored point, without the point itself."""
    asked = points(store, "images")[3]
    expected = by_cosine(store, "images", "image", np.asarray(asked.vectors["image"]))
    del expected[asked.id]
    assert_hits(search(store, "images", id=asked.id), expected)
    assert_hits(search(store, "images", id=asked.id.upper(), limit=100), expected, 100)
    red = is_value("colour", "red")
    kept = {p.id for p in points(store, "images") if p.payload["colour"] == "red"}
    assert_hits(search(store, "images", id=asked.id, filter=red), {i: s for i, s in expected.items() if i in kept})


@pytest.mark.parametrize("vector", ["text", "cross"])
def test_by_id_of_a_passage(store: Store, vector: str) -> None:
    """Of documents, the whole document that the passage stands in is left out, unless all passages are asked for."""
    everything = points(store, "documents")
    asked = everything[5]
    query = np.asarray(asked.vectors[vector]).reshape(-1, 32)
    scores = {p.id: float((np.asarray(p.vectors[vector]).reshape(-1, 32) @ query.T).max(0).sum()) for p in everything}
    others = {p.id: scores[p.id] for p in everything if p.payload["uri"] != asked.payload["uri"]}
    hits = search(store, "documents", id=asked.id, vector_name=vector)
    assert_hits(hits, best_of_documents(store, "documents", others))
    del scores[asked.id]
    assert_hits(search(store, "documents", id=asked.id, vector_name=vector, all_passages=True), scores)


# --- mixed queries ------------------------------------------------------------------------------


def test_text_and_image_are_added_in_their_shared_space(store: Store) -> None:
    """The parts of norm 1 are weighted, summed and normalised; what is subtracted counts half by default."""
    cat, drum = DEMO / "pictograms" / "1f63f.png", DEMO / "pictograms" / "1f941.png"
    text, image = text_vector("tiny", "guitar"), image_vector("tiny", cat)
    minus_text, minus_image = text_vector("tiny", "sad"), image_vector("tiny", drum)

    def expected(vector: np.ndarray) -> dict[str, float]:
        return by_cosine(store, "drawings", "image", l2_normalize(vector))

    def ask(**how: Any) -> list[Hit]:
        return search(store, "drawings", **how)

    assert_hits(ask(text="guitar", image=cat), expected(text + image))
    assert_hits(ask(text="guitar", minus=["sad"]), expected(text - 0.5 * minus_text))
    assert_hits(
        ask(text="guitar", image=cat, minus=["sad", drum]),
        expected(text + image - 0.5 * minus_text - 0.5 * minus_image),
    )
    weights = {"text": 0.2, "image": 2, "minus": 1.5}
    assert_hits(
        ask(text="guitar", image=cat, minus=["sad"], weights=weights),
        expected(0.2 * text + 2 * image - 1.5 * minus_text),
    )
    hits = ask(text="guitar", image=cat, weights={"image": 0})
    assert_hits(hits, expected(text))
    assert all(h.probability is None for h in hits)


def test_a_mixed_query_of_documents(store: Store) -> None:
    """With a picture in it, documents are searched by `cross`; texts alone by `text`."""
    cat = DEMO / "pictograms" / "1f63f.png"
    query = l2_normalize(text_vector("tiny", "music") + image_vector("tiny", cat))
    hits = search(store, "texts", text="music", image=cat)
    assert_hits(hits, best_of_documents(store, "texts", by_windows(store, "texts", query)))
    query = l2_normalize(text_vector("minilm", "music") - 0.5 * text_vector("minilm", "guitar"))
    hits = search(store, "texts", text="music", minus=["guitar"])
    assert_hits(hits, best_of_documents(store, "texts", by_cosine(store, "texts", "text", query)))
    assert {h.vector_name for h in hits} == {"text"}


# --- pictures to ask with -----------------------------------------------------------------------


def turned_jpeg(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient = np.zeros((20, 40, 3), dtype=np.uint8)
    gradient[:, :20] = (250, 10, 10)
    Image.fromarray(gradient).save(path, exif=exif, quality=95)


def see_through_png(path: Path) -> None:
    pixels = np.zeros((30, 30, 4), dtype=np.uint8)
    pixels[:15] = (0, 0, 250, 255)
    Image.fromarray(pixels).save(path)


def palette_gif(path: Path) -> None:
    Image.fromarray(np.tile(np.arange(30, dtype=np.uint8) * 8, (30, 1))).convert("P").save(path, transparency=0)


@pytest.mark.parametrize("make", [turned_jpeg, see_through_png, palette_gif])
def test_a_path_its_bytes_and_its_image_are_one_query(
    store: Store, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """An EXIF turn is applied and transparency laid on white however the picture is handed over."""
    path = tmp_path / make.__name__.replace("_", ".")
    make(path)
    hits = search(store, "images", image=path)
    with Image.open(path) as lazy:
        same: list[bytes | Image.Image] = [path.read_bytes(), lazy]
        if make is turned_jpeg:
            lying = Image.fromarray(np.asarray(lazy))
            assert not are_same(search(store, "images", image=lying), hits)
            same.append(lying.transpose(Image.Transpose.ROTATE_270))
        for image in same:
            assert are_same(search(store, "images", image=image), hits)


def are_same(found: list[Hit], hits: list[Hit]) -> bool:
    """The same points with the same scores, but for rounding."""
    scores = [[h.score for h in some] for some in (found, hits)]
    return [h.id for h in found] == [h.id for h in hits] and bool(np.allclose(*scores, atol=1e-6))


def test_images_that_cannot_be_read(store: Store, tmp_path: Path) -> None:
    """A missing file, a folder, a text and a truncated picture are one sentence each."""
    whole = BytesIO()
    Image.effect_noise((200, 200), 90).save(whole, "PNG")
    cut = whole.getvalue()[:2000]
    (tmp_path / "cut.png").write_bytes(cut)
    for image in (tmp_path / "missing.png", tmp_path, b"", b"no picture", cut, tmp_path / "cut.png"):
        with pytest.raises(UnreadableImage):
            search(store, "images", image=image)
    with Image.open(tmp_path / "cut.png") as lazy, pytest.raises(UnreadableImage, match="cannot be decoded"):
        search(store, "images", image=lazy)


# --- probabilities ------------------------------------------------------------------------------


def test_a_scale_without_a_bias_is_a_softmax_over_the_best(store: Store) -> None:
    """CLIP's way: the probabilities of the 100 best sum to 1, and are the same however few hits are asked for."""
    encoder = Scaled(25.0, None)
    hits = search(store, "images", text="river stone", limit=100, encoder=encoder)
    logits = 25 * np.array([h.score for h in hits])
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose([h.probability for h in hits], expected, rtol=1e-6)
    assert sum(h.probability or 0 for h in hits) == pytest.approx(1)
    some = search(store, "images", text="river stone", limit=2, offset=1, encoder=encoder)
    assert [(h.id, h.probability) for h in some] == [(h.id, pytest.approx(h.probability, rel=1e-4)) for h in hits[1:3]]
    (first,) = search(
        store, "images", text="river stone", score_threshold=hits[1].score + 1e-4, limit=50, encoder=encoder
    )
    assert (first.id, first.probability) == (hits[0].id, pytest.approx(hits[0].probability, rel=1e-4))


def test_a_bias_makes_each_probability_its_own(store: Store) -> None:
    """SigLIP's way: a sigmoid of scale times cosine plus bias, whatever the other hits are."""
    encoder = Scaled(112.0, -16.0)
    hits = search(store, "images", text="river stone", limit=6, encoder=encoder)
    expected = [1 / (1 + np.exp(-(112 * h.score - 16))) for h in hits]
    np.testing.assert_allclose([h.probability for h in hits], expected, rtol=1e-6)
    for hit, again in zip(hits, search(store, "images", text="river stone", limit=2, encoder=encoder), strict=False):
        assert (again.id, again.probability) == (hit.id, pytest.approx(hit.probability, rel=1e-4))


def test_no_scale_no_probability(store: Store) -> None:
    """Nor where a text is compared with texts, a picture with pictures, or the query is mixed or a vector."""
    image = Image.new("RGB", (8, 8), "red")
    scaled = Scaled(25.0, None)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("images", {"text": "river", "encoder": Scaled(None, None)}),
        ("images", {"image": image, "encoder": scaled}),
        ("images", {"image": image, "text": "river", "encoder": scaled}),
        ("images", {"text": "river", "minus": ["stone"], "encoder": scaled}),
        ("images", {"vector": [1.0] * 32}),
        ("documents", {"text": "river", "vector_name": "text", "encoder": scaled}),
    ]
    for collection, how in asked:
        hits = search(store, collection, **how)
        assert hits
        assert all(h.probability is None for h in hits), how
    assert sum(h.probability or 0 for h in search(store, "documents", image=image, limit=100)) == pytest.approx(1)


# --- pages, filters, documents ------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"text": "river lantern"},
        {"text": "river lantern", "all_passages": True},
        {"text": "river lantern", "vector_name": "bm25"},
        {"text": "river lantern", "vector_name": "text"},
        {"image": Image.new("RGB", (8, 8), "red")},
    ],
    ids=["hybrid", "hybrid, all passages", "bm25", "text", "picture"],
)
@pytest.mark.parametrize("size", [7, 40])
def test_pages_neither_overlap_nor_leave_gaps(store: Store, how: dict[str, Any], size: int) -> None:
    """Pages put together are the whole list, though fused and BM25 scores are often equal."""
    whole = search(store, "documents", limit=1000, **how)
    total = store.count("documents") if how.get("all_passages") else 30
    assert len({h.id for h in whole}) == len(whole) == total
    paged = [
        h
        for offset in range(0, total + size, size)
        for h in search(store, "documents", limit=size, offset=offset, **how)
    ]
    assert are_same(paged, whole)


def test_pages_of_equal_images(empty: Store, tmp_path: Path) -> None:
    """Copies of one picture have one score, and still each is on exactly one page."""
    folder = tmp_path / "copies"
    folder.mkdir()
    for n in range(25):
        Image.new("RGB", (8, 8), "red").save(folder / f"{n:02}.png")
    ingest_images(empty, "images", [folder], encoder=load_encoder("fake"))
    paged = [h.id for offset in range(0, 25, 4) for h in search(empty, "images", text="x", limit=4, offset=offset)]
    assert len(paged) == len(set(paged)) == 25


def test_more_than_there_is(store: Store) -> None:
    """A limit or an offset of any size is answered with what there is."""
    assert len(search(store, "images", text="river", limit=10**20)) == 24
    assert len(search(store, "documents", text="river", limit=10**9)) == 30
    assert search(store, "images", text="river", offset=10**12) == []
    assert (
        search(store, "images", text="river", limit=3, offset=22)
        == search(store, "images", text="river", limit=24)[22:]
    )


def test_one_long_document_does_not_crowd_out_the_others(empty: Store, tmp_path: Path) -> None:
    """Where the best hundred passages are of one document, the others are still found."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "long.md").write_text("\n\n".join(f"# {n}\n\n" + "river " * 200 for n in range(150)))
    for n in range(12):
        (folder / f"{n}.md").write_text("stone river " + f"cloud{n} " * (n + 5))
    fake = load_encoder("fake")
    ingest_documents(empty, "documents", [folder], encoder=fake, cross_encoder=fake, images_into=None)
    assert empty.count("documents") > 150
    for how in ({}, {"vector_name": "text"}, {"vector_name": "bm25"}):
        hits = search(empty, "documents", text="river", limit=10, **how)
        assert len({h.payload["uri"] for h in hits}) == 10, how


@pytest.mark.parametrize("exact", [False, True])
def test_filters(store: Store, exact: bool) -> None:
    """Indexed or not, nested, a range or an excluded value: the hits are those of a plain comparison."""
    query = text_vector("fake", "river")
    scores = by_cosine(store, "images", "image", query)
    payloads = {p.id: p.payload for p in points(store, "images")}
    low = models.Filter(must=[models.FieldCondition(key="number", range=models.Range(lt=9))])
    not_red = models.Filter(must_not=is_value("colour", "red").must)
    filters: list[tuple[models.Filter, Callable[[dict[str, Any]], bool]]] = [
        (is_value("colour", "red"), lambda payload: payload["colour"] == "red"),
        (is_value("shelf.aisle", 2), lambda payload: payload["shelf"]["aisle"] == 2),
        (is_value("width", 8), lambda payload: payload["width"] == 8),
        (low, lambda payload: payload["number"] < 9),
        (not_red, lambda payload: payload["colour"] != "red"),
        (is_value("unheard_of", 1), lambda _: False),
    ]
    for filter, keeps in filters:
        kept = {id: score for id, score in scores.items() if keeps(payloads[id])}
        assert_hits(search(store, "images", text="river", filter=filter, limit=24, exact=exact), kept, 24)
    head = is_value("passage", 0)
    hits = search(store, "documents", text="river", filter=head, limit=50, exact=exact)
    assert len(hits) == 30
    assert {h.payload["passage"] for h in hits} == {0}


# --- captions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("captioned", "takes_part"), [(8, True), (7, False)])
def test_captions_take_part_where_most_images_have_one(
    empty: Store, tmp_path: Path, captioned: int, takes_part: bool
) -> None:
    """From 80 % on they are a ranking beside the pictures' own: dense and BM25 of captions count as one."""
    rng, rows = np.random.default_rng(3), []
    for n in range(10):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        rows.append({"uri": f"{n}.png", **({"caption": " ".join(WORDS[: n + 2])} if n < captioned else {})})
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    fake = load_encoder("fake")
    ingest_images(empty, "images", [tmp_path / "list.jsonl"], encoder=fake, caption_encoder=fake)
    query = text_vector("fake", "river meadow")
    images = by_cosine(empty, "images", "image", query)
    hits = search(empty, "images", text="river meadow")
    if not takes_part:
        assert_hits(hits, images)
        assert {h.vector_name for h in hits} == {"image"}
        return
    having = [p for p in points(empty, "images") if "caption" in p.vectors]
    dense = {p.id: float(np.asarray(p.vectors["caption"]) @ query) for p in having}
    words = {h.id: h.score for h in search(empty, "images", text="river meadow", vector_name="caption_bm25")}
    assert len({round(score, 6) for score in words.values()}) == len(words)
    captions = fused(dense, words)
    assert len({round(score, 6) for score in captions.values()}) == len(captions), "ranks would be a matter of chance"
    assert_hits(hits, fused(images, captions))
    assert {h.vector_name for h in hits} == {None}


def test_captions_whose_words_are_not_indexed_yet(empty: Store) -> None:
    """Between the two vectors of a first caption a search by words goes on; regression: it was a KeyError."""
    from mmembed.collection.prepare import vector_contract

    fake = load_encoder("fake")
    vectors = {"image": vector_contract(fake, "image"), "caption": vector_contract(fake, "text")}
    empty.create("images", Contract("images", vectors), indexes={})
    vector = np.eye(1, fake.spec.dim or 0, dtype=np.float32)[0]
    empty.upsert("images", [Point(str(uuid.uuid4()), {"image": vector, "caption": vector}, {"uri": "a"})])
    assert [hit.payload["uri"] for hit in search(empty, "images", text="a red boat")] == ["a"]


# --- refusals -----------------------------------------------------------------------------------

RED = Image.new("RGB", (8, 8), "red")
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "nothing to search for"),
    ({"text": "a", "vector": [1.0] * 32}, "three ways to ask"),
    ({"text": "a", "id": str(uuid.uuid4())}, "three ways to ask"),
    ({"vector": [1.0] * 32, "id": str(uuid.uuid4())}, "three ways to ask"),
    ({"minus": ["a"]}, "only something to subtract"),
    ({"text": "  "}, "is empty"),
    ({"text": "a", "minus": [""]}, "is empty"),
    ({"text": "a", "minus": "sad"}, "minus is a list"),
    ({"text": "a", "minus": [None]}, "a picture is"),
    ({"text": "caf\udce9"}, "not valid UTF-8"),
    ({"image": "red.png"}, "a picture is a pathlib.Path"),
    ({"text": "a", "limit": 0}, "limit must be at least 1"),
    ({"text": "a", "offset": -1}, "offset at least 0"),
    ({"text": "a", "weights": {"texts": 1}}, "not of texts"),
    ({"text": "a", "weights": {"text": 2}}, "a weight of text was given, and this query has text:"),
    ({"image": RED, "weights": {"image": 2}}, "weights are for mixed queries"),
    ({"text": "a", "minus": ["b"], "weights": {"text": 1, "image": 2}}, "a weight of image was given"),
    ({"text": "a", "image": RED, "weights": {"minus": 2}}, "this query has text and image"),
    ({"vector": [1.0] * 32, "weights": {"text": 2}}, "this query has no such part"),
    ({"text": "a", "image": RED, "weights": {"text": float("nan")}}, "the weight of text is nan"),
    ({"text": "a", "image": RED, "weights": {"text": "1"}}, "the weight of text is '1'"),
    ({"text": "a", "image": RED, "weights": {"text": 0, "image": 0}}, "cancel out"),
    ({"text": "a", "minus": ["a"], "weights": {"minus": 1}}, "cancel out"),
    ({"text": "a", "score_threshold": float("nan")}, "threshold is nan"),
    ({"text": "a", "filter": {"must": []}}, "models.Filter, not a dict"),
    ({"text": "a", "vector_name": "text"}, "has no vector 'text', only image"),
    ({"text": "a", "vector_name": ""}, "has no vector ''"),
    ({"id": "6d6d656d-6265-5d00-8000-000000000001"}, "has no point"),
    ({"vector": [1.0] * 31}, "has 32 dimensions; the one to search with has the shape"),
    ({"vector": [[1.0] * 32]}, "has 32 dimensions"),
    ({"vector": [0.0] * 32}, "all zeros"),
    ({"vector": [float("nan")] * 32}, "NaN"),
    ({"vector": []}, "empty"),
    ({"vector": ["a", "b"]}, "not a list of numbers"),
]


@pytest.mark.parametrize(("how", "says"), REFUSED, ids=[f"{n} {says}" for n, (_, says) in enumerate(REFUSED)])
def test_what_makes_no_sense_is_refused(store: Store, how: dict[str, Any], says: str) -> None:
    """One sentence that says what was asked and what is wrong with it."""
    with pytest.raises(InvalidQuery) as caught:
        search(store, "images", **how)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_ratio_of_weights_counts(store: Store) -> None:
    """Weights a million times, or the largest numbers there are, ask what their ratio asks."""
    plain = search(store, "drawings", text="a bird", image=RED)
    for weight in (1e-9, 1e6, 1.7e308):
        same = search(store, "drawings", text="a bird", image=RED, weights={"text": weight, "image": weight})
        assert [hit.id for hit in same] == [hit.id for hit in plain]


def test_a_vector_beyond_float32_is_refused(store: Store) -> None:
    """What overflows is infinity, which is no vector."""
    with pytest.raises(InvalidQuery, match="NaN or infinity"):
        search(store, "drawings", vector=[1e300] * 256)


def test_words_cannot_be_subtracted_from_words_of_bm25(store: Store) -> None:
    """Sparse vectors are not mixed, nor given as lists, nor made of pictures."""
    with pytest.raises(InvalidQuery, match="cannot be mixed or subtracted"):
        search(store, "documents", text="river", minus=["stone"], vector_name="bm25")
    with pytest.raises(InvalidQuery, match="is sparse"):
        search(store, "documents", vector=[1.0] * 32, vector_name="bm25")
    with pytest.raises(UnsupportedModality):
        search(store, "documents", image=RED, vector_name="bm25")
    with pytest.raises(UnsupportedModality, match="MiniLM"):
        search(store, "texts", image=RED, vector_name="text")


def test_a_bad_id(store: Store) -> None:
    """What cannot be an id of a point is said so."""
    with pytest.raises(StoreError, match="'abc' is not the id of a point"):
        search(store, "images", id="abc")


@pytest.mark.parametrize("id", [str(2**64), "9" * 20, "\N{ARABIC-INDIC DIGIT THREE}", "\N{SUPERSCRIPT TWO}", ""])
def test_a_number_that_is_no_id(store: Store, id: str) -> None:
    """Numbers of points have 64 bits and ASCII digits."""
    with pytest.raises(StoreError, match="is not the id of a point"):
        search(store, "images", id=id)


def test_an_unknown_collection(store: Store) -> None:
    """The nearest name is suggested."""
    with pytest.raises(CollectionNotFound, match="did you mean 'images'"):
        search(store, "image", text="a")


def test_documents_indexed_without_a_vector_say_how_to_get_it(memory: Store) -> None:
    """A picture asks for `cross`; where it is missing, the option that makes it is named."""
    fake = load_encoder("fake")
    from mmembed.collection.prepare import vector_contract

    memory.create("old", Contract("documents", {"text": vector_contract(fake, "text")}), indexes={})
    with pytest.raises(InvalidQuery, match="`cross_encoder=`"):
        search(memory, "old", image=RED)


def test_documents_without_bm25_are_found_by_meaning(memory: Store) -> None:
    """A collection with fewer vectors than are made today answers with those it has."""
    fake = load_encoder("fake")
    from mmembed.collection.prepare import vector_contract

    memory.create("old", Contract("documents", {"text": vector_contract(fake, "text")}), indexes={})
    rows = np.asarray(fake.encode_text(["river", "stone"], role="document"))
    memory.upsert(
        "old", [Point(str(uuid.UUID(int=n + 1)), {"text": row}, {"uri": f"{n}.md"}) for n, row in enumerate(rows)]
    )
    assert [hit.payload["uri"] for hit in search(memory, "old", text="stone")] == ["1.md", "0.md"]


def test_another_encoder_is_refused(store: Store) -> None:
    """The encoder that the collection remembers is the only one; an equal one that is loaded already is taken."""
    with pytest.raises(CollectionMismatch, match="was made by fake, not by fake:other"):
        search(store, "images", text="a", encoder=load_encoder("fake:other"))
    with pytest.raises(CollectionMismatch, match=r"MiniLM.*, not by fake"):
        search(store, "texts", text="a", encoder=load_encoder("fake"))
    assert are_same(search(store, "images", text="a", encoder=load_encoder("fake")), search(store, "images", text="a"))


# --- encoders that are already loaded -----------------------------------------------------------


class Given(dict[str, Encoder]):
    """Encoders by name; what is not there is an error of ours."""

    def __missing__(self, name: str) -> Encoder:
        raise UnknownEncoder(name, self)


@pytest.mark.parametrize(
    ("collection", "names", "how"),
    [
        ("images", ["fake"], {"text": "a river"}),
        ("documents", ["fake", "bm25"], {"text": "copper lantern"}),
        ("drawings", ["tiny"], {"text": "a bird", "minus": ["a hat"]}),
        ("texts", ["minilm", "bm25"], {"text": "How do bees dance?"}),
    ],
)
def test_encoders_that_are_given_are_the_ones_that_answer(
    store: Store, collection: str, names: list[str], how: dict[str, Any]
) -> None:
    """Scores and probabilities are those of encoders loaded by name; each that is missing is asked for, not loaded."""
    loaded = [load_encoder(name) for name in names]
    given = Given({encoder.spec.name: encoder for encoder in loaded})
    assert search(store, collection, encoders=given, **how) == search(store, collection, **how)
    for name in list(given):
        with pytest.raises(UnknownEncoder, match=re.escape(f"no encoder {name!r}")):
            search(store, collection, encoders=Given({n: e for n, e in given.items() if n != name}), **how)


def test_captions_are_encoded_by_the_encoders_that_are_given(memory: Store, tmp_path: Path) -> None:
    """The three encoders of pictures with captions all come from the mapping."""
    manifest = make_images(tmp_path / "pictures")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(json.dumps({**row, "caption": WORDS[n % 12]}) for n, row in enumerate(rows)))
    ingest_images(memory, "images", [manifest], encoder=load_encoder("fake"), caption_encoder=load_encoder("fake:two"))
    given = Given({name: load_encoder(name) for name in ("fake", "fake:two", "bm25")})
    assert search(memory, "images", text="river", encoders=given) == search(memory, "images", text="river")
    for name in given:
        with pytest.raises(UnknownEncoder, match=re.escape(f"no encoder {name!r}")):
            search(memory, "images", text="river", encoders=Given({n: e for n, e in given.items() if n != name}))


def test_an_encoder_that_is_given_must_be_the_one_that_made_the_vectors(store: Store) -> None:
    """Its fingerprint is compared with the collection's, under whatever name it is given."""
    with pytest.raises(CollectionMismatch, match="was made by fake, not by fake:other"):
        search(store, "images", text="a", encoders={"fake": load_encoder("fake:other")})


# --- collections of other people ----------------------------------------------------------------


def foreign(store: Store, encoder: Encoder, *, named: bool) -> dict[str, float]:
    """A collection `theirs` made with the raw client; gives id -> cosine with "river"."""
    dim = encoder.spec.dim
    assert dim is not None
    params = models.VectorParams(size=dim, distance=models.Distance.COSINE)
    client = store._client  # type: ignore[attr-defined]
    client.create_collection("theirs", vectors_config={"clip": params} if named else params)
    rows = np.asarray(encoder.encode_text(WORDS, role="document"))
    ids = [n if n % 2 else str(uuid.UUID(int=n)) for n in range(len(WORDS))]
    client.upsert(
        "theirs",
        [
            models.PointStruct(id=id, vector={"clip": row.tolist()} if named else row.tolist(), payload={"word": word})
            for id, row, word in zip(ids, rows, WORDS, strict=True)
        ],
    )
    scores = rows @ np.asarray(encoder.encode_text(["river"], role="query"))[0]
    return {str(id): float(score) for id, score in zip(ids, scores, strict=True)}


@pytest.mark.parametrize("named", [True, False])
def test_a_collection_that_is_not_ours_is_searched(memory: Store, named: bool) -> None:
    """With its encoder and, where it has a name, its vector; by text, vector or the number of a point."""
    fake = load_encoder("fake")
    expected = foreign(memory, fake, named=named)
    name = "clip" if named else None
    hits = search(memory, "theirs", text="river", encoder=fake, vector_name=name)
    assert_hits(hits, expected)
    assert hits[0].payload == {"word": "river"}
    river = np.asarray(fake.encode_text(["river"], role="query"))[0]
    assert_hits(search(memory, "theirs", vector=river, vector_name=name), expected)
    like = search(memory, "theirs", id="3", vector_name=name)
    assert len(like) == 10
    assert "3" not in {h.id for h in like}
    keep = is_value("word", "stone")
    assert [
        h.payload["word"] for h in search(memory, "theirs", text="river", encoder=fake, vector_name=name, filter=keep)
    ] == ["stone"]


def test_a_collection_that_is_not_ours_needs_an_encoder(memory: Store) -> None:
    """It remembers none, so words cannot be compared with it before one is named; every refusal is one of ours."""
    fake = load_encoder("fake")
    foreign(memory, fake, named=True)
    with pytest.raises(InvalidQuery, match="name it with `encoder=`"):
        search(memory, "theirs", text="river")
    for how in (
        {"encoder": fake},
        {"encoder": fake, "vector_name": "nope"},
        {"encoder": load_encoder("fake?dim=16"), "vector_name": "clip"},
    ):
        with pytest.raises(MmembedError):
            search(memory, "theirs", text="river", **how)
