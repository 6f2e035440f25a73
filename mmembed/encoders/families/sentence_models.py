"""What the families that sentence-transformers carries need beside it: files looked at before, models after loading.

sentence-transformers makes a model of almost anything: it adds random layers where a checkpoint has none, reads
a text that looks like a link to a picture as the picture, and lets a text spell its template's control tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from sentence_transformers.util import load_file_path

from mmembed.encoders.checkpoint import Checkpoint
from mmembed.encoders.families.memory import check_finite, in_smaller_batches
from mmembed.encoders.tokens import characters
from mmembed.errors import EncoderLoadError, SettingsError
from mmembed.images import upright_rgb
from mmembed.types import DenseArray, Encoder, LoadOptions, Role

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    from mmembed.encoders.presets import Preset

_LONGEST = 200  # times the short side of a picture
_M = TypeVar("_M", bound=torch.nn.Module)

_MODULE_SETTINGS = (
    "document_length",
    "do_lower_case",
    "in_features",
    "include_prompt",
    "keep_only_token_ids",
    "module_input_name",
    "out_features",
    "pooling_mode",
    "processing_kwargs",
    "query_expansion",
    "query_length",
    "skiplist_tasks",
    "skiplist_words",
    "transformer_task",
)
_IMAGE_SETTINGS = (
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_seq_length",
    "image_std",
    "max_image_size",
    "max_soft_tokens",
    "merge_size",
    "patch_size",
    "pooling_kernel_size",
    "resample",
    "rescale_factor",
    "size",
    "temporal_patch_size",
)


def read_layout(
    checkpoint: Checkpoint, advice: str = "", *, base: Checkpoint | None = None
) -> tuple[str | None, dict[str, Any]]:
    """What kind of sentence-transformers model was saved, None where it was no such model; and its config.json.

    Where an adapter is put on its `base`, that one's config.json counts. Raises EncoderLoadError for any other
    adapter, whose base model may be any version, and for what is not there, with `advice` as in `Checkpoint.loading`.
    """
    with checkpoint.loading(advice):
        config, listing = _read_json(base or checkpoint, "config.json"), _read_json(checkpoint, "modules.json")
        adapter = _read_json(checkpoint, "adapter_config.json")
        if adapter is not None and base is None:
            raise EncoderLoadError(
                f"{checkpoint.model} is an adapter of {adapter.get('base_model_name_or_path')} and not a whole model: "
                f"write FAMILY:BASE?adapter={checkpoint.model}, or merge the two and name that folder"
            )
        if config is None and listing is None:
            raise OSError("there is neither a config.json nor a modules.json")
        if listing is None:
            return None, config
        saved = _read_json(checkpoint, "config_sentence_transformers.json") or {}
        return str(saved.get("model_type") or "SentenceTransformer"), config or {}


def check_weights(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Raise EncoderLoadError where a transformer of `model` lacks weights: they would be random ones.

    transformers only logs what it made up, but marks each parameter that it read; without marks all are refused.
    """
    from transformers import PreTrainedModel

    for part in (part for part in model.modules() if isinstance(part, PreTrainedModel)):
        made_up = [
            name
            for name, value in part.named_parameters()
            if not getattr(value, "_is_hf_initialized", False) and not name.startswith("pooler.")  # read by nobody
        ]
        if made_up:
            raise EncoderLoadError(
                f"{checkpoint.model} lacks {len(made_up)} of its weights ({made_up[0]} is one) and would run on "
                f"random ones: download it again, or name a model that was trained for this"
            )


def load_model(
    make: Callable[..., _M], checkpoint: Checkpoint, run: LoadOptions, device: str, dtype: torch.dtype
) -> _M:
    """A model of sentence-transformers, which `make` is a class of; `check_weights` tells what is refused."""
    with checkpoint.loading():
        model = make(
            checkpoint.model,
            revision=checkpoint.revision,
            device=device,
            trust_remote_code=run.trust_remote_code,
            model_kwargs={"dtype": dtype},
        )
    check_weights(model, checkpoint)
    return model


