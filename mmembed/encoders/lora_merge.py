"""An adapter and a model become a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from mmembed.encoders.checkpoint import load_weights, pick_device, pick_dtype
from mmembed.encoders.lora import ADAPTER_WEIGHTS, LoraAdapter, Origin
from mmembed.errors import EncoderLoadError, MissingDependency, MmembedError
from mmembed.types import LoadOptions

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedModel

_PEFT_PREFIX = "base_model.model."
_Model = TypeVar("_Model", bound="torch.nn.Module")


def merge_adapter(model: torch.nn.Module, adapter: LoraAdapter) -> None:
    """Add what `adapter` learned to the weights of `model`, in place; its weights should be float32.

    Raises:
        MissingDependency: peft is not installed.
        EncoderLoadError: of a kind that cannot be merged, or for a model with other layers or shapes.
    """
    if find_spec("peft") is None:
        raise MissingDependency(f"the adapter {adapter.source}", "peft", "mmembed[lora]")
    from peft import PeftType, set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = _peft_config(adapter)
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)](model, {"default": config}, "default")
        state = _named_as_in(model, load_file(adapter.folder / ADAPTER_WEIGHTS))
        _check_keys(model, adapter, state)
        set_peft_model_state_dict(model, state)
        _check_attention(model, adapter)
        tuner.merge_and_unload(safe_merge=True)  # refuses what is not finite
    except MmembedError:
        raise
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, SafetensorError) as exc:
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200].rstrip(".:")
        raise EncoderLoadError(
            f"the adapter {adapter.source} cannot be merged ({type(exc).__name__}: {reason}): give an adapter of this "
            f"model ({adapter.base or 'its own base is not written down'})"
        ) from exc
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise EncoderLoadError(f"the adapter {adapter.source} ({config.peft_type}) cannot be merged: use LoRA")


def load_adapted(origin: Origin, run: LoadOptions, *, on_gpu: str) -> PreTrainedModel:
    """`checkpoint.load_weights` of the base, with its adapter merged, as `build_adapted` does."""
    return build_adapted(origin, run, partial(load_weights, origin.base, run), on_gpu=on_gpu)


def build_adapted(
    origin: Origin, run: LoadOptions, build: Callable[[str, torch.dtype], _Model], *, on_gpu: str
) -> _Model:
    """`build(device, dtype)`, of transformers or sentence-transformers, with its adapter merged, in eval mode.

    `on_gpu` is its dtype. It is merged in float32 on the CPU, 4 bytes a parameter: half precision rounds most of a
    small step away.
    """
    import torch

    device = pick_device(run.device)
    dtype = pick_dtype(run.dtype, device, on_gpu=on_gpu)
    if origin.adapter is None:
        return build(str(device), dtype).eval()
    model = build("cpu", torch.float32)
    origin.check()
    transformer: Any = getattr(model, "transformers_model", model)  # of sentence-transformers: None for a static one
    if transformer is None:
        raise EncoderLoadError(f"{origin.base.model} has no transformer to merge an adapter into: leave it out")
    merge_adapter(transformer, origin.adapter)
    for parameter in model.parameters():  # alone, as `from_pretrained(dtype=...)` does: rotary positions need float32
        parameter.data = parameter.data.to(dtype)
    return model.to(device).eval()


def _peft_config(adapter: LoraAdapter) -> PeftConfig:
    """The configuration of a kind of adapter that changes weights, and of which this peft knows every setting."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = str(adapter.config.get("peft_type"))
    if kind not in PeftType.__members__:
        raise EncoderLoadError(
            f"the adapter {adapter.source} is of kind {kind!r}, unknown to peft: pip install -U peft"
        )
    known = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    settings = {field.name for field in fields(known)}
    newer = sorted(key for key, value in adapter.config.items() if value and key not in settings)
    if newer:
        raise EncoderLoadError(
            f"the adapter {adapter.source} says {newer[0]}, which the installed peft does not know: pip install -U peft"
        )
    config: PeftConfig = known(**{key: value for key, value in adapter.config.items() if key in settings})
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise EncoderLoadError(
            f"the adapter {adapter.source} ({kind}) adds tokens or layers instead of changing weights, so it cannot be "
            f"merged: use LoRA"
        )
    config.inference_mode = True
    return config


def _named_as_in(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys as in `model`: without PEFT's prefix, and without that of a model with a head around this one."""
    bare = {key.removeprefix(_PEFT_PREFIX): value for key, value in state.items()}
    inner = getattr(model, "base_model_prefix", "")
    around = f"{inner}."
    if inner and not hasattr(model, inner) and all(key.startswith(around) for key in bare):
        return {key.removeprefix(around): value for key, value in bare.items()}
    return bare


def _check_keys(model: torch.nn.Module, adapter: LoraAdapter, state: Mapping[str, torch.Tensor]) -> None:
    """Every weight of the adapter has its place in `model` and every place its weight, in shape too."""
    from peft import get_peft_model_state_dict

    places = get_peft_model_state_dict(model, save_embedding_layers=False)
    own = model.state_dict()
    missing = sorted(places.keys() - state.keys())
    unexpected = sorted(key for key in state.keys() - places.keys() if key not in own)
    if missing or unexpected:
        raise EncoderLoadError(
            f"the adapter {adapter.source} lacks {_some(missing)} of the weights that its adapter_config.json promises "
            f"for this model and has {_some(unexpected)} for which the model has no place: put it on the model it was "
            f"trained on ({adapter.base or 'not written down'})"
        )
    for key, value in state.items():
        place = places.get(key, own.get(key))
        if place is not None and place.shape != value.shape:
            raise EncoderLoadError(
                f"the adapter {adapter.source} holds {key} of shape {list(value.shape)}, the model needs "
                f"{list(place.shape)}: put it on the model it was trained on"
            )


def _some(keys: Sequence[str]) -> str:
    return f"{len(keys)} ({keys[0]} is one)" if keys else "none"


def _check_attention(model: torch.nn.Module, adapter: LoraAdapter) -> None:
    """PyTorch's MultiheadAttention reads the weights of its `out_proj` and never calls it.

    An adapter on that layer alone is never trained, so it must still be nothing: merged, it would count.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch.nn import MultiheadAttention

    for name, module in model.named_modules():
        layer: Any = getattr(module, "out_proj", None)
        unseen = isinstance(module, MultiheadAttention) and isinstance(layer, BaseTunerLayer)
        if unseen and not name.endswith(".base_layer") and layer.get_delta_weight("default").any():
            raise EncoderLoadError(
                f"the adapter {adapter.source} changes {name}.out_proj, which PyTorch's attention does not call, "
                f"so it cannot have been trained there: target {name} itself"
            )
