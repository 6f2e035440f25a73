"""What is asked: its parts, what makes no sense whatever the collection holds, and one vector out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from qdrant_client import models

from mmembed.errors import InvalidQuery, UnreadableImage, UnsupportedModality
from mmembed.images import load_image, to_rgb
from mmembed.types import DenseArray, Embeddings, Encoder, SparseVector, VectorContract
from mmembed.vectors import l2_normalize

__all__ = ["WEIGHTS", "ImageQuery", "Query", "check_query", "encode_query", "given_vector"]

ImageQuery: TypeAlias = Path | bytes | Image.Image
"""A picture: a file, the bytes of one, or one already decoded."""

WEIGHTS = {"text": 1.0, "image": 1.0, "minus": 0.5}


@dataclass(frozen=True)
class Query:
    text: str | None
    image: ImageQuery | None
    vector: Sequence[float] | npt.NDArray[np.floating[Any]] | None
    id: str | None
    minus: tuple[str | ImageQuery, ...]
    weights: Mapping[str, float]  # those that were given
    task: str | None

    @property
    def is_one_text(self) -> bool:
        return self.text is not None and self.image is None and not self.minus

    def weight(self, part: str) -> float:
        return self.weights.get(part, WEIGHTS[part])

    @property
    def encoded(self) -> bool:
        return self.text is not None or self.image is not None or bool(self.minus)

    @property
    def pictures(self) -> bool:
        return self.image is not None or any(not isinstance(m, str) for m in self.minus)


def check_query(
    query: Query, filter: models.Filter | None, *, limit: int, offset: int, score_threshold: float | None
) -> None:
    """Raise InvalidQuery for a search that cannot be answered whatever the collection holds."""
    ways = [query.vector is not None, query.id is not None, query.encoded]
    if sum(ways) == 0:
        raise InvalidQuery("nothing to search for: give a text, a picture, a vector or the id of a point")
    if sum(ways) > 1:
        raise InvalidQuery("a vector, an id and words or pictures are three ways to ask: give one of them")
    if query.text is None and query.image is None and query.minus:
        raise InvalidQuery("there is only something to subtract: give a text or a picture to subtract it from")
    _check_parts(query)
    if limit < 1 or offset < 0:
        raise InvalidQuery(f"limit must be at least 1 and offset at least 0, not {limit} and {offset}")
    if score_threshold is not None and not math.isfinite(score_threshold):
        raise InvalidQuery(f"the score threshold is {score_threshold}: give a number")
    if filter is not None and not isinstance(filter, models.Filter):
        raise InvalidQuery(f"a filter is a qdrant_client.models.Filter, not a {type(filter).__name__}")


def _check_parts(query: Query) -> None:
    """The same, for each text, picture and weight."""
    unknown = set(query.weights) - set(WEIGHTS)
    if unknown:
        raise InvalidQuery(f"weights are for {', '.join(WEIGHTS)}, not of {', '.join(sorted(unknown))}")
    for name, weight in query.weights.items():
        if not isinstance(weight, int | float | np.number) or not math.isfinite(weight):
            raise InvalidQuery(f"the weight of {name} is {weight!r}: give a number")
    parts = {"text": query.text is not None, "image": query.image is not None, "minus": bool(query.minus)}
    idle = [name for name in query.weights if not parts[name]]
    if idle or (query.weights and sum(parts.values()) < 2):
        raise InvalidQuery(
            f"a weight of {(idle or list(query.weights))[0]} was given, and this query has "
            f"{' and '.join(name for name, there in parts.items() if there) or 'no such part'}: weights are for mixed "
            f"queries, of two parts or more"
        )
    texts = [part for part in (query.text, *query.minus) if isinstance(part, str)]
    if any(not text.strip() for text in texts):
        raise InvalidQuery("the text to search for, or to subtract, is empty")
    if any(text != text.encode(errors="replace").decode() for text in texts):
        raise InvalidQuery("the text to search for, or to subtract, is not valid UTF-8")
    pictures = [
        *([query.image] if query.image is not None else []),
        *(m for m in query.minus if not isinstance(m, str)),
    ]
    for picture in pictures:
        if not isinstance(picture, Path | bytes | Image.Image):
            raise InvalidQuery(f"a picture is a pathlib.Path, the bytes of one or a PIL image, not {picture!r:.80}")


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


def encode_query(encoder: Encoder, query: Query) -> DenseArray | SparseVector:
    """The query as one vector: the weighted sum of its parts, less what is subtracted, of norm 1."""
    parts: list[tuple[float, DenseArray]] = []
    if query.text is not None:
        rows = encoder.encode_text([query.text], role="query", task=query.task)
        if encoder.spec.kind != "dense":
            if query.pictures or query.minus:
                raise InvalidQuery(
                    f"{encoder.spec.kind} vectors of {encoder.spec.name} cannot be mixed or subtracted: "
                    f"ask with words alone, or by another vector"
                )
            return rows[0]
        parts.append((query.weight("text"), _row(rows)))
    if query.image is not None:
        parts.append((query.weight("image"), _encode_picture(encoder, query.image)))
    for part in query.minus:
        if isinstance(part, str):
            row = _row(encoder.encode_text([part], role="query", task=query.task))
        else:
            row = _encode_picture(encoder, part)
        parts.append((-query.weight("minus"), row))
    if len(parts) == 1:
        return parts[0][1]
    heaviest = max(abs(weight) for weight, _ in parts) or 1.0  # only their ratios count, and these do not overflow
    total = np.sum([weight / heaviest * row for weight, row in parts], axis=0)
    if np.linalg.norm(total) < 1e-6:
        raise InvalidQuery("the parts of this query cancel out: change their weights")
    return l2_normalize(total)


def _encode_picture(encoder: Encoder, picture: ImageQuery) -> DenseArray:
    if "image" not in encoder.spec.modalities:
        raise UnsupportedModality(encoder.spec.name, "pictures", encoder.spec.modalities)
    if isinstance(picture, Image.Image):
        try:
            picture = to_rgb(ImageOps.exif_transpose(picture))
        except (OSError, SyntaxError, ValueError) as exc:  # Pillow decodes a file's pixels only now
            raise UnreadableImage(f"the picture to search with cannot be decoded ({exc})") from exc
    else:
        picture = load_image(picture, uri=str(picture) if isinstance(picture, Path) else "the picture to search with")
    return _row(encoder.encode_image([picture]))


def _row(embeddings: Embeddings) -> DenseArray:
    """The one dense embedding of a batch of one."""
    row: DenseArray = np.asarray(embeddings)[0]
    return row
