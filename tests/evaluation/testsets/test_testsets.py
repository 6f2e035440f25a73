"""Test sets made of what a collection holds: real stores, real encoders, read back by the reader of `mmembed eval`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from files import encoded, photo, word

import mmembed
from mmembed.demo import DOCUMENTS, PICTOGRAMS
from mmembed.documents import cut_passages, read_document
from mmembed.documents.parts import Document, Section
from mmembed.errors import CollectionNotOurs, InvalidQuery, InvalidTestSet, SettingsError
from mmembed.evaluation.formats.beir import read_beir
from mmembed.evaluation.formats.search_log import log_of
from mmembed.evaluation.tasks.retrieval import evaluate_retrieval
from mmembed.evaluation.tasks.searches import evaluate_searches
from mmembed.evaluation.testsets import Chat, RoundTrip, make_test_set
from mmembed.evaluation.testsets.queries import headings_of, query_key, refusal
from mmembed.evaluation.testsets.sampling import QuerySource, SourcePassage, chosen, whole_text
from mmembed.testing.http import StandIn
from mmembed.types import Encoder, Store

NAMES = "testset.json", "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return mmembed.load_encoder("tiny")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny: Encoder) -> Iterator[Store]:
    """The demo's `images`, captioned by `label`, and `documents`."""
    store = mmembed.open_store(f"edge:{tmp_path_factory.mktemp('testsets') / 'demo.mm'}")
    mmembed.ingest_images(store, "images", [PICTOGRAMS / "pictograms.csv"], encoder=tiny)
    minilm = mmembed.load_encoder("minilm")
    mmembed.ingest_documents(store, "documents", [DOCUMENTS], encoder=minilm, cross_encoder=tiny, images_into=None)
    yield store
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = mmembed.open_store(f"edge:{tmp_path / 'own.mm'}")
    yield opened
    opened.close()


def labels(store: Store) -> dict[str, str]:
    return {str(point.payload["uri"]): str(point.payload["label"]) for point in store.scroll("images")}


