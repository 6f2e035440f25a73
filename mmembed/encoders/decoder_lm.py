"""Decoder language models pooled at their last token: E5-Mistral, Qwen3-Embedding, harrier.

One class, one row of data a family. A decoder sees only what came before, so the vector of a text is the
hidden state of its last token; that must be the closing token the model was trained on, which is why the
tokenizer is checked when it is loaded (transformers 5 silently drops it from E5-Mistral's).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmembed.errors import EncoderError, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.hub import find_checkpoint, load_config, load_weights
from mmembed.instructions import query_prefix
from mmembed.loading import fingerprint, weights_checksum
from mmembed.presets import preset_of_model
from mmembed.registry import EncoderName
from mmembed.tokens import Tokens, load_tokens
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role
from mmembed.vectors import truncate

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["DecoderLM", "Family", "load_e5_mistral", "load_harrier", "load_qwen3", "token_batches"]

_TOKEN_BUDGET_CPU, _TOKEN_BUDGET_GPU = 4096, 16384  # tokens a forward pass, padding included
_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 32, 256  # texts a forward pass


@dataclass(frozen=True)
class Family:
    """What tells one family from another."""

    example: str
    model_types: tuple[str, ...]  # of config.json
    query_prompt: str  # documents have none
    context_length: int
    tokenizer_flags: Mapping[str, bool] = field(default_factory=dict)
    first: str | None = None  # the token every text must start with; None: whatever the tokenizer does
    last: str | None = None  # the token every text must end with; None: whatever the tokenizer does
    padding_side: str = "right"
    gpu_dtype: str = "bfloat16"
    matryoshka_dims: tuple[int, ...] = ()  # below the model's own; any between the first and it will do


_QWEN3_DIMS = (32, 64, 128, 256, 512, 1024, 2048)

E5_MISTRAL = Family(
    example="e5-mistral:intfloat/e5-mistral-7b-instruct",
    model_types=("mistral",),
    query_prompt="Instruct: {task}\nQuery: ",  # with a space, unlike the others
    context_length=4096,  # the card: "not recommended beyond 4096", though the positions reach 32768
    # Both must be passed: tokenizer_config.json's own are ignored since transformers 5, and one alone drops the other.
    tokenizer_flags={"add_bos_token": True, "add_eos_token": True},
    first="<s>",
    last="</s>",
    gpu_dtype="float16",
)
QWEN3 = Family(
    example="qwen3:Qwen/Qwen3-Embedding-0.6B",
    model_types=("qwen3",),
    query_prompt="Instruct: {task}\nQuery:",
    context_length=32768,
    last="<|endoftext|>",
    padding_side="left",
    matryoshka_dims=_QWEN3_DIMS,
)
HARRIER = Family(
    example="harrier:microsoft/harrier-oss-v1-270m",
    model_types=("gemma3_text", "qwen3"),
    query_prompt="Instruct: {task}\nQuery:",
    context_length=32768,
)


class DecoderLM:
    """An `Encoder` of texts; `load_e5_mistral` and its like make one."""

    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(
        self,
        spec: EncoderSpec,
        family: Family,
        tokens: Tokens,
        model: PreTrainedModel,
        *,
        max_length: int,
        batch_size: int | None,
    ) -> None:
        self.spec = spec
        self.dtype = str(model.dtype).removeprefix("torch.")
        on_cpu = model.device.type == "cpu"
        self.batch_size = batch_size or (_BATCH_SIZE_CPU if on_cpu else _BATCH_SIZE_GPU)
        self._token_budget = _TOKEN_BUDGET_CPU if on_cpu else _TOKEN_BUDGET_GPU
        self._family = family
        self._tokens = tokens
        self._model = model
        self._max_length = max_length

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`. A query is led by the instruction of `task`; a document is taken as it is.

        Args:
            task: a name of `mmembed.instructions.known_tasks()` or an instruction; None is a web search, "" none.
                A symmetric task (similarity, clustering) encodes both sides as queries.
        """
        prefix = "" if role == "document" else query_prefix(self._family.query_prompt, task)
        rows = self._tokens.ids([prefix + text for text in texts], limit=self._max_length)
        pooled = np.empty((len(rows), self._model.config.hidden_size), dtype=np.float32)
        for batch in token_batches([len(row) for row in rows], budget=self._token_budget, cap=self.batch_size):
            pooled[batch] = self._pool_or_halve([rows[i] for i in batch]).numpy()
        if not np.isfinite(pooled).all():
            raise InvalidEmbedding(
                f"encoder {self.spec.name} overflowed in {self.dtype}: try --dtype bfloat16 or float32"
            )
        return truncate(pooled, self.spec.dim or pooled.shape[1])  # in float32: half precision leaves norms off by 1e-3

    def encode_image(self, images: Sequence[Image]) -> DenseArray:  # noqa: ARG002
        """Raises UnsupportedModality: these models read text only."""
        raise UnsupportedModality(self.spec.name, "images", self.spec.modalities)

    def count_tokens(self, text: str) -> int:
        """Tokens of a document, special ones included, nothing truncated."""
        return len(self._tokens.ids([text])[0])

    def _pool_or_halve(self, rows: list[list[int]]) -> torch.Tensor:
        """Rows of token ids -> `(len(rows), hidden)`; a batch that the GPU has no room for is cut in two."""
        try:
            return self._pool(rows)
        except torch.OutOfMemoryError as exc:
            if len(rows) == 1:
                raise EncoderError(
                    f"encoder {self.spec.name} has no GPU memory left for one text of {len(rows[0])} tokens: "
                    f"lower ?max_length= or free the GPU"
                ) from exc
        torch.cuda.empty_cache()  # here, where the exception and the tensors that its frames hold are gone
        middle = len(rows) // 2
        return torch.cat([self._pool_or_halve(rows[:middle]), self._pool_or_halve(rows[middle:])])

    @torch.inference_mode()
    def _pool(self, rows: list[list[int]]) -> torch.Tensor:
        """Rows of token ids -> hidden states of their last tokens, `(len(rows), hidden)` float32 on the CPU."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._tokens.after[-1] if self._tokens.after else 0)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            span = slice(width - len(row), width) if self._family.padding_side == "left" else slice(len(row))
            ids[i, span] = torch.tensor(row)
            mask[i, span] = 1
        device = self._model.device
        out = self._model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        last = width - 1 - mask.flip(1).argmax(1)  # of each row's last token that is not padding
        states: torch.Tensor = out.last_hidden_state[torch.arange(len(rows)), last.to(device)]  # (rows, hidden)
        return states.float().cpu()


def token_batches(lengths: Sequence[int], *, budget: int, cap: int) -> Iterator[list[int]]:
    """Positions of `lengths` in batches, longest first, of at most `cap` rows and `budget` padded tokens.

    A row longer than the budget is a batch of its own.

    >>> list(token_batches([2, 9, 4, 3], budget=8, cap=2))
    [[1], [2, 3], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, min(cap, budget // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size


def load_e5_mistral(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    max_length: str | None = None,
    dim: str | None = None,
) -> DecoderLM:
    """E5-Mistral-7B-instruct and models laid out like it (arXiv 2401.00368). For a GPU: 14 GFLOP a token."""
    return _load(name, run, E5_MISTRAL, revision=revision, max_length=max_length, dim=dim)


def load_qwen3(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    max_length: str | None = None,
    dim: str | None = None,
) -> DecoderLM:
    """Qwen3-Embedding 0.6B, 4B, 8B: Matryoshka from 32 dimensions up."""
    return _load(name, run, QWEN3, revision=revision, max_length=max_length, dim=dim)


def load_harrier(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    max_length: str | None = None,
    dim: str | None = None,
) -> DecoderLM:
    """harrier-oss-v1: 270m on Gemma 3, 0.6b on Qwen3."""
    return _load(name, run, HARRIER, revision=revision, max_length=max_length, dim=dim)


def _load(
    name: EncoderName,
    run: LoadOptions,
    family: Family,
    *,
    revision: str | None,
    max_length: str | None,
    dim: str | None,
) -> DecoderLM:
    # 1. Which model, and whether it is of this family.
    checkpoint = find_checkpoint(name, revision=revision, example=family.example)
    config = load_config(checkpoint, family.model_types, family.example, run)
    length = min(family.context_length, config.max_position_embeddings)
    length = _whole_number("max_length", max_length, low=8, high=config.max_position_embeddings) or length
    width = _whole_number("dim", dim, low=_least_dim(name, dim, family, config), high=config.hidden_size)
    # 2. Its tokenizer, refused unless it frames texts as in training, and its weights.
    tokens = load_tokens(
        checkpoint,
        flags=family.tokenizer_flags,
        first=family.first,
        last=family.last,
        trust_remote_code=run.trust_remote_code,
    )
    model = load_weights(checkpoint, run, on_gpu=family.gpu_dtype)
    # 3. What a collection remembers of it.
    preset = preset_of_model(checkpoint.model)
    spec = EncoderSpec(
        name=str(name.with_model(checkpoint.model)),
        kind="dense",
        dim=width or config.hidden_size,
        modalities=frozenset({"text"}),
        fingerprint=fingerprint(
            {
                "weights": weights_checksum(checkpoint.weight_files()),
                "dim": width or config.hidden_size,
                "pooling": "last token",
                "query_prompt": family.query_prompt,
                "document_prompt": "",
                "before": tokens.words(tokens.before),
                "after": tokens.words(tokens.after),
            }
        ),
        matryoshka_dims=_matryoshka_dims(family, config),
        context_length=length,
        revision=checkpoint.revision,
        licence=preset.licence if preset else None,
    )
    return DecoderLM(spec, family, tokens, model, max_length=length, batch_size=run.batch_size)


def _matryoshka_dims(family: Family, config: PretrainedConfig) -> tuple[int, ...]:
    if not family.matryoshka_dims:
        return ()
    return (*(dim for dim in family.matryoshka_dims if dim < config.hidden_size), config.hidden_size)


def _least_dim(name: EncoderName, dim: str | None, family: Family, config: PretrainedConfig) -> int:
    """The smallest dim a vector may be cut to. Raises SettingsError if one is asked for and the model has none."""
    dims = _matryoshka_dims(family, config)
    if not dims and dim is not None:
        raise SettingsError(
            f"encoder {str(name)!r} was asked for fewer dimensions, but {name.family} was not trained so that its "
            f"first ones stand alone (Matryoshka): leave ?dim= away"
        )
    return min(dims, default=config.hidden_size)


def _whole_number(option: str, value: str | None, *, low: int, high: int) -> int | None:
    if value is None:
        return None
    if not value.isdecimal() or not low <= int(value) <= high:
        raise SettingsError(f"?{option}={value} is not a whole number from {low} to {high}")
    return int(value)
