"""BGE-M3: one forward pass of an XLM-RoBERTa gives a dense vector, a sparse one and one vector a token.

`bge-m3:BAAI/bge-m3` is the dense vector, `?output=sparse` the lexical weights, `?output=colbert` the multivector
(arXiv 2402.03216). Three encoders of one checkpoint share its weights in memory, and `encode_text_jointly` makes
their vectors from the same hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast, get_args

import numpy as np
import torch

from mmembed.encoders.checkpoint import find_checkpoint, fingerprint, load_config
from mmembed.encoders.families.bge_m3_weights import Output, Weights, shared_weights
from mmembed.encoders.lora import given_adapter
from mmembed.encoders.presets import preset_of_model
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.tokens import token_batches
from mmembed.errors import EncoderError, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.types import Embeddings, Encoder, EncoderSpec, Kind, LoadOptions, Role, SparseVector, Vector
from mmembed.vectors import l2_normalize

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig

__all__ = ["BgeM3", "load"]

_OUTPUTS: tuple[Output, ...] = get_args(Output)
_KINDS: Mapping[Output, Kind] = {"dense": "dense", "sparse": "sparse", "colbert": "multi"}
_EXAMPLE = "bge-m3:BAAI/bge-m3"
_TOKEN_BUDGET_CPU, _TOKEN_BUDGET_GPU = 4096, 32768  # tokens a forward pass, padding included
_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 32, 256  # texts a forward pass


class BgeM3:
    """An `Encoder` of texts and a `JointEncoder`; `load` makes one."""

    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(
        self, spec: EncoderSpec, output: Output, weights: Weights, *, max_length: int, batch_size: int | None
    ) -> None:
        self.spec = spec
        self.dtype = str(weights.transformer.dtype).removeprefix("torch.")
        on_cpu = weights.transformer.device.type == "cpu"
        self.batch_size = batch_size or (_BATCH_SIZE_CPU if on_cpu else _BATCH_SIZE_GPU)
        self._token_budget = _TOKEN_BUDGET_CPU if on_cpu else _TOKEN_BUDGET_GPU
        self._output = output
        self._weights = weights
        self._max_length = max_length

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        """n strings -> `(n, dim)`, n sparse vectors or n multivectors; queries and documents are read alike.

        A sparse vector holds the weight of each token id of the text, special ones aside: none for an empty text.
        A multivector has a row of norm 1 for each token after the first, the closing one included.

        Raises:
            SettingsError: a task other than "retrieval"; these models have none.
        """
        return self.encode_text_jointly(texts, (), role=role, task=task)[0]

    def shares_forward(self, other: Encoder) -> bool:
        """Whether `other` is an output of the same weights on the same device, read to the same length."""
        return isinstance(other, BgeM3) and other._weights is self._weights and other._max_length == self._max_length

    def encode_text_jointly(
        self,
        texts: Sequence[str],
        others: Sequence[Encoder],
        *,
        role: Role,  # noqa: ARG002
        task: str | None = None,
    ) -> list[Embeddings]:
        """n strings -> this encoder's embeddings, then those of each of `others`, from one forward pass.

        Raises:
            SettingsError: one of `others` does not share it, or a task that means nothing here.
        """
        check_task(self.spec.name, task)
        asked = [self._output]
        for other in others:
            if not isinstance(other, BgeM3) or not self.shares_forward(other):
                raise SettingsError(
                    f"encoder {other.spec.name} was asked for in one pass with {self.spec.name}, but does not read "
                    f"the same hidden states: encode with each by itself"
                )
            asked.append(other._output)
        made = self._encode(texts, tuple(dict.fromkeys(asked)))
        return [made[output] for output in asked]

    def encode_image(self, images: Sequence[Image]) -> Embeddings:  # noqa: ARG002
        """Raises UnsupportedModality: only texts are read here."""
        raise UnsupportedModality(self.spec.name, "images", self.spec.modalities)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, nothing truncated."""
        return len(self._weights.tokens.ids([text])[0])

    def _encode(self, texts: Sequence[str], outputs: tuple[Output, ...]) -> dict[Output, Embeddings]:
        rows = self._weights.tokens.ids(texts, limit=self._max_length)
        found: dict[Output, dict[int, Vector]] = {output: {} for output in outputs}
        for batch in token_batches([len(row) for row in rows], budget=self._token_budget, cap=self.batch_size):
            for output, vectors in self._read_or_halve([rows[i] for i in batch], outputs).items():
                found[output].update(zip(batch, vectors, strict=True))
        return {output: self._in_order(output, vectors) for output, vectors in found.items()}

    def _in_order(self, output: Output, vectors: Mapping[int, Vector]) -> Embeddings:
        ordered = [vectors[i] for i in range(len(vectors))]
        if output != "dense":
            return cast(Embeddings, ordered)
        width = self._weights.transformer.config.hidden_size
        return np.array(ordered, dtype=np.float32).reshape(len(ordered), width)  # (0, width) for no texts

    def _read_or_halve(self, rows: list[list[int]], outputs: tuple[Output, ...]) -> dict[Output, list[Vector]]:
        """Rows of token ids -> a vector of each row for each output; a batch too large for the GPU is cut in two."""
        try:
            return self._read(rows, outputs)
        except torch.OutOfMemoryError as exc:
            if len(rows) == 1:
                raise EncoderError(
                    f"encoder {self.spec.name} has no GPU memory left for one text of {len(rows[0])} tokens: "
                    f"lower ?max_length= or free the GPU"
                ) from exc
        torch.cuda.empty_cache()  # here, where the exception and the tensors that its frames hold are gone
        middle = len(rows) // 2
        left, right = self._read_or_halve(rows[:middle], outputs), self._read_or_halve(rows[middle:], outputs)
        return {output: left[output] + right[output] for output in outputs}

    @torch.inference_mode()
    def _read(self, rows: list[list[int]], outputs: tuple[Output, ...]) -> dict[Output, list[Vector]]:
        model = self._weights.transformer
        ids = torch.full((len(rows), max(map(len, rows))), cast(int, model.config.pad_token_id))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):  # on the right: positions are counted from the left
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        states: torch.Tensor = out.last_hidden_state.float()  # (rows, width, hidden)
        if not torch.isfinite(states).all():
            raise InvalidEmbedding(
                f"encoder {self.spec.name} overflowed in {self.dtype}: try --dtype bfloat16 or float32"
            )
        return {output: _POOLS[output](states, rows, self._weights) for output in outputs}


