"""What can go wrong in a forward pass of any family: no room on the GPU, numbers that half precision cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch

from mmembed.encoders.tokens import token_batches
from mmembed.errors import EncoderError, InvalidEmbedding
from mmembed.types import DenseArray

_T = TypeVar("_T")
_R = TypeVar("_R")


class TokenBatches:
    """Forward passes over texts, of at most `size` texts and `budget` padded tokens each; `budgets`: on CPU and GPU."""

    def __init__(self, encoder: str, device: torch.device, size: int | None, *, budgets: tuple[int, int]) -> None:
        on_gpu = device.type != "cpu"
        self.size = size or (256 if on_gpu else 32)
        self.budget = budgets[on_gpu]
        self._encoder = encoder

    def run(
        self,
        forward: Callable[[list[_T]], Iterable[_R]],
        rows: Sequence[_T],
        lengths: Sequence[float],
        count: Callable[[_T], int],
    ) -> list[_R]:
        """What `forward` makes of each row, in order; a batch that the GPU has no room for is halved.

        Raises EncoderError for a single row that is too long, with its tokens by `count`.
        """
        made: dict[int, _R] = {}
        for batch in token_batches(lengths, budget=self.budget, cap=self.size):
            made.update(zip(batch, self._in_halves(forward, [rows[i] for i in batch], count), strict=True))
        return [made[i] for i in range(len(made))]

    def _in_halves(
        self, forward: Callable[[list[_T]], Iterable[_R]], rows: list[_T], count: Callable[[_T], int]
    ) -> list[_R]:
        try:
            return [*forward(rows)]
        except torch.OutOfMemoryError as exc:
            if len(rows) == 1:
                raise EncoderError(
                    f"encoder {self._encoder} has no GPU memory left for one text of {count(rows[0])} tokens: "
                    f"lower ?max_length= or free the GPU"
                ) from exc
        torch.cuda.empty_cache()  # here, where the exception and the tensors that its frames hold are gone
        halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        return [one for half in halves for one in self._in_halves(forward, half, count)]


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
