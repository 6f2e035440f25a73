"""Labelled pictures -> labelled vectors: of files through the encoder, of a collection as they are stored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from qdrant_client import models

from mmembed.errors import InputError, InvalidSample, UnsupportedModality
from mmembed.images import MAX_PIXELS, load_image
from mmembed.sources.labelled import LabelledPicture
from mmembed.streams import load_in_order
from mmembed.types import DenseArray, Encoder, Failure, PixelEncoder, Pixels, Store
from mmembed.vectors import check_embeddings

__all__ = ["LabelledVectors", "embed_sample", "stored_sample"]


@dataclass(frozen=True, eq=False)
class LabelledVectors:
    """n pictures that could be read."""

    vectors: DenseArray  # (n, dim)
    truth: list[str | None]  # None: shows none of the labels
    ids: list[str]  # paths of files, or ids of points
    failures: list[Failure] = field(default_factory=list)


def embed_sample(
    pictures: Sequence[LabelledPicture], encoder: Encoder, *, workers: int | None = None, max_pixels: int = MAX_PIXELS
) -> LabelledVectors:
    """Encode them, decoding in threads beside it; a bad picture is a Failure and the rest goes on.

    Raises InvalidSample where none can be read, UnsupportedModality for an encoder without dense vectors of pictures.
    """
    spec = encoder.spec
    if "image" not in spec.modalities or spec.kind != "dense":
        raise UnsupportedModality(spec.name, "pictures as dense vectors", spec.modalities)
    blocks: list[DenseArray] = []
    read: list[LabelledPicture] = []
    failures: list[Failure] = []
    for batch in _batches(pictures, encoder, workers or min(8, os.cpu_count() or 1), max_pixels, failures):
        read += [picture for picture, _ in batch]
        blocks.append(_encode([pixels for _, pixels in batch], encoder))
    if not read:
        first = failures[0].error if failures else "it is empty"
        raise InvalidSample(f"no picture of the sample can be read ({first}): give pictures of each label")
    return LabelledVectors(np.concatenate(blocks), [p.label for p in read], [str(p.path) for p in read], failures)


def stored_sample(
    store: Store, collection: str, key: str, *, vector: str = "image", negatives: str | None = None
) -> LabelledVectors:
    """The points whose payload `key` is one text: that is their label, `negatives` the text that means none.

    Raises InvalidSample where there are no such points.
    """
    has_key = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])
    rows, truth, ids = [], [], []
    for point in store.scroll(collection, filter=has_key, vectors=[vector], payload=[key]):
        label, row = point.payload.get(key), point.vectors.get(vector)
        if isinstance(label, str) and isinstance(row, np.ndarray):
            rows.append(row)
            truth.append(None if label == negatives else label)
            ids.append(point.id)
    if not rows:
        raise InvalidSample(
            f"no point of collection {collection!r} has a vector {vector!r} and a text as payload {key!r}: "
            f"name the key that holds the label"
        )
    return LabelledVectors(np.stack(rows).astype(np.float32, copy=False), truth, ids)


def _batches(
    pictures: Sequence[LabelledPicture], encoder: Encoder, workers: int, max_pixels: int, failures: list[Failure]
) -> Iterator[list[tuple[LabelledPicture, Pixels | Image.Image]]]:
    def load(picture: LabelledPicture) -> Pixels | Image.Image:
        image = load_image(picture.path, uri=str(picture.path), max_pixels=max_pixels)
        return encoder.preprocess_image(image) if isinstance(encoder, PixelEncoder) else image

    batch: list[tuple[LabelledPicture, Pixels | Image.Image]] = []
    ahead = max(2 * workers, encoder.batch_size if isinstance(encoder, PixelEncoder) else 0)
    for picture, loaded in load_in_order(pictures, load, workers=workers, ahead=ahead):
        if isinstance(loaded, InputError):
            failures.append(Failure(str(picture.path), str(loaded)))
            continue
        batch.append((picture, loaded))
        if len(batch) == encoder.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _encode(loaded: Sequence[Pixels | Image.Image], encoder: Encoder) -> DenseArray:
    if isinstance(encoder, PixelEncoder):
        vectors = encoder.encode_pixels([p for p in loaded if isinstance(p, np.ndarray)])
    else:
        encoded = encoder.encode_image([p for p in loaded if isinstance(p, Image.Image)])
        assert isinstance(encoded, np.ndarray)  # its kind is dense
        vectors = encoded
    return check_embeddings(vectors, n=len(loaded), dim=encoder.spec.dim, encoder=encoder.spec.name)
