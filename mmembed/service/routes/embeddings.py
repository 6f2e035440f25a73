"""Bodies of the embeddings dialects, to vectors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from mmembed.batching.engine import EncodeRequest
from mmembed.errors import InputError, InvalidRequest, MmembedError, RequestTooLarge, UnsupportedModality
from mmembed.service.images import fetch_images
from mmembed.service.schemas.embeddings import PlacedInput
from mmembed.service.state import Service
from mmembed.types import DenseArray, Encoder, Role

_T = TypeVar("_T")
_MIB = 1 << 20


async def dense_encoder(service: Service, model: str) -> Encoder:
    """The served encoder called `model`, in any spelling, loaded by now.

    Raises UnknownEncoder, and InvalidRequest where its vectors are not dense: the answer has no place for others.
    """
    encoder = service.served.loaded().get(model)  # the usual case, without a thread
    if encoder is None:
        encoder = await service.threads.run(service.served.encoder, model)
    if encoder.spec.kind != "dense":
        raise InvalidRequest(
            f"encoder {encoder.spec.name!r} makes {encoder.spec.kind} vectors, and this API has dense ones alone: ask "
            f"for another model, or POST to /qdrant/infer"
        )
    return encoder


def check_count(service: Service, count: int) -> None:
    """Raise RequestTooLarge for more inputs than are taken at once; before anything is made of each."""
    most = service.settings.max_inputs
    if count > most:
        raise RequestTooLarge(f"the request has {count} inputs, more than the {most} taken at once: send it in parts")


async def contents(service: Service, inputs: Sequence[PlacedInput]) -> list[str | bytes]:
    """Texts as they are, images as the bytes of their files, in order; the same image is fetched once.

    Raises:
        InvalidRequest: an empty text, or what names no image that may be had; with its place.
        RequestTooLarge: images of more than `max_body_mb` together.
    """
    for placed in inputs:
        if not placed.content:
            what = "picture" if placed.is_image else "text"
            raise InvalidRequest(f"{placed.place} is an empty {what}: leave it out, or send what is to be embedded")
    settings = service.settings
    images = [placed for placed in inputs if placed.is_image]
    fetched = await fetch_images(
        [placed.content for placed in images],
        fetcher=service.fetcher,
        max_bytes=int(settings.max_image_mb * _MIB),
        max_bytes_together=int(settings.max_body_mb * _MIB),
    )
    files = iter(_all_good(images, fetched))
    return [next(files) if placed.is_image else placed.content for placed in inputs]


async def embed_all(
    service: Service,
    inputs: Sequence[PlacedInput],
    contents: Sequence[str | bytes],
    *,
    encoder: Encoder,
    role: Role,
    task: str | None,
    dim: int | None,
) -> tuple[list[DenseArray], int]:
    """The vectors of the inputs, float32, `contents` being what they hold, and the tokens of all texts together.

    The first failure is raised, as `contents` does.
    """
    requests = [EncodeRequest(encoder.spec.name, content, role, task, dim) for content in contents]
    results = _all_good(inputs, await service.engine.embed(requests))
    vectors = [np.asarray(result.vector, dtype=np.float32) for result in results]
    return vectors, sum(result.tokens for result in results)


def _all_good(inputs: Sequence[PlacedInput], outcomes: Sequence[_T | MmembedError]) -> list[_T]:
    """What became of each; the first failure is raised, with its place if the input is at fault."""
    good: list[_T] = []
    for placed, outcome in zip(inputs, outcomes, strict=True):
        if isinstance(outcome, InputError | InvalidRequest | UnsupportedModality):
            raise InvalidRequest(f"{placed.place}: {outcome}") from outcome
        if isinstance(outcome, MmembedError):
            raise outcome.with_traceback(None)  # it may be raised to several, each of whom would lengthen it
        good.append(outcome)
    return good


def base64_of(vector: DenseArray) -> str:
    """`(dim,)` -> base64 of its float32 values, little-endian."""
    return base64.b64encode(vector.astype(np.dtype("<f4"), copy=False).tobytes()).decode("ascii")
