"""`siglip` and `clip`: checkpoints in transformers' layout, from the hub or from a folder.

    siglip:google/siglip2-base-patch32-256     SigLIP, and SigLIP 2 of a fixed resolution
    siglip:google/siglip2-base-patch16-naflex  SigLIP 2 of any aspect ratio
    clip:openai/clip-vit-base-patch32          CLIP
    siglip:./folder                            what save_pretrained wrote: model, tokenizer and image processor,
                                               or what PEFT wrote: an adapter, which names its base

Options: `revision=COMMIT` of the hub; without it the one pinned in presets.toml, or else the latest.
`adapter=FOLDER` or a hub id: a LoRA adapter to merge into the model. `max_patches=N`, for NaFlex alone: how many
patches a picture is cut into at most, without it what the checkpoint says (256).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, PretrainedConfig, Siglip2Model, SiglipModel

from mmembed.encoders.checkpoint import NO_ADAPTER, Checkpoint, find_checkpoint
from mmembed.encoders.families.siglip_images import ImagePreprocessor, NaflexPreprocessor, SquarePreprocessor
from mmembed.encoders.families.towers import ImageTextEncoder, probe_tokens
from mmembed.encoders.lora import Origin, find_origin
from mmembed.encoders.lora_merge import merge_adapter
from mmembed.encoders.registry import EncoderName
from mmembed.errors import EncoderLoadError, MissingDependency, SettingsError
from mmembed.types import EncoderSpec, LoadOptions

_EXAMPLES = {"clip": "clip:openai/clip-vit-base-patch32", "siglip": "siglip:google/siglip2-base-patch32-256"}

_MODELS: dict[str, Any] = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}
"""By the model type of config.json: "siglip2" is NaFlex alone, any other SigLIP 2 calls itself "siglip"."""


def load_siglip(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    max_patches: str | None = None,
) -> ImageTextEncoder:
    """SigLIP (arXiv 2303.15343) or SigLIP 2 (arXiv 2502.14786), of a fixed resolution or of any aspect ratio (NaFlex).

    Raises:
        EncoderLoadError: not there, incomplete, or another kind of model; an adapter of another model.
        SettingsError: `max_patches` for a fixed resolution, or no number.
        MissingDependency: a sentencepiece tokenizer without the package sentencepiece, an adapter without peft.
    """
    return _load(name, run, "siglip", revision, adapter, max_patches)


def load_clip(
    name: EncoderName, run: LoadOptions, *, revision: str | None = None, adapter: str | None = None
) -> ImageTextEncoder:
    """CLIP (arXiv 2103.00020). Raises EncoderLoadError if it is not there, incomplete or another kind of model."""
    return _load(name, run, "clip", revision, adapter, None)


class _Towers:
    """A model of transformers with its tokenizer and its image side."""

    def __init__(self, kind: str, model: Any, tokenizer: Any, images: ImagePreprocessor) -> None:
        self.model = model
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.logit_bias = None if kind == "clip" else float(model.logit_bias.detach())
        self.context_length: int = model.config.text_config.max_position_embeddings
        self.lower = kind != "clip"
        self.tokenizer = tokenizer
        self.images = images
        self.preprocess, self.image_features = images.preprocess, images.features

    def token_ids(self, text: str) -> list[int]:
        return cast("list[int]", self.tokenizer(self._normalise(text), verbose=False).input_ids)

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """`(b, context_length)`, without a mask: SigLIP was trained without one, and CLIP looks back only."""
        read = [self._normalise(text) for text in texts]
        length = self.context_length
        made = self.tokenizer(read, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return cast(torch.Tensor, made.input_ids)

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.model.get_text_features(input_ids=ids).pooler_output)

    def _normalise(self, text: str) -> str:
        # SigLIP 2 was trained on lower case, and the Gemma tokenizer of its checkpoints does not see to it.
        return text.lower() if self.lower else text


def _load(
    name: EncoderName, run: LoadOptions, family: str, revision: str | None, adapter: str | None, max_patches: str | None
) -> ImageTextEncoder:
    checkpoint = _part(find_checkpoint(name, revision=revision, example=_EXAMPLES[family]))
    origin = find_origin(name, checkpoint, adapter, own=True)
    base = origin.base
    with base.loading(f", as in {family}:FOLDER"):
        kind = _kind(name, family, base)
        model = _build_model(name, kind, base)
        if origin.adapter is not None:
            origin.check()
            merge_adapter(model, origin.adapter)
        tokenizer = _tokenizer(kind, base, run)
        images = _images(name, kind, model, base, run, max_patches)
    towers = _Towers(kind, model, tokenizer, images)
    return ImageTextEncoder(_spec(origin, towers), towers, run)


def _part(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself, or its CLIP: sentence-transformers before 5.4 saved that in a folder of its own."""
    part = Path(checkpoint.model) / "0_CLIPModel"
    alone = checkpoint.local and part.is_dir() and not (Path(checkpoint.model) / "config.json").exists()
    return replace(checkpoint, model=str(part)) if alone else checkpoint


