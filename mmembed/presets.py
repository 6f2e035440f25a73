"""Short names for well-known models, as data: one row a model. Sources are the model cards."""

from __future__ import annotations

from dataclasses import dataclass

from mmembed.types import Distance, Kind, Modality

__all__ = ["PRESETS", "Preset", "preset_of_model"]


@dataclass(frozen=True)
class Preset:
    """What is known about a model before any of its weights are loaded."""

    encoder: str  # the full name: "family:model"
    summary: str
    modalities: tuple[Modality, ...] = ("text",)
    kind: Kind = "dense"
    dim: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    context_length: int | None = None
    image_size: int | None = None
    distance: Distance = "cosine"
    query_prompt: str = ""  # "{task}" is replaced by the task's instruction
    document_prompt: str = ""
    revision: str | None = None  # the commit of the model's repository that is loaded
    licence: str = ""
    commercial_use: bool = True
    remote_code: bool = False  # loads only with --trust-remote-code

    @property
    def model(self) -> str:
        return self.encoder.partition(":")[2]


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        encoder="tiny",
        summary="pictograms, emoji and simple drawings; not for photographs; ships with mmembed",
        modalities=("image", "text"),
        dim=256,
        context_length=16,
        image_size=64,
        licence="Apache-2.0",
    ),
    "bm25": Preset(
        encoder="bm25",
        summary="words, weighted by rarity; no weights to load",
        kind="sparse",
        distance="dot",
        licence="Apache-2.0",
    ),
}


def preset_of_model(model: str) -> Preset | None:
    """The row of a hub id such as "sentence-transformers/all-MiniLM-L6-v2", or None."""
    return next((p for p in PRESETS.values() if p.model == model and model), None)
