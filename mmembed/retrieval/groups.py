"""Hits group by group: those that share a value of a payload key.

As in Qdrant a value is a text or an integer, a point with a list of them is in several groups, and one without any
is in none. Qdrant's `query_groups` has no offset, takes one ranking, and gives fewer groups than there are where a few
of them hold most points; what is here has none of these limits, and is the same on every store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qdrant_client import models

from mmembed.collection.conditions import has_value, is_empty
from mmembed.retrieval.hits import COMPETITORS, HitSource, Scale, TopHits, fetch, probable, settled
from mmembed.retrieval.query import MAX_CANDIDATES, Search
from mmembed.types import FacetValue, Hit, Payload


def group_ranking(source: HitSource, search: Search) -> list[Hit]:
    """Groups of one ranking, however unevenly the points are spread: exact, and in as few searches as that takes.

    The best points name the first groups, the best points outside these the next; a group that is not full by then
    is filled by a search within it.
    """
    key, end = str(search.group_by), search.offset + search.limit
    among = with_key(source, key)
    count = min(MAX_CANDIDATES, max(COMPETITORS, 4 * end * search.group_size))
    groups: dict[FacetValue, dict[str, Hit]] = {}
    whole: set[FacetValue] = set()
    while len(groups) < end:
        query = replace(_outside(among, key, list(groups)).query, limit=count)
        hits = source.collection.store.query(source.collection.name, query)
        ended = len(hits) < count
        new: dict[FacetValue, dict[str, Hit]] = {}
        for hit in settled(hits, last=ended or count >= MAX_CANDIDATES):
            for value in values_at(hit.payload, key):
                if value not in groups:
                    new.setdefault(value, {}).setdefault(source.key(hit), hit)
        whole |= {value for value, members in new.items() if ended or len(members) >= search.group_size}
        groups |= new
        if ended or (not new and count >= MAX_CANDIDATES):
            break
        count = count if new else min(4 * count, MAX_CANDIDATES)
    page: list[tuple[FacetValue, list[Hit]]] = []
    for value, members in list(groups.items())[search.offset : end]:
        within = _narrowed(source, has_value(key, value))
        page.append((value, list(members.values()) if value in whole else fetch(within, search.group_size)))
    hits = _in_groups(page, search.group_size)
    return hits if source.scale is None else _with_probabilities(source, hits, source.scale)


def group_hits(source: HitSource, search: Search, top: TopHits) -> list[Hit]:
    """Groups of hits whose order is more than one ranking, out of the best 4,096.

    A group is full or has all of those, so that a page does not depend on how far down the others reach.
    """
    key, end, size = str(search.group_by), search.offset + search.limit, search.group_size
    count = min(MAX_CANDIDATES, 4 * end * size)
    while True:
        hits = top(count)
        groups: dict[FacetValue, dict[str, Hit]] = {}
        for hit in hits:
            for value in values_at(hit.payload, key):
                groups.setdefault(value, {}).setdefault(source.key(hit), hit)
        page = [(value, list(members.values())) for value, members in groups.items()][:end]
        full = len(page) == end and all(len(members) >= size for _, members in page)
        if full or len(hits) < count or count >= MAX_CANDIDATES:
            return _in_groups(page[search.offset :], size)
        count = min(4 * count, MAX_CANDIDATES)


def with_key(source: HitSource, key: str) -> HitSource:
    """The same search among points that have the key, every passage by itself."""
    return replace(_narrowed(source, models.Filter(must_not=[is_empty(key)])), best_only=False)


def _in_groups(groups: Sequence[tuple[FacetValue, Sequence[Hit]]], size: int) -> list[Hit]:
    """The hits of groups, one group after the other."""
    return [replace(hit, group=value) for value, hits in groups for hit in hits[:size]]


def values_at(payload: Payload, key: str) -> list[FacetValue]:
    """The texts and integers under a payload key, "a.b" and "a[].b" as in Qdrant, each once.

    >>> values_at({"tags": ["cat", "dog"], "n": 1.5}, "tags")
    ['cat', 'dog']
    """
    found: list[Any] = [payload]
    for part in key.replace("[]", "").split("."):
        found = [row[part] for row in _flat(found) if isinstance(row, Mapping) and part in row]
    values = [value for value in _flat(found) if isinstance(value, str | int) and not isinstance(value, bool)]
    return list(dict.fromkeys(values))


def _flat(values: Sequence[Any]) -> list[Any]:
    return [each for value in values for each in (value if isinstance(value, list) else [value])]


def _narrowed(source: HitSource, more: models.Filter | models.Condition) -> HitSource:
    """The same search with a further condition, and without probabilities, which are those of the whole."""
    conditions = [each for each in (source.query.filter, more) if each is not None]
    return replace(source, query=replace(source.query, filter=models.Filter(must=conditions)), scale=None)


def _outside(source: HitSource, key: str, values: Sequence[FacetValue]) -> HitSource:
    """The same search among points with another value than these; where texts and integers mix, among all."""
    if not values or len({type(value) for value in values}) > 1:
        return source
    other = models.MatchExcept.model_validate({"except": list(values)})
    return _narrowed(source, models.FieldCondition(key=key, match=other))


def _with_probabilities(source: HitSource, hits: Sequence[Hit], scale: Scale) -> list[Hit]:
    """Those of the same search without groups: a softmax is over its best hits and these."""
    competing: list[Hit] = []
    if scale.logit_bias is None:
        query = replace(source.query, score_threshold=None)
        competing = fetch(replace(source, query=query, scale=None), COMPETITORS)
    every = {hit.id: hit for hit in (*competing, *hits)}
    of = {hit.id: hit.probability for hit in probable(list(every.values()), scale, len(every))}
    return [replace(hit, probability=of[hit.id]) for hit in hits]
