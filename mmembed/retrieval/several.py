"""One search over several collections: each answers as it can, and their hits are fused by rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mmembed.collection import Collection
from mmembed.encoders.pool import SHARED
from mmembed.errors import (
    CollectionMismatch,
    CollectionNotFound,
    EncoderError,
    InvalidQuery,
    MmembedError,
    SettingsError,
    StoreError,
)
from mmembed.retrieval.api import search_collection
from mmembed.retrieval.checks import check_page, check_search
from mmembed.retrieval.hits import followed
from mmembed.retrieval.query import Search
from mmembed.retrieval.rerank import check_reranker, reranked
from mmembed.streams import check_several
from mmembed.types import Contract, Encoder, Hit, Store

RRF_K = 60

_CANNOT_ANSWER = (InvalidQuery, EncoderError, SettingsError, CollectionMismatch)


@dataclass(frozen=True)
class Several:
    """What several collections answered."""

    hits: list[Hit]  # best first; the score is the fused one, the probability that of the hit's own collection
    skipped: dict[str, str]  # collections that cannot answer this query, and why, in one sentence


def search_several(
    store: Store,
    collections: Sequence[str],
    search: Search,
    *,
    encoder: Encoder | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    collection_weights: Mapping[str, float] | None = None,
    missing_ok: bool = False,
) -> Several:
    """The `search.limit` best hits of all `collections`, ties in the order in which these are named.

    A collection that cannot answer this query (a picture asked of documents without `cross`, a point of another
    collection, an encoder that is not there or not as its name says, a contract of a newer mmembed, pictures for a
    reranker of texts) is skipped. Everything in `search` holds for each: its score threshold is of a hit's score in
    its own collection, its diversity of the hits of each. Its reranker reads the best `candidates` of the fused list,
    whichever collection they are of, and the others come after them.

    >>> search_several(store, ["images", "documents"], Search(text="a cat at night", limit=5)).hits

    Args:
        encoder, encoders: as in `mmembed.search`.
        collection_weights: {"photos": 2} gives two hits of `photos` for each of another collection; 1 by default.
        missing_ok: skip a collection that is not there: whoever names all that were listed loses none to a removal.

    Raises:
        InvalidQuery: no collection was named, a weight makes no sense, or groups were asked for.
        CollectionNotFound, StoreUnavailable, and, where no collection can answer, what the first of them raises.
    """
    check_several(collections, "collections")
    names = list(dict.fromkeys(collections))
    weights = _checked_weights(names, collection_weights or {})
    check_page(search)  # checked once more by each search, after the two were added up
    if search.group_by is not None:
        raise InvalidQuery("groups are of one collection: search each by itself, or leave group_by out")
    encoders = SHARED if encoders is None else encoders
    federated = _Federated(store, names, weights, search, encoder, encoders, missing_ok)
    wanted = search.limit + search.offset
    if search.rerank is None:
        hits = federated.fused(wanted)
    else:
        best = federated.fused(search.candidates, every_passage=True)
        assert search.text is not None  # a reranker of anything else was refused by each collection
        first = reranked(search.rerank, search.text, best[: search.candidates], federated.contracts)
        hits = followed(first, federated.fused, federated.key)(wanted)
    return Several(hits[search.offset : wanted], {name: str(exc) for name, exc in federated.refused.items()})


@dataclass(frozen=True)
class _Federated:
    """The search that each collection is asked, and what it turned out to be."""

    store: Store
    names: Sequence[str]
    weights: Mapping[str, float]
    search: Search
    encoder: Encoder | None
    encoders: Mapping[str, Encoder]
    missing_ok: bool
    contracts: dict[str, Contract] = field(default_factory=dict)  # where there is a reranker
    refused: dict[str, MmembedError] = field(default_factory=dict)

    def fused(self, wanted: int, *, every_passage: bool = False) -> list[Hit]:
        """The hits of all collections, `wanted` of each, fused. Raises what the first raised where none answers."""
        passages = self.search.all_passages or every_passage
        # a page deep down may be all of one collection
        each = replace(self.search, rerank=None, limit=wanted, offset=0, all_passages=passages)
        found: dict[str, list[Hit]] = {}
        for name in self.names:
            if name not in self.refused:
                try:
                    found[name] = self._hits(name, each)
                except _CANNOT_ANSWER as exc:
                    self.refused[name] = exc
                except StoreError as exc:
                    if type(exc) is not StoreError and not (self.missing_ok and isinstance(exc, CollectionNotFound)):
                        raise
                    self.refused[name] = exc  # a newer mmembed made it, say
        if not found:
            raise next(iter(self.refused.values()))
        return _fused([(self.weights.get(name, 1.0), hits) for name, hits in found.items()])

    def key(self, hit: Hit) -> str:
        """What there is one hit of, in whichever collection."""
        by_document = self.contracts[hit.collection].kind == "documents" and not self.search.all_passages
        return f"{hit.collection}/{hit.payload['uri'] if by_document else hit.id}"

    def _hits(self, name: str, each: Search) -> list[Hit]:
        collection = Collection(self.store, name)
        if self.search.rerank is not None and name not in self.contracts:
            check_search(self.search)
            self.contracts[name] = check_reranker(self.search.rerank, name, collection.contract)
        return search_collection(collection, each, encoder=self.encoder, encoders=self.encoders)


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
