"""What is known about a model before any of its weights are loaded."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from importlib.resources import files
from typing import Any

from mmembed.errors import EncoderLoadError
from mmembed.types import Distance, EncoderSpec, Kind, Modality


@dataclass(frozen=True)
class Preset:
    """One model under a short name. Empty is unknown, or as the model's own files say."""

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
    own_prompts: bool = False  # the model's files say what leads its texts; the two prompts above say nothing
    task_prompts: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # task -> its query and document prompts
    pooling: str = ""  # "mean", "CLS", "last token", "last position", "end of text", "every token", "max"
    layer_norm: bool = False  # over the pooled vector, before it is cut
    min_versions: Mapping[str, str] = field(default_factory=dict)  # package -> the oldest that knows the model
    revision: str | None = None  # the commit of the model's repository that is loaded
    licence: str = ""
    commercial_use: bool = True
    remote_code: bool = False  # loads only with trust_remote_code
    photographs: bool = True  # False: its pictures are drawings, so captions know more than it does

    @property
    def model(self) -> str:
        return self.encoder.partition(":")[2]


@lru_cache(maxsize=1)
def read_presets() -> dict[str, Preset]:
    """Every table of presets.toml, in its order; a key that is no field of `Preset` is a TypeError."""
    file = tomllib.loads(files("mmembed.encoders.presets").joinpath("presets.toml").read_text("utf-8"))
    prompts = {name: {task: tuple(pair) for task, pair in tasks.items()} for name, tasks in file["tasks"].items()}

    def field_of(key: str, value: Any) -> Any:
        if key == "task_prompts":
            return prompts[value]
        return tuple(value) if isinstance(value, list) else value

    rows = {name: {key: field_of(key, value) for key, value in row.items()} for name, row in file["presets"].items()}
    return {name: Preset(**row) for name, row in rows.items()}


# --- What a preset promises, held against what is installed and allowed before a model loads, and against it after ---


def check_loadable(preset: Preset, *, trust_remote_code: bool) -> None:
    """Raise EncoderLoadError where the model needs newer packages, or its own Python without leave; reads no file."""
    for package, oldest in preset.min_versions.items():
        installed = metadata.version(package)
        if _numbers(installed) < _numbers(oldest):
            raise EncoderLoadError(
                f"{preset.model} needs {package} {oldest} or newer, and {installed} is installed: "
                f"pip install -U '{package}>={oldest}'"
            )
    if preset.remote_code and not trust_remote_code:
        raise EncoderLoadError(
            f"{preset.model} runs Python of its own repository: read it, then pass `trust_remote_code=True`"
        )


def check_loaded(preset: Preset, spec: EncoderSpec, *, cut: bool) -> None:
    """Raise EncoderLoadError where all of a vector's dimensions, before it was `cut`, are not what the preset says."""
    full = max(spec.matryoshka_dims, default=spec.dim) if cut else spec.dim
    if preset.dim is None or full is None or preset.dim == full:
        return
    raise EncoderLoadError(
        f"{preset.model} is known for vectors of {preset.dim} dimensions, and this checkpoint makes {full}: it is "
        f"another one than was published, so give it a name or a folder of its own"
    )


def _numbers(version: str) -> tuple[int, ...]:
    """`"5.18.0rc1"` -> (5, 18, 0): the release, without what marks it as early or local."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
