"""Which adapter a name stands for, where its files are, and whether it belongs to a model."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmembed.encoders.checkpoint import Checkpoint, find_checkpoint, fingerprint, weights_checksum
from mmembed.encoders.presets import Preset, preset_of_model
from mmembed.encoders.registry import EncoderName
from mmembed.errors import EncoderLoadError
from mmembed.types import EncoderSpec, Kind, Modality

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_CONFIG, _PICKLE = "adapter_config.json", "adapter_model.bin"
_NEUTRAL = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
"""What adapter_config.json says that changes no vector."""
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")  # any other base is a path


@dataclass(frozen=True)
class LoraAdapter:
    """Where an adapter's files are and what its adapter_config.json says."""

    source: str  # a hub id, or the absolute path of a folder
    folder: Path
    config: Mapping[str, Any]

    @property
    def base(self) -> str | None:
        """The model that it was trained on: a hub id or somebody's path; None where nobody wrote it down."""
        return self.config.get("base_model_name_or_path") or None

    def checksum(self) -> str:
        """Over its weights and what scales them: equal if and only if it changes a model alike, wherever it lies."""
        settings = {key: value for key, value in self.config.items() if value and key not in _NEUTRAL}
        ordered = {key: sorted(value) if isinstance(value, list) else value for key, value in settings.items()}
        return fingerprint({"weights": weights_checksum([self.folder / ADAPTER_WEIGHTS]), "settings": ordered})


@dataclass(frozen=True)
class Origin:
    """Where the model of a name comes from: a checkpoint, and the adapter to merge into it, if any."""

    name: EncoderName  # what a collection stores: paths are absolute
    base: Checkpoint
    adapter: LoraAdapter | None

    @property
    def revision(self) -> str | None:
        """The commit of what the name's model part names; None for a folder. Only after it was loaded."""
        if Path(self.name.model).is_dir():
            return None
        own = self.adapter is not None and self.adapter.source == self.name.model
        return self.adapter.folder.name if own and self.adapter is not None else self.base.folder().name

    @property
    def preset(self) -> Preset | None:
        """What is known of the model that the name names."""
        return preset_of_model(self.name.model)

    def spec(
        self,
        ingredients: Mapping[str, object],
        *,
        kind: Kind = "dense",
        dim: int | None,
        modalities: tuple[Modality, ...] = ("text",),
        matryoshka_dims: tuple[int, ...] = (),
        context_length: int | None,
        image_size: int | None = None,
        revision: str | None,
    ) -> EncoderSpec:
        """The model card of the encoder that was made of it; `ingredients` are what its fingerprint is made of."""
        preset = self.preset
        return EncoderSpec(
            name=str(self.name),
            kind=kind,
            dim=dim,
            modalities=frozenset(modalities),
            fingerprint=fingerprint(ingredients),
            distance="dot" if kind == "sparse" else "cosine",
            matryoshka_dims=matryoshka_dims,
            context_length=context_length,
            image_size=image_size,
            revision=revision,
            licence=preset.licence if preset else None,
        )

    def check(self) -> None:
        """Raise EncoderLoadError where `?adapter=` names one of another model. Only after the base was loaded."""
        if self.adapter is not None and "adapter" in self.name.options:
            check_base(self.adapter, [self.base.model], on_hub=not self.base.local, weights=self.base.weight_files())

    def ingredients(self, files: Sequence[Path] | None = None) -> dict[str, object]:
        """What a fingerprint takes in: the weights in `files` (None: the base's), and the adapter. Only when loaded."""
        adapter = {} if self.adapter is None else {"adapter": self.adapter.checksum()}
        return {"weights": weights_checksum(self.base.weight_files() if files is None else files), **adapter}


def find_origin(name: EncoderName, checkpoint: Checkpoint, option: str | None, *, own: bool) -> Origin:
    """Tell base and adapter apart: the adapter is the one that `?adapter=` names or, with `own`, the checkpoint's.

    transformers merges nothing, and looks for an adapter beside the weights only where peft is installed, so that
    one folder is two models; here it is always looked for, and a missing peft is an error.

    Raises:
        EncoderLoadError: an adapter that is not there, without a base, or a second one.
    """
    name = name.with_model(checkpoint.model)
    beside = None
    if own:
        with checkpoint.loading(f", as in {name.family}:FOLDER"):
            beside = _own_adapter(checkpoint)
    if option is None:
        return Origin(name, _base_of(name, checkpoint, beside) if beside else checkpoint, beside)
    if beside is not None:
        raise EncoderLoadError(
            f"encoder {str(name)!r}: {checkpoint.model} has an adapter of its own, beside {option}: merge one of them "
            f"into the model first, or leave ?adapter= out"
        )
    adapter = find_adapter(option)
    return Origin(replace(name, options={**name.options, "adapter": adapter.source}), checkpoint, adapter)


