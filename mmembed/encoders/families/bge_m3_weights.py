"""The weights of a BGE-M3: an XLM-RoBERTa and the two linear layers beside it, read once for its three outputs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors.torch import load_file
from torch import nn

from mmembed.encoders.checkpoint import Checkpoint, pick_device, pick_dtype, weights_checksum
from mmembed.encoders.lora import Origin
from mmembed.encoders.lora_merge import load_adapted
from mmembed.encoders.tokens import Tokens, load_tokens
from mmembed.errors import EncoderLoadError
from mmembed.types import LoadOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Output: TypeAlias = Literal["dense", "sparse", "colbert"]

_STEMS: Mapping[Output, str] = {"sparse": "sparse_linear", "colbert": "colbert_linear"}  # files of the layers
_GPU_DTYPE = "float16"  # as its authors run it


@dataclass(frozen=True, eq=False)
class Weights:
    """What the encoders of one checkpoint share while any of them is in use."""

    transformer: PreTrainedModel
    heads: Mapping[Output, nn.Linear]  # float32, whatever the transformer runs in
    tokens: Tokens
    checksums: Mapping[Output, str]  # of the files that each output is made with


_IN_USE: weakref.WeakValueDictionary[tuple[object, ...], Weights] = weakref.WeakValueDictionary()
_LOADING = threading.Lock()


def shared_weights(origin: Origin, run: LoadOptions) -> Weights:
    """The weights of a checkpoint with its adapter, shared with encoders that use them on that device in that dtype.

    A folder whose files were written anew since is read anew.
    """
    checkpoint = origin.base
    files = checkpoint.weight_files() if checkpoint.local else []
    files += [_head_file(checkpoint, stem) for stem in _STEMS.values() if checkpoint.local]
    merged = origin.adapter.checksum() if origin.adapter else None
    written = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    device = pick_device(run.device)
    dtype = pick_dtype(run.dtype, device, on_gpu=_GPU_DTYPE)
    key = (checkpoint.model, checkpoint.revision, written, merged, device, dtype, run.trust_remote_code)
    with _LOADING:
        return _IN_USE.get(key) or _IN_USE.setdefault(key, _load(origin, run))


def _load(origin: Origin, run: LoadOptions) -> Weights:
    checkpoint = origin.base
    tokens = load_tokens(checkpoint, flags={}, first="<s>", last="</s>", trust_remote_code=run.trust_remote_code)
    files = {output: _head_file(checkpoint, stem) for output, stem in _STEMS.items()}
    transformer = load_adapted(origin, run, on_gpu=_GPU_DTYPE)
    heads = {}
    for output, file in files.items():
        head = _head(checkpoint, file, transformer.config.hidden_size, rows=1 if output == "sparse" else None)
        heads[output] = head.to(transformer.device)
    body = weights_checksum(checkpoint.weight_files())
    if origin.adapter is not None:
        body += f" {origin.adapter.checksum()}"
    return Weights(
        transformer=transformer,
        heads=heads,
        tokens=tokens,
        checksums={"dense": body, **{output: f"{body} {weights_checksum([file])}" for output, file in files.items()}},
    )


def _head_file(checkpoint: Checkpoint, stem: str) -> Path:
    """`stem`.safetensors or else `stem`.pt of the checkpoint, fetched if need be."""
    names = (f"{stem}.safetensors", f"{stem}.pt")
    if checkpoint.local:
        found = [Path(checkpoint.model) / name for name in names if (Path(checkpoint.model) / name).is_file()]
    else:
        cached = (try_to_load_from_cache(checkpoint.model, name, revision=checkpoint.revision) for name in names)
        found = [Path(path) for path in cached if isinstance(path, str)] or _fetch(checkpoint, names)
    if not found:
        raise EncoderLoadError(
            f"{checkpoint.model} has no {stem}.pt, one of the two layers that make a BGE-M3 of an XLM-RoBERTa: name "
            f"another model, or load its dense vectors as sentence:{checkpoint.model}"
        )
    return found[0]


def _fetch(checkpoint: Checkpoint, names: Sequence[str]) -> list[Path]:
    """The first of `names` that the hub has."""
    for name in names:
        try:
            with checkpoint.loading():
                return [Path(hf_hub_download(checkpoint.model, name, revision=checkpoint.revision))]
        except EncoderLoadError as exc:
            if not isinstance(exc.__cause__, RemoteEntryNotFoundError):
                raise
    return []


def _head(checkpoint: Checkpoint, file: Path, width: int, *, rows: int | None) -> nn.Linear:
    """The linear layer in `file`, from the `width` of a hidden state to `rows` (None: as many as it has), float32."""
    with checkpoint.loading():
        safe = file.suffix == ".safetensors"
        state = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    shapes = {key: tuple(value.shape) for key, value in state.items()} if isinstance(state, dict) else {}
    rows = rows or shapes.get("weight", (0,))[0]
    if shapes != {"weight": (rows, width), "bias": (rows,)}:
        raise EncoderLoadError(
            f"{file.name} of {checkpoint.model} holds {shapes or 'no weights'}, not a layer from {width} dimensions "
            f"to {rows}: take the file that was published with the model"
        )
    head = nn.Linear(width, rows)
    head.load_state_dict(state)
    return head.eval()
