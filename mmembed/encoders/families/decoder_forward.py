"""Which forward pass a batch of token ids goes through: the cheapest of those that give a model the same vectors.

Not a family: `decoder_lm.py` makes one `DecoderForward` a model. Packing and prefixes rest on how transformers reads
what it is given, so `find_fast_passes` tries them on the model itself when it is loaded.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from mmembed.encoders.families.decoder_passes import Prefix, pool_packed, pool_padded, pool_prefixed, read_prefix
from mmembed.encoders.families.memory import TokenBatches
from mmembed.types import DenseArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_LONGEST_PREFIX = 512  # tokens, of which each holds 128 KiB of E5-Mistral's keys and values
_WORTH = 0.9  # another way is taken if it costs at most this part of the plain one
_TOLERANCE = 1e-5  # of a coordinate of unit vectors, in float32


# --- lengths -------------------------------------------------------------------------------------


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """The longest run of ids that all rows start with.

    >>> common_prefix([[1, 5, 7, 2], [1, 5, 9]])
    [1, 5]
    """
    first, last = min(map(tuple, rows)), max(map(tuple, rows))
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return list(first[:shared])


def packed_rows(lengths: Sequence[int], packs: int) -> list[list[int]]:
    """Positions of `lengths` dealt to packs of nearly equal sums: longest first, each to the emptiest pack.

    >>> packed_rows([5, 2, 4, 3], 2)
    [[0, 1], [2, 3]]
    """
    dealt: list[list[int]] = [[] for _ in range(packs)]
    filled = [(0, pack) for pack in range(packs)]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        total, pack = filled[0]
        dealt[pack].append(i)
        heapq.heapreplace(filled, (total + lengths[i], pack))
    return dealt


# --- which way -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FastPasses:
    """Which ways a model may go beside the plain one."""

    packed: bool
    prefixed: bool


@torch.inference_mode()
def find_fast_passes(model: PreTrainedModel, rows: Sequence[Sequence[int]], *, side: str, name: str) -> FastPasses:
    """Try the fast ways on `rows`, a few short texts that start alike and differ in length, against the plain one.

    Four forward passes in float32. In half precision four more measure how far the plain way is from itself, in
    a batch and alone, and the fast ways may be four times as far.
    """
    plain = normalize(pool_padded(model, rows, side=side))
    tolerance = _TOLERANCE
    if model.dtype != torch.float32:
        alone = normalize(torch.cat([pool_padded(model, [row], side=side) for row in rows]))
        rounding = torch.finfo(model.dtype).eps / math.sqrt(plain.shape[1])
        tolerance = max(tolerance, rounding, 4 * float((plain - alone).abs().max()))

    def equal(way: str, pool: Callable[[], torch.Tensor]) -> bool:
        try:
            moved = float((normalize(pool()) - plain).abs().max())
        except Exception as exc:  # whatever a model's own code raises on arguments that it does not know
            logger.warning(
                "%s cannot run %s and goes the plain, slower way: %s: %s", name, way, type(exc).__name__, exc
            )
            return False
        if moved <= tolerance:  # false for NaN
            return True
        text = "%s run %s differs by %.1e where %.1e is allowed, and goes the plain, slower way"
        logger.warning(text, name, way, moved, tolerance)
        return False

    shared = common_prefix(rows)
    return FastPasses(
        packed=equal("packed", lambda: pool_packed(model, rows, packed_rows([len(row) for row in rows], 2))),
        prefixed=bool(shared)
        and equal("after a prefix", lambda: pool_prefixed(model, rows, read_prefix(model, shared))),
    )


class DecoderForward:
    """A model with the ways that it may go; each batch goes the cheapest."""

    def __init__(
        self, name: str, model: PreTrainedModel, ways: FastPasses, *, padding_side: str, batch_size: int | None
    ) -> None:
        self.model = model
        self._batches = TokenBatches(name, model.device, batch_size, budgets=(4096, 16384))
        self.batch_size = self._batches.size
        self._ways = ways
        self._side = padding_side
        self._hidden: int = model.config.hidden_size
        # What was tried is shorter than a window of attention, so that what is longer goes the plain way.
        self._reach: int | None = getattr(model.config, "sliding_window", None)

    def prefix(self, rows: Sequence[Sequence[int]]) -> Prefix | None:
        """What `rows`, two or more that go on differently, start with, read; None where it is nothing, or too much."""
        ids = common_prefix(rows)
        cut = any(len(row) == len(ids) for row in rows)
        if not self._ways.prefixed or cut or not 0 < len(ids) <= _LONGEST_PREFIX or not self._reaches(len(ids)):
            return None
        return read_prefix(self.model, ids)

    def pool(self, rows: Sequence[Sequence[int]], prefix: Prefix | None) -> DenseArray:
        """n rows of token ids -> `(n, hidden)`, not normalised. `prefix` need not lead all of them, or any."""
        pooled = np.empty((len(rows), self._hidden), dtype=np.float32)
        kinds = [(self._reaches(len(row)), prefix is not None and prefix.leads(row)) for row in rows]
        for fits, led in sorted(set(kinds)):
            chosen = [i for i, kind in enumerate(kinds) if kind == (fits, led)]
            pool = partial(self._pool, prefix=prefix if fits and led else None)
            states = self._batches.run(pool, [rows[i] for i in chosen], [len(rows[i]) for i in chosen], len)
            pooled[chosen] = torch.stack(states).numpy()
        return pooled

    def _pool(self, rows: list[Sequence[int]], prefix: Prefix | None) -> torch.Tensor:
        """One batch, which `prefix` leads if there is one, the cheapest way: a matter of its lengths alone."""
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        plans: list[tuple[float, Callable[[], torch.Tensor]]] = []
        if prefix is not None:
            cost = self._cost(len(rows), longest - len(prefix.ids), longest)
            plans.append((cost, partial(pool_prefixed, self.model, rows, prefix)))
        if self._ways.packed and min(lengths) > 0:
            for width in (longest, 2 * longest, 4 * longest):
                packs = packed_rows(lengths, math.ceil(sum(lengths) / width))
                filled = max(sum(lengths[i] for i in pack) for pack in packs)
                if self._reaches(filled):
                    cost = self._cost(len(packs), filled, filled)
                    plans.append((cost, partial(pool_packed, self.model, rows, packs)))
        cost, pool = min(plans, key=itemgetter(0), default=(math.inf, None))
        if pool is None or cost > _WORTH * self._cost(len(rows), longest, longest):
            return pool_padded(self.model, rows, side=self._side)
        return pool()

    def _cost(self, rows: int, computed: int, attended: int) -> float:
        """In tokens' worth of matrices: 24 hidden² multiplications a layer, beside 4 hidden for each token attended to.

        Those of attention count threefold: on a CPU they take three times as long (`bench/decoder.py`).
        """
        return rows * computed * (1 + 3 * 4 * attended / (24 * self._hidden))

    def _reaches(self, length: int) -> bool:
        return self._reach is None or length <= self._reach
