"""The second look at the best hits: a reranker reads the query beside each passage or picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mmembed.errors import InputError, InvalidEmbedding, InvalidQuery, UnsupportedModality
from mmembed.images import load_image
from mmembed.retrieval.hits import Where, fetch, fetch_late, followed
from mmembed.retrieval.query import Query
from mmembed.retrieval.rankings import Asked
from mmembed.types import Contract, Hit, Reranker

__all__ = ["check_reranker", "fetch_reranked"]

_log = logging.getLogger(__name__)
_PICTURES = 8  # held in memory at a time


def check_reranker(
    reranker: Reranker, collection: str, contract: Contract | None, query: Query, score_threshold: float | None
) -> None:
    """Raise InvalidQuery or UnsupportedModality where this reranker has nothing to read, or too much."""
    if not query.is_one_text:
        raise InvalidQuery(
            f"the reranker {reranker.name!r} reads a text beside each candidate, and this is not a query of one text "
            f"alone: leave the reranker out, or ask in words"
        )
    if score_threshold is not None:
        raise InvalidQuery(
            f"a score threshold ({score_threshold}) is for the scores of one vector, and the reranker "
            f"{reranker.name!r} gives scores of its own: leave one of them out"
        )
    if contract is None:
        raise InvalidQuery(
            f"collection {collection!r} was not made by mmembed and does not say where its texts and pictures are, "
            f"so {reranker.name!r} cannot read them: search it without a reranker"
        )
    modality, what = ("image", "pictures") if contract.kind == "images" else ("text", "text")
    if modality not in reranker.modalities:
        raise UnsupportedModality(reranker.name, what, reranker.modalities)


def fetch_reranked(
    where: Where, asked: Asked, reranker: Reranker, contract: Contract, query: Query, wanted: int, *, candidates: int
) -> list[Hit]:
    """The `wanted` best hits: the best `candidates` points in the order of the reranker, then the others as they were.

    Of a document all passages among the candidates are read, and the best is its hit.
    """

    def found(scope: Where, n: int) -> list[Hit]:
        if asked.late is None:
            return fetch(scope, asked.rankings, n)
        return fetch_late(scope, asked.rankings, asked.late, n, candidates=candidates)

    assert query.text is not None  # check_reranker
    points = found(replace(where, best_only=False), candidates)
    read = _reranked(reranker, contract, query.text, points)
    return followed(where, read, wanted, lambda: found(where, wanted))


def _reranked(reranker: Reranker, contract: Contract, text: str, hits: Sequence[Hit]) -> list[Hit]:
    """The same hits, best first by the reranker's score, ties in the order of ids.

    A picture that cannot be read has no such score: it comes after those that have one, as it was.
    """
    scores: Sequence[float | None]
    if contract.kind == "images":
        scores = _score_pictures(reranker, text, hits)
    else:
        scores = _scores(reranker, text, [str(hit.payload["text"]) for hit in hits])
    scored = [
        replace(hit, score=score, vector_name=None, probability=None)
        for hit, score in zip(hits, scores, strict=True)
        if score is not None
    ]
    ordered = sorted(scored, key=lambda hit: (-hit.score, hit.id))
    return ordered + [hit for hit, score in zip(hits, scores, strict=True) if score is None]


def _score_pictures(reranker: Reranker, text: str, hits: Sequence[Hit]) -> list[float | None]:
    """A score for each picture, None for one that cannot be read; says so once."""
    scores: list[float | None] = [None] * len(hits)
    problems: list[str] = []
    for start in range(0, len(hits), _PICTURES):
        loaded: dict[int, Image.Image] = {}
        for number, hit in enumerate(hits[start : start + _PICTURES], start):
            uri = str(hit.payload["uri"])
            try:
                loaded[number] = load_image(Path(uri), uri=uri)
            except InputError as exc:
                problems.append(str(exc))
        for number, score in zip(loaded, _scores(reranker, text, list(loaded.values())), strict=True):
            scores[number] = score
    if problems:
        _log.warning(
            "%d of %d pictures could not be read again and come after those that %s scored: %s",
            len(problems),
            len(hits),
            reranker.name,
            problems[0],
        )
    return scores


def _scores(reranker: Reranker, text: str, candidates: Sequence[str | Image.Image]) -> list[float]:
    if not candidates:
        return []
    scores = np.asarray(reranker.score(text, candidates))
    if scores.shape != (len(candidates),) or not np.isfinite(scores).all():
        raise InvalidEmbedding(
            f"reranker {reranker.name} returned scores of shape {scores.shape} for {len(candidates)} candidates, or "
            f"NaN among them: try `dtype='float32'`"
        )
    return [float(score) for score in scores]
