"""Hits group by group: those that share a value of a payload key.

As in Qdrant a value is a text or an integer, a point with a list of them is in several groups, and one without any
is in none. Qdrant's `query_groups` has no offset, takes one ranking, and gives fewer groups than there are where a few
of them hold most points; what is here has none of these limits, and is the same on every store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qdrant_client import models

from mmembed.retrieval.hits import COMPETITORS, Found, Scale, Scope, fetch, probable, settled
from mmembed.retrieval.query import MAX_CANDIDATES, Search
from mmembed.types import FacetValue, Hit, Payload

__all__ = ["Groups", "group_hits", "group_ranking", "values_at"]


@dataclass(frozen=True)
class Groups:
    """By which key hits are grouped, how many there are of each, and which groups are shown."""

    key: str
    size: int
    limit: int
    offset: int

    @classmethod
    def of(cls, search: Search) -> Groups:
        assert search.group_by is not None
        return cls(search.group_by, search.group_size, search.limit, search.offset)

    @property
    def wanted(self) -> int:
        return self.offset + self.limit

    def shown(self, groups: Sequence[tuple[FacetValue, Sequence[Hit]]]) -> list[Hit]:
        """The hits of the groups of this page, one group after the other."""
        page = groups[self.offset : self.wanted]
        return [replace(hit, group=value) for value, hits in page for hit in hits[: self.size]]

    def scope(self, scope: Scope) -> Scope:
        """The same search among points that have the key, every passage by itself."""
        absent = models.IsEmptyCondition(is_empty=models.PayloadField(key=self.key))
        return replace(_narrowed(scope, models.Filter(must_not=[absent])), best_only=False)


def group_ranking(scope: Scope, groups: Groups, scale: Scale | None) -> list[Hit]:
    """Groups of one ranking, however unevenly the points are spread: exact, and in as few searches as that takes.

    The best points name the first groups, the best points outside these the next; a group that is not full by then
    is filled by a search within it.
    """
    among = groups.scope(scope)
    count = min(MAX_CANDIDATES, max(COMPETITORS, 4 * groups.wanted * groups.size))
    found: dict[FacetValue, dict[str, Hit]] = {}
    whole: set[FacetValue] = set()
    while len(found) < groups.wanted:
        asked = _outside(among, groups.key, list(found))
        hits = asked.ask(replace(asked.query, limit=count))
        ended = len(hits) < count
        new: dict[FacetValue, dict[str, Hit]] = {}
        for hit in settled(hits, last=ended or count >= MAX_CANDIDATES):
            for value in values_at(hit.payload, groups.key):
                if value not in found:
                    new.setdefault(value, {}).setdefault(scope.key(hit), hit)
        whole |= {value for value, members in new.items() if ended or len(members) >= groups.size}
        found |= new
        if ended or (not new and count >= MAX_CANDIDATES):
            break
        count = count if new else min(4 * count, MAX_CANDIDATES)
    page = [
        (value, list(members.values()) if value in whole else _within(scope, groups, value))
        for value, members in list(found.items())[groups.offset : groups.wanted]
    ]
    hits = replace(groups, offset=0).shown(page)
    return hits if scale is None else _with_probabilities(scope, hits, scale)


def group_hits(scope: Scope, groups: Groups, found: Found) -> list[Hit]:
    """Groups of hits whose order is more than one ranking, out of the best 4,096.

    A group is full or has all of those, so that a page does not depend on how far down the others reach.
    """
    count = min(MAX_CANDIDATES, 4 * groups.wanted * groups.size)
    while True:
        hits = found(count)
        members: dict[FacetValue, dict[str, Hit]] = {}
        for hit in hits:
            for value in values_at(hit.payload, groups.key):
                members.setdefault(value, {}).setdefault(scope.key(hit), hit)
        first = list(members.values())[: groups.wanted]
        full = len(first) == groups.wanted and all(len(group) >= groups.size for group in first)
        if full or len(hits) < count or count >= MAX_CANDIDATES:
            return groups.shown([(value, list(group.values())) for value, group in members.items()])
        count = min(4 * count, MAX_CANDIDATES)


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


def _narrowed(scope: Scope, more: models.Filter | models.Condition) -> Scope:
    """The same search with a further condition."""
    conditions = [each for each in (scope.query.filter, more) if each is not None]
    return replace(scope, query=replace(scope.query, filter=models.Filter(must=conditions)))


def _outside(scope: Scope, key: str, values: Sequence[FacetValue]) -> Scope:
    """The same search among points with another value than these; where texts and integers mix, among all."""
    if not values or len({type(value) for value in values}) > 1:
        return scope
    other = models.MatchExcept.model_validate({"except": list(values)})
    return _narrowed(scope, models.FieldCondition(key=key, match=other))


def _within(scope: Scope, groups: Groups, value: FacetValue) -> list[Hit]:
    """The best hits of one group."""
    only = models.FieldCondition(key=groups.key, match=models.MatchValue(value=value))
    return fetch(_narrowed(scope, only), groups.size)


def _with_probabilities(scope: Scope, hits: Sequence[Hit], scale: Scale) -> list[Hit]:
    """Those of the same search without groups: a softmax is over its best hits and these."""
    competing: list[Hit] = []
    if scale.logit_bias is None:
        competing = fetch(replace(scope, query=replace(scope.query, score_threshold=None)), COMPETITORS)
    every = {hit.id: hit for hit in (*competing, *hits)}
    of = {hit.id: hit.probability for hit in probable(list(every.values()), scale)}
    return [replace(hit, probability=of[hit.id]) for hit in hits]
