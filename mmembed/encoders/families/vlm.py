"""`vlm`: multimodal language models that embed texts and pictures, through sentence-transformers.

    vlm:Qwen/Qwen3-VL-Embedding-2B      the instruction is the system message (arXiv 2601.04720)
    vlm:google/embeddinggemma-2         "task: search result | query: " before a query
    vlm:./folder                        any sentence-transformers model that reads both

Options: `revision=COMMIT`, `dim=` of a Matryoshka model, `max_pixels=` where the model takes pictures of any
size: fewer pixels are fewer tokens, which is time and memory.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from mmembed.encoders.checkpoint import Checkpoint, find_checkpoint
from mmembed.encoders.families.sentence_models import (
    PlainText,
    encode_dense,
    full_dim,
    image_settings,
    load_model,
    matryoshka_dim,
    module_settings,
    read_layout,
    to_readable,
    token_limit,
)
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.lora import find_origin
from mmembed.encoders.lora_merge import build_adapted
from mmembed.encoders.presets import Preset
from mmembed.encoders.prompts import Prompts, is_symmetric, known_tasks
from mmembed.encoders.registry import EncoderName, matryoshka_dims, whole_number
from mmembed.encoders.tokens import TokenCounter
from mmembed.errors import EncoderLoadError, SettingsError
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role
from mmembed.vectors import truncate

_EXAMPLE = "vlm:Qwen/Qwen3-VL-Embedding-2B"
_TOWERS = {"clip": "clip", "siglip": "siglip", "siglip2": "siglip"}  # model types with a family of their own
_PIXELS = {"qwen3_vl": (4 * 32 * 32, 1800 * 32 * 32)}
"""Fewest and most pixels of a picture by model type, where the published files allow more than was trained with."""
_UNUSED_TOWERS = {"embedding_gemma2": {"audio_config": None}}
"""Parts of a config to leave out by model type: no sounds are encoded here."""

_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 4, 16
_GPU_DTYPE = "bfloat16"  # Gemma overflows in float16


class MultimodalEncoder:
    """An `Encoder` of texts and pictures in one space; `load` makes one."""

    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(
        self, spec: EncoderSpec, model: SentenceTransformer, lead: VlmPrompts, *, batch_size: int | None
    ) -> None:
        self.spec = spec
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.batch_size = batch_size or (_BATCH_SIZE_CPU if model.device.type == "cpu" else _BATCH_SIZE_GPU)
        self._model = model
        self._lead = lead
        self._plain = PlainText(model.tokenizer)
        self._counter = TokenCounter(model.tokenizer)
        self._frame: int | None = None  # tokens of a chat template around a text; its borders merge with none of it
        if "message" in model.modalities:
            framed = model.preprocess([{"text": "a"}], prompt=lead.of("document", None))["input_ids"].shape[1]
            self._frame = framed - self._counter("a", special=False)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`, each with the prompt of its role.

        Args:
            task: a task of the model's own; for a model that follows instructions also one of
                `instructions.known_tasks()` or an instruction in words, which is for queries, and a symmetric
                task for documents too. "" is no prompt.

        Raises:
            SettingsError: the model knows no such task.
        """
        prompt = self._lead.of(role, task)
        # As {"text": ...}: a bare string that looks like a link to a picture is taken for the picture.
        return self._encode([{"text": self._plain(text)} for text in texts_in(texts)], role, prompt)

    def encode_image(self, images: Sequence[Image.Image]) -> DenseArray:
        """n upright pictures -> `(n, dim)`, with the system message of a document where the model has one."""
        prompt = self._lead.of("document", None)
        return self._encode([{"image": [to_readable(image)]} for image in images_in(images)], "document", prompt)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text with its template and a document's prompt, nothing truncated."""
        if self._frame is not None:
            return self._frame + self._counter(self._plain(text), special=False)
        return self._counter(self._lead.of("document", None) + self._plain(text))

    def _encode(self, inputs: Sequence[Mapping[str, Any]], role: Role, prompt: str) -> DenseArray:
        dim = self.spec.dim or 0
        if not inputs:
            return np.empty((0, dim), dtype=np.float32)
        # renormalised: half precision leaves norms off by 1e-3
        return truncate(encode_dense(self, self._model, inputs, role=role, prompt=prompt), dim)


