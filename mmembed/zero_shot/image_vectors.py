"""The stored vectors of a collection's pictures, read once and in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from mmembed.types import DenseArray, Point, Store

if TYPE_CHECKING:
    from qdrant_client.models import Filter

__all__ = ["image_vectors", "stacked"]


def image_vectors(
    store: Store,
    collection: str,
    *,
    filter: Filter | None = None,
    batch_size: int = 1024,
    payload: Sequence[str] | bool = False,
) -> Iterator[tuple[list[Point], DenseArray]]:
    """Points that have a vector `image`, in the order of ids, with these vectors: n of them and (n, dim) at a time.

    Raises CollectionNotFound before the first block is asked for.
    """
    points = store.scroll(collection, filter=filter, vectors=["image"], payload=payload, batch_size=batch_size)

    def blocks() -> Iterator[tuple[list[Point], DenseArray]]:
        whole = (point for point in points if "image" in point.vectors)
        while block := list(islice(whole, batch_size)):
            yield block, stacked(block)

    return blocks()


def stacked(points: Sequence[Point]) -> DenseArray:
    """The vectors `image` of n points, at least one -> (n, dim)."""
    return np.stack([np.asarray(point.vectors["image"], dtype=np.float32) for point in points])
