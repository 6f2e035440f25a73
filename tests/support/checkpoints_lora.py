"""Adapters for the tests: made with peft itself on a test checkpoint, with random weights, never trained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

Settings = dict[str, Any]
WEIGHTS = "adapter_model.safetensors"


def lora(**settings: Any) -> LoraConfig:
    """Rank 4, and B not zero: a new adapter would change nothing."""
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **settings})


def adapt(model: torch.nn.Module, config: PeftConfig, folder: Path, *, base: str | None = None) -> PeftModel:
    """Put a random adapter on `model`, save it to `folder`, and give the model that is not merged."""
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 for a name that is about to go
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = get_peft_model(model.eval(), config)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    if base is not None:
        change_config(folder, base_model_name_or_path=base)
    plain: PeftModel = adapted.eval()
    return plain


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def to_cache(cache: Path, repository: str, folder: Path, *, commit: str = "a" * 40) -> None:
    """Lay out the files of `folder` as the hub's cache holds a repository."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "snapshots").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots" / commit).symlink_to(folder, target_is_directory=True)