class VlmPrompts:
    """What leads an input by its role and task: words before the text, or the system message of a chat template."""

    def __init__(self, name: str, model: SentenceTransformer, preset: Preset | None) -> None:
        own = {key: value for key, value in model.prompts.items() if value}
        default = own.get(model.default_prompt_name or "", "")
        roles: dict[Role, str] = {
            "query": own.get("query") or own.get("Retrieval-query") or default,
            "document": own.get("document") or own.get("Retrieval-document") or default,
        }
        if preset is not None and not preset.own_prompts:
            roles = {"query": preset.query_prompt, "document": preset.document_prompt}
        self.prompts = Prompts(name, roles, preset.task_prompts if preset else {}, own)
        # One system message for both roles is the default of an instruction; others are markers, learnt by heart.
        self._instructed = "message" in model.modalities and roles["query"] == roles["document"] != ""

    def of(self, role: Role, task: str | None) -> str:
        """The prompt, "" for none. Raises SettingsError for a task that the model does not know."""
        known = {None, "", "retrieval", *self.prompts.tasks, *self.prompts.own}
        if not self._instructed or task in known:
            return self.prompts.lead(role, task)
        if role == "document" and not is_symmetric(task):
            return self.prompts.roles["document"]
        instruction = known_tasks().get(str(task), str(task)).strip()
        closed = not instruction or unicodedata.category(instruction[-1]).startswith("P")
        return instruction if closed else f"{instruction}."  # by punctuation, as in training


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    dim: str | None = None,
    max_pixels: str | None = None,
    adapter: str | None = None,
) -> MultimodalEncoder:
    """Load `vlm:MODEL`, a hub id or a folder with a modules.json.

    Args:
        revision: of the hub's repository; a known model has its own.
        dim: fewer dimensions, for a model that is known to be Matryoshka.
        max_pixels: of a picture, which is made smaller above.
        adapter: a LoRA adapter to merge, a folder or a hub id.

    Raises:
        EncoderLoadError: not there, incomplete, or a model that does not read both texts and pictures.
        SettingsError: an option that this model does not have.
    """
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLE)
    origin = find_origin(name, checkpoint, adapter, own=False)
    name, preset = origin.name, origin.preset
    config = _check_kind(checkpoint)
    model = build_adapted(origin, run, partial(_load_model, checkpoint, run, config), on_gpu=_GPU_DTYPE)
    _limit_pixels(name, model, config, max_pixels)
    lead = VlmPrompts(str(name), model, preset)
    full = full_dim(model, checkpoint)
    width = matryoshka_dim(str(name), dim, full, preset)
    ingredients = {
        **origin.ingredients(checkpoint.weight_files("modules.json")),
        "dim": width,
        "modules": module_settings(model),
        "prompts": lead.prompts.roles,
        "pictures": image_settings(model.processor),
        "template": getattr(model.processor, "chat_template", None),
    }
    spec = origin.spec(
        ingredients,
        dim=width,
        modalities=("image", "text"),
        matryoshka_dims=matryoshka_dims(preset.matryoshka_dims if preset else (), full),
        context_length=token_limit(model.max_seq_length),
        revision=checkpoint.revision,
    )
    return MultimodalEncoder(spec, model, lead, batch_size=run.batch_size)


def _check_kind(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config.json of a saved SentenceTransformer, before any weights are read."""
    kind, config = read_layout(checkpoint)
    model_type = config.get("model_type")
    if family := _TOWERS.get(str(model_type)):
        raise EncoderLoadError(
            f"{checkpoint.model} is a {model_type} model with two towers: load it as {family}:{checkpoint.model}"
        )
    if kind is None:
        raise EncoderLoadError(
            f"{checkpoint.model} has no modules.json, which tells how it pools and reads pictures: name a "
            f"sentence-transformers model, such as {_EXAMPLE}"
        )
    if kind != "SentenceTransformer":
        raise EncoderLoadError(
            f"{checkpoint.model} was saved as a {kind}, which gives no single vector: load it with the family for "
            f"those, or name another, such as {_EXAMPLE}"
        )
    return config


def _load_model(
    checkpoint: Checkpoint, run: LoadOptions, config: Mapping[str, Any], device: str, dtype: torch.dtype
) -> SentenceTransformer:
    unused = dict(_UNUSED_TOWERS.get(str(config.get("model_type")), {}))
    model = load_model(partial(SentenceTransformer, config_kwargs=unused), checkpoint, run, device, dtype)
    if not (model.supports("text") and model.supports("image")):
        reads = " and ".join(str(modality) for modality in model.modalities)
        raise EncoderLoadError(
            f"{checkpoint.model} reads {reads}, not both text and images: load a model of texts as "
            f"sentence:{checkpoint.model}"
        )
    return model


def _limit_pixels(name: EncoderName, model: SentenceTransformer, config: Mapping[str, Any], most: str | None) -> None:
    """Hold pictures to the sizes that the model was trained with, or to fewer pixels."""
    asked = whole_number(name, "max_pixels", most, least=1)
    fewest, usual = _PIXELS.get(str(config.get("model_type")), (None, None))
    if asked is None and usual is None:
        return
    images = model.processor.image_processor
    if "max_pixels" not in images.valid_kwargs.__annotations__:  # where its two edges are numbers of pixels
        raise SettingsError(f"encoder {str(name)!r} takes pictures of one size: leave ?max_pixels= out")
    least, limit = fewest or images.size["shortest_edge"], asked or usual
    if asked is not None and asked < least:
        raise SettingsError(f"encoder {str(name)!r} says max_pixels={asked}: it reads no fewer than {least} pixels")
    transformer: Any = model[0]
    size = {"shortest_edge": least, "longest_edge": limit}
    transformer.processing_kwargs = {**transformer.processing_kwargs, "image": {"size": size}}
