"""Payload keys that mmembed writes itself: what reading a file found, and tags, which were made of stored vectors."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmembed.errors import StoreError
from mmembed.types import IndexType, Item, Modality, Payload

_OF_ANY_FILE = frozenset({"uri", "content_hash", "size", "mtime_ns", "source", "moved_from", "inherited"})
RESERVED: Mapping[Modality, frozenset[str]] = {
    "image": _OF_ANY_FILE | {"width", "height", "format", "taken_at"},
    "text": _OF_ANY_FILE | {"passage", "passages", "text", "headings", "page", "vectors", "images"},
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


def said_in(payload: Payload, modality: Modality) -> Payload:
    """What was said of the contents, and their tags: no fact that reading a file finds, and no place that it is in.

    The title of a document is left out as well: it may be that of its file.
    """
    place = {"document", "page"} if payload.get("document") and modality == "image" else set()
    ours = RESERVED[modality] | place | ({"title"} if modality == "text" else set())
    return {key: value for key, value in payload.items() if key not in ours}


_NAMESPACE = uuid.UUID("6d6d656d-6265-5d00-8000-000000000001")


INDEXES: Mapping[Modality, Mapping[str, IndexType]] = {
    "image": {"content_hash": "keyword"},
    "text": {
        "content_hash": "keyword",
        "uri": "keyword",
        "passage": "integer",
        "page": "integer",
        "headings": "keyword",
    },
}
"""Payload indexes that indexing needs itself; each costs memory with every point, so there is none to spare."""


def item_id(modality: Modality, uri: str, number: int | None = None) -> str:
    """The UUID of what an item is: the same item always has the same id, so indexing twice changes nothing."""
    suffix = "" if number is None else f"#{number}"
    return str(uuid.uuid5(_NAMESPACE, f"{modality}:{uri}{suffix}"))


def id_of(item: Item, number: int | None = None) -> str:
    """The id of an item's point, of a document that of passage `number`: its own, or made of its modality and uri."""
    if item.id is None:
        return item_id(item.modality, item.uri, number)
    return item_id(item.modality, item.id, number) if number else item.id


def path_of(payload: Payload) -> str:
    """The file behind a point: its uri, or the document that the picture stands in."""
    uri, document = str(payload["uri"]), payload.get("document")
    return str(document) if document and uri.startswith(f"{document}#") else uri


def _uuid(id: str) -> str:
    try:
        return str(uuid.UUID(id))
    except ValueError as exc:
        raise StoreError(f"{id!r} is not the id of a point of ours: give a UUID, such as uuid5 of its uri") from exc


def qdrant_id(id: str) -> str | int:
    """An id as Qdrant wants it: a UUID, or the number that points of other people's collections may have."""
    is_number = id.isascii() and id.isdecimal() and len(id) <= len(str(2**64)) and int(id) < 2**64
    return int(id) if is_number else _uuid(id)


def canonical_ids(ids: Sequence[str]) -> list[str]:
    """Ids as stores print them: lower case, with hyphens. Raises StoreError for what cannot be an id."""
    return [str(qdrant_id(each)) for each in ids]


FACET_TYPES = frozenset({"keyword", "integer", "bool"})
