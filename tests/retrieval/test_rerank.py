"""Candidates put in another order: by the vector `late` within Qdrant, by a reranker that reads them."""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints_sparse import DOCUMENTS, build_bge_m3
from checkpoints_vlm import build_colqwen2, build_cross_encoder
from checkpoints_vlm import images as page_images
from PIL import Image
from searches import assert_hits, best_of_documents, bm25_scores, by_cosine, points, ranked, text_vector

from mmembed import ingest_documents, ingest_images, load_encoder, load_reranker, open_store, search
from mmembed.errors import InvalidEmbedding, InvalidQuery, UnsupportedModality
from mmembed.types import Encoder, Hit, Modality, SparseVector, Store

WORDS = [f"{a}{b}" for a in ("river", "stone", "cloud", "ember", "copper", "violet") for b in range(12)]
QUERY = "river3 stone7 cloud1"


@pytest.fixture(scope="module", params=["edge", "memory"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """`documents` with `sparse` and `late`, `plain` without them, and `images` with `late`; all by fake encoders."""
    root = tmp_path_factory.mktemp("rerank")
    opened = open_store(f"edge:{root / 'store.mm'}" if request.param == "edge" else ":memory:")
    fake = load_encoder("fake")
    rng = random.Random(5)
    (root / "texts").mkdir()
    for n in range(40):
        sections = [f"# Part {p}\n\n" + " ".join(rng.choices(WORDS, k=rng.randrange(5, 20))) for p in range(3)]
        (root / "texts" / f"{n:02}.md").write_text("\n\n".join(sections))
    extra = {"sparse_encoder": load_encoder("fake?kind=sparse"), "late_encoder": load_encoder("fake?kind=multi")}
    for name, given in (("documents", extra), ("plain", {})):
        ingest_documents(opened, name, [root / "texts"], encoder=fake, cross_encoder=fake, images_into=None, **given)
    pixels = np.random.default_rng(7)
    (root / "pictures").mkdir()
    for n in range(60):
        image = Image.fromarray(pixels.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        image.save(root / "pictures" / f"{n:02}.png")
    ingest_images(opened, "images", [root / "pictures"], encoder=fake, late_encoder=load_encoder("fake?kind=multi"))
    yield opened
    opened.close()


def by_late(store: Store, collection: str, text: str) -> dict[str, float]:
    """MaxSim by plain numpy: for each word of the query its best row, summed."""
    query = np.asarray(load_encoder("fake?kind=multi").encode_text([text], role="query")[0])
    scores = {}
    for point in points(store, collection):
        rows = np.asarray(point.vectors["late"])
        scores[point.id] = float((query @ rows.T).max(axis=1).sum())
    return scores


def by_sparse(store: Store, collection: str, text: str) -> dict[str, float]:
    """Dot products of the sparse vectors, those above zero."""
    query = load_encoder("fake?kind=sparse").encode_text([text], role="query")[0]
    assert isinstance(query, SparseVector)
    asked = dict(zip(query.indices.tolist(), query.values.tolist(), strict=True))
    scores = {}
    for point in points(store, collection):
        vector = point.vectors["sparse"]
        assert isinstance(vector, SparseVector)
        pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
        score = sum(asked.get(index, 0.0) * value for index, value in pairs)
        if score > 0:
            scores[point.id] = float(score)
    return scores


def rankings(store: Store) -> list[dict[str, float]]:
    return [
        by_cosine(store, "documents", "text", text_vector("fake", QUERY)),
        bm25_scores(store, "documents", QUERY),
        by_sparse(store, "documents", QUERY),
    ]


def cut_without_a_tie(lists: Sequence[dict[str, float]], n: int) -> int:
    """The first number from n on where no ranking is cut between equals."""

    def is_clean(at: int) -> bool:
        pairs = [(scores[at - 1][1], scores[at][1]) for scores in map(ranked, lists) if len(scores) > at]
        return all(above - below > 1e-5 for above, below in pairs)

    return next(at for at in range(n, n + 40) if is_clean(at))


def rank_of(id: str, scores: dict[str, float]) -> tuple[int, int]:
    """The first and the last rank, counted from 0, that this score may have among its equals."""
    above = sum(score > scores[id] + 1e-6 for score in scores.values())
    return above, sum(score > scores[id] - 1e-6 for score in scores.values()) - 1


# --- the late stage -----------------------------------------------------------------------------


def test_learned_sparse_is_a_third_ranking(store: Store) -> None:
    """Text, BM25 and learned sparse are fused alike, and no rarity is counted in the learned weights."""
    lists = rankings(store)
    hits = search(store, "documents", text=QUERY, vector_name="sparse", all_passages=True, limit=100)
    assert {h.id: h.score for h in hits} == pytest.approx(lists[2], rel=1e-5)
    alone = search(store, "plain", text=QUERY, all_passages=True, limit=100)
    hits = search(store, "documents", text=QUERY, all_passages=True, limit=100, late=False)
    assert {h.vector_name for h in hits} == {None}
    for hit in hits:  # equal scores may be ranked either way
        ranks = [rank_of(hit.id, scores) for scores in lists if hit.id in scores]
        assert hit.score <= sum(1 / (60 + best) for best, _ in ranks if best < 100) + 1e-6
        assert hit.score >= sum(1 / (60 + worst) for _, worst in ranks if worst < 100) - 1e-6
    assert [h.payload["text"] for h in hits] != [h.payload["text"] for h in alone]


@pytest.mark.parametrize("all_passages", [True, False])
def test_late_orders_the_candidates_of_all_rankings(store: Store, all_passages: bool) -> None:
    """The best of each ranking are compared word by word; of a document the best passage by that score is the hit."""
    lists = rankings(store)
    candidates = cut_without_a_tie(lists, 12)
    chosen = {id for scores in lists for id, _ in ranked(scores)[:candidates]}
    assert candidates < len(chosen) < 3 * candidates
    scores = {id: score for id, score in by_late(store, "documents", QUERY).items() if id in chosen}
    expected = scores if all_passages else best_of_documents(store, "documents", scores)
    n = len(expected)
    hits = search(store, "documents", text=QUERY, candidates=candidates, all_passages=all_passages, limit=n)
    assert_hits(hits, expected, n)
    assert {(h.vector_name, h.probability) for h in hits} == {("late", None)}
    more = search(store, "documents", text=QUERY, candidates=candidates, all_passages=all_passages, limit=200)
    assert same(more[:n], hits)
    key = (lambda hit: hit.id) if all_passages else (lambda hit: str(hit.payload["uri"]))
    seen = {key(hit) for hit in hits}
    rest = search(store, "documents", text=QUERY, late=False, all_passages=all_passages, limit=200)
    assert same(more[n:], [hit for hit in rest if key(hit) not in seen])
    assert len(more) == (store.count("documents") if all_passages else 40)


def same(found: Sequence[Hit], hits: Sequence[Hit]) -> bool:
    """The same points with the same scores, but for rounding."""
    scores = [[h.score for h in some] for some in (found, hits)]
    return [h.id for h in found] == [h.id for h in hits] and bool(np.allclose(*scores, atol=1e-6))


def test_late_of_images(store: Store) -> None:
    """Words are compared with every part of the candidates; without the stage the scores are cosines again."""
    cosines = by_cosine(store, "images", "image", text_vector("fake", QUERY))
    candidates = cut_without_a_tie([cosines], 20)
    chosen = {id for id, _ in ranked(cosines)[:candidates]}
    scores = {id: score for id, score in by_late(store, "images", QUERY).items() if id in chosen}
    hits = search(store, "images", text=QUERY, candidates=candidates, limit=candidates)
    assert_hits(hits, scores, candidates)
    assert {(h.vector_name, h.probability) for h in hits} == {("late", None)}
    plain = search(store, "images", text=QUERY, late=False, limit=100)
    assert_hits(plain, cosines, 100)
    assert all(h.probability is not None for h in plain)
    more = search(store, "images", text=QUERY, candidates=candidates, limit=100)
    assert same(more, [*hits, *(hit for hit in plain if hit.id not in chosen)])


@pytest.mark.parametrize(
    "how",
    [
        {"vector_name": "text"},
        {"score_threshold": 0.0},
        {"vector": [1.0] * 32},
        {"text": QUERY, "minus": ["stone1"]},
    ],
    ids=["one vector", "threshold", "vector", "minus"],
)
def test_only_a_text_alone_has_a_late_stage(store: Store, how: dict[str, Any]) -> None:
    """A search by one vector, or for more than one text, is what it is without the stage."""
    asked = {"text": QUERY, **how} if "vector" not in how else how
    hits = search(store, "documents", **asked)
    assert hits
    assert {h.vector_name for h in hits} == {"text"}
    assert same(hits, search(store, "documents", late=False, **asked))


def test_what_few_points_have_takes_no_part(store: Store, tmp_path: Path) -> None:
    """Those few would come before all others: below four in five the late stage waits until they are made up for."""
    fake, late = load_encoder("fake"), load_encoder("fake?kind=multi")
    pixels, kinds = np.random.default_rng(9), []
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        for n in range(5):
            image = Image.fromarray(pixels.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            image.save(tmp_path / folder / f"{n}.png")
    name = f"few_{tmp_path.name}"
    ingest_images(store, name, [tmp_path / "old"], encoder=fake)
    for some in (["new"], ["old/0.png", "old/1.png"], ["old/2.png"]):
        ingest_images(store, name, [tmp_path / each for each in some], encoder=fake, late_encoder=late)
        kinds.append({hit.vector_name for hit in search(store, name, text=QUERY)})
    assert kinds == [{"image"}, {"image"}, {"late", "image"}]


def test_late_alone(store: Store) -> None:
    """Named, the vector compares every passage, by text or like a stored one."""
    hits = search(store, "documents", text=QUERY, vector_name="late", all_passages=True, limit=200)
    assert_hits(hits, by_late(store, "documents", QUERY), 200)
    assert len(hits) == store.count("documents")
    like = search(store, "documents", id=hits[0].id, vector_name="late")
    assert hits[0].payload["uri"] not in {h.payload["uri"] for h in like}


# --- pages --------------------------------------------------------------------------------------


class Reader:
    """Scores a text by a checksum of it and the query, a picture by how red it is; few scores, so many are equal."""

    def __init__(self, *modalities: Modality, name: str = "reader") -> None:
        self.name = name
        self.modalities = frozenset(modalities)
        self.read: list[int] = []

    def __repr__(self) -> str:  # stands in names of tests, which several processes must agree upon
        return f"Reader({', '.join(sorted(self.modalities))})"

    def score(self, query: str, candidates: Sequence[str | Image.Image]) -> np.ndarray:
        self.read.append(len(candidates))
        return np.array([self._one(query, each) for each in candidates], dtype=np.float32)

    @staticmethod
    def _one(query: str, candidate: str | Image.Image) -> float:
        if isinstance(candidate, str):
            return float(zlib.crc32(f"{query}|{candidate}".encode()) % 20)
        return float(np.asarray(candidate)[..., 0].mean() // 4)


@pytest.mark.parametrize("size", [4, 25])
@pytest.mark.parametrize(
    ("collection", "how"),
    [
        ("documents", {}),
        ("documents", {"all_passages": True}),
        ("documents", {"rerank": Reader("text")}),
        ("documents", {"rerank": Reader("text"), "all_passages": True}),
        ("plain", {"rerank": Reader("text")}),
        ("plain", {"rerank": Reader("text"), "all_passages": True}),
        ("images", {}),
        ("images", {"rerank": Reader("image")}),
    ],
    ids=str,
)
def test_pages_neither_overlap_nor_leave_gaps(store: Store, collection: str, how: dict[str, Any], size: int) -> None:
    """Pages put together are the whole list, within the candidates, across their end and beyond."""
    whole = search(store, collection, text=QUERY, candidates=15, limit=1000, **how)
    total = store.count(collection) if collection == "images" or how.get("all_passages") else 40
    assert len({h.id for h in whole}) == len(whole) == total
    paged: list[Hit] = []
    for offset in range(0, total + size, size):
        paged += search(store, collection, text=QUERY, candidates=15, limit=size, offset=offset, **how)
    assert same(paged, whole)


# --- the reranker -------------------------------------------------------------------------------


@pytest.mark.parametrize("collection", ["documents", "plain"])
def test_a_reranker_reads_the_best_candidates(store: Store, collection: str) -> None:
    """As many passages as were asked for are read, in whatever order they came; equal scores are in order of ids."""
    reader = Reader("text")
    before = search(store, collection, text=QUERY, all_passages=True, candidates=30, limit=1000)
    hits = search(store, collection, text=QUERY, all_passages=True, candidates=30, limit=1000, rerank=reader)
    assert sum(reader.read) == 30
    best = {h.id: Reader._one(QUERY, str(h.payload["text"])) for h in before[:30]}
    assert [(h.id, h.score) for h in hits[:30]] == ranked(best)
    assert len(set(best.values())) < 30, "some scores should be equal"
    assert same(hits[30:], before[30:])
    assert {(h.vector_name, h.probability) for h in hits[:30]} == {(None, None)}
    of_documents = search(store, collection, text=QUERY, candidates=30, rerank=reader)
    assert [(h.id, h.score) for h in of_documents] == ranked(best_of_documents(store, collection, best))[:10]
    alone = search(store, collection, text=QUERY, candidates=30, rerank=reader, vector_name="bm25", all_passages=True)
    words = bm25_scores(store, collection, QUERY)
    assert alone[0].id in words


def test_a_reranker_of_images(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Pictures are read from their files; one that is gone comes after those that were read, and is told of once."""
    before = search(store, "images", text=QUERY, candidates=20, limit=1000)
    gone = [Path(hit.payload["uri"]) for hit in (before[0], before[12])]
    kept = [path.rename(path.with_suffix(".away")) for path in gone]
    try:
        reader = Reader("image", "text")
        with caplog.at_level(logging.WARNING):
            hits = search(store, "images", text=QUERY, candidates=20, limit=1000, rerank=reader)
    finally:
        for path, away in zip(gone, kept, strict=True):
            away.rename(path)
    assert sum(reader.read) == 18
    read = {}
    for hit in before[:20]:
        if Path(hit.payload["uri"]) not in gone:
            with Image.open(hit.payload["uri"]) as image:
                read[hit.id] = Reader._one(QUERY, image)
    assert [(h.id, h.score) for h in hits[:18]] == ranked(read)
    assert same(hits[18:], [before[0], before[12], *before[20:]])
    (record,) = caplog.records
    assert "2 of 20 pictures could not be read" in record.getMessage()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("documents", {"image": Image.new("RGB", (8, 8))}, "not a query of one text alone"),
    ("documents", {"text": "a", "minus": ["b"]}, "not a query of one text alone"),
    ("documents", {"vector": [1.0] * 32}, "not a query of one text alone"),
    ("documents", {"text": "a", "score_threshold": 0.1}, "gives scores of its own"),
    ("documents", {"text": "a", "candidates": 0}, "candidates must be between 1 and 4096"),
    ("documents", {"text": "a", "candidates": 5000}, "candidates must be between 1 and 4096"),
]


@pytest.mark.parametrize(("collection", "how", "says"), REFUSED, ids=[says for _, _, says in REFUSED])
def test_what_a_reranker_cannot_read_is_refused(store: Store, collection: str, how: dict[str, Any], says: str) -> None:
    """One sentence that says what was asked and what is wrong with it, before anything is read."""
    reader = Reader("text")
    with pytest.raises(InvalidQuery, match=says):
        search(store, collection, rerank=reader, **how)
    assert reader.read == []


def test_a_reranker_reads_what_it_can(store: Store) -> None:
    """One without pictures is refused for pictures, one without texts for documents; scores must be numbers."""
    with pytest.raises(UnsupportedModality, match=r"'reader' cannot encode pictures, only text"):
        search(store, "images", text="a", rerank=Reader("text"))
    with pytest.raises(UnsupportedModality, match=r"'reader' cannot encode text, only image"):
        search(store, "documents", text="a", rerank=Reader("image"))

    class Broken(Reader):
        def score(self, query: str, candidates: Sequence[str | Image.Image]) -> np.ndarray:
            return super().score(query, candidates) * np.nan

    with pytest.raises(InvalidEmbedding, match="NaN among them"):
        search(store, "documents", text="a", rerank=Broken("text"))


def test_no_hits_nothing_to_read(store: Store) -> None:
    """Where nothing is found the reranker is not asked."""
    reader = Reader("text")
    assert search(store, "plain", text="zzzzz", vector_name="bm25", rerank=reader) == []
    assert reader.read == []


# --- the families themselves --------------------------------------------------------------------


def write_texts(folder: Path) -> list[str]:
    folder.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number:02}.txt").write_text(text)
    return list(DOCUMENTS)


def test_bge_m3_makes_all_vectors_in_one_pass(tmp_path: Path) -> None:
    """Dense, sparse and ColBERT vectors of passages, and of a query, each come from one run of the network."""
    name = f"bge-m3:{build_bge_m3(tmp_path / 'm3')}"
    dense, sparse, late = (load_encoder(f"{name}{option}") for option in ("", "?output=sparse", "?output=colbert"))
    texts = write_texts(tmp_path / "texts")
    passes: list[int] = []
    body = dense._weights.transformer  # type: ignore[attr-defined]
    body.register_forward_hook(lambda *_: passes.append(1))
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    report = ingest_documents(
        opened,
        "documents",
        [tmp_path / "texts"],
        encoder=dense,
        cross_encoder=load_encoder("fake"),
        sparse_encoder=sparse,
        late_encoder=late,
        images_into=None,
    )
    assert (report.embedded, report.failures) == (len(texts), [])
    in_one_pass = len(passes)
    dense.encode_text(texts, role="document")
    assert in_one_pass == len(passes) - in_one_pass
    passes.clear()
    question = texts[0].split(".")[0]
    hits = search(opened, "documents", text=question, limit=len(texts))
    assert len(passes) == 1
    query = np.asarray(late.encode_text([question], role="query")[0])
    rows = {p.id: late.encode_text([str(p.payload["text"])], role="document")[0] for p in opened.scroll("documents")}
    assert_hits(hits, {id: float((query @ np.asarray(row).T).max(axis=1).sum()) for id, row in rows.items()})
    by_words = search(opened, "documents", text=question, vector_name="sparse", limit=len(texts))
    weights = {
        p.id: sparse.encode_text([str(p.payload["text"])], role="document")[0] for p in opened.scroll("documents")
    }
    asked = sparse.encode_text([question], role="query")[0]
    assert {h.id: h.score for h in by_words} == pytest.approx(
        {id: score for id, vector in weights.items() if (score := dot(asked, vector)) > 0}, rel=1e-4
    )
    opened.close()


def dot(one: Any, other: Any) -> float:
    values = dict(zip(other.indices.tolist(), other.values.tolist(), strict=True))
    return float(sum(values.get(i, 0.0) * v for i, v in zip(one.indices.tolist(), one.values.tolist(), strict=True)))


def test_a_page_encoder_and_images(tmp_path: Path) -> None:
    """Pages are compared with words patch by patch; as documents it reads no texts, which is said before all."""
    pages = load_encoder(f"late:{build_colqwen2(tmp_path / 'colqwen2')}")
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(page_images()):
        image.save(tmp_path / "pictures" / f"{number}.png")
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    fake = load_encoder("fake")
    ingest_images(opened, "images", [tmp_path / "pictures"], encoder=fake, late_encoder=pages)
    hits = search(opened, "images", text="two parrots")
    query = np.asarray(pages.encode_text(["two parrots"], role="query")[0])
    rows = dict(zip([p.id for p in opened.scroll("images")], rows_of(pages, opened), strict=True))
    assert_hits(hits, {id: float((query @ row.T).max(axis=1).sum()) for id, row in rows.items()})
    write_texts(tmp_path / "texts")
    with pytest.raises(UnsupportedModality, match="texts as documents"):
        ingest_documents(opened, "documents", [tmp_path / "texts"], encoder=fake, late_encoder=pages)
    assert opened.collections() == ["images"]
    opened.close()


def rows_of(pages: Encoder, store: Store) -> list[np.ndarray]:
    """What the encoder makes of each picture of the collection today."""
    found = []
    for point in store.scroll("images"):
        with Image.open(point.payload["uri"]) as image:
            found.append(np.asarray(pages.encode_image([image.convert("RGB")])[0]))
    return found


def test_a_cross_encoder_and_documents(tmp_path: Path) -> None:
    """Hits are in the order of its scores of their texts; a model of texts is refused for pictures."""
    reranker = load_reranker(f"cross-encoder:{build_cross_encoder(tmp_path / 'cross')}")
    texts = write_texts(tmp_path / "texts")
    opened = open_store(":memory:")
    fake = load_encoder("fake")
    ingest_documents(opened, "documents", [tmp_path / "texts"], encoder=fake, cross_encoder=fake, images_into=None)
    scores = reranker.score("how much protein", texts)
    hits = search(opened, "documents", text="how much protein", rerank=reranker)
    by_text = {str(p.payload["text"]): p.id for p in opened.scroll("documents")}
    assert_hits(hits, {by_text[text]: float(score) for text, score in zip(texts, scores, strict=True)})
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    ingest_images(opened, "images", [tmp_path / "red.png"], encoder=fake)
    with pytest.raises(UnsupportedModality, match="cannot encode pictures, only text"):
        search(opened, "images", text="red", rerank=reranker)
    opened.close()
