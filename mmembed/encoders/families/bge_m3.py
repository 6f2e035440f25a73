"""BGE-M3: one forward pass of an XLM-RoBERTa gives a dense vector, a sparse one and one vector a token.

`bge-m3:BAAI/bge-m3` is the dense vector, `?output=sparse` the lexical weights, `?output=colbert` the multivector
(arXiv 2402.03216). Three encoders of one checkpoint share its weights in memory, and `encode_text_jointly` makes
their vectors from the same hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeAlias, cast, get_args

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from mmembed.encoders.checkpoint import find_checkpoint, load_config
from mmembed.encoders.families.bge_m3_weights import Output, Weights, shared_weights
from mmembed.encoders.families.memory import TokenBatches, overflow
from mmembed.encoders.inputs import texts_in
from mmembed.encoders.lora import find_origin
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName, whole_number
from mmembed.encoders.text_encoder import TextEncoder
from mmembed.errors import SettingsError
from mmembed.types import Embeddings, Encoder, EncoderSpec, Kind, LoadOptions, Role, SparseVector, Vector
from mmembed.vectors import l2_normalize

_OUTPUTS: tuple[Output, ...] = get_args(Output)
_KINDS: Mapping[Output, Kind] = {"dense": "dense", "sparse": "sparse", "colbert": "multi"}
_EXAMPLE = "bge-m3:BAAI/bge-m3"


class BgeM3(TextEncoder):
    """An `Encoder` of texts and a `JointEncoder`; `load` makes one."""

    def __init__(
        self, spec: EncoderSpec, output: Output, weights: Weights, *, max_length: int, batch_size: int | None
    ) -> None:
        self.spec = spec
        self.dtype = str(weights.transformer.dtype).removeprefix("torch.")
        self._batches = TokenBatches(spec.name, weights.transformer.device, batch_size, budgets=(4096, 32768))
        self.batch_size = self._batches.size
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
        role: Role,
        task: str | None = None,
    ) -> list[Embeddings]:
        """n strings -> this encoder's embeddings, then those of each of `others`, from one forward pass.

        Raises:
            SettingsError: one of `others` does not share it, or a task that means nothing here.
        """
        check_task(self.spec.name, task)
        outputs = [self._output]
        for other in others:
            if not isinstance(other, BgeM3) or not self.shares_forward(other):
                raise SettingsError(
                    f"encoder {other.spec.name} was asked for in one pass with {self.spec.name}, but does not read "
                    f"the same hidden states: encode with each by itself"
                )
            outputs.append(other._output)
        rows = self._weights.tokens.ids(texts_in(texts), limit=self._max_length)
        vectors = self._batches.run(partial(self._read, outputs=set(outputs)), rows, list(map(len, rows)), len)
        return [self._embeddings(output, [row[output] for row in vectors]) for output in outputs]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, nothing truncated."""
        return len(self._weights.tokens.ids([text])[0])

    def _embeddings(self, output: Output, vectors: list[Vector]) -> Embeddings:
        if output != "dense":
            return cast(Embeddings, vectors)
        width = self._weights.transformer.config.hidden_size
        return np.array(vectors, dtype=np.float32).reshape(len(vectors), width)  # (0, width) for no texts

    @torch.inference_mode()
    def _read(self, rows: list[list[int]], *, outputs: Collection[Output]) -> list[dict[Output, Vector]]:
        """Rows of token ids -> the vectors of each row, by output."""
        model = self._weights.transformer
        padding = cast(int, model.config.pad_token_id)  # on the right: positions are counted from the left
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
        out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
        states: torch.Tensor = out.last_hidden_state.float()  # (rows, width, hidden)
        if not torch.isfinite(states).all():
            raise overflow(self.spec.name, self.dtype)
        vectors = zip(*(_POOLS[output](states, rows, self._weights) for output in outputs), strict=True)
        return [dict(zip(outputs, row, strict=True)) for row in vectors]


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
    vectors: list[Vector] = []
    for row, score in zip(rows, scores, strict=True):
        indices, places = np.unique(np.array(row, dtype=np.uint32), return_inverse=True)
        values = np.zeros(len(indices), dtype=np.float32)
        np.maximum.at(values, places, score[: len(row)])
        counts = (values > 0) & ~np.isin(indices, special)
        vectors.append(SparseVector(indices[counts], values[counts]))
    return vectors


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
    # 1. Which model, and whether it is of this family.
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLE)
    config = load_config(checkpoint, ("xlm-roberta",), _EXAMPLE, run)
    longest = config.max_position_embeddings - config.pad_token_id - 1  # positions start behind the padding's
    length = whole_number(name, "max_length", max_length, least=8, most=longest) or longest
    # 2. Its weights, heads and tokenizer, once for all three outputs.
    origin = find_origin(name, checkpoint, adapter, own=False)
    weights = shared_weights(origin, run)
    # 3. What a collection remembers of it.
    dims = {"dense": config.hidden_size, "sparse": None, "colbert": weights.heads["colbert"].out_features}
    ingredients = {"weights": weights.checksums[output], "output": output, "dim": dims[output]}
    spec = origin.spec(
        ingredients, kind=_KINDS[output], dim=dims[output], context_length=length, revision=checkpoint.revision
    )
    return BgeM3(spec, output, weights, max_length=length, batch_size=run.batch_size)
