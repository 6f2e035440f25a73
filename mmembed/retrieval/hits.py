"""What is found: enough different hits, in pages that neither overlap nor leave gaps, with probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from mmembed.collection import Collection
from mmembed.retrieval.query import MAX_CANDIDATES, Search
from mmembed.types import Contract, Encoder, Hit, Leg, StoreQuery
from mmembed.vectors import sigmoid, softmax

__all__ = ["COMPETITORS", "Found", "Scale", "Scope", "fetch", "followed", "late_ordered", "scale_of", "settled"]
__all__ += ["probable", "with_probabilities"]

_DEPTH = 100  # candidates of each ranking that is fused
COMPETITORS = 100  # hits that a softmax is taken over, however few are asked for

Found: TypeAlias = Callable[[int], list[Hit]]
"""The n best hits of a search, fewer where there are no more. Of more, the first n are the same: hence pages."""


@dataclass(frozen=True)
class Scope:
    """A collection, what is asked of it, and what counts as one hit."""

    collection: Collection
    query: StoreQuery  # its limit and depth are those of each step
    best_only: bool  # of a document its best passage

    def key(self, hit: Hit) -> str:
        """What there is one hit of: a document, or a point."""
        return str(hit.payload["uri"]) if self.best_only else hit.id

    def ask(self, query: StoreQuery) -> list[Hit]:
        return self.collection.store.query(self.collection.name, query)


def fetch(scope: Scope, wanted: int) -> list[Hit]:
    """The `wanted` best hits of the rankings, fewer where there are no more.

    Pages of one search neither overlap nor leave gaps. A fused score changes with the number of candidates that it
    is fused from: that number grows in the same steps for everybody, and what deeper steps find comes after.
    """
    fused = len(scope.query.rankings) > 1
    limit, depth = (wanted * 4 if scope.best_only else wanted + 1), _DEPTH
    found: dict[str, Hit] = {}
    while True:
        asked = min(limit, depth) if fused else limit
        hits = scope.ask(replace(scope.query, limit=asked, depth=depth, rerank=None))
        last = len(hits) < asked or asked >= max(MAX_CANDIDATES, 4 * wanted)
        for hit in settled(hits, last=last):
            found.setdefault(scope.key(hit), hit)
        if last or len(found) >= wanted:
            return list(found.values())[:wanted]
        if asked == depth:
            depth *= 4
        limit = max(4 * limit, depth)


def late_ordered(scope: Scope, candidates: int) -> Found:
    """The best `candidates` of each ranking in the order of the late stage, then those of `fetch`.

    A point without that vector comes where the rankings have it, after those with one.
    """
    every = candidates * len(scope.query.legs)  # whatever the page: pages neither overlap nor leave gaps
    ordered = scope.ask(replace(scope.query, limit=every, depth=candidates))
    return followed(settled(ordered, last=True), lambda wanted: fetch(scope, wanted), scope.key)


def followed(first: Sequence[Hit], others: Found, key: Callable[[Hit], str]) -> Found:
    """The hits of `first`, then those of `others` that are not among them; `others` is asked only if need be."""

    def found(wanted: int) -> list[Hit]:
        kept: dict[str, Hit] = {}
        for hit in first:
            kept.setdefault(key(hit), hit)
        if len(kept) < wanted:
            for hit in others(wanted):
                kept.setdefault(key(hit), hit)
        return list(kept.values())[:wanted]

    return found


def settled(hits: Sequence[Hit], *, last: bool) -> list[Hit]:
    """Hits of one score in the order of their ids: Qdrant gives them in any, and cuts the list off among them.

    Unless these are the `last`, those that share the lowest score are left for when all of them are there.
    """
    ordered = sorted(hits, key=lambda hit: (-hit.score, hit.id))
    return ordered if last else [hit for hit in ordered if hit.score > ordered[-1].score]


# --- probabilities --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """What turns the cosines of an encoder into probabilities."""

    logit_scale: float
    logit_bias: float | None


def scale_of(
    scope: Scope, contract: Contract | None, search: Search, encoder: Encoder | None, encoders: Mapping[str, Encoder]
) -> Scale | None:
    """The scale, where one text is compared with pictures or one picture with texts: what it was trained for."""
    ranking = scope.query.rankings[0]
    if contract is None or len(scope.query.rankings) > 1 or not isinstance(ranking, Leg):
        return None
    vector = contract.vectors[ranking.vector_name]
    crosses = (vector.modality == "image") == (search.text is not None)
    one_sided = (search.text is None) != (search.image is None) and not search.minus
    if not crosses or not one_sided:
        return None
    encoder = encoder or scope.collection.encoder(ranking.vector_name, encoders)
    return None if encoder.logit_scale is None else Scale(encoder.logit_scale, encoder.logit_bias)


def with_probabilities(scope: Scope, scale: Scale) -> Found:
    """The hits of `fetch`: with a bias (SigLIP) each has a sigmoid, without one (CLIP) they share a softmax.

    A softmax over the hits shown alone would make a single hit certain, however poor.
    """
    lowest = scope.query.score_threshold
    every = replace(scope, query=replace(scope.query, score_threshold=None))

    def found(wanted: int) -> list[Hit]:
        among = wanted if scale.logit_bias is not None else max(wanted, COMPETITORS)
        hits = probable(fetch(every, among), scale)[:wanted]
        return [hit for hit in hits if lowest is None or hit.score >= lowest]

    return found


def probable(hits: Sequence[Hit], scale: Scale) -> list[Hit]:
    """The same hits, each with its probability, that of a softmax among all of them."""
    if not hits:
        return []
    logits = scale.logit_scale * np.array([hit.score for hit in hits], dtype=np.float64)
    if scale.logit_bias is not None:
        probabilities = sigmoid(logits + scale.logit_bias)
    else:
        (probabilities,) = softmax(logits[None])
    return [replace(hit, probability=float(p)) for hit, p in zip(hits, probabilities, strict=True)]
