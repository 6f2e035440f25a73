"""`open_clip`: every image-text model of open_clip 3.3, by tag, from a file, from a folder or from the hub.

    open_clip:ViT-B-32/laion2b_s34b_b79k     an architecture and one of its tags, downloaded once
    open_clip:ViT-B-32@weights.safetensors   an architecture and weights on the disk (.pt, .pth, .bin, .safetensors)
    open_clip:./folder                       open_clip_config.json beside its weights; @folder says the same
    open_clip:hf-hub:org/name                a repository laid out like that folder

Options: `tokenizer=FOLDER` for a text tower whose tokenizer lives on the hub; `like=TAG` gives a file the
preprocessing and the activation of that tag; `revision=COMMIT` pins what is downloaded; `adapter=FOLDER` or a hub id
names a LoRA adapter to merge into the model, where the folder does not hold one itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
import open_clip
import torch
from open_clip.factory import load_state_dict
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from mmembed.encoders.checkpoint import fingerprint, weights_checksum
from mmembed.encoders.families.open_clip_recipe import LOCAL, Recipe, absolute, first_line, resolve
from mmembed.encoders.families.towers import ImageTextEncoder, probe_tokens, stack_pixels
from mmembed.encoders.lora import check_base, find_adapter
from mmembed.encoders.lora_merge import merge_adapter
from mmembed.encoders.presets import preset_of_model
from mmembed.encoders.registry import EncoderName
from mmembed.errors import EncoderLoadError
from mmembed.types import EncoderSpec, LoadOptions, Pixels

_SIZE_MISMATCH = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\) from checkpoint.*?torch\.Size\((.*?)\)")
_KEYS = re.compile(r"(Missing|Unexpected) key.*?: (.*)")


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    like: str | None = None,
    adapter: str | None = None,
) -> ImageTextEncoder:
    """The encoder that `name` stands for; the module's docstring lists the forms of a name.

    Raises:
        UnknownEncoder: no such architecture or tag, or an architecture without either tag or weights.
        EncoderLoadError: weights, configuration, tokenizer or adapter are missing or do not belong together.
        MissingDependency: an adapter without peft.
    """
    recipe = resolve(name, revision=revision, like=like)
    if tokenizer is not None:
        folder = absolute(tokenizer)
        if not folder.is_dir():
            raise EncoderLoadError(f"encoder {str(name)!r}: its tokenizer {folder} is not a folder: give one that is")
        recipe = replace(recipe, tokenizer=folder)
        name = replace(name, options={**name.options, "tokenizer": str(folder)})
    if adapter is not None:
        if recipe.adapter is not None:
            raise EncoderLoadError(f"encoder {str(name)!r} has an adapter of its own: leave ?adapter= out")
        found = find_adapter(adapter)
        known = (recipe.repository, f"hf-hub:{recipe.repository}") if recipe.repository else ()
        check_base(found, {recipe.model, *known}, on_hub=bool(known), weights=[recipe.weights])
        recipe = replace(recipe, adapter=found)
        name = replace(name, options={**name.options, "adapter": found.source})
    name = name.with_model(recipe.model)
    towers = _Towers(_build_model(name, recipe), _build_tokenizer(name, recipe, run, required=tokenizer is not None))
    return ImageTextEncoder(_spec(name, recipe, towers), towers, run)


class _Towers:
    """A model of open_clip; its own configuration says how pictures and texts are prepared."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.logit_bias = None if model.logit_bias is None else float(model.logit_bias.detach())
        self.preprocessing = PreprocessCfg(**model.visual.preprocess_cfg)
        self.tokenizer = tokenizer
        self.tokenize, self.text_features = tokenizer, model.encode_text
        self._transform = image_transform_v2(self.preprocessing, is_train=False)

    def preprocess(self, image: Image.Image) -> Pixels:
        return np.asarray(self._transform(image).numpy(), dtype=np.float32)

    def token_ids(self, text: str) -> list[int]:
        if isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            return [self.tokenizer.sot_token_id, *self.tokenizer.encode(text), self.tokenizer.eot_token_id]
        return cast("list[int]", self.tokenizer.tokenizer(self.tokenizer.clean_fn(text), verbose=False).input_ids)

    def image_features(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        return cast(torch.Tensor, self.model.encode_image(stack_pixels(pixels, self.model)))


def _build_model(name: EncoderName, recipe: Recipe) -> Any:
    """The model with its weights and its adapter, in float32 on the CPU."""
    options = {} if recipe.quick_gelu is None else {"quick_gelu": recipe.quick_gelu}
    try:
        model = open_clip.create_model(
            recipe.architecture,
            pretrained=None if recipe.architecture.startswith(LOCAL) else str(recipe.weights),
            force_preprocess_cfg=dict(recipe.preprocessing),
            require_pretrained=True,
            weights_only=True,
            **options,
        )
    except Exception as exc:  # unpickling, a foreign state dict and a text tower's hub each raise their own
        if isinstance(exc, AssertionError) and recipe.strict_sizes:  # position embeddings that cannot be stretched
            _refuse_altered(name, recipe, open_clip.create_model(recipe.architecture, pretrained_text=False))
        text_tower = open_clip.get_model_config(recipe.architecture)["text_cfg"].get("hf_model_name")
        if isinstance(exc, OSError) and text_tower:
            raise EncoderLoadError(
                f"encoder {str(name)!r}: the configuration of its text tower, {text_tower} on the hub, is not there "
                f"({first_line(exc)}): load this encoder once with a network"
            ) from exc
        raise EncoderLoadError(f"encoder {str(name)!r}: {recipe.weights} {_why_not(exc)}") from exc
    if recipe.strict_sizes:
        _refuse_altered(name, recipe, model)
    if recipe.adapter is not None:
        merge_adapter(model, recipe.adapter)
    return model


def _why_not(exc: Exception) -> str:
    """open_clip's many-lined complaint about weights in half a sentence."""
    if mismatch := _SIZE_MISMATCH.search(str(exc)):
        parameter, found, expected = mismatch.groups()
        return f"holds {parameter} of shape {found}, the architecture needs {expected}: name the one it was made for"
    keys = {kind: re.findall(r'"(.+?)"', found) for kind, found in _KEYS.findall(str(exc))}
    if keys:
        lacks, extra = keys.get("Missing", []), len(keys.get("Unexpected", []))
        such = f" ({lacks[0]} is one)" if lacks else ""
        return (
            f"lacks {len(lacks)} parameters of the architecture{such} and has {extra} of another: name the one it was "
            f"made for"
        )
    return f"cannot be loaded ({type(exc).__name__}: {first_line(exc)}): give weights of this architecture"


def _refuse_altered(name: EncoderName, recipe: Recipe, model: Any) -> None:
    """open_clip stretches position embeddings of another picture size or context to fit, and says nothing.

    Nor does it where it takes 0 for the bias that a SigLIP was trained with: every label would be probable.
    """
    stored, built = load_state_dict(str(recipe.weights)), model.state_dict()
    if "logit_bias" in built and "logit_bias" not in stored:
        raise EncoderLoadError(
            f"encoder {str(name)!r}: {recipe.weights} holds no logit_bias, which this architecture was trained with: "
            f"give the whole model, or name the architecture without one"
        )
    for key, value in stored.items():
        own = built.get(key, built.get(f"text.{key}"))
        if own is not None and own.shape != value.shape and own.numel() > 1:
            raise EncoderLoadError(
                f"encoder {str(name)!r}: {recipe.weights} holds {key} of shape {list(value.shape)}, the architecture "
                f"needs {list(own.shape)}: name the one it was made for"
            )


def _build_tokenizer(name: EncoderName, recipe: Recipe, run: LoadOptions, *, required: bool) -> Any:
    """open_clip's own tokenizer, or the one from the hub or a folder that the text tower was trained with."""
    text = open_clip.get_model_config(recipe.architecture)["text_cfg"]
    on_hub = text.get("hf_tokenizer_name")
    if not on_hub:
        if required:
            raise EncoderLoadError(f"encoder {str(name)!r} uses open_clip's own tokenizer: leave the option out")
        return open_clip.get_tokenizer(recipe.architecture)
    source = str(recipe.tokenizer or on_hub)
    try:
        tokenizer = HFTokenizer(
            source,
            context_length=text.get("context_length", DEFAULT_CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            trust_remote_code=run.trust_remote_code,
            **text.get("tokenizer_kwargs", {}),
        )
    except Exception as exc:  # OSError, ValueError, ImportError and more, as the files and the hub have it
        raise EncoderLoadError(
            f"encoder {str(name)!r}: no tokenizer in {source} ({first_line(exc)}): add ?tokenizer=FOLDER, a folder "
            f"with the files of {on_hub}"
        ) from exc
    tokenizer.tokenizer.padding_side = "right"  # as all of them were trained; Gemma's own default is left
    return tokenizer


def _spec(name: EncoderName, recipe: Recipe, towers: _Towers) -> EncoderSpec:
    config = open_clip.get_model_config(recipe.architecture)
    text, model = config["text_cfg"], towers.model
    usual = "whitespace" if "hf_tokenizer_name" in text else "lower"
    normaliser = text.get("tokenizer_kwargs", {}).get("clean") or usual
    last = None
    if text.get("pool_type") == "last" and normaliser == "canonicalize":  # SigLIP
        last = towers.tokenizer.tokenizer.eos_token_id
    elif text.get("pool_type") == "eos":
        last = text.get("eos_id")
    vocabulary = int(getattr(model, "vocab_size", text.get("vocab_size", 49408)))  # CoCa's does not say
    probe = probe_tokens(towers, name=str(name), vocabulary=vocabulary, last=last)
    size = towers.preprocessing.size
    ingredients = {
        "weights": weights_checksum([recipe.weights]),
        **({} if recipe.adapter is None else {"adapter": recipe.adapter.checksum()}),
        "dim": config["embed_dim"],
        "preprocessing": asdict(towers.preprocessing),
        "context_length": towers.tokenizer.context_length,
        "quick_gelu": config.get("quick_gelu", False) if recipe.quick_gelu is None else recipe.quick_gelu,
        "normaliser": normaliser,
        "tokens": probe,
    }
    preset = preset_of_model(name.model)
    return EncoderSpec(
        name=str(name),
        kind="dense",
        dim=config["embed_dim"],
        modalities=frozenset({"image", "text"}),
        fingerprint=fingerprint(ingredients),
        context_length=towers.tokenizer.context_length,
        image_size=size if isinstance(size, int) else size[0],
        revision=recipe.revision,
        licence=preset.licence if preset else None,
    )
