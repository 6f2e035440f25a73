"""The nouns of mmembed: two protocols (Encoder, Store) and the frozen dataclasses between them.

Dense arrays are `(n, dim)` float32 with rows of norm 1 from the encoder's mouth to the
store's door. Batches only. Nothing is guessed: an image is an image because the caller says so.
"""

from mmembed.types.encoders import (
    DenseArray,
    Distance,
    Embeddings,
    Encoder,
    EncoderSpec,
    JointEncoder,
    Kind,
    LoadOptions,
    Modality,
    PixelEncoder,
    Pixels,
    Reranker,
    Role,
    SparseVector,
    Vector,
)
from mmembed.types.items import Failure, ImageContent, Item, Payload
from mmembed.types.store import (
    Contract,
    Examples,
    FacetValue,
    Hit,
    IndexType,
    Leg,
    Point,
    Ranking,
    Store,
    StoreQuery,
    VectorContract,
)

__all__ = [
    "Contract",
    "DenseArray",
    "Distance",
    "Embeddings",
    "Encoder",
    "EncoderSpec",
    "Examples",
    "FacetValue",
    "Failure",
    "Hit",
    "ImageContent",
    "IndexType",
    "Item",
    "JointEncoder",
    "Kind",
    "Leg",
    "LoadOptions",
    "Modality",
    "Payload",
    "PixelEncoder",
    "Pixels",
    "Point",
    "Ranking",
    "Reranker",
    "Role",
    "SparseVector",
    "Store",
    "StoreQuery",
    "Vector",
    "VectorContract",
]
