"""Encoders: what they take, what they give, and what is known of each without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Role: TypeAlias = Literal["query", "document"]
Modality: TypeAlias = Literal["image", "text"]
Kind: TypeAlias = Literal["dense", "sparse", "multi"]
Distance: TypeAlias = Literal["cosine", "dot"]

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

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        """n upright RGB pictures -> n embeddings, in order. Raises UnsupportedModality without an image tower."""

    def count_tokens(self, text: str) -> int:
        """Tokens of one text as this encoder reads it, special ones included, nothing truncated."""


@runtime_checkable
class PixelEncoder(Protocol):
    """An image encoder whose preprocessing can run in the decoding threads, beside the forward pass.

    `encode_image(images)` equals `encode_pixels([preprocess_image(i) for i in images])`.
    """

    def preprocess_image(self, image: Image) -> Pixels:
        """One upright RGB picture -> `(3, height, width)`; called from several threads at once."""

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        """n preprocessed pictures -> `(n, dim)`."""


@runtime_checkable
class JointEncoder(Protocol):
    """One of several encoders that share one forward pass: BGE-M3's dense, sparse and ColBERT vectors."""

    def shares_forward(self, other: Encoder) -> bool:
        """Whether `other` reads the same hidden states: same weights on the same device."""

    def encode_text_jointly(
        self, texts: Sequence[str], others: Sequence[Encoder], *, role: Role, task: str | None = None
    ) -> list[Embeddings]:
        """n strings -> this encoder's embeddings, then those of each of `others`, from one forward pass."""


class Reranker(Protocol):
    """Reads a query and a candidate together: slower and better than comparing vectors; see `load_reranker`."""

    name: str  # "cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2"
    modalities: frozenset[Modality]  # of the candidates it can read

    def score(self, query: str, candidates: Sequence[str | Image]) -> npt.NDArray[np.float32]:
        """A query and n texts or upright RGB pictures -> `(n,)`, higher is better, within this query only."""
