"""Short names for well-known models, as data: one row a model. Sources are the model cards."""

from __future__ import annotations

from mmembed.encoders.presets.instructed import INSTRUCTED
from mmembed.encoders.presets.per_token import TOKENS
from mmembed.encoders.presets.pictures import PICTURES
from mmembed.encoders.presets.preset import Preset
from mmembed.encoders.presets.texts import TEXTS

__all__ = ["PRESETS", "Preset", "preset_of_model"]

PRESETS: dict[str, Preset] = {**PICTURES, **TEXTS, **INSTRUCTED, **TOKENS}


def preset_of_model(model: str) -> Preset | None:
    """The row of a hub id such as "sentence-transformers/all-MiniLM-L6-v2", or None."""
    return next((p for p in PRESETS.values() if p.model == model and model), None)
