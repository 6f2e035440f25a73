"""Four kinds of search. The encoder is the one that the collection remembers.

| asked with | images collection | documents collection |
|---|---|---|
| text | text-to-image: `image`, with captions if most have one | text-to-text: `text` fused with `bm25` |
| a picture | image-to-image: `image` | image-to-text: `cross` |
| both, or less something | their weighted sum in the shared space | the same, by `cross` (texts alone: `text`) |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.errors import InvalidQuery
from mmembed.retrieval.hits import (
    COMPETITORS,
    MAX_CANDIDATES,
    fetch,
    scale_of,
    with_probabilities,
    without_point,
)
from mmembed.retrieval.query import WEIGHTS, ImageQuery, Query, check_query
from mmembed.retrieval.rankings import rankings_of
from mmembed.types import Encoder, Hit, LoadOptions, Store

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
    run: LoadOptions | None = None,
) -> list[Hit]:
    """The `limit` best hits, best first.

    Between a text and pictures each has a probability where the encoder has a scale: with SigLIP
    its own, with CLIP a softmax over the 100 best hits (or all that were asked for, if more).

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
        exact: compare with every vector instead of walking the search graph.

    Raises:
        InvalidQuery: nothing, or something contradictory, was asked.
        CollectionMismatch: `encoder` is not the one that made the vectors.
        UnsupportedModality, CollectionNotFound, StoreUnavailable.
    """
    if isinstance(minus, str | bytes):
        raise InvalidQuery("minus is a list of what to subtract, not one text or picture: write minus=[...]")
    query = Query(text, image, vector, id, tuple(minus), {**WEIGHTS, **(weights or {})}, task)
    check_query(query, filter, limit=limit, offset=offset, score_threshold=score_threshold)
    contract = store.contract(collection)
    rankings = rankings_of(
        store, collection, contract, query, vector_name, encoder, run, single=score_threshold is not None
    )
    best_only = contract is not None and contract.kind == "documents" and not all_passages
    kept = filter if id is None else without_point(store, collection, id, filter, whole_document=best_only)
    wanted = limit + offset
    if wanted > MAX_CANDIDATES:
        wanted = min(wanted, store.count(collection)) or 1  # some stores make room for all that are asked for
    scale = scale_of(collection, contract, rankings, query, encoder, run)
    if scale is None:
        hits = fetch(store, collection, rankings, wanted, kept, score_threshold, exact=exact, best_only=best_only)
        return hits[offset : offset + limit]
    # A softmax over the hits shown alone would make a single hit certain, however poor.
    among = wanted if scale.logit_bias is not None else max(wanted, COMPETITORS)
    hits = fetch(store, collection, rankings, among, kept, None, exact=exact, best_only=best_only)
    shown = with_probabilities(hits, scale)[offset : offset + limit]
    return [hit for hit in shown if score_threshold is None or hit.score >= score_threshold]
