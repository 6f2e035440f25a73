"""Which payload keys have values that Qdrant counts."""

from __future__ import annotations

from collections.abc import Mapping

from mmembed.errors import InvalidQuery, StoreError
from mmembed.types import IndexType

__all__ = ["FACET_TYPES", "check_facet"]

FACET_TYPES = frozenset({"keyword", "integer", "bool"})


def check_facet(collection: str, key: str, indexes: Mapping[str, IndexType], limit: int) -> None:
    """Raise StoreError unless the values of this key can be counted, InvalidQuery for a limit below 1."""
    if limit < 1:
        raise InvalidQuery(f"the {limit} most frequent values of {key!r} were asked for: ask for at least 1")
    kind = indexes.get(key)
    if kind not in FACET_TYPES:
        has = f"an index of type {kind}" if kind else "no index"
        counted = ", ".join(sorted(name for name, found in indexes.items() if found in FACET_TYPES)) or "none"
        raise StoreError(
            f"the values of {key!r} in collection {collection!r} cannot be counted, because it has {has}: keys whose "
            f"values can be are {counted}"
        )
