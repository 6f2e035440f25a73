"""Learned sparse vectors of sentence-transformers' SparseEncoder: SPLADE, OpenSearch's, your own.

A masked language model reads a text, and the weight of each word of its vocabulary is log(1 + relu(logit)), the
largest over the text's tokens (arXiv 2109.10086). Inference-free models read documents so, and look the words of a
query up in a table (arXiv 2411.04403).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import InputModule, Router
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from torch import nn

from mmembed.encoders.checkpoint import Checkpoint, find_checkpoint
from mmembed.encoders.families.memory import TokenBatches, check_finite
from mmembed.encoders.families.sentence_models import load_model, read_layout
from mmembed.encoders.inputs import texts_in
from mmembed.encoders.lora import find_origin
from mmembed.encoders.lora_merge import build_adapted
from mmembed.encoders.prompts import own_prompts
from mmembed.encoders.registry import EncoderName, whole_number
from mmembed.encoders.text_encoder import TextEncoder
from mmembed.encoders.tokens import TokenCounter, characters
from mmembed.errors import EncoderLoadError, SettingsError
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role, SparseVector

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EXAMPLE = "splade:naver/splade-v3"
_LOGITS_CPU, _LOGITS_GPU = 2**26, 2**29  # a forward pass: one for each token and word of the vocabulary


class SpladeEncoder(TextEncoder):
    """An `Encoder` of texts to sparse vectors; `load` makes one."""

    def __init__(self, spec: EncoderSpec, model: SparseEncoder, *, top_k: int | None, batch_size: int | None) -> None:
        reader = _document_reader(model)
        self.spec = spec
        self.dtype = str(next(reader.parameters()).dtype).removeprefix("torch.")
        self._top_k = top_k
        self._model = model
        self._prompts = own_prompts(spec.name, model.prompts)
        tokenizer = cast("PreTrainedTokenizerBase", reader.tokenizer)
        budgets = (_LOGITS_CPU // len(tokenizer), _LOGITS_GPU // len(tokenizer))
        self._batches = TokenBatches(spec.name, model.device, batch_size, budgets=budgets)
        self.batch_size = self._batches.size
        self._counter = TokenCounter(tokenizer)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> list[SparseVector]:
        """n strings -> n sparse vectors: token ids in ascending order and their weights, none of them 0.

        Args:
            task: a key of the model's own prompts, as in `instructions.Prompts`; None is the prompt of the role.

        Raises:
            SettingsError: the model knows no such task.
        """
        prompt = self._prompts.lead(role, task)
        read = texts_in(texts)
        lengths = [min(self.count_tokens(prompt + text), self.spec.context_length or math.inf) for text in read]
        return self._batches.run(partial(self._weigh, role=role, prompt=prompt), read, lengths, self.count_tokens)

    def count_tokens(self, text: str) -> int:
        """Tokens of a document, special ones included, prompt excluded, nothing truncated."""
        return self._counter(characters(text))

    def _weigh(self, texts: list[str], *, role: Role, prompt: str) -> list[SparseVector]:
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        weights = encode(
            texts,
            prompt=prompt,  # "" rather than None, which would let default_prompt_name in
            batch_size=len(texts),
            convert_to_sparse_tensor=False,
            save_to_cpu=True,
            show_progress_bar=False,
        )
        table = check_finite(weights.float().numpy(), self.spec.name, self.dtype)  # (n, vocabulary)
        return [_non_zero(row, self._top_k) for row in table]


def _non_zero(weights: DenseArray, top_k: int | None) -> SparseVector:
    """`(vocabulary,)` weights -> its non-zero ones, the `top_k` largest if there are more; ties keep the lower id.

    >>> _non_zero(np.array([0, 2, 0, 3, 1], dtype=np.float32), 2)
    SparseVector(indices=array([1, 3], dtype=uint32), values=array([2., 3.], dtype=float32))
    """
    indices = np.flatnonzero(weights)
    if top_k is not None:
        indices = np.sort(indices[np.argsort(-weights[indices], kind="stable")[:top_k]])
    return SparseVector(indices.astype(np.uint32), weights[indices])


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    max_length: str | None = None,
    top_k: str | None = None,
    adapter: str | None = None,
) -> SpladeEncoder:
    """Load `splade:MODEL`: a SparseEncoder, or a bare masked language model, which is pooled as SPLADE does.

    Args:
        revision: of the hub's repository; a known model has its own.
        max_length: tokens a text is cut to, 8 to the model's own.
        top_k: weights that a vector keeps at most, of queries and documents alike. Vectors that keep more or less
            of them stay comparable, so it is not in the fingerprint.
        adapter: a LoRA adapter to merge, a folder or a hub id.
    """
    # 1. Which model, and whether its vectors are sparse.
    keep = whole_number(name, "top_k", top_k, least=1)
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLE)
    saved = _is_saved(checkpoint)
    origin = find_origin(name, checkpoint, adapter, own=False)
    model = build_adapted(origin, run, partial(_load_model, checkpoint, run), on_gpu="float16")
    # 2. How long its texts may be.
    longest = _document_reader(model).max_seq_length
    length = whole_number(name, "max_length", max_length, least=8) or longest
    if length > longest:
        raise SettingsError(f"encoder {str(name)!r} reads {longest} tokens at most: lower ?max_length={length}")
    for part in model.modules():
        if isinstance(part, InputModule) and not isinstance(part, Router):
            tokenizer = cast("PreTrainedTokenizerBase", part.tokenizer)
            tokenizer.model_max_length = min(length, tokenizer.model_max_length)
    # 3. What a collection remembers of it.
    tables = [part.weight.detach() for part in model.modules() if isinstance(part, SparseStaticEmbedding)]
    ingredients = {
        **origin.ingredients(_weight_files(checkpoint, saved=saved)),
        "tables": [hashlib.sha256(table.float().cpu().numpy().tobytes()).hexdigest() for table in tables],
        "modules": _modules(model),
        "prompts": dict(own_prompts("", model.prompts).roles),
    }
    spec = origin.spec(ingredients, kind="sparse", dim=None, context_length=length, revision=checkpoint.revision)
    return SpladeEncoder(spec, model, top_k=keep, batch_size=run.batch_size)


def _is_saved(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers saved it, with a modules.json, as opposed to a bare masked language model.

    Raises EncoderLoadError for a model of another kind, to which sentence-transformers would add random layers.
    """
    kind, config = read_layout(checkpoint)
    if kind not in (None, "SparseEncoder"):
        raise EncoderLoadError(
            f"{checkpoint.model} is a {kind}, whose vectors are not sparse: load it as sentence:{checkpoint.model}, "
            f"or name a sparse one, such as {_EXAMPLE}"
        )
    architectures = config.get("architectures") or ["model of no architecture"]
    if kind is None and not any(name.endswith("ForMaskedLM") for name in architectures):
        raise EncoderLoadError(
            f"{checkpoint.model} is a {' or '.join(architectures)} without a masked-language head to weigh words "
            f"with: name a sparse model, such as {_EXAMPLE}"
        )
    return kind is not None


