"""Three forward passes of a decoder: rows of token ids -> hidden states of their last tokens, the same from each.

padded    every text a row, filled up to the longest: the plain way, which always works
packed    several texts a row, their positions starting anew: transformers then keeps them apart (`masking_utils.py`:
          only without an attention mask and without a cache), and hardly any padding is computed
prefixed  what all texts of a task start with is read once, and its keys and values are lent to every batch

Not a family: `decoder_forward.py` chooses between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PADDING = 0  # any id of the vocabulary: no text attends to it


@dataclass(frozen=True)
class Prefix:
    """The first tokens of many texts, with their keys and values at every layer. Never changed once made."""

    ids: tuple[int, ...]
    cache: Cache

    def leads(self, row: Sequence[int]) -> bool:
        """Whether `row` starts with it and goes on."""
        return len(row) > len(self.ids) and tuple(row[: len(self.ids)]) == self.ids


class _LentLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values of a prefix, `(1, heads, tokens, head_dim)`, put before those of any batch.

    What a batch adds is not kept: the cache stays as it is, for the next batch and for other threads. It holds the
    whole prefix at sliding layers too, where transformers' mask hides what is out of the window.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = self._lent = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (part.expand(len(key_states), -1, -1, -1) for part in self._lent)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


@torch.inference_mode()
def read_prefix(model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
    """One forward pass over `ids`, of which the keys and values are kept."""
    cache = DynamicCache()  # without a config: one that knows of a window forgets what lies before it
    model(input_ids=torch.tensor([list(ids)], device=model.device), past_key_values=cache, use_cache=True)
    return Prefix(tuple(ids), Cache(layers=[_LentLayer(keys, values) for keys, values, _ in cache]))


@torch.inference_mode()
def pool_padded(model: PreTrainedModel, rows: Sequence[Sequence[int]], *, side: str) -> torch.Tensor:
    """n rows of token ids, padded on the "left" or "right" -> `(n, hidden)` float32 on the CPU."""
    width = max(1, *(len(row) for row in rows))
    ids = torch.full((len(rows), width), _PADDING)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
    last = width - 1 - mask.flip(1).argmax(1)  # of each row's last token that is not padding
    return _states(out, torch.arange(len(rows)), last)


@torch.inference_mode()
def pool_packed(model: PreTrainedModel, rows: Sequence[Sequence[int]], packs: Sequence[Sequence[int]]) -> torch.Tensor:
    """n rows of token ids, laid end to end as `packs` tell -> `(n, hidden)` float32 on the CPU.

    What fills a pack up is to the model a text of one token each, so that nothing needs masking: rows of 3 and 2 in a
    pack of 7 have positions 0 1 2 | 0 1 | 0 | 0.
    """
    width = max(sum(len(rows[i]) for i in pack) for pack in packs)
    ids = torch.full((len(packs), width), _PADDING)
    positions = torch.zeros_like(ids)
    ends = torch.empty(len(rows), 2, dtype=torch.long)  # pack and column of each row's last token
    for number, pack in enumerate(packs):
        start = 0
        for i in pack:
            end = start + len(rows[i])
            ids[number, start:end] = torch.tensor(rows[i])
            positions[number, start:end] = torch.arange(end - start)
            ends[i] = torch.tensor([number, end - 1])
            start = end
    out = model(input_ids=ids.to(model.device), position_ids=positions.to(model.device), use_cache=False)
    return _states(out, *ends.T)


@torch.inference_mode()
def pool_prefixed(model: PreTrainedModel, rows: Sequence[Sequence[int]], prefix: Prefix) -> torch.Tensor:
    """n rows that `prefix` leads -> `(n, hidden)` float32 on the CPU; only what follows the prefix is computed.

    Padded on the right without a mask: a decoder's last token does not see what comes after it.
    """
    rests = [torch.tensor(row[len(prefix.ids) :]) for row in rows]
    ids = pad_sequence(rests, batch_first=True, padding_value=_PADDING)
    lengths = torch.tensor([len(rest) for rest in rests])
    out = model(input_ids=ids.to(model.device), past_key_values=prefix.cache, use_cache=True)
    return _states(out, torch.arange(len(rows)), lengths - 1)


def _states(out: Any, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    hidden: torch.Tensor = out.last_hidden_state  # (rows, columns, hidden)
    return hidden[rows.to(hidden.device), columns.to(hidden.device)].float().cpu()
