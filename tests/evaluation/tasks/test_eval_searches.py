"""Your own searches: logs and judged queries, asked of a collection as its users ask it."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_images import Pictogram, pictograms
from PIL import Image

from mmembed.encoders.registry import load_encoder
from mmembed.errors import CollectionMismatch, CollectionNotFound, InvalidQuery, InvalidTestSet
from mmembed.evaluation.comparison import compare
from mmembed.evaluation.formats.beir import read_beir, write_beir
from mmembed.evaluation.formats.search_log import SearchLog, log_of, read_searches
from mmembed.evaluation.tasks.encoders import evaluate_encoders
from mmembed.evaluation.tasks.searches import evaluate_searches
from mmembed.evaluation.testset import CorpusDocument, Query, TestSet
from mmembed.ingest import ingest_documents, ingest_images
from mmembed.retrieval.api import search
from mmembed.stores import open_store
from mmembed.types import Encoder, Store

MEASURES = ["hit_rate@1", "MRR@10", "recall@10"]
IMAGES = pictograms()[:30]


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, and six texts."""
    made = tmp_path_factory.mktemp("mine")
    for image in IMAGES:
        shutil.copy(image.path, made)
    for number, word in enumerate(["zebra", "harbour", "violet", "copper", "winter", "orchard"]):
        (made / f"{number}.txt").write_text(f"A text about {word}. " + "It goes on and on. " * 40 + word)
    return made


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Encoder) -> Iterator[Store]:
    """`images`, by tiny, and `documents`, by fake with BM25 beside it."""
    opened = open_store(f"edge:{tmp_path_factory.mktemp('store') / 'store.mm'}")
    ingest_images(opened, "images", [folder], encoder=tiny)
    ingest_documents(opened, "documents", [folder], encoder=load_encoder("fake"), cross_encoder=tiny, images_into=None)
    yield opened
    opened.close()


def log_file(tmp_path: Path, *rows: object) -> Path:
    file = tmp_path / "log.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def named(image: Pictogram, folder: Path) -> str:
    return str(folder / image.path.name)


def test_the_numbers_are_those_of_search_itself(store: Store, folder: Path, tmp_path: Path) -> None:
    """Ranks are counted by hand over what `mmembed.search` finds."""
    rows = [{"query": image.name, "clicked": [named(image, folder)]} for image in IMAGES]
    report = evaluate_searches(store, "images", read_searches(log_file(tmp_path, *rows)), measures=MEASURES)
    reciprocal = []
    for image in IMAGES:
        uris = [hit.payload["uri"] for hit in search(store, "images", text=image.name, limit=10)]
        reciprocal.append(1 / (uris.index(named(image, folder)) + 1) if named(image, folder) in uris else 0.0)
    compared = report.systems[0]
    assert compared.as_is is not None
    assert list(compared.as_is.per_query["MRR@10"].values()) == pytest.approx(reciprocal)
    assert compared.exact.per_query == compared.as_is.per_query
    assert (report.queries, report.documents, report.warnings) == (30, 30, ())
    assert 0.1 < compared.exact.mean("MRR@10") < 1


def test_hybrid_search_counts_the_best_passage(store: Store, folder: Path, tmp_path: Path) -> None:
    """Documents are found by meaning and words, and by picture; a document is one hit however many passages it has."""
    log = read_searches(
        log_file(
            tmp_path,
            {"query": "zebra", "relevant": [str(folder / "0.txt")]},
            {"image": named(IMAGES[0], folder), "relevant": ["3.txt"]},
        )
    )
    report = evaluate_searches(store, "documents", log, measures=["hit_rate@1", "recall@10"])
    assert report.systems[0].exact.per_query == {
        "hit_rate@1": {"1": 1.0, "2": report.systems[0].exact.per_query["hit_rate@1"]["2"]},
        "recall@10": {"1": 1.0, "2": 1.0},
    }
    assert len(report.systems[0].runs[0]["1"]) == 6


