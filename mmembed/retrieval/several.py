"""One query over several collections: each answers as it can, and their hits are fused by rank.

A score means something only within one search (a cosine of SigLIP, of E5, a fused one), so scores of two collections
are never compared. What is fused is what each collection answers, one ranking each: a collection of pictures, which
has no words to be found by, counts as much as one of documents, which is ranked by meaning and by words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.errors import CollectionMismatch, CollectionNotFound, EncoderError, InvalidQuery, MmembedError, StoreError
from mmembed.retrieval import search
from mmembed.retrieval.query import ImageQuery
from mmembed.types import Encoder, Hit, LoadOptions, Store

__all__ = ["RRF_K", "Several", "search_several"]

RRF_K = 60

_CANNOT_ANSWER = (InvalidQuery, EncoderError, CollectionMismatch)


@dataclass(frozen=True)
class Several:
    """What several collections answered."""

    hits: list[Hit]  # best first; the score is the fused one, the probability that of the hit's own collection
    skipped: dict[str, str]  # collections that cannot answer this query, and why, in one sentence


def search_several(
    store: Store,
    collections: Sequence[str],
    *,
    text: str | None = None,
    image: ImageQuery | None = None,
    vector: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
    id: str | None = None,
    weights: Mapping[str, float] | None = None,
    minus: Sequence[str | ImageQuery] = (),
    vector_name: str | None = None,
    encoder: Encoder | None = None,
    task: str | None = None,
    filter: models.Filter | None = None,
    limit: int = 10,
    offset: int = 0,
    score_threshold: float | None = None,
    all_passages: bool = False,
    exact: bool = False,
    late: bool = True,
    run: LoadOptions | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    collection_weights: Mapping[str, float] | None = None,
    missing_ok: bool = False,
) -> Several:
    """The `limit` best hits of all `collections`, ties in the order in which these are named.

    A collection that cannot answer this query (a picture asked of documents without `cross`, a point of another
    collection, an encoder that is not there, a contract of a newer mmembed) is skipped. Other arguments are those of
    `search`, and hold for each.

    Args:
        score_threshold: lowest score that a hit has in its own collection.
        collection_weights: {"photos": 2} gives two hits of `photos` for each of another collection; 1 by default.
        missing_ok: skip a collection that is not there: whoever names all that were listed loses none to a removal.

    Raises:
        InvalidQuery: no collection was named, or a weight makes no sense.
        CollectionNotFound, StoreUnavailable, and, where no collection can answer, what the first of them raises.
    """
    names = list(dict.fromkeys(collections))
    given = _checked_weights(names, collection_weights or {})
    if limit < 1 or offset < 0:  # checked once more by each search, after the two were added up
        raise InvalidQuery(f"limit must be at least 1 and offset at least 0, not {limit} and {offset}")
    found: dict[str, list[Hit]] = {}
    refused: dict[str, MmembedError] = {}
    for name in names:
        try:
            found[name] = search(
                store,
                name,
                text=text,
                image=image,
                vector=vector,
                id=id,
                weights=weights,
                minus=minus,
                vector_name=vector_name,
                encoder=encoder,
                task=task,
                filter=filter,
                limit=limit + offset,  # a page deep down may be all of one collection
                score_threshold=score_threshold,
                all_passages=all_passages,
                exact=exact,
                late=late,
                run=run,
                encoders=encoders,
            )
        except _CANNOT_ANSWER as exc:
            refused[name] = exc
        except StoreError as exc:
            if type(exc) is not StoreError and not (missing_ok and isinstance(exc, CollectionNotFound)):
                raise
            refused[name] = exc  # a newer mmembed made it, say
    if not found:
        raise next(iter(refused.values()))
    fused = _fused([(given.get(name, 1.0), hits) for name, hits in found.items()])
    return Several(fused[offset : offset + limit], {name: str(exc) for name, exc in refused.items()})


def _checked_weights(names: Sequence[str], weights: Mapping[str, float]) -> Mapping[str, float]:
    if not names:
        raise InvalidQuery("there is no collection to search in: name one, or index pictures or documents first")
    for name, weight in weights.items():
        if name not in names:
            raise InvalidQuery(
                f"a weight was given to collection {name!r}, and the search is in {', '.join(names)}: leave it out"
            )
        if not isinstance(weight, int | float | np.number) or not math.isfinite(weight) or weight <= 0:
            raise InvalidQuery(
                f"the weight of collection {name!r} is {weight!r}: give a number above 0, or do not name the collection"
            )
    return weights


def _fused(rankings: Sequence[tuple[float, Sequence[Hit]]]) -> list[Hit]:
    """Weighted reciprocal rank fusion as Qdrant computes it: 1 / (rank / weight + k - 1), the first rank being 1.

    A weight of 2 halves the ranks, so that hits of two collections, which never are the same, alternate two to one.
    """
    scored = [
        replace(hit, score=1 / (rank / weight + RRF_K - 1))
        for weight, hits in rankings
        for rank, hit in enumerate(hits, 1)
    ]
    return sorted(scored, key=lambda hit: -hit.score)  # stable: ties stay in the order of the collections
