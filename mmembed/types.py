"""The nouns of mmembed: two protocols (Encoder, Store) and the frozen dataclasses between them.

Dense arrays are `(n, dim)` float32 with rows of norm 1 from the encoder's mouth to the
store's door. Batches only. Nothing is guessed: an image is an image because the caller says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image
    from qdrant_client.models import Filter

Role: TypeAlias = Literal["query", "document"]
Modality: TypeAlias = Literal["image", "text"]
Kind: TypeAlias = Literal["dense", "sparse", "multi"]
Distance: TypeAlias = Literal["cosine", "dot"]
IndexType: TypeAlias = Literal["keyword", "integer", "float", "bool", "datetime"]
FacetValue: TypeAlias = str | int | bool

Payload: TypeAlias = dict[str, Any]
DenseArray: TypeAlias = npt.NDArray[np.float32]
"""`(n, dim)` float32, rows of norm 1. A single dense vector is `(dim,)`, a multivector `(tokens, dim)`."""

Pixels: TypeAlias = npt.NDArray[np.float32]
"""One picture as its model wants it, `(3, height, width)`, normalised; every one alike where there is an image_size."""


class SparseVector(NamedTuple):
    """Non-zero coordinates of one sparse vector: unique indices, values in the same order."""

    indices: npt.NDArray[np.uint32]  # (nnz,)
    values: npt.NDArray[np.float32]  # (nnz,)


Vector: TypeAlias = DenseArray | SparseVector
"""One stored vector: `(dim,)` dense, `(windows, dim)` multi, or sparse."""

Embeddings: TypeAlias = DenseArray | list[SparseVector] | list[DenseArray]
"""What a batch of n inputs becomes: `(n, dim)` dense, n sparse vectors, or n multivectors `(tokens_i, dim)`."""


# --- encoders -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadOptions:
    """How an encoder is run, as opposed to which: never part of its name or fingerprint."""

    device: str | None = None  # "cpu", "cuda", "cuda:1", "mps"; None: the best there is
    dtype: str | None = None  # "float32", "bfloat16", "float16"; None: float32 on a CPU
    batch_size: int | None = None  # inputs a forward pass; None: the encoder's own choice
    trust_remote_code: bool = False  # run Python from a model's repository


@dataclass(frozen=True)
class EncoderSpec:
    """The model card as data."""

    name: str  # what a collection stores: "open_clip:ViT-B-32/laion2b_s34b_b79k"
    kind: Kind
    dim: int | None  # None for sparse
    modalities: frozenset[Modality]
    fingerprint: str  # equal if and only if vectors are comparable
    distance: Distance = "cosine"
    matryoshka_dims: tuple[int, ...] = ()
    context_length: int | None = None  # tokens, special ones included; None: no limit
    image_size: int | None = None  # pixels a side; None: pictures keep their aspect ratio
    revision: str | None = None
    licence: str | None = None
    remote: bool = False  # computed on somebody else's machine, in a precision that nobody tells
    whole_call: frozenset[Role] = frozenset()  # roles in which all texts of a call are one document: late chunking


class Encoder(Protocol):
    """Texts and pictures to vectors. `mmembed.load_encoder(name)` gives one."""

    spec: EncoderSpec
    dtype: str  # of the weights at work, "float32" where there are none
    batch_size: int
    logit_scale: float | None  # the multiplier itself, not its logarithm; None: no probabilities
    logit_bias: float | None  # not None: independent sigmoids (SigLIP) instead of a softmax (CLIP)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        """n strings -> n embeddings, in order; longer texts are truncated to `context_length` tokens."""
        ...

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        """n upright RGB pictures -> n embeddings, in order. Raises UnsupportedModality without an image tower."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of one text as this encoder reads it, special ones included, nothing truncated."""
        ...


@runtime_checkable
class PixelEncoder(Protocol):
    """An image encoder whose preprocessing can run in the decoding threads, beside the forward pass.

    `encode_image(images)` equals `encode_pixels([preprocess_image(i) for i in images])`.
    """

    def preprocess_image(self, image: Image) -> Pixels:
        """One upright RGB picture -> `(3, height, width)`; called from several threads at once."""
        ...

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        """n preprocessed pictures -> `(n, dim)`."""
        ...


@runtime_checkable
class JointEncoder(Protocol):
    """One of several encoders that share one forward pass: BGE-M3's dense, sparse and ColBERT vectors."""

    def shares_forward(self, other: Encoder) -> bool:
        """Whether `other` reads the same hidden states: same weights on the same device."""
        ...

    def encode_text_jointly(
        self, texts: Sequence[str], others: Sequence[Encoder], *, role: Role, task: str | None = None
    ) -> list[Embeddings]:
        """n strings -> this encoder's embeddings, then those of each of `others`, from one forward pass."""
        ...