def test_relevant_things_may_be_named_in_four_ways(store: Store, folder: Path, tmp_path: Path) -> None:
    """By uri, by the id of a point, by a path from the log's folder, and by a file name that is there once."""
    image = IMAGES[3]
    (hit, *_) = [
        hit for hit in search(store, "images", text="x", limit=30) if hit.payload["uri"] == named(image, folder)
    ]
    shutil.copy(log_file(tmp_path, {"query": "a"}), folder / "log.jsonl")
    for name in (named(image, folder), hit.id, f"./{image.path.name}", image.path.name):
        log = SearchLog("log", folder, {"1": Query("anything")}, {"1": {name: 1}})
        report = evaluate_searches(store, "images", log, measures=["recall@100"])
        assert report.systems[0].exact.mean("recall@100") == 1.0, name
        assert report.warnings == ()


def test_what_the_collection_lacks_stays_relevant(store: Store, folder: Path, tmp_path: Path) -> None:
    """Recall counts it as not found, and a warning says how many there are."""
    rows = {"query": "x", "relevant": [named(IMAGES[0], folder), "/gone/a.jpg", "/gone/b.jpg"]}
    report = evaluate_searches(store, "images", read_searches(log_file(tmp_path, rows)), measures=["recall@100"])
    assert report.systems[0].exact.mean("recall@100") == pytest.approx(1 / 3)
    assert [w for w in report.warnings if "does not hold 2 of the relevant things" in w and "/gone/a.jpg" in w]


def test_a_file_name_of_several_files_is_refused(tmp_path: Path) -> None:
    """Which of them is meant cannot be known."""
    for sub in ("one", "two"):
        (tmp_path / sub).mkdir()
        shutil.copy(IMAGES[0].path, tmp_path / sub / "a.png")
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    ingest_images(opened, "images", [tmp_path / "one", tmp_path / "two"], encoder=load_encoder("fake"))
    log = read_searches(log_file(tmp_path, {"query": "x", "relevant": ["a.png"]}))
    with pytest.raises(InvalidTestSet, match="2 files of that name: write the whole path"):
        evaluate_searches(opened, "images", log)
    opened.close()


def test_repeated_searches_are_one_query(tmp_path: Path) -> None:
    """Their clicks are joined, the highest grade counts, and a filter makes another query of the same words."""
    condition = {"must": [{"key": "kind", "match": {"value": "shoe"}}]}
    log = read_searches(
        log_file(
            tmp_path,
            {"query": "red", "clicked": "a.png"},
            {"query": "red ", "clicked": {"a.png": 2, "b.png": 1}, "relevant": {"b.png": 3}},
            {"query": "red", "clicked": ["c.png"], "filter": condition},
            {"query": "blue"},
        )
    )
    assert log.queries == {"1": Query("red"), "2": Query("red"), "3": Query("blue")}
    assert log.qrels == {"1": {"a.png": 2, "b.png": 3}, "2": {"c.png": 1}, "3": {}}
    assert list(log.filters) == ["2"]
    (tmp_path / "log.csv").write_text("query,uri,grade\nred,a.png,2\nred,b.png,\nblue,,\n")
    again = read_searches(tmp_path / "log.csv")
    assert again.qrels == {"1": {"a.png": 2, "b.png": 1}, "2": {}}


def test_a_log_is_read_line_by_line_and_not_at_what_unicode_calls_a_line(tmp_path: Path) -> None:
    """U+2028 and U+0085 within a query end no line of JSONL, nor of CSV."""
    asked = "red\u2028shoes\u0085new"
    row = json.dumps({"query": asked, "relevant": ["a.png"]}, ensure_ascii=False)
    (tmp_path / "log.jsonl").write_text(f"{row}\n", encoding="utf-8")
    (tmp_path / "log.csv").write_text(f"query,uri\n{asked},a.png\n", encoding="utf-8")
    for name in ("log.jsonl", "log.csv"):
        log = read_searches(tmp_path / name)
        assert (log.queries, log.qrels) == ({"1": Query(asked)}, {"1": {"a.png": 1}})


def test_grades_may_be_written_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """2.0 is 2, in both forms; 1.5 and an infinite one are no grades."""
    (tmp_path / "log.csv").write_text("query,uri,grade\nred,a.png,2.0\n")
    for log in (tmp_path / "log.csv", log_file(tmp_path, {"query": "red", "relevant": {"a.png": 2.0}})):
        assert read_searches(log).qrels == {"1": {"a.png": 2}}
    for wrong in ("1.5", "inf", "nan"):
        (tmp_path / "log.csv").write_text(f"query,uri,grade\nred,a.png,{wrong}\n")
        with pytest.raises(InvalidTestSet, match=r"line 2 .*a grade is a whole number"):
            read_searches(tmp_path / "log.csv")


