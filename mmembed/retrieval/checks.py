"""What makes no sense to ask, whatever the collection holds: each is refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image
from qdrant_client import models

from mmembed.errors import InvalidQuery
from mmembed.retrieval.query import GROUP_SIZE, MAX_CANDIDATES, PART_WEIGHTS, Search, Strategy


def check_search(search: Search) -> None:
    """Raise InvalidQuery for a search that cannot be answered whatever the collection holds."""
    for name, what in (("minus", "what to subtract"), ("positive", "examples"), ("negative", "examples")):
        given = getattr(search, name)
        if isinstance(given, str | bytes | bytearray | memoryview) or not isinstance(given, Sequence):
            raise InvalidQuery(f"{name} is a list of {what}, not one text or picture: write {name}=[...]")
    _check_ways(search)
    _check_weights(search)
    _check_parts(search)
    _check_examples(search)
    check_page(search)
    if not 1 <= search.candidates <= MAX_CANDIDATES:
        raise InvalidQuery(f"candidates must be between 1 and {MAX_CANDIDATES}, not {search.candidates}")
    if search.score_threshold is not None and not math.isfinite(search.score_threshold):
        raise InvalidQuery(f"the score threshold is {search.score_threshold}: give a number")
    if search.filter is not None and not isinstance(search.filter, models.Filter):
        raise InvalidQuery(f"a filter is a qdrant_client.models.Filter, not a {type(search.filter).__name__}")
    _check_rerank(search)
    _check_diversity(search)
    _check_groups(search)


def check_page(search: Search) -> None:
    if search.limit < 1 or search.offset < 0:
        raise InvalidQuery(f"limit must be at least 1 and offset at least 0, not {search.limit} and {search.offset}")


def _check_ways(search: Search) -> None:
    """There is one way to ask, and no more than one."""
    encoded = any(search.parts.values())
    if search.examples and (encoded or search.vector is not None or search.id is not None):
        raise InvalidQuery(
            "examples are a way to ask of their own: put the text, the image or the point (PointId) into positive, and "
            "leave vector, id and minus out"
        )
    ways = [search.vector is not None, search.id is not None, encoded]
    if sum(ways) == 0 and not search.examples:
        raise InvalidQuery("nothing to search for: give a text, a picture, a vector or the id of a point")
    if sum(ways) > 1:
        raise InvalidQuery("a vector, an id and words or pictures are three ways to ask: give one of them")
    if search.text is None and search.image is None and search.minus:
        raise InvalidQuery("there is only something to subtract: give a text or a picture to subtract it from")


def _check_weights(search: Search) -> None:
    weights = search.weights or {}
    unknown = set(weights) - set(PART_WEIGHTS)
    if unknown:
        raise InvalidQuery(f"weights are of {', '.join(PART_WEIGHTS)}, not of {', '.join(sorted(unknown))}")
    for name, weight in weights.items():
        if not isinstance(weight, int | float | np.number) or not math.isfinite(weight):
            raise InvalidQuery(f"the weight of {name} is {weight!r}: give a number")
    idle = [name for name in weights if not search.parts[name]]
    if idle or (weights and sum(search.parts.values()) < 2):
        raise InvalidQuery(
            f"a weight of {(idle or list(weights))[0]} was given, and this query has "
            f"{' and '.join(name for name, there in search.parts.items() if there) or 'no such part'}: weights are for "
            f"mixed queries, of two parts or more"
        )


def _check_parts(search: Search) -> None:
    """Each text and each image."""
    if any(not text.strip() for text in search.texts):
        raise InvalidQuery("the text to search for, or to subtract, is empty")
    if any(text != text.encode(errors="replace").decode() for text in search.texts):
        raise InvalidQuery("the text to search for, or to subtract, is not valid UTF-8")
    for image in search.images:
        if not isinstance(image, Path | bytes | Image.Image):
            raise InvalidQuery(f"a picture is a pathlib.Path, the bytes of one or a PIL image, not {image!r:.80}")


def _check_examples(search: Search) -> None:
    if search.strategy not in get_args(Strategy):
        raise InvalidQuery(f"there is no strategy {search.strategy!r}: choose one of {', '.join(get_args(Strategy))}")
    if not search.examples and search.strategy != "average_vector":
        raise InvalidQuery(f"the strategy {search.strategy!r} weighs examples, and there are none: give positive")
    if search.negative and not search.positive and search.strategy == "average_vector":
        raise InvalidQuery(
            "negative examples alone have no average to start from: give a positive one, or choose best_score or "
            "sum_scores as the strategy"
        )


def _check_rerank(search: Search) -> None:
    """A reranker reads a text beside each candidate."""
    if search.rerank is None:
        return
    name = search.rerank.name
    if not search.is_one_text:
        raise InvalidQuery(
            f"the reranker {name!r} reads a text beside each candidate, and this is not a query of one text alone: "
            f"leave the reranker out, or ask in words"
        )
    if search.score_threshold is not None:
        raise InvalidQuery(
            f"a score threshold ({search.score_threshold}) is for the scores of one vector, and the reranker {name!r} "
            f"gives scores of its own: leave one of them out"
        )


def _check_diversity(search: Search) -> None:
    if search.diversity is None:
        return
    if not isinstance(search.diversity, int | float | np.number) or not 0 <= search.diversity <= 1:
        raise InvalidQuery(f"diversity is {search.diversity!r}: give a number between 0 (none) and 1 (all that counts)")
    if search.rerank is not None:
        raise InvalidQuery(
            f"diversity weighs likeness to the query's vector, and the reranker {search.rerank.name!r} has an order of "
            f"its own: leave one of them out"
        )
    if search.examples and search.strategy != "average_vector":
        raise InvalidQuery(
            f"diversity weighs likeness to one vector, and the strategy {search.strategy!r} has none: choose another"
        )


def _check_groups(search: Search) -> None:
    if search.group_by is None:
        if search.group_size != GROUP_SIZE:
            raise InvalidQuery(f"{search.group_size} hits were asked for of each group, and no group_by: name a key")
        return
    if not isinstance(search.group_by, str) or not search.group_by.strip():
        raise InvalidQuery(f"group_by is {search.group_by!r}: name the payload key whose values make the groups")
    if search.group_size < 1:
        raise InvalidQuery(f"group_size must be at least 1, not {search.group_size}")
    if search.diversity is not None:
        raise InvalidQuery("groups come in the order of their best hits, which diversity would undo: leave one out")