class Reranker(Protocol):
    """Reads a query and a candidate together: slower and better than comparing vectors; see `load_reranker`."""

    name: str  # "cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2"
    modalities: frozenset[Modality]  # of the candidates it can read

    def score(self, query: str, candidates: Sequence[str | Image]) -> npt.NDArray[np.float32]:
        """A query and n texts or upright RGB pictures -> `(n,)`, higher is better, within this query only."""
        ...


# --- what goes in -------------------------------------------------------------------------------


ImageContent: TypeAlias = "Path | bytes | Image | npt.NDArray[np.uint8]"
"""An image: a file, its bytes, one that is decoded, or `(height, width)` or `(height, width, 1 | 3 | 4)` uint8,
which is grey, RGB or RGBA."""


@dataclass(frozen=True)
class Item:
    """One thing to index: an image or a document, in a file or in memory.

    Its content is one of `path`, `content` and `text`. What is in memory must stay as it is until it was indexed:
    a frame that is drawn into the array of the one before needs an array of its own.

    >>> Item("shop/17", "image", content=np.zeros((30, 40, 3), np.uint8), caption="a cap", payload={"price": 12.5})
    >>> Item("note-1", "text", text="Foxes hunt at dusk.", id="0c3bd1a2-8a4e-4f6e-9d0b-1f5f3c1f7d11")
    >>> Item("mail/9/offer.pdf", "text", content=attachment)
    """

    uri: str  # an absolute path, or whatever else names it; a document in bytes is of the kind that it ends in
    modality: Modality
    path: Path | None = None  # the file that holds it
    content: bytes | Image | npt.NDArray[np.uint8] | None = None  # a file's bytes; or an image, see ImageContent
    caption: str | None = None  # of an image
    payload: Payload = field(default_factory=dict)
    source: str | None = None  # the manifest that named it
    text: str | None = None  # a document, as plain text
    id: str | None = None  # the UUID of its point, of a document of its first passage; None: made of modality and uri


@dataclass(frozen=True)
class Failure:
    """One input that could not be indexed, and why, in one sentence."""

    uri: str
    error: str
    source: str | None = None  # the manifest that named it


# --- collections --------------------------------------------------------------------------------


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
    def vector_name(self) -> str | None:
        """The vector whose scores the hits carry; None where they come from a fusion."""
        if self.rerank is not None:
            return self.rerank.vector_name
        return None if self.fused else self.legs[0].vector_name


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
        ...

    def contract(self, collection: str) -> Contract | None:
        """What the collection remembers; None: it is not ours."""
        ...

    def add_vector(self, collection: str, name: str, vector: VectorContract) -> None:
        """A further named vector on a collection of ours, empty at first, and its line in the contract."""
        ...

    def add_indexes(self, collection: str, indexes: Mapping[str, IndexType]) -> None:
        """Further payload indexes; those that exist are left as they are."""
        ...

    def indexes(self, collection: str) -> Mapping[str, IndexType]:
        """The payload indexes there are, by key."""
        ...

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write whole points, replacing those of the same id. On return they are stored."""
        ...

    def query(self, collection: str, query: StoreQuery) -> list[Hit]:
        """Best hits first. Raises InvalidQuery for what makes no sense, StoreError for a vector of the wrong size."""
        ...

    def retrieve(
        self, collection: str, ids: Sequence[str], *, vectors: Sequence[str] | bool = False, payload: bool = True
    ) -> list[Point]:
        """Those of the ids that exist, in the order asked."""
        ...

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
        ...

    def update_vectors(self, collection: str, points: Sequence[Point]) -> None:
        """Replace the named vectors that each point carries; its other vectors and payload stay."""
        ...

    def set_payload(self, collection: str, ids: Sequence[str], payload: Payload) -> None:
        """Merge `payload` into each point's: keys that are not named stay, those that are None go."""
        ...

    def set_payloads(self, collection: str, payloads: Mapping[str, Payload]) -> None:
        """Merge into each point, by id, a payload of its own; see `set_payload`. Many points in few requests."""
        ...

    def set_note(self, collection: str, key: str, value: Any) -> None:
        """Keep JSON beside the contract, in `Contract.notes`; None removes it. Raises StoreError above 256 KiB."""
        ...

    def count(self, collection: str, *, filter: Filter | None = None) -> int: ...

    def facet(
        self, collection: str, key: str, *, filter: Filter | None = None, limit: int = 10
    ) -> list[tuple[FacetValue, int]]:
        """The most frequent values of a payload key, each with its number of points; ties in the order of values.

        Raises StoreError unless the key has an index of keywords, integers or bools.
        """
        ...

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Remove points; unknown ids are no error."""
        ...

    def delete_where(self, collection: str, filter: Filter) -> None:
        """Remove every point that passes the filter."""
        ...

    def drop(self, collection: str) -> None:
        """Remove a collection of ours and everything in it."""
        ...

    def collections(self) -> list[str]:
        """Names, sorted."""
        ...

    def optimize(self, collection: str) -> None:
        """Build the search graph now; a server does so by itself."""
        ...

    def close(self) -> None: ...
