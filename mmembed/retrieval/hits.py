"""What is found: enough different hits, in pages that neither overlap nor leave gaps, with probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from qdrant_client import models

from mmembed.registry import load_remembered
from mmembed.retrieval.query import Query
from mmembed.stores.points import point_id
from mmembed.types import Contract, Encoder, Hit, Leg, LoadOptions, Ranking, Store

__all__ = ["COMPETITORS", "MAX_CANDIDATES", "Scale", "fetch", "scale_of", "with_probabilities", "without_point"]

_DEPTH = 100  # candidates of each ranking that is fused
COMPETITORS = 100  # hits that a softmax is taken over, however few are asked for
MAX_CANDIDATES = 4096  # how deep to look for enough different documents


def without_point(
    store: Store, collection: str, id: str, filter: models.Filter | None, *, whole_document: bool
) -> models.Filter:
    """The filter, and not the point that was asked with, nor another passage of its document."""
    itself: models.Condition = models.HasIdCondition(has_id=[point_id(id)])
    if whole_document:
        uri = str(store.retrieve(collection, [id])[0].payload["uri"])
        itself = models.FieldCondition(key="uri", match=models.MatchValue(value=uri))
    return models.Filter(must=[filter] if filter is not None else None, must_not=[itself])


def fetch(
    store: Store,
    collection: str,
    rankings: Sequence[Ranking],
    wanted: int,
    filter: models.Filter | None,
    score_threshold: float | None,
    *,
    exact: bool,
    best_only: bool,
) -> list[Hit]:
    """The `wanted` best hits, fewer where there are no more; of a document its best passage, if `best_only`.

    Pages of one search neither overlap nor leave gaps. A fused score changes with the number of candidates that it
    is fused from: that number grows in the same steps for everybody, and what deeper steps find comes after.
    """
    fused = len(rankings) > 1
    limit, depth = (wanted * 4 if best_only else wanted + 1), _DEPTH
    found: dict[str, Hit] = {}
    while True:
        asked = min(limit, depth) if fused else limit
        hits = store.query(
            collection,
            rankings,
            limit=asked,
            filter=filter,
            score_threshold=score_threshold,
            exact=exact,
            depth=depth,
        )
        last = len(hits) < asked or asked >= max(MAX_CANDIDATES, 4 * wanted)
        for hit in _settled(hits, last=last):
            found.setdefault(str(hit.payload["uri"]) if best_only else hit.id, hit)
        if last or len(found) >= wanted:
            return list(found.values())[:wanted]
        if asked == depth:
            depth *= 4
        limit = max(4 * limit, depth)


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
    collection: str,
    contract: Contract | None,
    rankings: Sequence[Ranking],
    query: Query,
    encoder: Encoder | None,
    run: LoadOptions | None,
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
    encoder = encoder or load_remembered(collection, name, vector, run=run)
    return None if encoder.logit_scale is None else Scale(encoder.logit_scale, encoder.logit_bias)


def with_probabilities(hits: Sequence[Hit], scale: Scale) -> list[Hit]:
    """With a bias (SigLIP) each is an independent sigmoid; without one (CLIP) a softmax over all these hits."""
    if not hits:
        return []
    logits = scale.logit_scale * np.array([hit.score for hit in hits], dtype=np.float64)
    if scale.logit_bias is not None:
        probabilities = 1 / (1 + np.exp(-(logits + scale.logit_bias)))
    else:
        shares = np.exp(logits - logits.max())
        probabilities = shares / shares.sum()
    return [replace(hit, probability=float(p)) for hit, p in zip(hits, probabilities, strict=True)]
