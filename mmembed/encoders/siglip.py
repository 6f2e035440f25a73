"""`siglip` and `clip`: checkpoints in transformers' layout, from the hub or from a folder.

    siglip:google/siglip2-base-patch32-256     SigLIP, and SigLIP 2 of a fixed resolution
    clip:openai/clip-vit-base-patch32          CLIP
    siglip:./folder                            what save_pretrained wrote: model, tokenizer and image processor

Option: `revision=COMMIT` of the hub; without it the one pinned in `presets.py`, or else the latest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, PretrainedConfig, SiglipModel
from transformers.utils import logging as transformers_logging

from mmembed.encoders.image_text import ImageTextEncoder, checked_probe
from mmembed.errors import EncoderLoadError, MissingDependency
from mmembed.hub import Checkpoint, find_checkpoint
from mmembed.loading import fingerprint, weights_checksum
from mmembed.presets import preset_of_model
from mmembed.registry import EncoderName
from mmembed.types import EncoderSpec, LoadOptions, Pixels

_EXAMPLES = {"clip": "clip:openai/clip-vit-base-patch32", "siglip": "siglip:google/siglip2-base-patch32-256"}
_PREPROCESSING = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


def load_siglip(name: EncoderName, run: LoadOptions, *, revision: str | None = None) -> ImageTextEncoder:
    """SigLIP (arXiv 2303.15343) or SigLIP 2 (arXiv 2502.14786) of a fixed resolution.

    Raises:
        EncoderLoadError: not there, incomplete, another kind of model, or a NaFlex one.
        MissingDependency: a sentencepiece tokenizer without the package sentencepiece.
    """
    return _load(name, run, "siglip", revision)


def load_clip(name: EncoderName, run: LoadOptions, *, revision: str | None = None) -> ImageTextEncoder:
    """CLIP (arXiv 2103.00020). Raises EncoderLoadError if it is not there, incomplete or another kind of model."""
    return _load(name, run, "clip", revision)


class _Towers:
    """A model of transformers with its tokenizer and its image processor."""

    def __init__(self, kind: str, model: Any, tokenizer: Any, processor: Any) -> None:
        self.model: torch.nn.Module = model
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.logit_bias = float(model.logit_bias.detach()) if kind == "siglip" else None
        self.context_length: int = model.config.text_config.max_position_embeddings
        self._kind = kind
        self.tokenizer = tokenizer
        self.processor = processor

    def preprocess(self, image: Image.Image) -> Pixels:
        pixels = self.processor(images=[image], return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(pixels, dtype=np.float32)

    def token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(self._normalise(text), verbose=False).input_ids
        return ids

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """`(b, context_length)`, without a mask: SigLIP was trained without one, and CLIP looks back only."""
        ids: torch.Tensor = self.tokenizer(
            [self._normalise(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        ).input_ids
        return ids

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.get_text_features(input_ids=ids).pooler_output  # type: ignore[operator]
        return features

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output  # type: ignore[operator]
        return features

    def _normalise(self, text: str) -> str:
        # SigLIP 2 was trained on lower case, and the Gemma tokenizer of its checkpoints does not see to it.
        return text.lower() if self._kind == "siglip" else text


def _load(name: EncoderName, run: LoadOptions, kind: str, revision: str | None) -> ImageTextEncoder:
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLES[kind])
    with checkpoint.loading(f", as in {kind}:FOLDER"):
        _check_kind(name, kind, checkpoint)
        model = _build_model(name, kind, checkpoint)
        towers = _Towers(kind, model, _tokenizer(kind, checkpoint, run), _image_processor(checkpoint, run))
    if checkpoint.local:
        name = name.with_model(checkpoint.model)
    return ImageTextEncoder(_spec(name, kind, checkpoint, towers), towers, run)


def _check_kind(name: EncoderName, kind: str, checkpoint: Checkpoint) -> None:
    """Before any weights are read: a checkpoint of this family, and of a fixed resolution."""
    config, _ = PretrainedConfig.get_config_dict(checkpoint.model, revision=checkpoint.revision or "main")
    model_type = config.get("model_type", "nothing")
    if model_type == "siglip2":
        raise EncoderLoadError(
            f"encoder {str(name)!r} is a NaFlex checkpoint (any aspect ratio), only fixed resolutions are supported: "
            f"use one of those, such as {_EXAMPLES['siglip']}"
        )
    if model_type != kind:
        advice = f"write {model_type}:{name.model}" if model_type in _EXAMPLES else f"name a {kind} checkpoint"
        raise EncoderLoadError(f"encoder {str(name)!r}: its config.json says {model_type!r}, not {kind!r}: {advice}")


def _build_model(name: EncoderName, kind: str, checkpoint: Checkpoint) -> Any:
    """The model in float32 on the CPU. transformers would make up what the weights lack, and only log it."""
    family: Any = CLIPModel if kind == "clip" else SiglipModel
    with _no_progress_bar():
        model, report = family.from_pretrained(
            checkpoint.model,
            revision=checkpoint.revision or "main",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # refused below, with both shapes
            output_loading_info=True,
        )
    for key, stored, built in sorted(report["mismatched_keys"]):
        raise EncoderLoadError(
            f"encoder {str(name)!r}: the weights hold {key} of shape {list(stored)}, config.json needs {list(built)}: "
            f"give the config.json that belongs to them"
        )
    if missing := sorted(report["missing_keys"]):
        raise EncoderLoadError(
            f"encoder {str(name)!r}: the weights lack {len(missing)} of the {len(model.state_dict())} parameters, "
            f"{missing[0]} for one: give the whole model"
        )
    return model


def _tokenizer(kind: str, checkpoint: Checkpoint, run: LoadOptions) -> Any:
    """The tokenizer, padding on the right.

    SigLIP was trained on texts with an end-of-text token and no start token. transformers 5 drops what
    tokenizer_config.json says about both and believes tokenizer.json, which may be plain Gemma's: the reverse.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            checkpoint.model,
            revision=checkpoint.revision or "main",
            trust_remote_code=run.trust_remote_code,
            padding_side="right",
        )
    except ImportError as exc:
        raise MissingDependency(
            f"the tokenizer of {checkpoint.model}", "sentencepiece", "sentencepiece protobuf"
        ) from exc
    ids = tokenizer("a").input_ids
    astray = ids[-1] != tokenizer.eos_token_id or ids[0] == tokenizer.bos_token_id
    if kind == "siglip" and astray and hasattr(tokenizer, "update_post_processor"):
        tokenizer.add_bos_token, tokenizer.add_eos_token = False, True
    return tokenizer


