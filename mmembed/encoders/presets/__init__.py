"""Short names for well-known models, as data: presets.toml, one table a model. Sources are the model cards."""

from __future__ import annotations

from typing import Any

from mmembed.encoders.presets.preset import Preset, read_presets

__all__ = ["PRESETS", "Preset", "preset_of_model"]

PRESETS: dict[str, Preset]
"""Short name -> model; read when it is first asked for."""


def preset_of_model(model: str) -> Preset | None:
    """The row of a hub id such as "sentence-transformers/all-MiniLM-L6-v2", or None."""
    return next((p for p in read_presets().values() if p.model == model and model), None)


def __getattr__(name: str) -> Any:
    if name == "PRESETS":
        return read_presets()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
