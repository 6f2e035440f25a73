"""What an encoder returned, one vector at a time: its form, and how far two vectors are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmembed.testing.report import Fault
from mmembed.types import DenseArray, EncoderSpec, Kind, SparseVector, Vector

_NORM_TOLERANCE = 1e-4  # float32 rows are within 1e-6; those normalised in half precision are off by 2e-4 or more


def split_rows(embeddings: Any, n: int, kind: Kind) -> list[Vector]:
    """`(n, dim)`, n sparse vectors or n multivectors -> n vectors. Raises Fault for anything else."""
    try:
        rows: list[Vector] = [_row(row, kind) for row in embeddings]
    except Exception as exc:  # a stranger's objects may raise anything
        raise Fault(f"{n} inputs became {_describe(embeddings)}, which are not {kind} vectors ({exc})") from exc
    if len(rows) != n:
        raise Fault(f"{n} inputs became {len(rows)} vectors")
    return rows


def _row(row: Any, kind: Kind) -> Vector:
    if kind == "sparse":
        indices, values = np.asarray(row.indices), np.asarray(row.values, dtype=np.float32)
        if indices.shape != values.shape or indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(f"{indices.dtype} indices {indices.shape} beside values {values.shape}")
        if indices.size and indices.min() < 0:
            raise ValueError(f"one of them has the index {indices.min()}")
        return SparseVector(indices.astype(np.uint32), values)
    array: DenseArray = np.asarray(row, dtype=np.float32)
    if array.ndim != (2 if kind == "multi" else 1):
        raise ValueError(f"one of them is {array.shape}")
    return array


def check_form(embeddings: Any, n: int, spec: EncoderSpec) -> str:
    """Tell the form of n embeddings, or raise Fault unless they are what types.Embeddings promises."""
    rows = split_rows(embeddings, n, spec.kind)
    if spec.kind == "dense":
        shape = embeddings.shape if isinstance(embeddings, np.ndarray) else None
        if shape != (n, spec.dim) or embeddings.dtype != np.float32:
            raise Fault(f"{n} inputs became {_describe(embeddings)}, not a float32 array ({n}, {spec.dim})")
        _check_norms(embeddings)
        return f"float32 ({n}, {spec.dim}), norm 1"
    if not isinstance(embeddings, list):
        raise Fault(f"{n} inputs became {_describe(embeddings)}, not a list of {n}")
    for original, row in zip(embeddings, rows, strict=True):
        if isinstance(row, SparseVector):
            _check_sparse(original, row)
        else:
            _check_multi(original, spec)
    return f"{n} sparse vectors" if spec.kind == "sparse" else f"{n} multivectors of {spec.dim}, norm 1"


def _check_norms(rows: DenseArray) -> None:
    if not np.isfinite(rows).all():
        raise Fault("a vector holds NaN or infinity")
    norms = np.linalg.norm(rows, axis=1)
    if rows.size and np.abs(norms - 1).max() > _NORM_TOLERANCE:
        raise Fault(f"a vector has the norm {float(norms[np.abs(norms - 1).argmax()]):.5f}, not 1")


def _check_sparse(original: Any, row: SparseVector) -> None:
    if np.asarray(original.values).dtype != np.float32:
        raise Fault(f"the values of a sparse vector are {np.asarray(original.values).dtype}, not float32")
    if not np.isfinite(row.values).all() or not row.values.all():
        raise Fault("a sparse vector holds a value that is 0 or not finite")
    if len(np.unique(row.indices)) != len(row.indices):
        raise Fault("a sparse vector has an index twice")


def _check_multi(original: Any, spec: EncoderSpec) -> None:
    sound = isinstance(original, np.ndarray) and original.dtype == np.float32 and original.shape[1] == spec.dim
    if not sound or not len(original):
        raise Fault(f"a multivector is {_describe(original)}, not a float32 array (1 or more, {spec.dim})")
    _check_norms(original)


def distance(one: Vector, other: Vector) -> float:
    """Between two vectors brought to norm 1, from 0 to 2; of two multivectors, of the rows farthest apart.

    Infinite where they cannot be compared: another shape, or not finite. The cosine is 1 - distance ** 2 / 2,
    but in float32 the cosine of near vectors is noise and their distance is not.
    """
    if isinstance(one, SparseVector) or isinstance(other, SparseVector):
        if not (isinstance(one, SparseVector) and isinstance(other, SparseVector)):
            return np.inf
        one, other = _on_common_axes(one, other)
    if one.shape != other.shape:
        return np.inf
    apart = np.linalg.norm(_directions(one) - _directions(other), axis=-1).max(initial=0.0)
    return float(apart) if np.isfinite(apart) else np.inf


def similarity(one: Vector, other: Vector) -> float:
    """The cosine, or MaxSim of two multivectors as they are: the best match of each row of `one`, summed."""
    if isinstance(one, SparseVector) and isinstance(other, SparseVector):
        query, document = _on_common_axes(one, other)
        return float(_directions(query) @ _directions(document))
    if isinstance(one, SparseVector) or isinstance(other, SparseVector):
        return -np.inf
    return float((one @ other.T).max(axis=1).sum())


def _directions(vectors: DenseArray) -> npt.NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=-1, keepdims=True)
    directions: npt.NDArray[np.float64] = exact / np.where(norms > 0, norms, 1)
    return directions


def _on_common_axes(one: SparseVector, other: SparseVector) -> tuple[DenseArray, DenseArray]:
    axes = np.union1d(one.indices, other.indices)
    dense = np.zeros((2, len(axes)), dtype=np.float32)
    for row, sparse in zip(dense, (one, other), strict=True):
        row[np.searchsorted(axes, sparse.indices)] = sparse.values
    return dense[0], dense[1]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")
