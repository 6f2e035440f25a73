"""Bodies of the embeddings dialects, to vectors."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

import numpy as np

from mmembed.batching.engine import Made, Wanted
from mmembed.errors import InputError, InvalidRequest, MmembedError, RequestTooLarge, UnsupportedModality
from mmembed.service.pictures import picture_bytes
from mmembed.service.schemas.embeddings import _MIB, Sent
from mmembed.service.state import Service
from mmembed.types import DenseArray, Encoder

__all__ = ["base64_of", "check_count", "contents", "dense_encoder", "made_or_raised"]


async def dense_encoder(service: Service, model: str) -> Encoder:
    """The served encoder called `model`, in any spelling, loaded by now.

    Raises UnknownEncoder, and InvalidRequest where its vectors are not dense: the answer has no place for others.
    """
    encoder = service.served.loaded().get(model)  # the usual case, without a thread
    if encoder is None:
        encoder = await service.run(service.served.encoder, model)
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


async def contents(service: Service, sent: Sequence[Sent]) -> list[str | bytes]:
    """Texts as they are, pictures as the bytes of their files, in order; the same picture is fetched once.

    Raises:
        InvalidRequest: an empty text, or what names no picture that may be had; with its place.
        RequestTooLarge: pictures of more than `max_body_mb` together.
    """
    settings = service.settings
    for one in sent:
        if not one.content:
            what = "picture" if one.is_picture else "text"
            raise InvalidRequest(f"{one.place} is an empty {what}: leave it out, or send what is to be embedded")
    room = int(settings.max_body_mb * _MIB)
    tasks: dict[str, asyncio.Task[bytes]] = {}

    async def fetched(one: Sent) -> bytes:
        nonlocal room
        content = await _picture(service, one)
        room -= len(content)
        if room < 0:
            raise RequestTooLarge(
                f"the pictures of the request are more than {settings.max_body_mb:g} MiB together: send it in parts"
            )
        return content

    try:
        for one in sent:
            if one.is_picture and one.content not in tasks:
                tasks[one.content] = asyncio.create_task(fetched(one))
        return [await tasks[one.content] if one.is_picture else one.content for one in sent]
    finally:
        for task in tasks.values():
            task.cancel()


async def _picture(service: Service, one: Sent) -> bytes:
    try:
        return await picture_bytes(
            one.content, fetcher=service.fetcher, max_bytes=int(service.settings.max_image_mb * _MIB)
        )
    except (InputError, InvalidRequest) as exc:
        raise InvalidRequest(f"{one.place}: {exc}") from exc


async def made_or_raised(service: Service, sent: Sequence[Sent], wanted: Sequence[Wanted]) -> list[Made]:
    """Embed what is wanted for each of `sent`; the first failure is raised, with its place if the input is at fault."""
    made: list[Made] = []
    for one, outcome in zip(sent, await service.engine.embed(wanted), strict=True):
        if isinstance(outcome, InputError | InvalidRequest | UnsupportedModality):
            raise InvalidRequest(f"{one.place}: {outcome}") from outcome
        if isinstance(outcome, MmembedError):
            raise outcome.with_traceback(None)  # it may be raised to several, each of whom would lengthen it
        made.append(outcome)
    return made


def base64_of(vector: DenseArray) -> str:
    """`(dim,)` -> base64 of its float32 values, little-endian."""
    return base64.b64encode(vector.astype(np.dtype("<f4"), copy=False).tobytes()).decode("ascii")
