"""The central noun: a collection that remembers which encoder made each of its vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmembed.collection.contract import check_fingerprint
from mmembed.errors import CollectionNotOurs, InvalidQuery, StoreError
from mmembed.streams import batched
from mmembed.types import Contract, DenseArray, Encoder, Point, Store, VectorContract

if TYPE_CHECKING:
    from qdrant_client.models import Filter

__all__ = ["Collection", "stacked"]


@dataclass(frozen=True)
class Collection:
    """A store and the name of a collection in it, which need not be there yet.

    >>> images = Collection(mmembed.open_store("edge:photos.mm"), "images")
    >>> images.encoder("image", mmembed.Encoders()).spec.name
    'tiny'
    """

    store: Store
    name: str

    @property
    def exists(self) -> bool:
        return self.name in self.store.collections()

    @property
    def contract(self) -> Contract | None:
        """What it remembers, asked of the store each time; None: it is not ours. Raises CollectionNotFound."""
        return self.store.contract(self.name)

    def require_ours(self, kind: Literal["images", "documents"] | None = None) -> Contract:
        """Its contract. Raises CollectionNotOurs, or StoreError for a collection of the other kind."""
        contract = self.contract
        if contract is None:
            raise CollectionNotOurs(self.name)
        if kind is not None and contract.kind != kind:
            raise StoreError(f"collection {self.name!r} holds {contract.kind}, not {kind}: choose another collection")
        return contract

    def vector(self, name: str) -> VectorContract:
        """What it remembers of one vector. Raises CollectionNotOurs, or InvalidQuery where it has no such vector."""
        vectors = self.require_ours().vectors
        if name not in vectors:
            raise InvalidQuery(f"collection {self.name!r} has no vector {name!r}: it has {', '.join(sorted(vectors))}")
        return vectors[name]

    def encoder(self, vector: str, encoders: Mapping[str, Encoder]) -> Encoder:
        """The encoder that made a vector, out of `encoders`, by the name that the collection remembers.

        Raises CollectionMismatch if what its name stands for today makes other vectors, and what `vector` raises.
        """
        contract = self.vector(vector)
        encoder = encoders[contract.encoder]
        check_fingerprint(self.name, vector, contract, encoder)
        return encoder

    def remembered(self, vector: str, encoders: Mapping[str, Encoder]) -> Encoder | None:
        """The same where there is such a vector; None for a collection that is not there, not ours, or without it."""
        contract = self.contract if self.exists else None
        return None if contract is None or vector not in contract.vectors else self.encoder(vector, encoders)

    def heads(self) -> Filter | None:
        """The filter that lets one point of each item pass: of a document its first passage; None: all are."""
        from mmembed.collection.conditions import first_passages  # an embedded store opens without the client

        contract = self.contract
        return first_passages() if contract is not None and contract.kind == "documents" else None

    def note(self, key: str) -> Any:
        """JSON that was kept beside the contract; None where there is none."""
        contract = self.contract
        return None if contract is None else contract.notes.get(key)

    def image_vectors(
        self, *, filter: Filter | None = None, batch_size: int = 1024, payload: Sequence[str] | bool = False
    ) -> Iterator[tuple[list[Point], DenseArray]]:
        """Points that have a vector `image`, in the order of ids, with these: n of them and (n, dim) at a time.

        Raises CollectionNotFound before the first block is asked for.
        """
        points = self.store.scroll(self.name, filter=filter, vectors=["image"], payload=payload, batch_size=batch_size)
        whole = (point for point in points if "image" in point.vectors)
        return ((block, stacked(block)) for block in batched(whole, batch_size))


def stacked(points: Sequence[Point]) -> DenseArray:
    """The vectors `image` of n points, at least one -> (n, dim)."""
    return np.stack([np.asarray(point.vectors["image"], dtype=np.float32) for point in points])
