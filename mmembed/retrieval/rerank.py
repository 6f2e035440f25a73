"""The second look at the best hits: a reranker reads the query beside each passage or picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mmembed.errors import InputError, InvalidEmbedding, InvalidQuery, UnsupportedModality
from mmembed.images import load_image
from mmembed.types import Contract, Hit, Reranker

logger = logging.getLogger(__name__)
_IMAGES = 8  # held in memory at a time


def check_reranker(reranker: Reranker, collection: str, contract: Contract | None) -> Contract:
    """The contract. Raises InvalidQuery or UnsupportedModality where this reranker has nothing that it can read."""
    if contract is None:
        raise InvalidQuery(
            f"collection {collection!r} was not made by mmembed and does not say where its texts and pictures are, "
            f"so {reranker.name!r} cannot read them: search it without a reranker"
        )
    modality, what = ("image", "pictures") if contract.kind == "images" else ("text", "text")
    if modality not in reranker.modalities:
        raise UnsupportedModality(reranker.name, what, reranker.modalities)
    return contract


def reranked(reranker: Reranker, text: str, hits: Sequence[Hit], contracts: Mapping[str, Contract]) -> list[Hit]:
    """The same hits, best first by the reranker's score, ties in the order of ids; `contracts` by collection.

    A picture that cannot be read has no such score: it comes after those that have one, as it was.
    """
    scores: dict[int, float] = {}
    images = [i for i, hit in enumerate(hits) if contracts[hit.collection].kind == "images"]
    texts = [i for i, hit in enumerate(hits) if contracts[hit.collection].kind == "documents"]
    read = _scores(reranker, text, [str(hits[i].payload["text"]) for i in texts])
    scores |= dict(zip(texts, read, strict=True))
    seen = _score_images(reranker, text, [hits[i] for i in images])
    scores |= {i: score for i, score in zip(images, seen, strict=True) if score is not None}
    scored = [replace(hits[i], score=score, vector_name=None, probability=None) for i, score in scores.items()]
    ordered = sorted(scored, key=lambda hit: (-hit.score, hit.id))
    return ordered + [hit for i, hit in enumerate(hits) if i not in scores]


def _score_images(reranker: Reranker, text: str, hits: Sequence[Hit]) -> list[float | None]:
    """A score for each picture, None for one that cannot be read; says so once."""
    scores: list[float | None] = [None] * len(hits)
    problems: list[str] = []
    for start in range(0, len(hits), _IMAGES):
        loaded: dict[int, Image.Image] = {}
        for number, hit in enumerate(hits[start : start + _IMAGES], start):
            uri = str(hit.payload["uri"])
            try:
                loaded[number] = load_image(Path(uri), uri=uri)
            except InputError as exc:
                problems.append(str(exc))
        for number, score in zip(loaded, _scores(reranker, text, list(loaded.values())), strict=True):
            scores[number] = score
    if problems:
        logger.warning(
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
