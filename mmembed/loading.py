"""What every family of encoders needs to load weights: a device, a dtype, a checksum, a fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmembed.errors import EncoderLoadError, SettingsError

if TYPE_CHECKING:
    import torch

__all__ = ["fingerprint", "pick_device", "pick_dtype", "weights_checksum"]

_DTYPES = ("float32", "bfloat16", "float16")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def pick_device(device: str | None) -> torch.device:
    """The device asked for, or the best there is. Raises SettingsError for one that is not there."""
    import torch

    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as exc:
        raise SettingsError(f"device {device!r} cannot be used here ({str(exc).splitlines()[0]}): try cpu") from exc
    return chosen


def pick_dtype(dtype: str | None, device: torch.device, *, on_gpu: str = "float16") -> torch.dtype:
    """float32 on a CPU, `on_gpu` on a GPU, or the one asked for. Raises SettingsError for another word."""
    import torch

    if dtype is None:
        dtype = on_gpu if device.type == "cuda" else "float32"
    if dtype not in _DTYPES:
        raise SettingsError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen


def weights_checksum(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of `files`, in the order of their names.

    A file of the Hugging Face cache is a link to a blob that is named by its SHA-256, which is then taken as it is.
    """
    digest = hashlib.sha256()
    found = sorted(files, key=lambda file: file.name)
    if not found:
        raise EncoderLoadError("no weights: expected at least one .safetensors, .bin or .pt file")
    for file in found:
        blob = file.resolve().name
        if _SHA256.fullmatch(blob):
            digest.update(blob.encode())
        else:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").hexdigest().encode())
    return digest.hexdigest()


def fingerprint(ingredients: Mapping[str, object]) -> str:
    """16 hexadecimal digits, equal if and only if all `ingredients` are: what makes two vectors comparable.

    Ingredients are JSON values: weights checksum, dim, pooling, preprocessing, prompts. Not the
    name, device, dtype or batch size, which leave vectors comparable.
    """
    text = json.dumps(ingredients, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
