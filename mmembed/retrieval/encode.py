"""What is asked as one vector: encoded, mixed, averaged, or as its user wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmembed.errors import InvalidQuery, UnsupportedModality
from mmembed.images import load_image, upright_rgb
from mmembed.retrieval.query import Example, ImageQuery, PointId, Search
from mmembed.types import DenseArray, Embeddings, Encoder, SparseVector, Vector, VectorContract
from mmembed.vectors import l2_normalize


def given_vector(
    vector: Sequence[float] | npt.NDArray[np.floating[Any]], name: str, contract: VectorContract | None
) -> DenseArray:
    """A vector as its user wrote it -> `(dim,)`, or `(windows, dim)` where the collection holds multivectors."""
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinity, and is refused as such
            array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidQuery(f"the vector to search with is not a list of numbers ({exc})") from exc
    if not np.isfinite(array).all() or not array.any():
        raise InvalidQuery("the vector to search with is empty, all zeros, or holds NaN or infinity")
    if contract is None:
        return array
    if contract.kind == "sparse":
        raise InvalidQuery(f"vector {name!r} is sparse, and a list of numbers is dense: ask with a text")
    if contract.kind == "multi":
        array = np.atleast_2d(array)
    if array.ndim != (2 if contract.kind == "multi" else 1) or array.shape[-1] != contract.dim:
        raise InvalidQuery(
            f"vector {name!r} has {contract.dim} dimensions; the one to search with has the shape {array.shape}"
        )
    return array


def encode_query(encoder: Encoder, search: Search) -> DenseArray | SparseVector:
    """The query as one vector: the weighted sum of its parts, less what is subtracted, of norm 1."""
    parts: list[tuple[float, DenseArray]] = []
    if search.text is not None:
        rows = encoder.encode_text([search.text], role="query", task=search.task)
        if encoder.spec.kind != "dense":
            if search.images or search.minus:
                raise InvalidQuery(
                    f"{encoder.spec.kind} vectors of {encoder.spec.name} cannot be mixed or subtracted: "
                    f"ask with words alone, or by another vector"
                )
            return rows[0]
        parts.append((search.weight("text"), _row(rows)))
    if search.image is not None:
        parts.append((search.weight("image"), _encode_image(encoder, search.image)))
    for part in search.minus:
        if isinstance(part, str):
            row = _row(encoder.encode_text([part], role="query", task=search.task))
        else:
            row = _encode_image(encoder, part)
        parts.append((-search.weight("minus"), row))
    if len(parts) == 1:
        return parts[0][1]
    heaviest = max(abs(weight) for weight, _ in parts) or 1.0  # only their ratios count, and these do not overflow
    total = np.sum([weight / heaviest * row for weight, row in parts], axis=0)
    if np.linalg.norm(total) < 1e-6:
        raise InvalidQuery("the parts of this query cancel out: change their weights")
    return l2_normalize(total)


def encode_examples(
    encoder: Encoder | None, examples: Sequence[Example], stored: Mapping[str, Vector], task: str | None
) -> list[Vector]:
    """n texts, images and points, whose vectors are in `stored` -> n vectors; the texts in one batch."""
    texts = [each for each in examples if isinstance(each, str)]
    rows = iter(encoder.encode_text(texts, role="query", task=task) if encoder is not None and texts else ())
    vectors: list[Vector] = []
    for each in examples:
        if isinstance(each, PointId):
            vectors.append(stored[each.id])
        elif isinstance(each, str):
            vectors.append(cast(Vector, next(rows)))
        else:
            assert encoder is not None  # there is one wherever anything has to be encoded
            vectors.append(_encode_image(encoder, each))
    return vectors


def average(positive: Sequence[Vector], negative: Sequence[Vector]) -> Vector:
    """Qdrant's average_vector: the mean of the positive ones, plus what it differs from that of the negative ones.

    Of dense vectors 2 * mean(positive) - mean(negative); of multivectors all rows, those of negative ones negated.

    >>> average([np.float32([1, 0]), np.float32([0, 1])], [np.float32([1, 0])])
    array([0., 1.], dtype=float32)
    """
    if isinstance(positive[0], SparseVector):
        return _average_sparse(cast(Sequence[SparseVector], positive), cast(Sequence[SparseVector], negative))
    liked, disliked = cast(Sequence[DenseArray], positive), cast(Sequence[DenseArray], negative)
    if liked[0].ndim == 2:
        rows: DenseArray = np.concatenate([*liked, *(-each for each in disliked)])
        return rows
    mean = np.mean(liked, axis=0)
    total = 2 * mean - np.mean(disliked, axis=0) if disliked else mean
    if np.linalg.norm(total) < 1e-6:
        raise InvalidQuery("the examples cancel out: leave one of them out, or choose best_score as the strategy")
    return np.asarray(total, dtype=np.float32)


def _average_sparse(positive: Sequence[SparseVector], negative: Sequence[SparseVector]) -> SparseVector:
    total: dict[int, float] = {}
    for vectors, factor in ((positive, 2.0 if negative else 1.0), (negative, -1.0)):
        for vector in vectors:
            for index, value in zip(vector.indices.tolist(), vector.values.tolist(), strict=True):
                total[index] = total.get(index, 0.0) + factor * value / len(vectors)
    indices = sorted(total)
    return SparseVector(np.array(indices, dtype=np.uint32), np.array([total[i] for i in indices], dtype=np.float32))


def _encode_image(encoder: Encoder, image: ImageQuery) -> DenseArray:
    if "image" not in encoder.spec.modalities:
        raise UnsupportedModality(encoder.spec.name, "pictures", encoder.spec.modalities)
    if isinstance(image, Image.Image):
        image = upright_rgb(image)
    else:
        image = load_image(image, uri=str(image) if isinstance(image, Path) else "the picture to search with")
    return _row(encoder.encode_image([image]))


def _row(embeddings: Embeddings) -> DenseArray:
    """The one dense embedding of a batch of one."""
    row: DenseArray = np.asarray(embeddings)[0]
    return row