def test_images_that_ask_are_opened_one_at_a_time(store: Store, folder: Path, tmp_path: Path) -> None:
    """Of a log of 20 pictures few are in memory at any time; one that is missing counts 0."""
    for number in range(20):
        Image.new("RGB", (61, 47), (number, 0, 0)).save(tmp_path / f"{number}.png")
    wanted = named(IMAGES[0], folder)
    log = read_searches(log_file(tmp_path, *({"image": f"{n}.png", "relevant": [wanted]} for n in range(21))))
    alive: list[int] = []

    def count(*_: object) -> None:
        opened = [each for each in gc.get_objects() if type(each) is Image.Image and each.size == (61, 47)]
        alive.append(len(opened))

    report = evaluate_searches(store, "images", log, measures=["recall@100"], on_progress=count)
    assert 1 <= max(alive) <= 3
    assert report.queries == 21
    assert any("1 queries cannot be asked and count 0: 20.png" in warning for warning in report.warnings)


def test_searches_are_asked_under_their_filter(store: Store, folder: Path, tmp_path: Path) -> None:
    """A filter leaves out what was not looked for; a search without anything relevant is left out and counted."""
    wanted, other = named(IMAGES[0], folder), named(IMAGES[1], folder)
    only = {"must": [{"key": "uri", "match": {"value": other}}]}
    log = read_searches(
        log_file(tmp_path, {"query": "x", "relevant": [wanted], "filter": only}, {"query": "y", "clicked": []})
    )
    report = evaluate_searches(store, "images", log, measures=["recall@100"])
    assert report.systems[0].exact.mean("recall@100") == 0.0
    assert list(report.systems[0].runs[0]) == ["1"]
    assert len(report.systems[0].runs[0]["1"]) == 1
    assert (report.queries, report.left_out) == (1, 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.jsonl", "", "the log is empty"),
        ("l.csv", "", "the log is empty"),
        ("l.csv", "query,uri\n", "the log is empty"),
        ("l.jsonl", '{"query": "x", "relevant": []}\n', "none of 1 searches has anything relevant"),
        ("l.jsonl", '\n{"relevant": ["a"]}\n', 'line 2 is not a search .it has neither "query"'),
        ("l.jsonl", '{"query": "x", "relevant": {"a": "b"}}\n', "line 1 .*a grade is a whole number"),
        ("l.jsonl", '{"query": "x", "relevant": ["a"], "filter": {"must": 3}}\n', "line 1 .*not a Qdrant filter"),
        ("l.jsonl", "[]\n", "line 1 .*a line is a JSON object"),
        ("l.csv", "words,uri\nx,a\n", "needs query and uri"),
        ("l.jsonl", '{"query": "x", "relevant": 5}', '"relevant" is a list of uris or ids'),
        ("l.jsonl", '{"query": "x", "clicked": ["a", null]}', '"clicked" is a list of uris or ids'),
        ("l.csv", "query,uri,grade\nx,a,much\n", "line 2 is not a search"),
        ("l.csv", "query,uri\n,a\n", "line 2 .*its query is empty"),
        ("l.txt", "x", "ends in .jsonl or .csv"),
    ],
)
def test_a_malformed_log_says_what_is_wrong(name: str, text: str, message: str, tmp_path: Path) -> None:
    """Each error names the file and the line."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidTestSet, match=message) as caught:
        read_searches(tmp_path / name)
    assert str(caught.value).startswith(name)


def test_a_folder_as_beir_has_it_is_a_log_too(store: Store, folder: Path, tmp_path: Path) -> None:
    """Its documents are found by their uri."""
    test_set = TestSet(
        {"q": Query("zebra")},
        {"d": CorpusDocument(text="whatever", uri=str(folder / "0.txt"))},
        {"q": {"d": 1}},
        "beir",
    )
    write_beir(tmp_path / "beir", test_set)
    report = evaluate_searches(store, "documents", log_of(read_beir(tmp_path / "beir")), measures=["hit_rate@1"])
    assert report.systems[0].exact.mean("hit_rate@1") == 1.0
    assert report.warnings == ()


def test_two_collections_are_compared_on_one_log(folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    """Each answers with its own encoder, and the queries are paired."""
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    for name, encoder in (("fake", load_encoder("fake")), ("tiny", tiny)):
        ingest_images(opened, name, [folder], encoder=encoder)
    rows = [{"query": image.name, "relevant": [image.path.name]} for image in IMAGES]
    log = read_searches(log_file(tmp_path, *rows))
    both = compare([evaluate_searches(opened, name, log, measures=["MRR@10"]) for name in ("fake", "tiny")])
    opened.close()
    (comparison,) = both.comparisons
    assert comparison.systems == ("fake", "tiny")
    assert comparison.exact.value > 0
    assert [system.name for system in both.systems] == ["fake", "tiny"]


def test_two_encoders_are_compared_on_the_files_of_a_collection(folder: Path, tmp_path: Path, tiny: Encoder) -> None:
    """The files are indexed anew with their payload, a vanished one is counted, and the collection stays as it was."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"uri": str(copy / p.path.name), "payload": {"even": number % 2 == 0}} for number, p in enumerate(IMAGES)]
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    opened = open_store(f"edge:{tmp_path / 'store.mm'}")
    ingest_images(opened, "images", [manifest], encoder=load_encoder("fake"))
    (copy / IMAGES[-1].path.name).unlink()
    even = {"must": [{"key": "even", "match": {"value": True}}]}
    log = read_searches(
        log_file(
            tmp_path,
            *({"query": p.name, "relevant": [str(copy / p.path.name)]} for p in IMAGES[:10]),
            {"query": "anything", "relevant": [str(copy / IMAGES[0].path.name)], "filter": even},
        )
    )
    reports = evaluate_encoders(opened, "images", log, [load_encoder("fake?dim=8"), tiny], measures=["recall@100"])
    assert [report.systems[0].name for report in reports] == ["fake?dim=8", "tiny"]
    assert all("1 of 30 things in 'images' have no file" in report.warnings[0] for report in reports)
    for report in reports:
        assert report.documents == 29
        assert report.systems[0].exact.mean("recall@100") == 1.0
        assert len(report.systems[0].runs[0]["11"]) == 15  # the even ones
    assert opened.collections() == ["images"]
    assert opened.count("images") == 30
    opened.close()