def _dense(states: torch.Tensor, _rows: list[list[int]], _weights: Weights) -> list[Vector]:
    """The hidden state of the first token, of norm 1: `(hidden,)` a row."""
    return list(l2_normalize(states[:, 0].cpu().numpy()))


def _sparse(states: torch.Tensor, rows: list[list[int]], weights: Weights) -> list[Vector]:
    """The largest positive weight of each token id, in the order of ids; those of special tokens are dropped.

    Ids [0, 9, 7, 9, 8, 2] of weights [.9, .2, .5, .4, 0, .3] become {7: .5, 9: .4}.
    """
    tokenizer = weights.tokens.tokenizer
    special = [tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    scores = torch.relu(weights.heads["sparse"](states)).squeeze(-1).cpu().numpy()  # (rows, width)
    made: list[Vector] = []
    for row, score in zip(rows, scores, strict=True):
        indices, places = np.unique(np.array(row, dtype=np.uint32), return_inverse=True)
        values = np.zeros(len(indices), dtype=np.float32)
        np.maximum.at(values, places, score[: len(row)])
        kept = (values > 0) & ~np.isin(indices, special)
        made.append(SparseVector(indices[kept], values[kept]))
    return made


def _colbert(states: torch.Tensor, rows: list[list[int]], weights: Weights) -> list[Vector]:
    """The projection of every token but the first, of norm 1: `(tokens - 1, dim)` a row."""
    projected = weights.heads["colbert"](states[:, 1:]).cpu().numpy()  # (rows, width - 1, dim)
    return [l2_normalize(vectors[: len(row) - 1]) for row, vectors in zip(rows, projected, strict=True)]


_Pool: TypeAlias = Callable[[torch.Tensor, list[list[int]], Weights], list[Vector]]
_POOLS: Mapping[Output, _Pool] = {"dense": _dense, "sparse": _sparse, "colbert": _colbert}


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    output: str = "dense",
    revision: str | None = None,
    max_length: str | None = None,
    adapter: str | None = None,
) -> BgeM3:
    """Load `bge-m3:MODEL`, a hub id or a folder laid out like BAAI/bge-m3.

    Args:
        output: "dense", "sparse" or "colbert".
        revision: of the hub's repository; a known model has its own.
        max_length: tokens a text is cut to, 8 to the model's own 8192.
        adapter: a LoRA adapter to merge, a folder or a hub id.
    """
    if output not in _OUTPUTS:
        raise SettingsError(f"?output={output} is not one of {', '.join(_OUTPUTS)}, which a BGE-M3 makes")
    made: Output = output
    # 1. Which model, and whether it is of this family.
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLE)
    config = load_config(checkpoint, ("xlm-roberta",), _EXAMPLE, run)
    length = _context_length(config, max_length)
    # 2. Its weights, heads and tokenizer, once for all three outputs.
    adapted = given_adapter(name, checkpoint, adapter)
    weights = shared_weights(adapted, run)
    # 3. What a collection remembers of it.
    dims = {"dense": config.hidden_size, "sparse": None, "colbert": weights.heads["colbert"].out_features}
    preset = preset_of_model(checkpoint.model)
    spec = EncoderSpec(
        name=str(adapted.name),
        kind=_KINDS[made],
        dim=dims[made],
        modalities=frozenset({"text"}),
        fingerprint=fingerprint({"weights": weights.checksums[made], "output": made, "dim": dims[made]}),
        distance="dot" if made == "sparse" else "cosine",
        context_length=length,
        revision=checkpoint.revision,
        licence=preset.licence if preset else None,
    )
    return BgeM3(spec, made, weights, max_length=length, batch_size=run.batch_size)


def _context_length(config: PretrainedConfig, max_length: str | None) -> int:
    longest: int = config.max_position_embeddings - config.pad_token_id - 1  # positions start behind the padding's
    if max_length is None:
        return longest
    if not max_length.isdecimal() or not 8 <= int(max_length) <= longest:
        raise SettingsError(f"?max_length={max_length} is not a whole number from 8 to {longest}")
    return int(max_length)
