"""One search of one collection: the verb, which spells out every field of `Search`, and what it calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.collection import Collection
from mmembed.encoders.pool import SHARED
from mmembed.retrieval.checks import check_search
from mmembed.retrieval.diversity import diverse
from mmembed.retrieval.groups import group_hits, group_ranking, with_key
from mmembed.retrieval.hits import HitSource, TopHits, fetch, followed, late_ordered, scale_of
from mmembed.retrieval.query import GROUP_SIZE, MAX_CANDIDATES, BoundSearch, Example, ImageQuery, Search, Strategy
from mmembed.retrieval.rankings import store_query
from mmembed.retrieval.rerank import check_reranker, reranked
from mmembed.types import Contract, Encoder, Hit, Reranker, Store


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
    positive: Sequence[Example] = (),
    negative: Sequence[Example] = (),
    strategy: Strategy = "average_vector",
    vector_name: str | None = None,
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
    diversity: float | None = None,
    group_by: str | None = None,
    group_size: int = GROUP_SIZE,
    encoder: Encoder | None = None,
    encoders: Mapping[str, Encoder] | None = None,
) -> list[Hit]:
    """The `limit` best hits, best first; `Search` says what each keyword means.

    >>> search(store, "images", text="a cat at night", limit=3)

    Args:
        encoder: one that is already loaded; it must be the one the collection remembers. A
            collection that is not ours remembers none: there it is required for text and pictures.
        encoders: where encoders come from, by the names that collections remember; None: `encoders.SHARED`, which
            loads each once. What it raises for a name is raised here.

    Raises:
        InvalidQuery: nothing, or something contradictory, was asked.
        CollectionMismatch: `encoder` is not the one that made the vectors.
        UnsupportedModality, CollectionNotFound, StoreUnavailable.
    """
    query = Search(
        text=text,
        image=image,
        vector=vector,
        id=id,
        weights=weights,
        minus=minus,
        positive=positive,
        negative=negative,
        strategy=strategy,
        vector_name=vector_name,
        task=task,
        filter=filter,
        limit=limit,
        offset=offset,
        score_threshold=score_threshold,
        all_passages=all_passages,
        exact=exact,
        late=late,
        rerank=rerank,
        candidates=candidates,
        diversity=diversity,
        group_by=group_by,
        group_size=group_size,
    )
    encoders = SHARED if encoders is None else encoders
    return search_collection(Collection(store, collection), query, encoder=encoder, encoders=encoders)


def search_collection(
    collection: Collection, search: Search, *, encoder: Encoder | None, encoders: Mapping[str, Encoder]
) -> list[Hit]:
    """What `search` does: the hits of one page."""
    check_search(search)
    contract = collection.contract
    if search.rerank is not None:
        check_reranker(search.rerank, collection.name, contract)
    bound = BoundSearch(collection, contract, search, encoder, encoders)
    query = store_query(bound)
    plain = query.rerank is None and search.rerank is None
    source = HitSource(collection, query, bound.by_document, scale_of(bound, query) if plain else None)
    if search.group_by is not None:
        if plain and not query.fused:
            return group_ranking(source, search)
        return group_hits(source, search, _top_hits(with_key(source, search.group_by), contract, search))
    top = _top_hits(source, contract, search)
    if search.diversity is not None:
        top = diverse(source, contract, top, search.candidates, search.diversity)
    end = search.limit + search.offset
    if end > MAX_CANDIDATES:
        end = min(end, collection.store.count(collection.name)) or 1  # some stores make room for all of them
    return top(end)[search.offset : search.offset + search.limit]


def _top_hits(source: HitSource, contract: Contract | None, search: Search) -> TopHits:
    """The hits of the rankings, those of the late stage first, and those that a reranker read before them.

    Of a document all passages among the candidates are read, and the best is its hit.
    """

    def unread(source: HitSource) -> TopHits:
        return partial(fetch, source) if source.query.rerank is None else late_ordered(source, search.candidates)

    if search.rerank is None or search.text is None or contract is None:
        return unread(source)
    points = unread(replace(source, best_only=False))(search.candidates)
    first = reranked(search.rerank, search.text, points, {source.collection.name: contract})
    return followed(first, unread(source), source.key)
