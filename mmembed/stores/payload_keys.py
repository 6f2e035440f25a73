"""Payload keys that mmembed writes itself: what reading a file found, and tags, which were made of stored vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mmembed.types import Modality, Payload

__all__ = ["OURS", "RESERVED", "TagKeys", "tags_in"]

_OF_ANY_FILE = frozenset({"uri", "content_hash", "size", "mtime_ns", "source", "moved_from"})
RESERVED: Mapping[Modality, frozenset[str]] = {
    "image": _OF_ANY_FILE | {"width", "height", "format", "taken_at"},
    "text": _OF_ANY_FILE | {"passage", "passages", "text", "headings", "page", "vectors", "pictures"},
}
"""Payload keys that say what mmembed read; a manifest cannot set them."""

_PLACES = frozenset({"document", "page", "title"})  # of a picture, the document that it stands in
OURS: Mapping[Modality, frozenset[str]] = {modality: keys | _PLACES for modality, keys in RESERVED.items()}
"""Payload keys that are written here; all others were said by a manifest."""


class TagKeys(NamedTuple):
    """The three payload keys of one set of tags: `labels`, `labels_scores`, `labels_by`."""

    labels: str  # list of labels, best first
    scores: str  # label -> probability, or score where there are none
    by: str  # which labels, encoder and thresholds decided it

    @classmethod
    def of(cls, key: str) -> TagKeys:
        return cls(key, f"{key}_scores", f"{key}_by")


def tags_in(payload: Payload) -> Payload:
    """The part of a payload that is tags: they hold for the contents of a picture, wherever it lies."""
    found: Payload = {}
    for by in payload:
        keys = TagKeys.of(by.removesuffix("_by"))
        if by == keys.by and all(key in payload for key in keys) and isinstance(payload[keys.scores], dict):
            found |= {key: payload[key] for key in keys}
    return found