def test_documents_are_indexed_anew_too(store: Store, tmp_path: Path) -> None:
    """With passages, words and all, by each encoder."""
    log = read_searches(log_file(tmp_path, {"query": "zebra", "relevant": ["0.txt"]}))
    (report,) = evaluate_encoders(store, "documents", log, [load_encoder("fake?dim=16")], measures=["hit_rate@1"])
    assert report.systems[0].exact.mean("hit_rate@1") == 1.0
    assert report.documents == 6


def test_the_wrong_collection_or_encoder_is_refused(store: Store, tmp_path: Path) -> None:
    """A collection that is not there, an encoder that is not its own, and none where there must be one."""
    log = read_searches(log_file(tmp_path, {"query": "x", "relevant": ["0.txt"]}))
    with pytest.raises(CollectionNotFound):
        evaluate_searches(store, "photos", log)
    with pytest.raises(CollectionMismatch):
        evaluate_searches(store, "images", log, encoder=load_encoder("fake"))


def test_a_collection_of_somebody_else_needs_an_encoder(tmp_path: Path) -> None:
    """One without a contract does not say which encoder made it; with one, points are relevant by their ids."""
    from qdrant_client import QdrantClient, models

    from mmembed.stores.qdrant.store import open_memory

    store = open_memory()
    client: QdrantClient = store._client
    fake = load_encoder("fake")
    client.create_collection("theirs", vectors_config=models.VectorParams(size=32, distance=models.Distance.COSINE))
    vectors = [list(map(float, row)) for row in fake.encode_text(["red fox", "blue whale"], role="document")]
    ids = ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"]
    client.upsert("theirs", [models.PointStruct(id=i, vector=v) for i, v in zip(ids, vectors, strict=True)])
    log = read_searches(log_file(tmp_path, {"query": "blue whale", "relevant": [ids[1]]}))
    with pytest.raises(InvalidQuery, match="was not made by mmembed"):
        evaluate_searches(store, "theirs", log)
    report = evaluate_searches(store, "theirs", log, encoder=fake, measures=["hit_rate@1"])
    assert report.systems[0].exact.mean("hit_rate@1") == 1.0
    store.close()
