"""What is found: enough different hits, in pages that neither overlap nor leave gaps, with probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.payload import qdrant_id
from mmembed.retrieval.query import Query
from mmembed.types import Contract, Encoder, Hit, Leg, Ranking, Store
from mmembed.vectors import sigmoid, softmax

__all__ = ["COMPETITORS", "MAX_CANDIDATES", "Scale", "Where", "fetch", "fetch_late", "followed"]
__all__ += ["scale_of", "with_probabilities", "without_point"]

_DEPTH = 100  # candidates of each ranking that is fused
COMPETITORS = 100  # hits that a softmax is taken over, however few are asked for
MAX_CANDIDATES = 4096  # how deep to look for enough different documents


def without_point(
    store: Store, collection: str, id: str, filter: models.Filter | None, *, whole_document: bool
) -> models.Filter:
    """The filter, and not the point that was asked with, nor another passage of its document."""
    itself: models.Condition = models.HasIdCondition(has_id=[qdrant_id(id)])
    if whole_document:
        uri = str(store.retrieve(collection, [id])[0].payload["uri"])
        itself = models.FieldCondition(key="uri", match=models.MatchValue(value=uri))
    return models.Filter(must=[filter] if filter is not None else None, must_not=[itself])


@dataclass(frozen=True)
class Where:
    """What a search looks through, and what it counts as one hit."""

    store: Store
    collection: str
    filter: models.Filter | None
    exact: bool
    best_only: bool  # of a document its best passage

    def key(self, hit: Hit) -> str:
        """What there is one hit of: a document, or a point."""
        return str(hit.payload["uri"]) if self.best_only else hit.id


def fetch(where: Where, rankings: Sequence[Ranking], wanted: int, *, score_threshold: float | None = None) -> list[Hit]:
    """The `wanted` best hits, fewer where there are no more.

    Pages of one search neither overlap nor leave gaps. A fused score changes with the number of candidates that it
    is fused from: that number grows in the same steps for everybody, and what deeper steps find comes after.
    """
    fused = len(rankings) > 1
    limit, depth = (wanted * 4 if where.best_only else wanted + 1), _DEPTH
    found: dict[str, Hit] = {}
    while True:
        asked = min(limit, depth) if fused else limit
        hits = where.store.query(
            where.collection,
            rankings,
            limit=asked,
            filter=where.filter,
            score_threshold=score_threshold,
            exact=where.exact,
            depth=depth,
        )
        last = len(hits) < asked or asked >= max(MAX_CANDIDATES, 4 * wanted)
        for hit in _settled(hits, last=last):
            found.setdefault(where.key(hit), hit)
        if last or len(found) >= wanted:
            return list(found.values())[:wanted]
        if asked == depth:
            depth *= 4
        limit = max(4 * limit, depth)


def fetch_late(where: Where, rankings: Sequence[Ranking], late: Leg, wanted: int, *, candidates: int) -> list[Hit]:
    """The `wanted` best hits: the best `candidates` of each ranking in the order of `late`, then those of `fetch`.

    A point without that vector comes where the rankings have it, after those with one.
    """
    legs = sum(1 if isinstance(ranking, Leg) else len(ranking) for ranking in rankings)
    ordered = where.store.query(
        where.collection,
        rankings,
        limit=candidates * legs,  # all of them, whatever the page: pages neither overlap nor leave gaps
        filter=where.filter,
        exact=where.exact,
        depth=candidates,
        rerank=late,
    )
    return followed(where, _settled(ordered, last=True), wanted, lambda: fetch(where, rankings, wanted))


def followed(where: Where, first: Sequence[Hit], wanted: int, others: Callable[[], Sequence[Hit]]) -> list[Hit]:
    """The hits of `first`, then those of `others` that are not among them; `others` is asked only if need be."""
    found: dict[str, Hit] = {}
    for hit in first:
        found.setdefault(where.key(hit), hit)
    if len(found) < wanted:
        for hit in others():
            found.setdefault(where.key(hit), hit)
    return list(found.values())[:wanted]


def _settled(hits: Sequence[Hit], *, last: bool) -> list[Hit]:
    """Hits of one score in the order of their ids: Qdrant gives them in any, and cuts the list off among them.

    Unless these are the `last`, those that share the lowest score are left for when all of them are there.
    """
    ordered = sorted(hits, key=lambda hit: (-hit.score, hit.id))
    return ordered if last else [hit for hit in ordered if hit.score > ordered[-1].score]


@dataclass(frozen=True)
class Scale:
    """What turns the cosines of an encoder into probabilities."""

    logit_scale: float
    logit_bias: float | None


def scale_of(
    collection: Collection,
    contract: Contract | None,
    rankings: Sequence[Ranking],
    query: Query,
    encoder: Encoder | None,
    encoders: Mapping[str, Encoder],
) -> Scale | None:
    """The scale, where one text is compared with pictures or one picture with texts: what it was trained for."""
    if contract is None or len(rankings) > 1 or not isinstance(rankings[0], Leg):
        return None
    name = rankings[0].vector_name
    vector = contract.vectors[name]
    crosses = (vector.modality == "image") == (query.text is not None)
    one_sided = (query.text is None) != (query.image is None) and not query.minus
    if not crosses or not one_sided:
        return None
    encoder = encoder or collection.encoder(name, encoders)
    return None if encoder.logit_scale is None else Scale(encoder.logit_scale, encoder.logit_bias)


def with_probabilities(hits: Sequence[Hit], scale: Scale) -> list[Hit]:
    """With a bias (SigLIP) each is an independent sigmoid; without one (CLIP) a softmax over all these hits."""
    if not hits:
        return []
    logits = scale.logit_scale * np.array([hit.score for hit in hits], dtype=np.float64)
    if scale.logit_bias is not None:
        probabilities = sigmoid(logits + scale.logit_bias)
    else:
        (probabilities,) = softmax(logits[None])
    return [replace(hit, probability=float(p)) for hit, p in zip(hits, probabilities, strict=True)]