def encode_dense(
    encoder: Encoder, model: SentenceTransformer, inputs: Sequence[Any], *, role: Role, prompt: str
) -> DenseArray:
    """n inputs -> all dimensions of `(n, dim)`, of norm 1 but for what half precision leaves off, about 1e-3."""
    encode = model.encode_document if role == "document" else model.encode_query

    def run(batch_size: int) -> DenseArray:
        vectors = encode(
            list(inputs),
            prompt=prompt,  # "" rather than None, which would let default_prompt_name in
            batch_size=batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return check_finite(np.asarray(vectors, dtype=np.float32), encoder.spec.name, encoder.dtype)

    return in_smaller_batches(run, encoder.batch_size, name=f"encoder {encoder.spec.name}")


def full_dim(model: SentenceTransformer, checkpoint: Checkpoint) -> int:
    """All dimensions of a vector. Raises EncoderLoadError for a model that does not say."""
    full = model.get_embedding_dimension()
    if full is None:
        raise EncoderLoadError(f"{checkpoint.model} does not say how many dimensions its vectors have: name another")
    return full


class PlainText:
    """Texts in which no control token of a tokenizer is spelt: "<|im_end|>" is read as "< |im_end|>".

    Templates write control tokens into the same string as the text, so a tokenizer cannot tell whose they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(name) for name in names if len(name) > 1) or r"(?!)")

    def __call__(self, text: str) -> str:
        return self._control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", characters(text))


def to_readable(image: Image.Image) -> Image.Image:
    """An upright picture in RGB, on white where it is over 200 times as long as wide: Qwen's processors refuse those.

    One such picture, a ruled line on a page, would otherwise end a run over thousands.
    """
    upright = upright_rgb(image)
    least = math.ceil(max(upright.size) / _LONGEST)
    width, height = (max(side, least) for side in upright.size)
    if (width, height) == upright.size:
        return upright
    ground = Image.new("RGB", (width, height), "white")
    ground.paste(upright, ((width - upright.width) // 2, (height - upright.height) // 2))
    return ground


def matryoshka_dim(name: str, dim: str | None, full: int, preset: Preset | None) -> int:
    """The dimensions asked for, or all. Raises SettingsError unless the model was trained for that many."""
    if dim is None:
        return full
    known = preset.matryoshka_dims if preset else ()
    if dim not in map(str, known):
        why = f"it was trained for {', '.join(map(str, known))}" if known else "is not known to be Matryoshka"
        raise SettingsError(
            f"encoder {name!r} was asked for {dim} dimensions, but {why}: leave ?dim= out or take one it was trained "
            f"for"
        )
    return int(dim)


def token_limit(length: float | None) -> int | None:
    """The tokens that a model reads, None where its tokenizer knows no limit: it then says infinity, or 1e30."""
    return None if length is None or length > 1e9 else int(length)


def module_settings(model: torch.nn.Sequential) -> list[list[Any]]:
    """Class of each module and what it was set to, for a fingerprint."""
    return [
        [
            type(part).__name__,
            {key: value for key in _MODULE_SETTINGS if (value := getattr(part, key, None)) is not None},
        ]
        for part in model
    ]


def image_settings(processor: Any) -> dict[str, Any]:
    """What a processor does to a picture, for a fingerprint; {} where it reads none."""
    if not hasattr(processor, "image_processor"):
        return {}
    settings = json.loads(processor.image_processor.to_json_string())
    return {key: settings[key] for key in _IMAGE_SETTINGS if settings.get(key) is not None}


def _read_json(checkpoint: Checkpoint, name: str) -> Any:
    file = load_file_path(checkpoint.model, name, revision=checkpoint.revision)
    return None if file is None else json.loads(Path(file).read_text("utf-8"))
