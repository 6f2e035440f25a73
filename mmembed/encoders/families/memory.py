"""What can go wrong in a forward pass of any family: no room on the GPU, numbers that half precision cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from mmembed.errors import EncoderError, InvalidEmbedding
from mmembed.types import DenseArray

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_halves(run: Callable[[list[_T]], _R], rows: list[_T], *, encoder: str, count: Callable[[_T], int]) -> list[_R]:
    """`[run(rows)]`; where the GPU has no room for them, what each half comes to in the same way, in order.

    Raises EncoderError for a single row that is too long, with its tokens by `count`.
    """
    try:
        return [run(rows)]
    except torch.OutOfMemoryError as exc:
        if len(rows) == 1:
            raise EncoderError(
                f"encoder {encoder} has no GPU memory left for one text of {count(rows[0])} tokens: "
                f"lower ?max_length= or free the GPU"
            ) from exc
    torch.cuda.empty_cache()  # here, where the exception and the tensors that its frames hold are gone
    middle = len(rows) // 2
    halves = rows[:middle], rows[middle:]
    return [result for half in halves for result in in_halves(run, half, encoder=encoder, count=count)]


def in_smaller_batches(run: Callable[[int], _T], batch_size: int, *, name: str) -> _T:
    """`run(batch_size)`, again with half of it for as long as the GPU has no room. EncoderError where 1 is too many."""
    while True:
        try:
            return run(batch_size)
        except torch.OutOfMemoryError as exc:
            if batch_size == 1:
                raise EncoderError(
                    f"{name} has no GPU memory left for a single input: free the GPU, or take smaller pictures or texts"
                ) from exc
        torch.cuda.empty_cache()  # here, where the exception and the tensors that its frames hold are gone
        batch_size //= 2


def check_finite(rows: DenseArray, encoder: str, dtype: str) -> DenseArray:
    """`rows` as they are. Raises InvalidEmbedding for NaN or infinity, which half precision can come to."""
    if not np.isfinite(rows).all():
        raise overflow(encoder, dtype)
    return rows


def overflow(encoder: str, dtype: str) -> InvalidEmbedding:
    """What to raise for vectors that are not finite."""
    return InvalidEmbedding(f"encoder {encoder} overflowed in {dtype}: try `dtype='bfloat16'` or `dtype='float32'`")
