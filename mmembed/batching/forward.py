"""One forward pass: inputs of a batch -> a vector or an error for each, where only the bad input fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from mmembed.batching.cache import BatchKey, Content, Prepared, prepare_image
from mmembed.batching.memory import LARGE_PIXELS, give_back_soon
from mmembed.errors import (
    EncoderError,
    EncoderRefused,
    EncoderUnavailable,
    InvalidEmbedding,
    MmembedError,
    SettingsError,
    UnsupportedModality,
)
from mmembed.images import check_quick, load_image
from mmembed.types import DenseArray, Embeddings, Encoder, PixelEncoder, SparseVector, Vector
from mmembed.vectors import check_embeddings

_OF_ALL = (EncoderUnavailable, EncoderRefused, SettingsError, UnsupportedModality)
"""Not the fault of one input: an API that does not answer, a task or role that the encoder does not know."""

logger = logging.getLogger(__name__)


def prepare_file(encoder: Encoder, content: bytes, *, max_pixels: int) -> Prepared | MmembedError:
    """The bytes of an image file -> decoded, and preprocessed where the encoder allows it; or what is wrong."""
    try:
        check_quick(content, uri="the picture")
        image = load_image(content, uri="the picture", max_pixels=max_pixels)
        if image.width * image.height > LARGE_PIXELS:
            give_back_soon()
        return prepare_image(encoder, image)
    except BaseException as exc:
        return _as_ours(encoder, exc)


def tokens_read(encoder: Encoder, text: str) -> int | MmembedError:
    """Tokens that the encoder reads of a text, at most its context length."""
    try:
        tokens = encoder.count_tokens(text)
    except BaseException as exc:
        return _as_ours(encoder, exc)
    longest = encoder.spec.context_length
    return tokens if longest is None else min(tokens, longest)


def encode(encoder: Encoder, batch: BatchKey, contents: Sequence[Content]) -> list[Vector | MmembedError]:
    """n inputs -> n outcomes, in order. Raises nothing, whatever the encoder raises or returns.

    A batch that fails is halved until the inputs that spoil it are found, n log2 n forward passes at worst.
    """
    inputs: Any = contents  # texts or images, as the method takes them
    try:
        if batch.modality == "text":
            return [*_rows(encoder, encoder.encode_text(inputs, role=batch.role, task=batch.task), len(contents))]
        call = encoder.encode_pixels if isinstance(encoder, PixelEncoder) else encoder.encode_image
        return [*_rows(encoder, call(inputs), len(contents))]
    except _OF_ALL as exc:
        return [exc] * len(contents)
    except BaseException as exc:  # Rust code under a tokenizer panics with one that is no Exception
        if len(contents) == 1 or batch.alone:
            return [_as_ours(encoder, exc)] * len(contents)
    middle = len(contents) // 2
    return encode(encoder, batch, contents[:middle]) + encode(encoder, batch, contents[middle:])


def _as_ours(encoder: Encoder, exc: BaseException) -> MmembedError:
    """The error as its user may see it: what a library says may name files of the server, so only the log has it."""
    if isinstance(exc, MmembedError):
        return exc
    name = encoder.spec.name
    logger.error("encoder %s failed on an input", name, exc_info=exc)
    return EncoderError(f"encoder {name} failed on this input ({type(exc).__name__}): the log of the service says why")


def _rows(encoder: Encoder, embeddings: Embeddings, n: int) -> list[Vector]:
    """What the encoder made of n inputs -> n checked vectors, each in memory of its own. Raises InvalidEmbedding."""
    spec = encoder.spec
    if spec.kind == "dense":
        rows = check_embeddings(cast(DenseArray, embeddings), n=n, dim=spec.dim, encoder=spec.name)
        return [_own(row) for row in rows]
    if len(embeddings) != n:
        raise InvalidEmbedding(f"encoder {spec.name} returned {len(embeddings)} vectors for {n} inputs")
    if spec.kind == "sparse":
        return [_sparse(encoder, row) for row in embeddings]
    multivectors = cast(Sequence[DenseArray], embeddings)
    return [_own(check_embeddings(m, n=max(1, len(m)), dim=spec.dim, encoder=spec.name)) for m in multivectors]


def _sparse(encoder: Encoder, row: Any) -> SparseVector:
    indices, values = np.asarray(row.indices), np.asarray(row.values)
    order = np.argsort(indices)
    ordered = SparseVector(_own(indices[order].astype(np.uint32)), _own(values[order].astype(np.float32)))
    if len(indices) != len(values) or (np.diff(ordered.indices.astype(np.int64)) <= 0).any():
        raise InvalidEmbedding(f"encoder {encoder.spec.name} returned a sparse vector with an index twice or none")
    if not np.isfinite(ordered.values).all():
        raise InvalidEmbedding(f"encoder {encoder.spec.name} returned a sparse vector with NaN or infinity")
    return ordered


def _own(row: Any) -> Any:
    """A copy that nobody can write to: a view would keep its whole batch in memory, and many callers share it."""
    copy = np.array(row)
    copy.flags.writeable = False
    return copy
