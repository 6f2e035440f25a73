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
from mmembed.retrieval.groups import Groups, group_hits, group_ranking
from mmembed.retrieval.hits import Found, Scope, fetch, followed, late_ordered, scale_of, with_probabilities
from mmembed.retrieval.query import GROUP_SIZE, MAX_CANDIDATES, Example, ImageQuery, Search, Strategy
from mmembed.retrieval.rankings import is_by_document, store_query
from mmembed.retrieval.rerank import check_reranker, reranked
from mmembed.types import Contract, Encoder, Hit, Reranker, Store

__all__ = ["search", "search_collection"]


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
    """The `limit` best hits, best first.

    Between a text and pictures each has a probability where the encoder has a scale: with SigLIP
    its own, with CLIP a softmax over the 100 best hits (or all that were asked for, if more). In the order of `late`
    or of a reranker none has.

    Ask with `text`, `image`, both of them, `vector`, the `id` of a stored point, or examples. Of a document
    only the best passage is a hit, unless `all_passages`.

    Args:
        weights: of the parts of a mixed query: {"text": 1, "image": 1, "minus": 0.5} by default.
        minus: what the hits should not show, one by one: a str is a text; a Path, bytes or Image is a picture.
        positive, negative: examples that are liked and disliked: texts, images, and stored points (`PointId(id)`),
            which are no hits themselves. They are a way to ask of their own: a text beside them goes into `positive`.
            Documents are compared by `cross` if an image is among them, else by `text`.
        strategy: what examples are for, as in Qdrant: `average_vector` searches by 2 * mean(positive) -
            mean(negative); `best_score` by the nearest example, below zero where that is a negative one; `sum_scores`
            by the sum of the scores, those of negative ones subtracted. The latter two take negative ones alone.
        vector_name: search by this vector alone, instead of by the one the query calls for.
        score_threshold: lowest score of a hit. A fused score means nothing, so this searches by one vector.
        task: named task or instruction, for encoders that take one.
        exact: compare with every vector instead of walking the search graph.
        late: let the vector `late` of the collection, where it has one, order the candidates of a text: their
            scores are then sums of cosines, those of the hits beyond the candidates what they are without it.
        rerank: `load_reranker(name)`: it reads the text beside the best `candidates` hits, whose scores are then its
            own. Pictures are read from their files again; one that cannot be comes after those that can.
        candidates: how many of each ranking `late` compares, and how many hits `rerank` reads or `diversity` orders.
        diversity: 0 to 1: how much it counts that a hit is unlike those before it (MMR, Qdrant's `Mmr`). The best
            `candidates` hits are put in that order by the first dense vector that was searched by, their scores stay
            what they were, and the others follow. Not with `rerank`, nor without a dense vector.
        group_by: payload key of texts or integers. `limit` and `offset` then count its values, and the hits come group
            by group, that of the best hit first; each says its group. A hit with a list of values is in several.
            Where several rankings are fused, or hits reordered, groups are of the best 4,096.
        group_size: hits of each group at most; of a document one in each group, unless `all_passages`.
        encoder: one that is already loaded; it must be the one the collection remembers. A
            collection that is not ours remembers none: there it is required for text and pictures.
        encoders: where encoders come from, by the names that collections remember; None: `encoders.SHARED`, which
            loads each once. What it raises for a name is raised here.

    Raises:
        InvalidQuery: nothing, or something contradictory, was asked.
        CollectionMismatch: `encoder` is not the one that made the vectors.
        UnsupportedModality, CollectionNotFound, StoreUnavailable.
    """
    asked = Search(
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
    found_in = Collection(store, collection)
    return search_collection(found_in, asked, encoder=encoder, encoders=SHARED if encoders is None else encoders)


def search_collection(
    collection: Collection, search: Search, *, encoder: Encoder | None, encoders: Mapping[str, Encoder]
) -> list[Hit]:
    """What `search` does: the hits of one page."""
    check_search(search)
    contract = collection.contract
    if search.rerank is not None:
        check_reranker(search.rerank, collection.name, contract)
    query = store_query(collection, contract, search, encoder, encoders)
    scope = Scope(collection, query, is_by_document(contract, search))
    plain = query.rerank is None and search.rerank is None
    scale = scale_of(scope, contract, search, encoder, encoders) if plain else None
    if search.group_by is not None:
        groups = Groups.of(search)
        if plain and not query.fused:
            return group_ranking(scope, groups, scale)
        return group_hits(scope, groups, _found(groups.scope(scope), contract, search))
    found = _found(scope, contract, search) if scale is None else with_probabilities(scope, scale)
    if search.diversity is not None:
        found = diverse(scope, contract, found, search.candidates, search.diversity)
    wanted = search.limit + search.offset
    if wanted > MAX_CANDIDATES:
        wanted = min(wanted, collection.store.count(collection.name)) or 1  # some stores make room for all of them
    return found(wanted)[search.offset : search.offset + search.limit]


def _found(scope: Scope, contract: Contract | None, search: Search) -> Found:
    """The hits of the rankings, those of the late stage first, and those that a reranker read before them.

    Of a document all passages among the candidates are read, and the best is its hit.
    """
    found = _ranked(scope, search)
    if search.rerank is None or search.text is None or contract is None:
        return found
    points = _ranked(replace(scope, best_only=False), search)(search.candidates)
    first = reranked(search.rerank, search.text, points, {scope.collection.name: contract})
    return followed(first, found, scope.key)


def _ranked(scope: Scope, search: Search) -> Found:
    """The hits of the rankings, those of the late stage first."""
    return partial(fetch, scope) if scope.query.rerank is None else late_ordered(scope, search.candidates)
