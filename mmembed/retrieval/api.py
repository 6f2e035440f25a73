"""One search, of one collection or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.collection import Collection
from mmembed.encoders.pool import SHARED
from mmembed.errors import CollectionMismatch, CollectionNotFound, EncoderError, InvalidQuery, MmembedError, StoreError
from mmembed.retrieval.hits import (
    COMPETITORS,
    MAX_CANDIDATES,
    Where,
    fetch,
    fetch_late,
    scale_of,
    with_probabilities,
    without_point,
)
from mmembed.retrieval.query import ImageQuery, Query, check_query
from mmembed.retrieval.rankings import rankings_of
from mmembed.retrieval.rerank import check_reranker, fetch_reranked
from mmembed.types import Encoder, Hit, Reranker, Store

__all__ = ["RRF_K", "Several", "search", "search_several"]


# --- One query over several collections: each answers as it can, and their hits are fused by rank ---

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


def search(
    store: Store,
    collection: str,
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
    rerank: Reranker | None = None,
    candidates: int = 100,
    encoders: Mapping[str, Encoder] | None = None,
) -> list[Hit]:
    """The `limit` best hits, best first.

    Between a text and pictures each has a probability where the encoder has a scale: with SigLIP
    its own, with CLIP a softmax over the 100 best hits (or all that were asked for, if more). In the order of `late`
    or of a reranker none has.

    Ask with `text`, `image`, both of them, `vector` or the `id` of a stored point. Of a document
    only the best passage is a hit, unless `all_passages`.

    Args:
        weights: of the parts of a mixed query: {"text": 1, "image": 1, "minus": 0.5} by default.
        minus: what the hits should not show, one by one: a str is a text; a Path, bytes or Image is a picture.
        vector_name: search by this vector alone, instead of by the one the query calls for.
        encoder: one that is already loaded; it must be the one the collection remembers. A
            collection that is not ours remembers none: there it is required for text and pictures.
        task: named task or instruction, for encoders that take one.
        score_threshold: lowest score of a hit. A fused score means nothing, so this searches by one vector.
        late: let the vector `late` of the collection, where it has one, order the candidates of a text: their
            scores are then sums of cosines, those of the hits beyond the candidates what they are without it.
        rerank: `load_reranker(name)`: it reads the text beside the best `candidates` hits, whose scores are then its
            own. Pictures are read from their files again; one that cannot be comes after those that can.
        candidates: how many of each ranking `late` compares, and how many hits `rerank` reads.
        exact: compare with every vector instead of walking the search graph.
        encoders: where encoders come from, by the names that collections remember; None: `encoders.SHARED`, which
            loads each once. What it raises for a name is raised here.

    Raises:
        InvalidQuery: nothing, or something contradictory, was asked.
        CollectionMismatch: `encoder` is not the one that made the vectors.
        UnsupportedModality, CollectionNotFound, StoreUnavailable.
    """
    if isinstance(minus, str | bytes):
        raise InvalidQuery("minus is a list of what to subtract, not one text or picture: write minus=[...]")
    query = Query(text, image, vector, id, tuple(minus), dict(weights or {}), task)
    check_query(query, filter, limit=limit, offset=offset, score_threshold=score_threshold)
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise InvalidQuery(f"candidates must be between 1 and {MAX_CANDIDATES}, not {candidates}")
    contract = store.contract(collection)
    if rerank is not None:
        check_reranker(rerank, collection, contract, query, score_threshold)
    single = score_threshold is not None
    encoders = SHARED if encoders is None else encoders
    asked = rankings_of(store, collection, contract, query, vector_name, encoder, encoders, single=single, late=late)
    best_only = contract is not None and contract.kind == "documents" and not all_passages
    kept = filter if id is None else without_point(store, collection, id, filter, whole_document=best_only)
    wanted = limit + offset
    if wanted > MAX_CANDIDATES:
        wanted = min(wanted, store.count(collection)) or 1  # some stores make room for all that are asked for
    where = Where(store, collection, kept, exact, best_only)
    if rerank is not None:
        assert contract is not None  # check_reranker refuses it
        hits = fetch_reranked(where, asked, rerank, contract, query, wanted, candidates=candidates)
        return hits[offset : offset + limit]
    if asked.late is not None:
        hits = fetch_late(where, asked.rankings, asked.late, wanted, candidates=candidates)
        return hits[offset : offset + limit]
    scale = scale_of(Collection(store, collection), contract, asked.rankings, query, encoder, encoders)
    if scale is None:
        hits = fetch(where, asked.rankings, wanted, score_threshold=score_threshold)
        return hits[offset : offset + limit]
    # A softmax over the hits shown alone would make a single hit certain, however poor.
    among = wanted if scale.logit_bias is not None else max(wanted, COMPETITORS)
    hits = fetch(where, asked.rankings, among)
    shown = with_probabilities(hits, scale)[offset : offset + limit]
    return [hit for hit in shown if score_threshold is None or hit.score >= score_threshold]