def written(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


def images(folder: Path, captions: dict[str, str | None], *, same: tuple[str, ...] = ()) -> Path:
    """Pictures of noise with captions, in a manifest; those in `same` have one content."""
    folder.mkdir()
    rows = []
    for number, (name, caption) in enumerate(captions.items()):
        (folder / name).write_bytes(encoded(photo(seed=1000 if name in same else number)))
        rows.append(json.dumps({"uri": name, "caption": caption}))
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder / "captions.jsonl"


# --- what is written ------------------------------------------------------------------------------------------


def test_captions_become_queries_for_all_that_have_them(demo: Store, tmp_path: Path) -> None:
    """The reader finds all pictures in the corpus, and each query relevant to exactly those that are called so."""
    made = make_test_set(demo, "images", tmp_path, sample=40, caption_key="label", round_trip=None)
    read, called = read_beir(tmp_path), labels(demo)
    assert set(read.corpus) == set(called)
    assert all(document.image == Path(uri) and not document.whole_text for uri, document in read.corpus.items())
    assert (made.documents, made.queries, made.sampled, read.warnings) == (300, len(read.queries), 40, ())
    assert 38 <= made.queries <= 40
    for id, query in read.queries.items():
        assert set(read.qrels[id]) == {uri for uri, label in called.items() if label == query.text}
        assert set(read.qrels[id].values()) == {1}


def test_headings_become_queries_for_all_that_have_them(demo: Store, tmp_path: Path) -> None:
    """Each is the title of its document or the heading of one of its passages; the file's name alone is none."""
    make_test_set(demo, "documents", tmp_path, round_trip=None)
    read = read_beir(tmp_path)
    assert {Path(uri).name for uri in read.corpus} == {file.name for file in DOCUMENTS.iterdir()} - {"sunflower.png"}
    texts = {query.text for query in read.queries.values()}
    assert {"The small kitchen", "Cake and cookies", "Reading the weather"} <= texts
    assert not texts & {file.stem for file in DOCUMENTS.iterdir()}
    for id, query in read.queries.items():
        for uri in read.qrels[id]:
            document = read_document(Path(uri), uri=uri)
            assert query.text in {document.title, *(h for section in document.sections for h in section.headings)}


def test_a_document_in_the_corpus_says_what_its_file_says(demo: Store, tmp_path: Path) -> None:
    """Every word of every section stands in its row, headings too."""
    make_test_set(demo, "documents", tmp_path, round_trip=None)
    for uri, row in read_beir(tmp_path).corpus.items():
        document = read_document(Path(uri), uri=uri)
        for section in document.sections:
            assert " ".join(section.text.split()) in " ".join(row.whole_text.split())
            assert all(heading in row.whole_text for heading in section.headings)


def test_the_filter_keeps_what_exact_search_finds(demo: Store, tiny: Encoder, tmp_path: Path) -> None:
    """Of captions: those by which `image` finds one of their pictures among the first hits, and no others."""
    options = {"sample": 60, "caption_key": "label"}
    every = make_test_set(demo, "images", tmp_path / "all", round_trip=None, **options)  # type: ignore[arg-type]
    kept = make_test_set(demo, "images", tmp_path / "kept", round_trip=RoundTrip(first=2), **options)  # type: ignore[arg-type]
    called, expected = labels(demo), set()
    for query in read_beir(tmp_path / "all").queries.values():
        hits = mmembed.search(demo, "images", text=query.text, vector_name="image", limit=2, exact=True, encoder=tiny)
        if any(called[hit.payload["uri"]] == query.text for hit in hits):
            expected.add(query.text)
    assert {query.text for query in read_beir(tmp_path / "kept").queries.values()} == expected
    assert 0 < kept.queries == every.queries - kept.dropped["not found again"] < every.queries
    assert json.loads((tmp_path / "kept" / "testset.json").read_text())["round_trip"] == {
        "vector_name": "image",
        "first": 2,
    }


def test_captions_are_not_filtered_by_captions(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """A caption would always find itself; by `image`, nonsense does not find its picture."""
    captions: dict[str, str | None] = {f"{i:02}.png": f"zq{i}x" for i in range(40)}
    mmembed.ingest_images(store, "images", [images(tmp_path / "p", captions)], encoder=tiny)
    lenient = make_test_set(store, "images", tmp_path / "a", round_trip=RoundTrip("caption_bm25", 1), queries_each=1)
    assert (lenient.queries, dict(lenient.dropped)) == (40, {})
    strict = make_test_set(store, "images", tmp_path / "b", round_trip=RoundTrip(first=1), queries_each=1)
    assert strict.queries < 10


def test_images_near_the_test_set_are_named_relative_to_it(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """A folder that holds both can be moved; what lies elsewhere has its whole path."""
    mmembed.ingest_images(store, "images", [images(tmp_path / "p", {"a.png": "a"})], encoder=tiny)
    for folder, expected in ((tmp_path / "set", "../p/a.png"), (tmp_path / "x" / "set", str(tmp_path / "p" / "a.png"))):
        make_test_set(store, "images", folder, round_trip=None)
        row = json.loads((folder / "corpus.jsonl").read_text())
        assert (row["_id"], row["image"]) == (str(tmp_path / "p" / "a.png"), expected)
        assert [document.image and document.image.is_file() for document in read_beir(folder).corpus.values()] == [True]


def test_images_inside_documents_are_taken_out(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """A picture without a file of its own gets one in the test set, pixel for pixel; its alt text is a query."""
    (tmp_path / "in").mkdir()
    shown = photo(seed=3)
    word(tmp_path / "in" / "report.docx", [(1, "Report"), "Some words.", (shown, "a blue square")])
    mmembed.ingest_documents(store, "documents", [tmp_path / "in"], encoder=tiny, images_into="images")
    make_test_set(store, "images", tmp_path / "set", round_trip=None)
    read = read_beir(tmp_path / "set")
    assert [query.text for query in read.queries.values()] == ["a blue square"]
    (uri,) = read.corpus
    assert uri.startswith(str(tmp_path / "in" / "report.docx#"))
    image = read.corpus[uri].image
    assert image is not None
    assert image.is_relative_to(tmp_path / "set")
    from PIL import Image

    with Image.open(image) as taken:
        assert taken.convert("RGB").tobytes() == shown.convert("RGB").tobytes()


def test_copies_are_as_relevant(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """The same picture under another name, though it has another caption or none, is what was asked for."""
    manifest = images(tmp_path / "p", {"a.png": "cat", "b.png": None, "c.png": "dog"}, same=("a.png", "b.png"))
    mmembed.ingest_images(store, "images", [manifest], encoder=tiny)
    made = make_test_set(store, "images", tmp_path / "set", round_trip=None)
    read = read_beir(tmp_path / "set")
    relevant = {q.text: {Path(uri).name for uri in read.qrels[id]} for id, q in read.queries.items()}
    assert relevant == {"cat": {"a.png", "b.png"}, "dog": {"c.png"}}
    assert (made.sampled, made.queries, made.judgements) == (2, 2, 3)


def test_equal_queries_are_one(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """Case and white space make no other query; a caption that eleven pictures share tells none of them apart."""
    captions = {"a.png": "A cat", "b.png": " a  CAT ", "c.png": "dog"} | {f"s{i:02}.png": "sketch" for i in range(11)}
    mmembed.ingest_images(store, "images", [images(tmp_path / "p", dict(captions))], encoder=tiny)
    made = make_test_set(store, "images", tmp_path / "set", round_trip=None)
    read = read_beir(tmp_path / "set")
    found = {query_key(query.text or ""): len(read.qrels[id]) for id, query in read.queries.items()}
    assert found == {"a cat": 2, "dog": 1}
    assert made.dropped == {"too common": 1}


# --- the sample -----------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_files(demo: Store, tmp_path: Path) -> None:
    """Byte for byte; another seed draws others."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_test_set(demo, "images", tmp_path / name, sample=20, seed=seed, caption_key="label")
    assert written(tmp_path / "a") == written(tmp_path / "b")
    assert written(tmp_path / "a")["queries.jsonl"] != written(tmp_path / "c")["queries.jsonl"]


def test_a_sample_grows_and_hardly_moves() -> None:
    """More are the fewer and others; without one thing, the rest is drawn as before; all are equally likely."""
    names = [f"n{i}" for i in range(200)]
    few, more = (chosen(zip(names, names, strict=True), n, seed=3) for n in (20, 50))
    assert more[:20] == few
    without = [name for name in names if name != few[0]]
    assert chosen(zip(without, without, strict=True), 19, seed=3) == few[1:]
    assert chosen(zip(reversed(names), reversed(names), strict=True), 20, seed=3) == few
    drawn = [name for seed in range(400) for name in chosen(zip(names, names, strict=True), 20, seed=seed)]
    assert all(15 <= drawn.count(name) <= 70 for name in names)  # 40 expected
    assert sorted(chosen(zip(names, names, strict=True), 500, seed=0)) == sorted(names)


def test_the_draw_goes_with_the_contents(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """The same pictures in another folder give the same queries in the same order."""
    captions: dict[str, str | None] = {f"{i:02}.png": f"number {i}" for i in range(30)}
    for name in ("here", "there"):
        mmembed.ingest_images(store, name, [images(tmp_path / name, captions)], encoder=tiny)
        made = make_test_set(store, name, tmp_path / f"set-{name}", sample=10, round_trip=None)
        assert made.queries == 10
    assert written(tmp_path / "set-here")["queries.jsonl"] == written(tmp_path / "set-there")["queries.jsonl"]


# --- what no query is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("who gives way to a ferry", None),
        ("A ferry gives way to nobody, but a sailboat gives way to swimmers and rowers.", "copied"),
        ("ferry: a FERRY gives way to nobody,\nbut a sailboat gives way to swimmers and rowers.", "copied"),
        ("ferry gives way to nobody, but a sailboat gives way to", "copied"),
        ("gives way to nobody", None),
        ("???", "empty"),
        ("", "empty"),
        ("why " * 80, "too long"),
    ],
)
def test_what_is_refused_as_a_query(query: str, problem: str | None) -> None:
    """Copies of the passage, long quotations, and what nobody types; a few words of the passage are no copy."""
    passage = SourcePassage("A ferry gives way to nobody,  but a sailboat gives way to swimmers and rowers.", ())
    assert refusal(query, QuerySource("/a.md", passages=(passage,))) == problem


def test_headings_come_once_and_in_reading_order() -> None:
    """The title first, unless it is the file's name; of each path the innermost."""
    passages = tuple(
        SourcePassage("text", headings) for headings in (("T", "One"), ("T", "Two"), (), ("T", " one "), ("T",))
    )
    assert headings_of(QuerySource("/a/file.md", "T", passages)) == ["T", "One", "Two"]
    assert headings_of(QuerySource("/a/file.md", "file", (SourcePassage("text", ()),))) == []


def test_a_cut_text_is_put_together_again() -> None:
    """A long section, cut into passages that overlap, comes out with each of its words once, and once its heading."""
    words = " ".join(f"word{i} and{i % 7}." for i in range(400))
    section = Section(words, ("Title", "Chapter"))
    cut = cut_passages(
        Document("/a", "Title", (section,)), count_tokens=lambda text: len(text.split()), max_tokens=60, overlap=12
    )
    assert len(cut) > 10
    assert sum(len(passage.body.split()) for passage in cut) > len(words.split()) + 50  # they do overlap
    source = QuerySource("/a", "Title", tuple(SourcePassage(passage.body, passage.headings) for passage in cut))
    assert whole_text(source).split() == ["Chapter", *words.split()]


# --- by a chat model ------------------------------------------------------------------------------------------


def test_queries_of_a_chat_model(demo: Store, tmp_path: Path) -> None:
    """Good ones are kept with their source, copies and what finds nothing are dropped, failures are told."""

    def answer(asked: object) -> object:
        question = str(asked.body["messages"][0]["content"])  # type: ignore[attr-defined]
        if "The small kitchen" in question:
            content = json.dumps(["baking cakes and cookies", question.rpartition("Passage:\n")[2]])
        elif "Getting there" in question:
            content = "no list"
        else:
            content = json.dumps(["recipe with flour and eggs for the oven"])  # the kitchen's, whatever was asked
        return {"choices": [{"message": {"content": content}}]}

    with StandIn(answer) as server:
        chat = Chat(server.url, "m")
        made = make_test_set(demo, "documents", tmp_path, queries_from=chat, round_trip=RoundTrip("text", 1))
    read = read_beir(tmp_path)
    assert made.dropped["copied"] == 1
    assert [Path(failure.uri).name for failure in made.failures] == ["travel.html"]
    found = {query.text: {Path(uri).name for uri in read.qrels[id]} for id, query in read.queries.items()}
    assert found["baking cakes and cookies"] == {"kitchen.md"}
    assert made.queries == len(read.queries)
    assert made.sampled == 8


# --- what bad input gets --------------------------------------------------------------------------------------


def test_a_name_that_would_break_the_rows_is_left_out(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """A tab in a name is a failure that says so; the rest is written."""
    folder = tmp_path / "p"
    images(folder, {"a.png": "cat", "b.png": "dog"})
    shutil.move(folder / "b.png", folder / "b\tc.png")
    (folder / "captions.jsonl").write_text('{"uri": "a.png", "caption": "cat"}\n{"uri": "b\\tc.png", "caption": "dog"}')
    mmembed.ingest_images(store, "images", [folder / "captions.jsonl"], encoder=tiny)
    made = make_test_set(store, "images", tmp_path / "set", round_trip=None)
    assert [("\\t" in failure.error, failure.uri) for failure in made.failures] == [(True, str(folder / "b\tc.png"))]
    assert [Path(uri).name for uri in read_beir(tmp_path / "set").corpus] == ["a.png"]


def test_a_image_that_is_gone_is_left_out(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """It cannot be judged by another encoder: a failure names it, and neither corpus nor judgements hold it."""
    manifest = images(tmp_path / "p", {"a.png": "cat", "b.png": "dog"})
    mmembed.ingest_images(store, "images", [manifest], encoder=tiny)
    (tmp_path / "p" / "b.png").unlink()
    made = make_test_set(store, "images", tmp_path / "set", round_trip=None)
    assert [failure.uri for failure in made.failures] == [str(tmp_path / "p" / "b.png")]
    assert (made.documents, made.queries) == (1, 1)


@pytest.mark.parametrize(
    ("collection", "options", "error", "said"),
    [
        ("images", {}, InvalidTestSet, "none of the 300 pictures of collection 'images' has a caption in 'caption'"),
        ("images", {"queries_from": "headings"}, SettingsError, "make the queries from captions"),
        ("documents", {"queries_from": "captions"}, SettingsError, "make the queries from headings"),
        ("documents", {"round_trip": RoundTrip("nothing")}, InvalidQuery, "it has bm25, cross, text"),
        ("documents", {"round_trip": RoundTrip(first=0)}, InvalidQuery, "give 1 or more"),
        ("documents", {"sample": 0}, SettingsError, "give 1 or more"),
        ("documents", {"queries_each": 0}, SettingsError, "give 1 or more"),
    ],
)
def test_what_makes_no_sense(
    collection: str, options: dict[str, object], error: type[Exception], said: str, demo: Store, tmp_path: Path
) -> None:
    """Each is refused in a sentence of its own, and no test set is written."""
    with pytest.raises(error, match=said):
        make_test_set(demo, collection, tmp_path / "set", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "set" / "testset.json").exists()


def test_nothing_kept_is_an_error_that_says_why(store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """No empty test set is written: the sentence counts what was dropped."""
    captions = {f"{i:02}.png": "sketch" for i in range(12)}
    mmembed.ingest_images(store, "images", [images(tmp_path / "p", dict(captions))], encoder=tiny)
    with pytest.raises(InvalidTestSet, match=r"no query is left from a sample of 12 \(1 too common\)"):
        make_test_set(store, "images", tmp_path / "set")
    assert not (tmp_path / "set" / "corpus.jsonl").exists()


def test_a_collection_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """It does not say where its texts are."""
    from qdrant_client import QdrantClient, models

    from mmembed.stores.qdrant.store import open_memory

    store = open_memory()
    client: QdrantClient = store._client
    client.create_collection("theirs", models.VectorParams(size=4, distance=models.Distance.COSINE))
    with pytest.raises(CollectionNotOurs, match="was not made by mmembed"):
        make_test_set(store, "theirs", tmp_path / "set")
    store.close()


def test_no_other_test_set_is_overwritten(demo: Store, tmp_path: Path) -> None:
    """A folder with a corpus that was not made here, or a file, is refused and left as it is; one's own is replaced."""
    (tmp_path / "corpus.jsonl").write_text("theirs")
    with pytest.raises(SettingsError, match="would lose it"):
        make_test_set(demo, "documents", tmp_path)
    with pytest.raises(SettingsError, match="is a file"):
        make_test_set(demo, "documents", tmp_path / "corpus.jsonl")
    assert (tmp_path / "corpus.jsonl").read_text() == "theirs"
    for sample in (3, 7):
        make_test_set(demo, "documents", tmp_path / "own", sample=sample, round_trip=None)
    assert json.loads((tmp_path / "own" / "testset.json").read_text())["sample"] == 7
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "corpus.jsonl",
        "qrels",
        "queries.jsonl",
        "testset.json",
    ]


# --- it is what is evaluated ----------------------------------------------------------------------------------


def test_both_evaluations_take_it(demo: Store, store: Store, tiny: Encoder, tmp_path: Path) -> None:
    """Encoded anew and searched as it is, every query counts and nothing is missing; with a filter all are found."""
    made = make_test_set(
        demo, "images", tmp_path, sample=30, queries_each=1, caption_key="label", round_trip=RoundTrip("image", 10)
    )
    read = read_beir(tmp_path)
    anew = evaluate_retrieval(store, "anew", read, encoder=tiny, measures=["hit_rate@10"])
    as_it_is = evaluate_searches(demo, "images", log_of(read), measures=["hit_rate@10"])
    for report in (anew, as_it_is):
        assert (report.queries, report.documents, report.warnings) == (made.queries, 300, ())
    assert anew.systems[0].exact.mean("hit_rate@10") == 1.0
    assert as_it_is.systems[0].exact.mean("hit_rate@10") == 1.0
