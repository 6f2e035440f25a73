"""Four kinds of search. The encoder is the one that the collection remembers.

| asked with | images collection | documents collection |
|---|---|---|
| text | text-to-image: `image`, with captions if most have one | text-to-text: `text` fused with `bm25` and `sparse` |
| a picture | image-to-image: `image` | image-to-text: `cross` |
| both, or less something | their weighted sum in the shared space | the same, by `cross` (texts alone: `text`) |

Where most points have `late`, a multivector that keeps every token apart, the best candidates of a text are put in
its order; a reranker, which reads text and candidate together, may reorder the best once more. A vector that fewer
than four points in five have (captions, or one that was added and not yet made for all) takes no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.errors import InvalidQuery
from mmembed.registry import load_remembered
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
from mmembed.types import Encoder, Hit, LoadOptions, Reranker, Store

__all__ = ["ImageQuery", "search"]


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
    run: LoadOptions | None = None,
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
        encoders: those that are already loaded, by the names that collections remember. Where it is given, nothing
            is loaded: for a name that it lacks it raises what it likes, such as UnknownEncoder.

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
    remembered = partial(load_remembered, run=run, encoders=encoders)
    asked = rankings_of(store, collection, contract, query, vector_name, encoder, remembered, single=single, late=late)
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
    scale = scale_of(collection, contract, asked.rankings, query, encoder, remembered)
    if scale is None:
        hits = fetch(where, asked.rankings, wanted, score_threshold=score_threshold)
        return hits[offset : offset + limit]
    # A softmax over the hits shown alone would make a single hit certain, however poor.
    among = wanted if scale.logit_bias is not None else max(wanted, COMPETITORS)
    hits = fetch(where, asked.rankings, among)
    shown = with_probabilities(hits, scale)[offset : offset + limit]
    return [hit for hit in shown if score_threshold is None or hit.score >= score_threshold]