def _image_processor(checkpoint: Checkpoint, run: LoadOptions) -> Any:
    """Pillow's resizing: torchvision's differs from it, and from open_clip's, by up to 2 of 255 grey levels."""
    processor: Any = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        checkpoint.model,
        revision=checkpoint.revision or "main",
        trust_remote_code=run.trust_remote_code,
        backend="pil",
    )
    return processor


def _spec(name: EncoderName, kind: str, checkpoint: Checkpoint, towers: _Towers) -> EncoderSpec:
    config: Any = towers.model.config
    text, image_size = config.text_config, config.vision_config.image_size
    _check_size(name, towers, image_size)
    dim = config.projection_dim if kind == "clip" else config.vision_config.hidden_size
    last = towers.tokenizer.eos_token_id
    processing = json.loads(towers.processor.to_json_string())
    ingredients = {
        "weights": weights_checksum(checkpoint.weight_files()),
        "dim": dim,
        "preprocessing": {key: processing.get(key) for key in _PREPROCESSING},
        "context_length": towers.context_length,
        "activation": [text.hidden_act, config.vision_config.hidden_act],
        "normaliser": "lower" if kind == "siglip" else "tokenizer",
        "tokens": checked_probe(towers, name=str(name), vocabulary=text.vocab_size, last=last),
    }
    preset = preset_of_model(name.model)
    return EncoderSpec(
        name=str(name),
        kind="dense",
        dim=dim,
        modalities=frozenset({"image", "text"}),
        fingerprint=fingerprint(ingredients),
        context_length=towers.context_length,
        image_size=image_size,
        revision=None if checkpoint.local else checkpoint.folder().name,
        licence=preset.licence if preset else None,
    )


def _check_size(name: EncoderName, towers: _Towers, image_size: int) -> None:
    made = towers.preprocess(Image.new("RGB", (8, 4))).shape
    if made != (3, image_size, image_size):
        raise EncoderLoadError(
            f"encoder {str(name)!r}: its image processor makes pictures of {made[-1]} x {made[-2]} pixels, the model "
            f"takes {image_size} x {image_size}: give the preprocessor_config.json that belongs to it"
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws a bar on stderr while it reads weights; what is shown is for the edges to decide."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
