"""The conditions on payload keys that searches, index runs and removals share, as Qdrant's own models."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models


def is_empty(key: str) -> models.IsEmptyCondition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def has_value(key: str, value: str | int) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def has_any(key: str, values: Sequence[str]) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))


def first_passages() -> models.Filter:
    """One point a document: its first passage."""
    return models.Filter(must=[has_value("passage", 0)])


def of_uris(uris: Sequence[str]) -> models.Filter:
    """The points of these items."""
    return models.Filter(must=[has_any("uri", uris)])


def inside_documents(uris: Sequence[str]) -> models.Filter:
    """Images that stand in one of these documents, or that it links to."""
    return models.Filter(must=[has_any("document", uris)])
