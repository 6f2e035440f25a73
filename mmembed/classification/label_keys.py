"""Payload keys that labels are written to, by tags and by few-shot: how a key looks, and whether it is free."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.conditions import is_empty
from mmembed.collection.payload import OURS, TagKeys
from mmembed.errors import InvalidQuery

_PLAIN = re.compile(r"[\w-]{1,200}")  # another one would be a path into the payload: "a.b" is b in a
_TAKEN = OURS["image"] | {"caption"}


def check_label_key(collection: Collection, keys: Sequence[str], foreign: models.Filter, *, of: str) -> None:
    """Raise InvalidQuery unless these payload keys, the first as it was asked for, are free for `of` (tags, labels).

    `foreign` passes points whose payload uses one of them for something else.
    """
    if not _PLAIN.fullmatch(keys[0]):
        raise InvalidQuery(f"{keys[0]!r} cannot be the payload key of {of}: use letters, digits, _ and -")
    store, name = collection.store, collection.name
    taken = bool(_TAKEN.intersection(keys))
    if not taken and collection.exists:
        taken = store.indexes(name).get(keys[0], "keyword") != "keyword" or store.count(name, filter=foreign) > 0
    if taken:
        raise InvalidQuery(
            f"{of} were to be written to collection {name!r} under {', '.join(keys)}, and its payload uses one of "
            f"these keys for something else: choose another key"
        )


def tagged(keys: TagKeys) -> models.Filter:
    """Points that have tags under these keys."""
    return models.Filter(must_not=[is_empty(keys.by)])


def tag_fragments(keys: TagKeys) -> models.Filter:
    """Points that have some of the three keys: those that stand together are tags, the others are somebody else's."""
    alone = [(keys.labels, keys.by), (keys.scores, keys.by), (keys.by, keys.scores)]  # one there, the other not
    return models.Filter(should=[models.Filter(must=[is_empty(no)], must_not=[is_empty(yes)]) for yes, no in alone])
