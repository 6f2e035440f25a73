"""Examples, diversity, groups and a reranker of several collections, asked in texts and images, against plain numpy."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from searches import assert_hits, best_of_documents, by_cosine, image_vector, points, ranked, text_vector

from mmembed import PointId, Search, ingest_documents, ingest_images, load_encoder, open_store, search, search_several
from mmembed.collection.prepare import vector_contract
from mmembed.errors import InvalidQuery
from mmembed.types import Contract, Hit, Modality, Store
from mmembed.vectors import l2_normalize

QUERY = "river3 stone7 cloud1"
WORDS = [f"{a}{b}" for a in ("river", "stone", "cloud", "ember") for b in range(9)]
NAMES = ["images", "documents", "plain"]


@pytest.fixture(scope="module", params=["edge", "memory"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """`images`, `documents` and `plain`, which are alike, and `bare` without `cross`; all by the fake encoder."""
    root = tmp_path_factory.mktemp("more")
    opened = open_store(f"edge:{root / 'store.mm'}" if request.param == "edge" else ":memory:")
    fake, pixels = load_encoder("fake"), np.random.default_rng(7)
    for folder in ("images", "texts"):
        (root / folder).mkdir()
    for n in range(30):
        image = Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image.save(root / "images" / f"{n:02}.png")
    for n in range(16):
        sections = [f"# Part {p}\n\n" + " ".join(pixels.choice(WORDS, size=12)) for p in range(3)]
        (root / "texts" / f"{n:02}.md").write_text("\n\n".join(sections))
    ingest_images(opened, "images", [root / "images"], encoder=fake)
    for name in ("documents", "plain"):
        ingest_documents(opened, name, [root / "texts"], encoder=fake, cross_encoder=fake, images_into=None)
    opened.create("bare", Contract("documents", {"text": vector_contract(fake, "text")}), indexes={})
    yield opened
    opened.close()


def average(positive: Sequence[np.ndarray], negative: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(l2_normalize(2 * np.mean(positive, axis=0) - np.mean(negative, axis=0)))


def any_image(store: Store) -> Path:
    return Path(points(store, "images")[4].payload["uri"])


# --- examples -----------------------------------------------------------------------------------


def test_texts_images_and_points_are_examples_together(store: Store) -> None:
    """Each is encoded as a query is, or taken as it is stored, and a point is no hit."""
    path, stored = any_image(store), points(store, "images")[9]
    query = average(
        [text_vector("fake", "a river"), image_vector("fake", path)],
        [np.asarray(stored.vectors["image"]), text_vector("fake", "stone")],
    )
    expected = by_cosine(store, "images", "image", query)
    del expected[stored.id]
    hits = search(store, "images", positive=["a river", path], negative=[PointId(stored.id), "stone"], limit=40)
    assert_hits(hits, expected, 40)
    assert {(hit.vector_name, hit.probability) for hit in hits} == {("image", None)}


def test_of_documents_no_passage_of_an_example_is_a_hit(store: Store) -> None:
    """The whole document of a stored passage is left out; with all passages only the point itself."""
    stored = points(store, "documents")[5]
    vectors = [np.asarray(stored.vectors["text"]), text_vector("fake", QUERY)]
    scores = by_cosine(store, "documents", "text", np.asarray(l2_normalize(np.mean(vectors, axis=0))))
    how: dict[str, Any] = {"positive": [PointId(stored.id), QUERY], "limit": 60}
    others = {p.id for p in points(store, "documents") if p.payload["uri"] != stored.payload["uri"]}
    expected = best_of_documents(store, "documents", {id: scores[id] for id in others})
    assert_hits(search(store, "documents", **how), expected, 60)
    del scores[stored.id]
    assert_hits(search(store, "documents", all_passages=True, **how), scores, 60)


@pytest.mark.parametrize("strategy", ["average_vector", "best_score", "sum_scores"])
def test_an_image_among_the_examples_searches_documents_by_cross(store: Store, strategy: Any) -> None:
    """Texts and points alone are compared by `text`; where an image is among them, all are by `cross`."""
    path = any_image(store)
    hits = search(store, "documents", positive=[path, "a river"], strategy=strategy)
    assert {hit.vector_name for hit in hits} == {"cross"}
    words = search(store, "documents", positive=["a river"], strategy=strategy)
    assert {hit.vector_name for hit in words} == {"text"}
    with pytest.raises(InvalidQuery, match="has no vector 'cross'"):
        search(store, "bare", positive=[path], strategy=strategy)


def test_one_example_is_a_search_with_it(store: Store) -> None:
    """The average of one text is that text, of one point what is like it."""
    alone = search(store, "images", positive=[QUERY], limit=30)
    assert [h.id for h in alone] == [h.id for h in search(store, "images", text=QUERY, limit=30)]
    id = alone[0].id
    like = search(store, "images", positive=[PointId(id)], limit=30)
    assert like == search(store, "images", id=id, limit=30)


# --- diversity ----------------------------------------------------------------------------------


def naive_mmr(query: np.ndarray, rows: dict[str, np.ndarray], diversity: float) -> list[str]:
    """Rows by id, in their order -> ids; one pair at a time."""
    left, chosen = list(rows), list[str]()
    while left:

        def value(id: str) -> float:
            near = max((float(rows[id] @ rows[other]) for other in chosen), default=0.0)
            return (1 - diversity) * float(rows[id] @ query) - diversity * near

        chosen.append(max(left, key=value) if chosen else max(left, key=lambda one: float(rows[one] @ query)))
        left.remove(chosen[-1])
    return chosen


@pytest.mark.parametrize(("name", "vector"), [("images", "image"), ("documents", "text")])
@pytest.mark.parametrize("all_passages", [True, False])
def test_fused_hits_and_best_passages_are_made_diverse(
    store: Store, name: str, vector: str, all_passages: bool
) -> None:
    """The best of what was found, fused or not, are ordered by the first dense vector; the others follow."""
    how: dict[str, Any] = {"text": QUERY, "all_passages": all_passages, "limit": 100}
    before = search(store, name, **how)
    rows = {p.id: np.asarray(p.vectors[vector]) for p in points(store, name)}
    first = {hit.id: rows[hit.id] for hit in before[:12]}
    expected = [*naive_mmr(text_vector("fake", QUERY), first, 0.7), *(hit.id for hit in before[12:])]
    hits = search(store, name, diversity=0.7, candidates=12, **how)
    assert [hit.id for hit in hits] == expected
    for what in ("score", "probability"):
        of = {hit.id: getattr(hit, what) for hit in before}
        assert [getattr(hit, what) for hit in hits] == [pytest.approx(of[hit.id], abs=1e-6) for hit in hits]
    assert [hit.id for hit in before] != expected
    how |= {"diversity": 0.7, "candidates": 12, "limit": 5}
    pages = [search(store, name, offset=n, **how) for n in range(0, 50, 5)]
    assert [hit.id for page in pages for hit in page] == expected[:50]


def test_without_a_dense_vector_there_is_no_diversity(store: Store) -> None:
    """BM25 alone and a multivector alone compare no two hits."""
    for name in ("bm25", "cross"):
        with pytest.raises(InvalidQuery, match=f"this search is by '{name}': leave it out"):
            search(store, "documents", text=QUERY, vector_name=name, diversity=0.5)


# --- groups -------------------------------------------------------------------------------------


def test_fused_hits_in_groups(store: Store) -> None:
    """Passages of a document are a group by its uri, in the order of the fused list; pages do not overlap."""
    before = search(store, "documents", text=QUERY, all_passages=True, limit=100)
    groups: dict[str, list[str]] = {}
    for hit in before:
        groups.setdefault(str(hit.payload["uri"]), []).append(hit.id)
    expected = [(uri, id) for uri, members in groups.items() for id in members[:2]]
    how: dict[str, Any] = {"text": QUERY, "all_passages": True, "group_by": "uri", "group_size": 2}
    hits = search(store, "documents", limit=50, **how)
    assert [(hit.group, hit.id) for hit in hits] == expected
    assert len(groups) == 16
    pages = [search(store, "documents", limit=3, offset=n, **how) for n in range(0, 18, 3)]
    assert [hit for page in pages for hit in page] == hits


def test_a_document_counts_once_in_each_group(store: Store) -> None:
    """By passage number, each group has the best such passage of each document."""
    hits = search(store, "documents", text=QUERY, vector_name="text", group_by="passage", group_size=50, limit=50)
    scores = by_cosine(store, "documents", "text", text_vector("fake", QUERY))
    of = {p.id: p.payload["passage"] for p in points(store, "documents")}
    for group in {hit.group for hit in hits}:
        among = {id: score for id, score in scores.items() if of[id] == group}
        assert_hits([hit for hit in hits if hit.group == group], best_of_documents(store, "documents", among), 50)


def test_probabilities_in_groups_are_those_without(store: Store) -> None:
    """A softmax over one group would make its hit certain."""
    plain = {hit.id: hit.probability for hit in search(store, "images", text=QUERY, limit=30)}
    hits = search(store, "images", text=QUERY, group_by="uri", group_size=1, limit=5)
    assert [hit.probability for hit in hits] == pytest.approx([plain[hit.id] for hit in hits])


# --- a reranker of several collections ----------------------------------------------------------


class Reader:
    """Scores a text by a checksum of it and the query, an image by how red it is."""

    def __init__(self, *modalities: Modality) -> None:
        self.name = "reader"
        self.modalities = frozenset(modalities)
        self.read: list[int] = []

    def score(self, query: str, candidates: Sequence[str | Image.Image]) -> np.ndarray:
        self.read.append(len(candidates))
        return np.array([self.one(query, each) for each in candidates], dtype=np.float32)

    @staticmethod
    def one(query: str, candidate: str | Image.Image) -> float:
        if isinstance(candidate, str):
            return float(zlib.crc32(f"{query}|{candidate}".encode()) % 200)
        return float(np.asarray(candidate)[..., 0].mean())


def read_by(hit: Hit) -> float:
    if hit.collection == "images":
        with Image.open(hit.payload["uri"]) as image:
            return Reader.one(QUERY, image)
    return Reader.one(QUERY, str(hit.payload["text"]))


@pytest.mark.parametrize("all_passages", [True, False])
def test_a_reranker_reads_the_best_of_all_collections(store: Store, all_passages: bool) -> None:
    """It reads the first of the fused list once, whichever collection they are of; the others follow as they were."""
    asked = Search(text=QUERY, candidates=20, limit=200, all_passages=all_passages)
    every = search_several(store, NAMES, Search(text=QUERY, limit=200, all_passages=True)).hits
    first = sorted(every[:20], key=lambda hit: (-read_by(hit), hit.id))

    def key(hit: Hit) -> tuple[str, str]:
        whole = all_passages or hit.collection == "images"
        return hit.collection, hit.id if whole else str(hit.payload["uri"])

    best = [(k, next(hit.id for hit in first if key(hit) == k)) for k in dict.fromkeys(map(key, first))]
    seen = {k for k, _ in best}
    rest = [hit for hit in search_several(store, NAMES, asked).hits if key(hit) not in seen]
    reader = Reader("image", "text")
    reranked = Search(text=QUERY, candidates=20, limit=200, all_passages=all_passages, rerank=reader)
    hits = search_several(store, NAMES, reranked).hits
    assert sum(reader.read) == 20
    assert [hit.id for hit in hits] == [id for _, id in best] + [hit.id for hit in rest]
    assert len({hit.collection for hit in first}) == 3
    pages: list[Hit] = []
    for n in range(0, len(hits) + 9, 9):
        page = Search(text=QUERY, candidates=20, limit=9, offset=n, all_passages=all_passages, rerank=reader)
        pages += search_several(store, NAMES, page).hits
    assert [hit.id for hit in pages] == [hit.id for hit in hits]


def test_of_one_collection_it_is_the_search_itself(store: Store) -> None:
    """Several collections of one are no different, but for the fused scores of what was not read."""
    for name in NAMES:
        asked = Search(text=QUERY, candidates=10, limit=12, rerank=Reader("image", "text"))
        one = search(store, name, text=QUERY, candidates=10, limit=12, rerank=Reader("image", "text"))
        assert [h.id for h in search_several(store, [name], asked).hits] == [h.id for h in one]


def test_what_a_reranker_cannot_read_is_skipped(store: Store) -> None:
    """Images are no text: that collection is left out with its sentence; an image is no query for any of them."""
    several = search_several(store, NAMES, Search(text=QUERY, rerank=Reader("text")))
    assert {hit.collection for hit in several.hits} <= {"documents", "plain"}
    assert several.skipped.keys() == {"images"}
    assert "cannot encode pictures" in several.skipped["images"]
    with pytest.raises(InvalidQuery, match="not a query of one text alone"):
        search_several(store, NAMES, Search(image=any_image(store), rerank=Reader("text")))


def test_groups_and_examples_of_several_collections(store: Store) -> None:
    """Groups are refused; a stored example is known to its own collection, and the others are skipped."""
    with pytest.raises(InvalidQuery, match="groups are of one collection"):
        search_several(store, NAMES, Search(text=QUERY, group_by="uri"))
    id = ranked(by_cosine(store, "images", "image", text_vector("fake", QUERY)))[0][0]
    several = search_several(store, NAMES, Search(positive=[PointId(id)]))
    assert {hit.collection for hit in several.hits} == {"images"}
    assert several.skipped.keys() == {"documents", "plain"}
