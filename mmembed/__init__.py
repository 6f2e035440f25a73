"""Multimodal search for Qdrant: pictures and documents in, four kinds of search out.

`import mmembed` loads neither torch nor Qdrant: each name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmembed.classification import Classified, Labels, classify
    from mmembed.classification.tagging import tag
    from mmembed.collection import Collection
    from mmembed.encoders.pool import Encoders
    from mmembed.encoders.registry import families, load_encoder, load_reranker
    from mmembed.errors import MmembedError
    from mmembed.ingest import IngestReport, ingest_documents, ingest_images
    from mmembed.retrieval.api import search
    from mmembed.retrieval.query import PointId, Search
    from mmembed.retrieval.several import search_several
    from mmembed.stores import open_store
    from mmembed.types import (
        Contract,
        Encoder,
        EncoderSpec,
        Failure,
        Hit,
        Item,
        Leg,
        LoadOptions,
        PixelEncoder,
        Point,
        Reranker,
        SparseVector,
        Store,
        StoreQuery,
        VectorContract,
    )

_NAMES = {
    "classification": ("Classified", "Labels", "classify"),
    "classification.tagging": ("tag",),
    "collection": ("Collection",),
    "encoders.pool": ("Encoders",),
    "encoders.registry": ("families", "load_encoder", "load_reranker"),
    "errors": ("MmembedError",),
    "ingest": ("IngestReport", "ingest_documents", "ingest_images"),
    "retrieval": ("PointId", "Search", "search", "search_several"),
    "stores": ("open_store",),
    "types": (
        *("Contract", "Encoder", "EncoderSpec", "Failure", "Hit", "Item", "Leg", "LoadOptions", "PixelEncoder"),
        *("Point", "Reranker", "SparseVector", "Store", "StoreQuery", "VectorContract"),
    ),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
# modules that are reached as attributes: `mmembed.classification`
_PARTS = ("classification", "evaluation")


__all__ = [
    "Classified",
    "Collection",
    "Contract",
    "Encoder",
    "EncoderSpec",
    "Encoders",
    "Failure",
    "Hit",
    "IngestReport",
    "Item",
    "Labels",
    "Leg",
    "LoadOptions",
    "MmembedError",
    "PixelEncoder",
    "Point",
    "PointId",
    "Reranker",
    "Search",
    "SparseVector",
    "Store",
    "StoreQuery",
    "VectorContract",
    "classify",
    "families",
    "ingest_documents",
    "ingest_images",
    "load_encoder",
    "load_reranker",
    "open_store",
    "search",
    "search_several",
    "tag",
]


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"mmembed.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'mmembed' has no attribute {name!r}")
    value = getattr(import_module(f"mmembed.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_PARTS, "__version__"]
