"""The field's own benchmarks run on our encoders: mteb 2.x (MTEB, MIEB) and CLIP_benchmark.

| harness | what it takes | what it measures |
|---|---|---|
| mteb | `MtebEncoder(encoder)` | an encoder, by exact search |
| mteb, its retrieval tasks | `QdrantSearch(encoder)` | the encoder and the collection: graph and quantization |
| CLIP_benchmark | `load_clip_model(name)`, `register_clip_benchmark()` | an encoder of pictures and texts |

Both harnesses come with pip install 'mmembed[harnesses]'; without them each of these raises MissingDependency.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmembed.evaluation.harnesses.clip_benchmark_model import ClipModel, load_clip_model, register_clip_benchmark
    from mmembed.evaluation.harnesses.mteb_encoder import MtebEncoder
    from mmembed.evaluation.harnesses.qdrant_search import QdrantSearch

__all__ = ["ClipModel", "MtebEncoder", "QdrantSearch", "load_clip_model", "register_clip_benchmark"]

_HOME = {
    "ClipModel": "clip_benchmark_model",
    "MtebEncoder": "mteb_encoder",
    "QdrantSearch": "qdrant_search",
    "load_clip_model": "clip_benchmark_model",
    "register_clip_benchmark": "clip_benchmark_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mmembed.evaluation.harnesses' has no attribute {name!r}")
    return getattr(import_module(f"mmembed.evaluation.harnesses.{_HOME[name]}"), name)
