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
from mmembed.streams import batched
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
    images = {i: str(hit.payload["uri"]) for i, hit in enumerate(hits) if contracts[hit.collection].kind == "images"}
    texts = {i: str(hit.payload["text"]) for i, hit in enumerate(hits) if i not in images}
    scores = dict(zip(texts, _scores(reranker, text, list(texts.values())), strict=True))
    scores |= _score_images(reranker, text, images)
    scored = [replace(hits[i], score=score, vector_name=None, probability=None) for i, score in scores.items()]
    ordered = sorted(scored, key=lambda hit: (-hit.score, hit.id))
    return ordered + [hit for i, hit in enumerate(hits) if i not in scores]


def _score_images(reranker: Reranker, text: str, uris: Mapping[int, str]) -> dict[int, float]:
    """A score for each picture that can be read, under its number; says once how many cannot."""
    scores: dict[int, float] = {}
    problems: list[str] = []
    for some in batched(uris.items(), _IMAGES):
        loaded: dict[int, Image.Image] = {}
        for number, uri in some:
            try:
                loaded[number] = load_image(Path(uri), uri=uri)
            except InputError as exc:
                problems.append(str(exc))
        scores |= dict(zip(loaded, _scores(reranker, text, list(loaded.values())), strict=True))
    if problems:
        logger.warning(
            "%d of %d pictures could not be read again and come after those that %s scored: %s",
            len(problems),
            len(uris),
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
