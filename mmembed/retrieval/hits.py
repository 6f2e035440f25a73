"""What is found: enough different hits, in pages that neither overlap nor leave gaps, with probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from mmembed.collection import Collection
from mmembed.retrieval.query import MAX_CANDIDATES, BoundSearch
from mmembed.types import Hit, Leg, StoreQuery
from mmembed.vectors import sigmoid, softmax

_DEPTH = 100  # candidates of each ranking that is fused
COMPETITORS = 100  # hits that a softmax is taken over, however few are shown

TopHits: TypeAlias = Callable[[int], list[Hit]]
"""The n best hits of a search, fewer where there are no more. Of more, the first n are the same: hence pages."""


@dataclass(frozen=True)
class Scale:
    """What turns the cosines of an encoder into probabilities."""

    logit_scale: float
    logit_bias: float | None  # None: a softmax over hits that compete with each other


@dataclass(frozen=True)
class HitSource:
    """Where hits come from: a collection, the query to its store, and what counts as one hit."""

    collection: Collection
    query: StoreQuery  # its limit and depth are those of each step
    best_only: bool  # of a document its best passage
    scale: Scale | None = None  # None: hits have no probability

    def key(self, hit: Hit) -> str:
        """What there is one hit of: a document, or a point."""
        return str(hit.payload["uri"]) if self.best_only else hit.id


def fetch(source: HitSource, n: int) -> list[Hit]:
    """The `n` best hits of the rankings, fewer where there are no more; with probabilities where there is a scale.

    Pages of one search neither overlap nor leave gaps. A fused score changes with the number of candidates that it
    is fused from: that number grows in the same steps for everybody, and what deeper steps find comes after.

    A softmax is over the 100 best hits: over those shown alone it would make a single hit certain, however poor.
    """
    collection, query, scale = source.collection, source.query, source.scale
    lowest, enough = query.score_threshold, n
    if scale is not None:  # those below the threshold compete
        query = replace(query, score_threshold=None)
        enough = n if scale.logit_bias is not None else max(n, COMPETITORS)
    fused = len(query.rankings) > 1
    limit, depth = (enough * 4 if source.best_only else enough + 1), _DEPTH
    best: dict[str, Hit] = {}
    while True:
        step = min(limit, depth) if fused else limit
        hits = collection.store.query(collection.name, replace(query, limit=step, depth=depth, rerank=None))
        last = len(hits) < step or step >= max(MAX_CANDIDATES, 4 * enough)
        for hit in settled(hits, last=last):
            best.setdefault(source.key(hit), hit)
        if last or len(best) >= enough:
            break
        if step == depth:
            depth *= 4
        limit = max(4 * limit, depth)
    hits = list(best.values())[:enough]
    if scale is None:
        return hits
    return [hit for hit in probable(hits, scale, n) if lowest is None or hit.score >= lowest]


def late_ordered(source: HitSource, candidates: int) -> TopHits:
    """The best `candidates` of each ranking in the order of the late stage, then those of `fetch`.

    A point without that vector comes where the rankings have it, after those with one.
    """
    every = candidates * len(source.query.legs)  # whatever the page: pages neither overlap nor leave gaps
    query = replace(source.query, limit=every, depth=candidates)
    ordered = source.collection.store.query(source.collection.name, query)
    return followed(settled(ordered, last=True), partial(fetch, source), source.key)


def followed(first: Sequence[Hit], others: TopHits, key: Callable[[Hit], str]) -> TopHits:
    """The hits of `first`, then those of `others` that are not among them; `others` is called only if need be."""

    def top(n: int) -> list[Hit]:
        best: dict[str, Hit] = {}
        for hit in first:
            best.setdefault(key(hit), hit)
        if len(best) < n:
            for hit in others(n):
                best.setdefault(key(hit), hit)
        return list(best.values())[:n]

    return top


def settled(hits: Sequence[Hit], *, last: bool) -> list[Hit]:
    """Hits of one score in the order of their ids: Qdrant gives them in any, and cuts the list off among them.

    Unless these are the `last`, those that share the lowest score are left for when all of them are there.
    """
    ordered = sorted(hits, key=lambda hit: (-hit.score, hit.id))
    return ordered if last else [hit for hit in ordered if hit.score > ordered[-1].score]


def scale_of(bound: BoundSearch, query: StoreQuery) -> Scale | None:
    """The scale, where one text is compared with pictures or one picture with texts: what it was trained for."""
    contract, search, ranking = bound.contract, bound.search, query.rankings[0]
    if contract is None or len(query.rankings) > 1 or not isinstance(ranking, Leg):
        return None
    crosses = (contract.vectors[ranking.vector_name].modality == "image") == (search.text is not None)
    one_sided = (search.text is None) != (search.image is None) and not search.minus
    if not crosses or not one_sided:
        return None
    encoder = bound.encoder(ranking.vector_name)
    return None if encoder.logit_scale is None else Scale(encoder.logit_scale, encoder.logit_bias)


def probable(hits: Sequence[Hit], scale: Scale, n: int) -> list[Hit]:
    """The first `n` hits, each with its probability, that of a softmax among all of them."""
    if not hits:
        return []
    logits = scale.logit_scale * np.array([hit.score for hit in hits], dtype=np.float64)
    if scale.logit_bias is not None:
        probabilities = sigmoid(logits + scale.logit_bias)
    else:
        (probabilities,) = softmax(logits[None])
    return [replace(hit, probability=float(p)) for hit, p in zip(hits[:n], probabilities[:n], strict=True)]
