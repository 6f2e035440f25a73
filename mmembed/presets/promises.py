"""What a preset promises, held against what is installed and allowed before a model loads, and against it after."""

from __future__ import annotations

import re
from importlib import metadata

from mmembed.errors import EncoderLoadError
from mmembed.presets.row import Preset
from mmembed.types import EncoderSpec

__all__ = ["check_loadable", "check_loaded"]


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
            f"{preset.model} runs Python of its own repository: read it, then pass --trust-remote-code"
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
