"""Retrieval of a corpus by queries: exact search, the collection as it is, and what lies between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from counting import Counting
from harness_images import pictograms

from mmembed.encoders.registry import load_encoder
from mmembed.errors import CollectionMismatch, InvalidTestSet, SettingsError, UnsupportedModality
from mmembed.evaluation.comparison import compare, depths_of
from mmembed.evaluation.tasks.passages import evaluate_passages
from mmembed.evaluation.tasks.retrieval import evaluate_retrieval
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet
from mmembed.ingest import ingest_documents, ingest_images
from mmembed.stores import open_store
from mmembed.types import Encoder, Leg, Store, StoreQuery

SMALL = TestSet(
    queries={"q1": Query("red fox"), "q2": Query("blue whale"), "q3": Query("nothing judged")},
    corpus={
        "d1": CorpusDocument(title="red fox", text="in the snow"),
        "d2": CorpusDocument(text="a blue whale in the sea"),
        "d3": CorpusDocument(text="red paint"),
        "d4": CorpusDocument(),
    },
    qrels={"q1": {"d1": 1}, "q2": {"d2": 2, "d9": 1}, "q3": {"d3": 0}},
    name="small",
)


@pytest.fixture
def fake() -> Encoder:
    return load_encoder("fake")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    yield opened
    opened.close()


def test_the_difference_is_what_the_graph_loses(store: Store) -> None:
    """In 2,700 vectors of 1,024 dimensions a graph misses neighbours; both numbers are those of a numpy oracle."""
    encoder = load_encoder("fake?dim=1024")
    corpus = {f"d{n}": CorpusDocument(text=f"text {n}") for n in range(2700)}
    queries = {f"q{n}": Query(f"query {n}") for n in range(50)}
    documents = np.asarray(encoder.encode_text([d.text for d in corpus.values()], role="document"))
    asked = np.asarray(encoder.encode_text([str(q.text) for q in queries.values()], role="query"))
    nearest = np.argsort(-(asked @ documents.T), axis=1)[:, :10]  # (50, 10)
    ids = list(corpus)
    qrels = {query: {ids[d]: 1 for d in row} for query, row in zip(queries, nearest, strict=True)}
    report = evaluate_retrieval(
        store, "many", TestSet(queries, corpus, qrels, "many"), encoder=encoder, measures=["recall@10"]
    )
    walked = []
    for row, query in enumerate(queries):
        hits = store.query("many", StoreQuery([Leg("text", asked[row])], limit=20))
        walked.append(len({str(hit.payload["document_id"]) for hit in hits[:10]} & qrels[query].keys()) / 10)
    (row_of,) = report.rows
    assert row_of.exact.value == 1.0
    assert row_of.as_is is not None
    assert row_of.difference is not None
    assert row_of.as_is.value == pytest.approx(np.mean(walked))
    assert row_of.difference.value == pytest.approx(np.mean(walked) - 1)
    assert row_of.difference.value < -0.02
    assert row_of.difference.interval is not None
    assert row_of.difference.interval.high < 0


def test_exact_search_is_numpy_over_the_stored_vectors(store: Store, fake: Encoder) -> None:
    """Scores of the exact run are the cosines of the vectors that the collection holds."""
    report = evaluate_retrieval(store, "small", SMALL, encoder=fake, measures=["nDCG@10", "MAP"])
    stored = {str(p.payload["document_id"]): p.vectors["text"] for p in store.scroll("small", vectors=["text"])}
    asked = np.asarray(fake.encode_text(["red fox"], role="query"))[0]
    exact, as_is = report.systems[0].runs
    assert exact["q1"] == pytest.approx({id: float(asked @ row) for id, row in stored.items()}, abs=1e-6)
    assert as_is["q1"] == pytest.approx(exact["q1"])
    assert set(stored) == set(SMALL.corpus)  # the empty one too


def test_title_and_text_become_one_vector(store: Store) -> None:
    """They are joined by a space and encoded as a document; the queries that are judged are encoded as queries."""
    counting = Counting(load_encoder("fake"))
    report = evaluate_retrieval(store, "small", SMALL, encoder=counting, measures=["hit_rate@1"])
    assert counting.texts == [
        "red fox in the snow",
        "a blue whale in the sea",
        "red paint",
        "",
        "red fox",
        "blue whale",
    ]
    assert (report.queries, report.left_out, report.documents) == (2, 1, 4)
    assert report.systems[0].exact.mean("hit_rate@1") == 1.0


def test_a_kept_collection_is_taken_up_again(store: Store) -> None:
    """The next run encodes what is new or changed, and warns of documents that the test set no longer has."""
    evaluate_retrieval(store, "small", SMALL, encoder=load_encoder("fake"), measures=["MAP"])
    corpus = {**SMALL.corpus, "d3": CorpusDocument(text="red wine"), "d5": CorpusDocument(text="new")}
    del corpus["d4"]
    counting = Counting(load_encoder("fake"))
    changed = TestSet(SMALL.queries, corpus, SMALL.qrels, "small")
    report = evaluate_retrieval(store, "small", changed, encoder=counting, measures=["MAP"])
    assert counting.texts == ["red wine", "new", "red fox", "blue whale"]
    assert [warning for warning in report.warnings if "1 points beside" in warning]
    with pytest.raises(CollectionMismatch, match="fake"):
        evaluate_retrieval(store, "small", SMALL, encoder=load_encoder("fake?dim=8"), measures=["MAP"])


def test_a_collection_of_the_users_own_is_not_written_to(store: Store, fake: Encoder, tmp_path: Path) -> None:
    """Documents of a test set are not mixed into it; pictures are measured there only if it holds all of them."""
    (tmp_path / "a.txt").write_text("a text of mine")
    ingest_documents(store, "mine", [tmp_path / "a.txt"], encoder=fake, images_into=None)
    for evaluate in (evaluate_retrieval, evaluate_passages):
        with pytest.raises(InvalidTestSet, match="'mine' was not made by an evaluation"):
            evaluate(store, "mine", SMALL, encoder=fake)
    assert store.count("mine") == 1
    images = pictograms()[:4]
    ingest_images(store, "photos", [image.path for image in images[:3]], encoder=fake)
    three, four = (
        TestSet(
            {"q": Query("x")},
            {p.name: CorpusDocument(image=p.path) for p in images[:n]},
            {"q": {images[0].name: 1}},
        )
        for n in (3, 4)
    )
    assert evaluate_retrieval(store, "photos", three, encoder=fake).documents == 3
    with pytest.raises(InvalidTestSet, match="'photos' lacks 1 of the 4 pictures"):
        evaluate_retrieval(store, "photos", four, encoder=fake)
    assert store.count("photos") == 3


def test_images_are_queries_and_documents_too(store: Store, fake: Encoder, tmp_path: Path) -> None:
    """A picture finds itself among pictures, and beside texts; with words it is the sum of both."""
    paths = [image.path for image in pictograms()[:5]]
    images = {f"p{n}": CorpusDocument(image=path) for n, path in enumerate(paths)}
    asked = {"q1": Query(image=paths[2]), "q2": Query("a fox", paths[3])}
    qrels = {"q1": {"p2": 1}, "q2": {"p3": 1}}
    alone = evaluate_retrieval(store, "pictures", TestSet(asked, images, qrels), encoder=fake, measures=["MRR@10"])
    assert alone.systems[0].exact.per_query["MRR@10"] == {"q1": 1, "q2": 1}
    mixed = TestSet(asked, {**images, "t": CorpusDocument(text="a fox")}, {"q1": {"p2": 1}, "q2": {"t": 1}})
    beside = evaluate_retrieval(store, "mixed", mixed, encoder=fake, measures=["hit_rate@2"])
    assert beside.systems[0].exact.per_query["hit_rate@2"] == {"q1": 1, "q2": 1}
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = TestSet({**asked, "q3": Query(image=tmp_path / "broken.png")}, images, {**qrels, "q3": {"p0": 1}})
    report = evaluate_retrieval(store, "pictures", broken, encoder=fake, measures=["MRR@10"])
    assert report.systems[0].exact.per_query["MRR@10"]["q3"] == 0
    assert any("1 queries cannot be asked and count 0: broken.png" in warning for warning in report.warnings)
    with pytest.raises(UnsupportedModality):
        evaluate_retrieval(store, "by-words", mixed, encoder=load_encoder("minilm"))


def test_words_and_late_vectors_are_measured_too(store: Store) -> None:
    """A sparse encoder and one with a vector for each token rank by what they are."""
    for name in ("bm25", "fake?kind=sparse", "fake?kind=multi"):
        report = evaluate_retrieval(
            store, name.replace("?", "-").replace("=", "-"), SMALL, encoder=load_encoder(name), measures=["hit_rate@1"]
        )
        assert report.systems[0].exact.mean("hit_rate@1") == 1.0, name


def test_two_encoders_are_compared_on_the_same_queries(store: Store) -> None:
    """Differences are second less first, query by query, with a p; reports of two test sets are not compared."""
    reports = [
        evaluate_retrieval(store, f"c{n}", SMALL, encoder=load_encoder(name), measures=["nDCG@10"])
        for n, name in enumerate(("fake?dim=8", "fake"))
    ]
    both = compare(reports)
    (comparison,) = both.comparisons
    first, second = (system.exact.mean("nDCG@10") for system in both.systems)
    assert comparison.exact.value == pytest.approx(second - first)
    assert both.facts["encoder"] == ["fake?dim=8", "fake"]
    other = evaluate_retrieval(
        store, "c1", TestSet(SMALL.queries, SMALL.corpus, SMALL.qrels, "other"), encoder=load_encoder("fake")
    )
    with pytest.raises(InvalidTestSet, match="cannot be compared"):
        compare([reports[0], other])


def test_shallow_measures_come_from_shallow_searches() -> None:
    """A search for 1,000 walks further than one for 10, so it says nothing about the first 10 of the latter."""
    groups = depths_of(["MAP", "nDCG@10", "hit_rate@1", "recall@100", "recall@3000", "ndcg@10"])
    assert groups == {
        10: ("nDCG@10", "hit_rate@1"),
        100: ("recall@100",),
        1000: ("MAP",),
        3000: ("recall@3000",),
    }


def test_passages_are_what_an_index_makes(store: Store) -> None:
    """A long document is found by its last passage, by meaning and words; an empty one is counted and not found."""
    long = " ".join(f"word{n}" for n in range(200)) + " zebra"
    corpus = {
        "long": CorpusDocument(text=long),
        "other": CorpusDocument(title="a title", text="about horses"),
        "empty": CorpusDocument(),
    }
    test_set = TestSet(
        {"q1": Query("zebra"), "q2": Query("empty")}, corpus, {"q1": {"long": 1}, "q2": {"empty": 1}}, "animals"
    )
    counting = Counting(load_encoder("fake"))
    report = evaluate_passages(store, "passages", test_set, encoder=counting, measures=["MRR@10"])
    assert report.systems[0].exact.per_query["MRR@10"] == {"q1": 1, "q2": 0}
    assert any("1 documents cannot be encoded" in warning for warning in report.warnings)
    passages = store.count("passages")
    assert passages > 2
    assert counting.texts.count("zebra") == 1  # asked four times, encoded once
    again = Counting(load_encoder("fake"))
    evaluate_passages(store, "passages", test_set, encoder=again, measures=["MRR@10"])
    assert store.count("passages") == passages
    assert again.texts == ["zebra", "empty"]
    with pytest.raises(SettingsError, match="no passages"):
        evaluate_passages(
            store, "p", TestSet({}, {"p": CorpusDocument(image=pictograms()[0].path)}, {}), encoder=load_encoder("fake")
        )


def test_nothing_to_find_is_an_error(store: Store, fake: Encoder, tmp_path: Path) -> None:
    """A test set without documents, and one whose pictures are all gone."""
    with pytest.raises(InvalidTestSet, match="has no documents"):
        evaluate_retrieval(store, "none", TestSet({"q": Query("x")}, {}, {"q": {"d": 1}}), encoder=fake)
    gone = TestSet({"q": Query("x")}, {"d": CorpusDocument(image=tmp_path / "gone.png")}, {"q": {"d": 1}})
    with pytest.raises(InvalidTestSet, match=r"none of 1 documents could be brought into 'none' \(gone.png"):
        evaluate_retrieval(store, "none", gone, encoder=fake)
