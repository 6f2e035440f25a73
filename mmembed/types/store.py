"""Collections: what they remember and hold, what they are asked, and the store that they are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from mmembed.types.encoders import Distance, Kind, Modality, Vector
from mmembed.types.items import Payload

if TYPE_CHECKING:
    from qdrant_client.models import Filter

IndexType: TypeAlias = Literal["keyword", "integer", "float", "bool", "datetime"]
FacetValue: TypeAlias = str | int | bool


@dataclass(frozen=True)
class VectorContract:
    """What a collection remembers about one of its vectors."""

    encoder: str  # a name that load_encoder takes
    fingerprint: str
    modality: Modality  # of what was encoded: "image" for pictures, "text" for captions and passages
    kind: Kind
    dim: int | None
    distance: Distance = "cosine"
    dtype: str = "float32"  # in which the encoder ran


@dataclass(frozen=True)
class Contract:
    """What makes a collection ours: its kind and the encoder of each of its named vectors."""

    kind: Literal["images", "documents"]
    vectors: Mapping[str, VectorContract]
    version: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)  # JSON that was measured of it: calibrations, few-shot


@dataclass(frozen=True)
class Point:
    id: str  # a UUID
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    payload: Payload = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """Vectors to be near to and far from, compared one by one: Qdrant's recommendation by scores.

    `best_score` is by the nearest example, a negative one counting below zero; `sum_scores` is the scores of the
    positive ones less those of the negative ones. Their average is a vector like any other, and needs no Examples.
    """

    positive: tuple[Vector, ...]
    negative: tuple[Vector, ...]
    strategy: Literal["best_score", "sum_scores"]

    @property
    def vectors(self) -> tuple[Vector, ...]:
        return self.positive + self.negative


@dataclass(frozen=True)
class Leg:
    """One ranking: the nearest to `query` by the vector `vector_name`. Several legs are fused."""

    vector_name: str  # "" is the unnamed vector of a collection that is not ours
    query: Vector | Examples
    weight: float = 1.0


Ranking: TypeAlias = Leg | tuple[Leg, ...]
"""A leg, or several that are fused into one ranking first: what is then fused counts each ranking alike."""


@dataclass(frozen=True)
class StoreQuery:
    """What `Store.query` is asked. Several rankings: each gives `depth` candidates, fused by weighted RRF.

    With `rerank` the candidates of all rankings, `depth` of each, are ordered by that leg alone: by MaxSim where
    it is a multivector. There are no other hits, and points without its vector are none. Nothing is fused, so
    weights play no part: Qdrant breaks ties of fused scores by chance, and each page would have other candidates.
    """

    rankings: Sequence[Ranking]
    _: KW_ONLY
    limit: int = 10
    offset: int = 0
    filter: Filter | None = None
    score_threshold: float | None = None  # of one vector's scores: fused ones come from ranks
    exact: bool = False  # compare with every vector instead of walking the search graph
    depth: int = 100  # candidates of each ranking that is fused or reranked
    rrf_k: int = 60
    rerank: Leg | None = None

    @property
    def legs(self) -> list[Leg]:
        """Every leg of every ranking."""
        return [leg for ranking in self.rankings for leg in ((ranking,) if isinstance(ranking, Leg) else ranking)]

    @property
    def fused(self) -> Sequence[Ranking]:
        """The rankings that are fused, one of them too; none where a single leg ranks."""
        if len(self.rankings) != 1:
            return self.rankings
        (only,) = self.rankings
        return () if isinstance(only, Leg) else only

    @property
    def prefetched(self) -> Sequence[Ranking]:
        """The rankings whose candidates are fused or reranked; none where a single leg ranks."""
        return self.fused if self.rerank is None else self.legs

    @property
    def scored(self) -> Leg | None:
        """The leg whose scores the hits carry; None where they come from a fusion."""
        return self.rerank or (None if self.fused else self.legs[0])

    @property
    def vector_name(self) -> str | None:
        """Its vector; None where scores come from a fusion."""
        return None if self.scored is None else self.scored.vector_name


@dataclass(frozen=True)
class Hit:
    id: str
    score: float  # comparable only within one search
    payload: Payload
    vector_name: str | None = None  # None where several rankings were fused
    probability: float | None = None  # where the encoder has a scale
    collection: str = ""
    group: FacetValue | None = None  # the value of `group_by` that it was found under


class Store(Protocol):
    """One Qdrant, many collections. Every method's first argument is the collection's name.

    Raises StoreUnavailable when Qdrant is gone, CollectionNotFound for a name it does not know,
    and CollectionNotOurs where a write would touch a collection without a contract.
    """

    url: str  # what open_store was given
    folder: Path | None  # where thumbnails lie beside the vectors; None: nowhere

    def create(
        self,
        collection: str,
        contract: Contract,
        *,
        indexes: Mapping[str, IndexType],
        shards: int | None = None,
        replicas: int | None = None,
    ) -> None:
        """Make a collection with its payload indexes (they must exist before vectors); refuses an existing one."""

    def contract(self, collection: str) -> Contract | None:
        """What the collection remembers; None: it is not ours."""

    def add_vector(self, collection: str, name: str, vector: VectorContract) -> None:
        """A further named vector on a collection of ours, empty at first, and its line in the contract."""

    def add_indexes(self, collection: str, indexes: Mapping[str, IndexType]) -> None:
        """Further payload indexes; those that exist are left as they are."""

    def indexes(self, collection: str) -> Mapping[str, IndexType]:
        """The payload indexes there are, by key."""

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write whole points, replacing those of the same id. On return they are stored."""

    def query(self, collection: str, query: StoreQuery) -> list[Hit]:
        """Best hits first. Raises InvalidQuery for what makes no sense, StoreError for a vector of the wrong size."""

    def retrieve(
        self, collection: str, ids: Sequence[str], *, vectors: Sequence[str] | bool = False, payload: bool = True
    ) -> list[Point]:
        """Those of the ids that exist, in the order asked."""

    def scroll(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        vectors: Sequence[str] | bool = False,
        payload: Sequence[str] | bool = True,
        batch_size: int = 256,
    ) -> Iterator[Point]:
        """Every point that passes the filter, in the order of ids, a batch at a time in memory."""

    def update_vectors(self, collection: str, points: Sequence[Point]) -> None:
        """Replace the named vectors that each point carries; its other vectors and payload stay."""

    def set_payload(self, collection: str, ids: Sequence[str], payload: Payload) -> None:
        """Merge `payload` into each point's: keys that are not named stay, those that are None go."""

    def set_payloads(self, collection: str, payloads: Mapping[str, Payload]) -> None:
        """Merge into each point, by id, a payload of its own; see `set_payload`. Many points in few requests."""

    def set_note(self, collection: str, key: str, value: Any) -> None:
        """Keep JSON beside the contract, in `Contract.notes`; None removes it. Raises StoreError above 256 KiB."""

    def count(self, collection: str, *, filter: Filter | None = None) -> int: ...

    def facet(
        self, collection: str, key: str, *, filter: Filter | None = None, limit: int = 10
    ) -> list[tuple[FacetValue, int]]:
        """The most frequent values of a payload key, each with its number of points; ties in the order of values.

        Raises StoreError unless the key has an index of keywords, integers or bools.
        """

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Remove points; unknown ids are no error."""

    def delete_where(self, collection: str, filter: Filter) -> None:
        """Remove every point that passes the filter."""

    def drop(self, collection: str) -> None:
        """Remove a collection of ours and everything in it."""

    def collections(self) -> list[str]:
        """Names, sorted."""

    def optimize(self, collection: str) -> None:
        """Build the search graph now; a server does so by itself."""

    def close(self) -> None: ...
