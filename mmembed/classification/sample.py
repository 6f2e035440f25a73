"""Labelled pictures -> labelled vectors: of files through the encoder, of a collection as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from qdrant_client import models

from mmembed.collection import Collection, stacked
from mmembed.collection.conditions import is_empty
from mmembed.encoders.encoding import encode_images
from mmembed.errors import InvalidSample, UnsupportedModality
from mmembed.images import MAX_PIXELS
from mmembed.sources.labelled import LabelledImage
from mmembed.streams import check_several
from mmembed.types import DenseArray, Encoder, Failure, Item, Store


@dataclass(frozen=True, eq=False)
class LabelledVectors:
    """n pictures that could be read."""

    vectors: DenseArray  # (n, dim)
    truth: list[str | None]  # None: shows none of the labels
    ids: list[str]  # paths of files, or ids of points
    failures: list[Failure] = field(default_factory=list)


def embed_sample(
    images: Sequence[LabelledImage], encoder: Encoder, *, workers: int | None = None, max_pixels: int = MAX_PIXELS
) -> LabelledVectors:
    """Encode them, decoding in threads beside it; a bad picture is a Failure and the rest goes on.

    Raises InvalidSample where none can be read, UnsupportedModality for an encoder without dense vectors of pictures.
    """
    check_several(images, "labelled images")
    spec = encoder.spec
    if "image" not in spec.modalities or spec.kind != "dense":
        raise UnsupportedModality(spec.name, "pictures as dense vectors", spec.modalities)
    rows: list[DenseArray] = []
    read: list[LabelledImage] = []
    failures: list[Failure] = []
    items = (Item(str(image.path), "image", image.path) for image in images)
    encoded = encode_images(items, encoder, workers=workers, max_pixels=max_pixels)
    for image, result in zip(images, encoded, strict=True):
        if isinstance(result, Failure):
            failures.append(result)
        else:
            read.append(image)
            rows.append(np.asarray(result.vector, dtype=np.float32))
    if not read:
        first = failures[0].error if failures else "it is empty"
        raise InvalidSample(f"no picture of the sample can be read ({first}): give pictures of each label")
    return LabelledVectors(np.stack(rows), [p.label for p in read], [str(p.path) for p in read], failures)


def stored_sample(store: Store, collection: str, key: str, *, negatives: str | None = None) -> LabelledVectors:
    """The points whose payload `key` is one text: that is their label, `negatives` the text that means none.

    Raises InvalidSample where there are no such points.
    """
    has_key = models.Filter(must_not=[is_empty(key)])
    blocks = Collection(store, collection).image_vectors(filter=has_key, payload=[key])
    points = [point for some, _ in blocks for point in some if isinstance(point.payload.get(key), str)]
    if not points:
        raise InvalidSample(
            f"no point of collection {collection!r} has a vector 'image' and a text as payload {key!r}: name the key "
            f"that holds the label"
        )
    labels = [point.payload[key] for point in points]
    truth = [None if label == negatives else label for label in labels]
    return LabelledVectors(stacked(points), truth, [point.id for point in points])
