"""Checkpoints: models of the Hugging Face hub, and local folders laid out like one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, cast

from mmembed.encoders.presets import preset_of_model
from mmembed.encoders.registry import EncoderName
from mmembed.errors import EncoderLoadError, MmembedError, SettingsError
from mmembed.types import LoadOptions

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

NO_ADAPTER = {"subfolder": "no-adapter"}
"""`adapter_kwargs` of `from_pretrained`: where peft is installed, it would also load an adapter beside the weights."""

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The files that transformers looks for, in its order: the first decides."""

_LOADING_ERRORS = (OSError, EOFError, ValueError, RuntimeError, LookupError, TypeError, ImportError)
_UNKNOWN_TYPE = re.compile(r"model type `([^`]+)` but Transformers does not recognize this architecture")
"""What AutoConfig says of a config.json that is newer than it."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files come from: `model` is what every `from_pretrained` takes, with `revision`."""

    model: str  # a hub id, or the absolute path of a folder
    revision: str | None  # None for a folder
    local: bool

    def folder(self, marker: str = "config.json") -> Path:
        """The folder of its files, in the hub's cache or local, which holds `marker`. Only after it was loaded."""
        from huggingface_hub import try_to_load_from_cache

        if self.local:
            found: object = str(Path(self.model) / marker)
        else:
            found = try_to_load_from_cache(self.model, marker, revision=self.revision)
        if not isinstance(found, str) or not Path(found).is_file():
            raise EncoderLoadError(f"{self.model} has no {marker}, which tells how to load it: name another model")
        return Path(found).parent

    def weight_files(self, marker: str = "config.json") -> list[Path]:
        """What loading it reads: model.safetensors or its shards, or where there are none pytorch_model.bin.

        A sentence-transformers model keeps them in the folders that modules.json names. Other files of weights
        beside them, such as an adapter's, are not read.
        """
        root = self.folder(marker)
        listing = root / "modules.json"
        parts = [""] if not listing.is_file() else [part["path"] for part in json.loads(listing.read_text("utf-8"))]
        return [file for part in dict.fromkeys(parts) for file in _weights_in(root / part)]

    @contextmanager
    def loading(self, advice: str = "") -> Iterator[None]:
        """Translate what transformers, sentence-transformers and the hub raise while loading to EncoderLoadError.

        No bar is drawn while weights are read: what is shown is for the edges to decide.

        Args:
            advice: what else to do where the model is neither cached nor reachable.
        """
        from safetensors import SafetensorError

        try:
            with _without_bars():
                yield
        except MmembedError:
            raise
        except UnpicklingError as exc:
            raise EncoderLoadError(
                f"the pickled weights of {self.model} are broken or hold more than tensors, which could run anything "
                f"and is not read: give them as .safetensors"
            ) from exc
        except (*_LOADING_ERRORS, SafetensorError) as exc:
            reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200].rstrip(".:")
            if unknown := _UNKNOWN_TYPE.search(str(exc)):
                todo = (
                    f"{self.model} is a {unknown[1]!r} model, which transformers {version('transformers')} does not "
                    f"know: pip install -U transformers, or name another model"
                )
            elif "trust_remote_code" in str(exc):
                todo = f"{self.model} runs Python of its own repository: read it, then pass `trust_remote_code=True`"
            elif self.local:
                todo = f"folder {self.model} cannot be loaded ({reason}): it must hold config, tokenizer and weights"
            elif isinstance(exc, OSError):
                todo = (
                    f"{self.model} is neither in the Hugging Face cache nor could it be fetched from the hub "
                    f"({reason}): check name and network, or name a local folder with its files{advice}"
                )
            else:
                todo = f"{self.model} cannot be loaded ({type(exc).__name__}: {reason}): name another model or revision"
            raise EncoderLoadError(todo) from exc


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar of transformers, such as "Loading weights"; that of a download, which takes its time, stays."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.set_tqdm_hook(lambda make, args, options: make(*args, **{**options, "disable": True}))
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def _weights_in(folder: Path) -> list[Path]:
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is not None and file.suffix == ".json":
        return [folder / shard for shard in sorted(set(json.loads(file.read_text("utf-8"))["weight_map"].values()))]
    return [] if file is None else [file]