def _images(
    name: EncoderName, kind: str, model: Any, checkpoint: Checkpoint, run: LoadOptions, max_patches: str | None
) -> ImagePreprocessor:
    """Resized by Pillow: torchvision's pixels differ from its, and from open_clip's, by up to 2 of 255 grey levels."""
    processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        checkpoint.model, revision=checkpoint.revision or "main", trust_remote_code=run.trust_remote_code, backend="pil"
    )
    if kind == "siglip2":
        return NaflexPreprocessor(name, model, processor, max_patches)
    if max_patches is not None:
        raise SettingsError(
            f"encoder {str(name)!r} has a fixed resolution, {model.config.vision_config.image_size} pixels a side: "
            f"leave ?max_patches={max_patches} out, or name a NaFlex checkpoint"
        )
    return SquarePreprocessor(name, model, processor)


def _kind(name: EncoderName, family: str, checkpoint: Checkpoint) -> str:
    """The model type of config.json, before any weights are read. Raises EncoderLoadError for another family's."""
    config, _ = PretrainedConfig.get_config_dict(checkpoint.model, revision=checkpoint.revision or "main")
    kind: str = config.get("model_type", "nothing")
    if kind.removesuffix("2") != family or kind not in _MODELS:
        advice = f"write {kind}:{name.model}" if kind in _EXAMPLES else f"name a {family} checkpoint"
        raise EncoderLoadError(f"encoder {str(name)!r}: its config.json says {kind!r}, not {family!r}: {advice}")
    return kind


def _build_model(name: EncoderName, kind: str, checkpoint: Checkpoint) -> Any:
    """The model in float32 on the CPU. transformers would make up what the weights lack, and only log it."""
    model, report = _MODELS[kind].from_pretrained(
        checkpoint.model,
        revision=checkpoint.revision or "main",
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # refused below, with both shapes
        output_loading_info=True,
        adapter_kwargs=NO_ADAPTER,
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
    if kind != "clip" and astray and hasattr(tokenizer, "update_post_processor"):
        tokenizer.add_bos_token, tokenizer.add_eos_token = False, True
    return tokenizer


def _spec(origin: Origin, towers: _Towers) -> EncoderSpec:
    config: Any = towers.model.config
    text, vision, name = config.text_config, config.vision_config, origin.name
    dim: int = getattr(config, "projection_dim", vision.hidden_size)
    if dim != getattr(text, "projection_size", dim):
        raise EncoderLoadError(
            f"encoder {str(name)!r}: its pictures get {dim} dimensions and its texts {text.projection_size}: "
            f"name a model whose two towers were trained together"
        )
    ingredients = {
        **origin.ingredients(),
        "dim": dim,
        "preprocessing": towers.images.settings(),
        "context_length": towers.context_length,
        "activation": [text.hidden_act, vision.hidden_act],
        "normaliser": "lower" if towers.lower else "tokenizer",
        "tokens": probe_tokens(towers, name=str(name), vocabulary=text.vocab_size, last=towers.tokenizer.eos_token_id),
    }
    return origin.spec(
        ingredients,
        dim=dim,
        modalities=("image", "text"),
        context_length=towers.context_length,
        image_size=towers.images.image_size,
        revision=origin.revision,
    )
