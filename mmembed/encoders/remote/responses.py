"""What an embeddings API sends back: every input's vector once, in order, finite and of the promised size."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmembed.errors import InvalidEmbedding
from mmembed.types import DenseArray


def rows_by_index(answer: Mapping[str, Any]) -> list[object]:
    """`{"data": [{"index": 1, "embedding": b}, {"index": 0, "embedding": a}]}` -> [a, b].

    Raises InvalidEmbedding if an index is missing, twice there or no number from 0 on.
    """
    rows = answer.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidEmbedding('the answer has no list of objects under "data": it is not that of an embeddings API')
    indices = [row.get("index") for row in rows]
    if not all(type(index) is int for index in indices) or sorted(indices) != list(range(len(rows))):
        numbers = ", ".join(str(index) if type(index) is int else _kind(index) for index in indices)
        raise InvalidEmbedding(
            f"the answer numbers its {len(rows)} vectors [{numbers[:80]}], not each once from 0 on: "
            f"which is which cannot be known"
        )
    return [row.get("embedding") for row in sorted(rows, key=lambda row: int(row["index"]))]


def to_vectors(rows: Sequence[object], *, n: int, width: int | None, host: str) -> DenseArray:
    """Rows as lists of numbers or as base64 of little-endian float32 -> `(n, width)`, not yet of norm 1.

    `width` None takes what comes, alike for all. Raises InvalidEmbedding for anything else than n such rows,
    for NaN or infinity, and for a row of zeros.
    """
    if len(rows) != n:
        raise InvalidEmbedding(f"{host} returned {len(rows)} vectors for {n} inputs: none of them is used")
    vectors = [_vector(row, host) for row in rows]
    widths = {len(vector) for vector in vectors}
    if n and (len(widths) > 1 or (width is not None and widths != {width})):
        expected = f"{width} were expected" if width is not None else "all must be alike"
        raise InvalidEmbedding(
            f"{host} returned vectors of {' and '.join(map(str, sorted(widths)))} dimensions where {expected}: "
            f"see that ?dim= is one of the model's own sizes"
        )
    stacked = np.stack(vectors) if vectors else np.empty((0, width or 0), dtype=np.float32)
    if not np.isfinite(stacked).all() or not stacked.any(axis=1).all():
        raise InvalidEmbedding(f"{host} returned a vector of zeros or with NaN or infinity: it has no direction")
    return stacked


def _vector(row: object, host: str) -> npt.NDArray[np.float32]:
    if isinstance(row, str):
        try:
            content = base64.b64decode(row, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise InvalidEmbedding(f"{host} returned a vector that is not base64 ({exc})") from exc
        if len(content) % 4:
            raise InvalidEmbedding(f"{host} returned a vector of {len(content)} bytes, which is not a row of float32")
        return np.frombuffer(content, dtype="<f4").astype(np.float32)
    try:
        array = np.asarray(row)
    except ValueError as exc:  # lists of several lengths
        raise InvalidEmbedding(f"{host} returned a vector that is not a list of numbers ({exc})") from exc
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise InvalidEmbedding(f"{host} returned a vector that is not a list of numbers but {_kind(row)}")
    with np.errstate(over="ignore"):  # becomes infinity, which is refused
        return array.astype(np.float32)


def _kind(value: object) -> str:
    """What a message says of a value from outside: never the value itself, since servers repeat what they are sent."""
    if isinstance(value, list):
        return f"a list of {' and '.join(sorted({type(item).__name__ for item in value})) or 'nothing'}"
    return "null" if value is None else type(value).__name__