def find_adapter(source: str, *, revision: str | None = None) -> LoraAdapter:
    """The adapter in a folder, or of a hub id, downloaded if need be. Raises EncoderLoadError if it is not there."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        source = str(folder)
    elif source.startswith((".", "/", "~")):
        raise EncoderLoadError(f"the adapter {source} is a folder that is not there: check the path")
    else:
        from huggingface_hub import hf_hub_download

        with Checkpoint(source, revision, local=False).loading(", as in ?adapter=FOLDER"):
            folder = Path(hf_hub_download(source, _CONFIG, revision=revision)).parent
            hf_hub_download(source, ADAPTER_WEIGHTS, revision=revision)
    if not (folder / _CONFIG).is_file():
        raise EncoderLoadError(f"{source} has no {_CONFIG}, so it is not an adapter: name a folder that PEFT wrote")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        found = f"only the pickled {_PICKLE}" if (folder / _PICKLE).is_file() else "no weights"
        raise EncoderLoadError(f"the adapter {source} holds {found}: save it again, as {ADAPTER_WEIGHTS}")
    return LoraAdapter(source, folder, json.loads((folder / _CONFIG).read_text("utf-8")))


def check_base(adapter: LoraAdapter, names: Collection[str], *, on_hub: bool, weights: Sequence[Path]) -> None:
    """Raise EncoderLoadError where `adapter` was trained on another model than that of `names` and `weights`.

    Hub ids are compared, and weights where the adapter's base is a folder of this disk. Any other path is
    somebody else's and says nothing: then it is left to `merge_adapter`, where every key and shape must fit.
    """
    base = adapter.base
    if base is None or base.casefold() in {name.casefold() for name in names}:
        return
    folder = Path(base).expanduser()
    if folder.is_dir():
        theirs = Checkpoint(str(folder), None, local=True).weight_files() if (folder / "config.json").is_file() else []
        other = bool(theirs) and weights_checksum(theirs) != weights_checksum(weights)
    else:
        other = on_hub and _HUB_ID.fullmatch(base) is not None
    if other:
        raise EncoderLoadError(
            f"the adapter {adapter.source} was trained on {base}, not on {' or '.join(sorted(names))}: put it on that "
            f"model, or correct base_model_name_or_path in its {_CONFIG}"
        )


def _own_adapter(checkpoint: Checkpoint) -> LoraAdapter | None:
    """The adapter whose files lie in the checkpoint itself."""
    if checkpoint.local:
        return find_adapter(checkpoint.model) if (Path(checkpoint.model) / _CONFIG).is_file() else None
    from transformers.utils.peft_utils import find_adapter_config_file

    found = find_adapter_config_file(checkpoint.model, revision=checkpoint.revision or "main")
    return None if found is None else find_adapter(checkpoint.model, revision=checkpoint.revision)


def _base_of(name: EncoderName, checkpoint: Checkpoint, adapter: LoraAdapter) -> Checkpoint:
    """The model that the checkpoint's own adapter belongs to: the files beside it, or what it names."""
    if (adapter.folder / "config.json").is_file():
        return checkpoint
    base = adapter.base
    todo = f"write {name.family}:MODEL?adapter={checkpoint.model}"
    if base is None:
        raise EncoderLoadError(f"{checkpoint.model} is an adapter, and its {_CONFIG} names no base: {todo}")
    if Path(base).expanduser().is_dir():
        return find_checkpoint(name.with_model(base), revision=None, example=todo)
    if not _HUB_ID.fullmatch(base):
        raise EncoderLoadError(f"{checkpoint.model} is an adapter of {base}, a folder that is not there: {todo}")
    return find_checkpoint(name.with_model(base), revision=adapter.config.get("revision"), example=todo)
