"""Arithmetic on `(n, dim)` float32 arrays, numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmembed.errors import InvalidEmbedding
from mmembed.types import DenseArray

_NORM_TOLERANCE = 1e-3  # rows normalised in float32 are within 1e-6; half-precision normalisation is not


def l2_normalize(vectors: npt.ArrayLike) -> DenseArray:
    """`(n, dim)` or `(dim,)` of any float type -> the same shape in float32, rows of norm 1.

    A row of zeros has no direction and raises InvalidEmbedding, as does one that is not finite.

    >>> l2_normalize([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])
    array([[0.6, 0. , 0.8],
           [0. , 1. , 0. ]], dtype=float32)
    """
    array = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InvalidEmbedding("a vector holds NaN or infinity: it has no direction")
    # Scaling first keeps the squares of very large and very small values in range.
    peak = np.abs(array).max(axis=-1, keepdims=True, initial=0.0)
    if not (peak > 0).all():
        raise InvalidEmbedding("a vector of zeros has no direction: it cannot be compared by cosine")
    scaled = array / peak
    return np.asarray(scaled / np.linalg.norm(scaled, axis=-1, keepdims=True), dtype=np.float32)


def truncate(vectors: DenseArray, dim: int) -> DenseArray:
    """Matryoshka: the first `dim` coordinates of `(n, full)`, renormalised -> `(n, dim)`.

    Only for models trained for it (`EncoderSpec.matryoshka_dims`).

    >>> truncate(np.array([[0.6, 0.0, 0.8], [0.48, 0.64, 0.6]], dtype=np.float32), 2)
    array([[1. , 0. ],
           [0.6, 0.8]], dtype=float32)
    """
    if not 0 < dim <= vectors.shape[-1]:
        raise ValueError(f"cannot cut vectors of {vectors.shape[-1]} dimensions to {dim}")
    return l2_normalize(vectors[..., :dim])


def top_k(scores: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.intp]:
    """`(n, m)` scores -> `(n, min(k, m))` column numbers, best first; ties keep the lower column.

    >>> top_k(np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.7]]), 2)
    array([[1, 2],
           [0, 2]])
    """
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each row of `(n, m)` -> positive numbers whose sum is 1.

    >>> softmax(np.array([[0.0, 0.0, -np.inf], [1000.0, 0.0, 1000.0]]))
    array([[0.5, 0.5, 0. ],
           [0.5, 0. , 0.5]])
    """
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float64)


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)) of any shape, without overflow.

    >>> sigmoid(np.array([[0.0, 1000.0, -1000.0], [0.0, 0.0, 0.0]]))
    array([[0.5, 1. , 0. ],
           [0.5, 0.5, 0.5]])
    """
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1, small) / (1 + small), dtype=np.float64)


def check_embeddings(vectors: DenseArray, *, n: int, dim: int | None, encoder: str) -> DenseArray:
    """Return `vectors` if they are `(n, dim)` float32, finite and of norm 1; otherwise raise InvalidEmbedding."""
    if vectors.shape != (n, dim) or vectors.dtype != np.float32:
        raise InvalidEmbedding(
            f"encoder {encoder} returned {vectors.dtype} {vectors.shape} for {n} inputs, not float32 ({n}, {dim})"
        )
    if not np.isfinite(vectors).all():
        raise InvalidEmbedding(f"encoder {encoder} returned a vector with NaN or infinity: try `dtype='float32'`")
    norms = np.linalg.norm(vectors, axis=1)
    if n and np.abs(norms - 1).max() > _NORM_TOLERANCE:
        worst = float(norms[np.abs(norms - 1).argmax()])
        raise InvalidEmbedding(f"encoder {encoder} returned a vector of norm {worst:.4f}, not 1")
    return vectors


Floats = npt.NDArray[np.float64]
