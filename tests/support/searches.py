"""What a naive search finds, to hold real ones against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.types import Hit, Point, SparseVector, Store


def points(store: Store, collection: str) -> list[Point]:
    return list(store.scroll(collection, vectors=True))


def ranked(scores: dict[str, float]) -> list[tuple[str, float]]:
    """id -> score, best first."""
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def by_cosine(store: Store, collection: str, vector: str, query: np.ndarray) -> dict[str, float]:
    return {p.id: float(np.asarray(p.vectors[vector]) @ query) for p in points(store, collection)}


def by_windows(store: Store, collection: str, query: np.ndarray) -> dict[str, float]:
    """The best window of each passage."""
    return {p.id: float((np.asarray(p.vectors["cross"]) @ query).max()) for p in points(store, collection)}


def best_of_documents(store: Store, collection: str, scores: dict[str, float]) -> dict[str, float]:
    """Only the best passage of each document."""
    uris = {p.id: str(p.payload["uri"]) for p in points(store, collection)}
    best: dict[str, str] = {}
    for id, _ in ranked(scores):
        best.setdefault(uris[id], id)
    return {id: scores[id] for id in best.values()}


def assert_hits(hits: list[Hit], expected: dict[str, float], limit: int = 10) -> None:
    """The same scores in the same order, and each hit has its own score."""
    wanted = ranked(expected)[:limit]
    np.testing.assert_allclose([h.score for h in hits], [score for _, score in wanted], atol=1e-5)
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=1e-5)
    assert len({h.id for h in hits}) == len(hits)


def text_vector(encoder: str, text: str) -> np.ndarray:
    return np.asarray(load_encoder(encoder).encode_text([text], role="query"))[0]


def image_vector(encoder: str, path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(load_encoder(encoder).encode_image([mmembed_rgb(image)]))[0]


def mmembed_rgb(image: Image.Image) -> Image.Image:
    """On white, as pictures are indexed."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def bm25_scores(store: Store, collection: str, text: str) -> dict[str, float]:
    """Passages that share a word with the query -> their BM25 score, with Qdrant's inverse document frequency."""
    stored = {}
    for point in points(store, collection):
        vector = point.vectors["bm25"]
        assert isinstance(vector, SparseVector)
        stored[point.id] = dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))
    query = load_encoder("bm25").encode_text([text], role="query")[0]
    assert isinstance(query, SparseVector)
    scores: dict[str, float] = {}
    for term, weight in zip(query.indices.tolist(), query.values.tolist(), strict=True):
        having = [id for id, terms in stored.items() if term in terms]
        idf = np.log((len(stored) - len(having) + 0.5) / (len(having) + 0.5) + 1)
        for id in having:
            scores[id] = scores.get(id, 0.0) + weight * stored[id][term] * idf
    return scores
