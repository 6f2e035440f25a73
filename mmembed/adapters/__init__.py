"""LoRA adapters: what PEFT's `save_pretrained` wrote, merged into the model that it was trained on.

    family:MODEL?adapter=FOLDER    a model with an adapter, a folder or a hub id
    family:FOLDER                  a folder with an adapter_config.json, which names its own base (bge-m3, splade,
                                   vlm, late and cross-encoder want it as ?adapter=)

Merged: the weights themselves are changed, in float32 and before they are cast, so that a forward pass costs no more.
"""

from mmembed.adapters.found import Adapted, Adapter, check_base, find_adapter, given_adapter, with_adapter
from mmembed.adapters.merging import build_adapted, cast, load_adapted, merge_adapter

__all__ = [
    "Adapted",
    "Adapter",
    "build_adapted",
    "cast",
    "check_base",
    "find_adapter",
    "given_adapter",
    "load_adapted",
    "merge_adapter",
    "with_adapter",
]