def find_checkpoint(name: EncoderName, *, revision: str | None, example: str) -> Checkpoint:
    """The checkpoint that `name.model` names: a folder if there is one, otherwise a hub id.

    A known hub id is pinned to its preset's revision. Raises EncoderLoadError for a path that is not there.
    """
    if not name.model:
        raise EncoderLoadError(f"encoder {str(name)!r} names no model: write {name.family}:MODEL, such as {example}")
    path = Path(name.model).expanduser()
    if path.is_dir():
        if revision:
            raise SettingsError(f"a folder such as {path} has no revision: leave ?revision={revision} out")
        return Checkpoint(str(path.resolve()), None, local=True)
    if name.model.startswith((".", "/", "~")):
        raise EncoderLoadError(f"encoder {str(name)!r} names a folder that is not there: check the path")
    preset = preset_of_model(name.model)
    return Checkpoint(name.model, revision or (preset.revision if preset else None), local=False)


def load_config(checkpoint: Checkpoint, model_types: Sequence[str], example: str, run: LoadOptions) -> PretrainedConfig:
    """The config.json of `checkpoint`. Raises EncoderLoadError unless its model_type is one of `model_types`."""
    from transformers import AutoConfig

    with checkpoint.loading():
        config: PretrainedConfig = AutoConfig.from_pretrained(
            checkpoint.model, revision=checkpoint.revision or "main", trust_remote_code=run.trust_remote_code
        )
    if config.model_type not in model_types:
        raise EncoderLoadError(
            f"{checkpoint.model} is a {config.model_type!r} model, not {' or '.join(map(repr, model_types))} "
            f"as in {example}: load it with the family it belongs to, or with sentence:"
        )
    return config


def load_weights(checkpoint: Checkpoint, run: LoadOptions, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of `checkpoint` on a device in a dtype, of which `run` says nothing here.

    Raises EncoderLoadError where weights are missing: transformers would fill them in at random.
    """
    from transformers import AutoModel

    with checkpoint.loading():
        model, report = AutoModel.from_pretrained(
            checkpoint.model,
            revision=checkpoint.revision or "main",
            trust_remote_code=run.trust_remote_code,
            dtype=dtype,
            output_loading_info=True,
            adapter_kwargs=NO_ADAPTER,
        )
    if missing := sorted(report["missing_keys"]):
        raise EncoderLoadError(
            f"{checkpoint.model} lacks {len(missing)} of its weights ({missing[0]} is one) and would run on random "
            f"ones: download it again"
        )
    return cast("PreTrainedModel", model.to(device).eval())


# --- What every family of encoders needs to load weights: a device, a dtype, a checksum, a fingerprint ---

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
    return cast("torch.dtype", getattr(torch, dtype))


def weights_checksum(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of `files`, in the order of their names.

    A file of the Hugging Face cache is a link to a blob that is named by its SHA-256, which is then taken as it is.
    """
    digest = hashlib.sha256()
    found = sorted(files, key=lambda file: file.name)
    if not found:
        raise EncoderLoadError("no weights: expected at least one .safetensors, .bin or .pt file")
    for file in found:
        checksum = file.resolve().name
        if not _SHA256.fullmatch(checksum):
            with file.open("rb") as stream:
                checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(checksum.encode())
    return digest.hexdigest()


def fingerprint(ingredients: Mapping[str, object]) -> str:
    """16 hexadecimal digits, equal if and only if all `ingredients` are: what makes two vectors comparable.

    Ingredients are JSON values: weights checksum, dim, pooling, preprocessing, prompts. Not the
    name, device, dtype or batch size, which leave vectors comparable.
    """
    text = json.dumps(ingredients, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