def _weight_files(checkpoint: Checkpoint, *, saved: bool) -> list[Path]:
    """The files of weights of all modules, those of a Router's routes too; only after the model was loaded."""
    if not saved:
        return checkpoint.weight_files()
    root, files = checkpoint.folder("modules.json"), checkpoint.weight_files("modules.json")
    for row in json.loads((root / "modules.json").read_text("utf-8")):
        routes = root / row["path"] / "router_config.json"
        if routes.is_file():
            for part in json.loads(routes.read_text("utf-8"))["types"]:
                files += Checkpoint(str(routes.parent / part), None, local=True).weight_files()
    return files


def _load_model(checkpoint: Checkpoint, run: LoadOptions, device: str, dtype: torch.dtype) -> SparseEncoder:
    model = load_model(SparseEncoder, checkpoint, run, device, dtype)
    if model.similarity_fn_name != "dot":
        raise EncoderLoadError(
            f"{checkpoint.model} compares its vectors by {model.similarity_fn_name}, Qdrant compares sparse ones by "
            f"dot product only: name another model"
        )
    return model


def _document_reader(model: SparseEncoder) -> InputModule:
    """The module that reads documents: the first, or in a Router the first of their route."""
    first = model[0]
    if isinstance(first, Router):
        route = "document" if "document" in first.sub_modules else first.default_route or next(iter(first.sub_modules))
        first = cast(nn.Sequential, first.sub_modules[route])[0]
    return cast(InputModule, first)


def _modules(model: SparseEncoder) -> list[list[object]]:
    """Class, pooling and activation of each module in order, those of a Router's routes too."""
    return [
        [type(part).__name__, getattr(part, "pooling_strategy", None), getattr(part, "activation_function", None)]
        for part in model.modules()
        if type(part).__module__.startswith("sentence_transformers.") and part is not model
    ]
