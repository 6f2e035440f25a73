"""Encoders: found by name, loaded right, each once. All that the author of one needs is imported from here.

Importing it loads no model's library; what encoders behind an API need, an HTTP client among it, comes when asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmembed.encoders.checkpoint import (
    Checkpoint,
    find_checkpoint,
    fingerprint,
    pick_device,
    pick_dtype,
    weights_checksum,
)
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.pool import SHARED, Encoders
from mmembed.encoders.presets import Preset, preset_of_model
from mmembed.encoders.prompts import Prompts, check_task
from mmembed.encoders.registry import EncoderName, load_encoder, load_named, load_reranker, parse_name
from mmembed.encoders.wrapper import WrappedEncoder
from mmembed.errors import EncoderError, EncoderLoadError, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.types import (
    DenseArray,
    Embeddings,
    Encoder,
    EncoderSpec,
    LoadOptions,
    Modality,
    PixelEncoder,
    Pixels,
    Role,
    SparseVector,
)
from mmembed.vectors import l2_normalize, truncate

if TYPE_CHECKING:
    from mmembed.encoders.remote import (
        Api,
        Dialect,
        Limits,
        RemoteEncoder,
        RemoteModel,
        Request,
        known_model,
        remote_encoder,
        rows_by_index,
        wanted_dim,
    )

__all__ = [
    "SHARED",
    "Api",
    "Checkpoint",
    "DenseArray",
    "Dialect",
    "Embeddings",
    "Encoder",
    "EncoderError",
    "EncoderLoadError",
    "EncoderName",
    "EncoderSpec",
    "Encoders",
    "InvalidEmbedding",
    "Limits",
    "LoadOptions",
    "Modality",
    "PixelEncoder",
    "Pixels",
    "Preset",
    "Prompts",
    "RemoteEncoder",
    "RemoteModel",
    "Request",
    "Role",
    "SettingsError",
    "SparseVector",
    "UnsupportedModality",
    "WrappedEncoder",
    "check_task",
    "find_checkpoint",
    "fingerprint",
    "images_in",
    "known_model",
    "l2_normalize",
    "load_encoder",
    "load_named",
    "load_reranker",
    "parse_name",
    "pick_device",
    "pick_dtype",
    "preset_of_model",
    "remote_encoder",
    "rows_by_index",
    "texts_in",
    "truncate",
    "wanted_dim",
    "weights_checksum",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # what is not imported above
        return getattr(import_module("mmembed.encoders.remote"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
