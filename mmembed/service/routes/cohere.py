"""Cohere's embeddings API: POST /v2/embed.

`input_type` is the role: search_query is a query, everything else a document. classification and clustering are also
tasks: an encoder that knows such a task is asked for it, another makes the vector of a document, as it would without.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from mmembed.batching.cache import Result
from mmembed.batching.engine import Request
from mmembed.errors import InvalidRequest, SettingsError
from mmembed.service.error_responses import json_response
from mmembed.service.middleware.auth import needs
from mmembed.service.routes.embeddings import base64_of, check_count, contents, dense_encoder, embedded_or_raised
from mmembed.service.schemas.common import ListOf, Strict
from mmembed.service.schemas.embeddings import Part, PlacedInput, placed_part
from mmembed.service.schemas.openapi import cohere_errors
from mmembed.service.state import Service, ServiceOf
from mmembed.types import DenseArray, Encoder, Role
from mmembed.vectors import l2_normalize

__all__ = ["CohereRoute", "router"]


class CohereRoute(APIRoute):
    """A route whose errors are those that Cohere's clients read."""

    @staticmethod
    def error_shape(status: int, sentence: str, kind: str) -> tuple[int, dict[str, Any]]:  # noqa: ARG004
        return status, {"message": sentence}


router = APIRouter(
    tags=["embeddings"], route_class=CohereRoute, dependencies=[Depends(needs("infer"))], responses=cohere_errors()
)

InputType: TypeAlias = Literal["search_document", "search_query", "classification", "clustering", "image"]
EmbeddingType: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class MixedInput(Strict):
    """Texts and pictures that become one vector: of several parts, their sum brought back to norm 1."""

    content: ListOf[Part] = Field(min_length=1)


class EmbedRequest(Strict):
    """What Cohere's clients send to /v2/embed: one of `texts`, `images` and `inputs`."""

    model: str = Field(min_length=1, description="An encoder that is served.", examples=["tiny"])
    input_type: InputType = Field(examples=["search_document"])
    texts: ListOf[str] | None = Field(None, examples=[["two parrots on a branch", "a red kite"]])
    images: ListOf[str] | None = Field(None, description="Data URIs, or http(s) addresses.")
    inputs: ListOf[MixedInput] | None = None
    embedding_types: ListOf[EmbeddingType] = Field(
        ["float"], min_length=1, description="int8 and uint8 are not available."
    )
    output_dimension: int | None = Field(None, ge=1, description="The first so many, of an encoder trained for that.")
    truncate: Literal["NONE", "START", "END"] = Field("END", description="Of a text that is too long; not START.")
    max_tokens: int | None = Field(None, ge=1, description="Longer texts are refused, not cut.")
    priority: int | None = Field(None, description="Taken, and not used.")


class Embeddings(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    floats: list[list[float]] | None = Field(None, alias="float")
    binary: list[list[int]] | None = Field(
        None, description="Eight signs per number, which is -128 where none is positive."
    )
    ubinary: list[list[int]] | None = Field(None, description="Eight signs per number; the first is its highest bit.")
    base64: list[str] | None = Field(None, description="Of little-endian float32.")


class EmbedAnswer(BaseModel):
    response_type: Literal["embeddings_by_type"]
    id: str
    embeddings: Embeddings
    texts: list[str] = Field(description="Those of the request.")
    meta: dict[str, Any]


@router.post("/v2/embed", response_model=EmbedAnswer)
async def embed(request: EmbedRequest, service: ServiceOf) -> Response:
    """Vectors of texts, pictures, or both together, in order, of norm 1 (before they become signs).

    400 names the place of the first bad input, as in "texts[3]: ...".
    """
    check_count(service, len(request.texts or ()) + len(request.images or ()) + _parts_in(request.inputs or ()))
    groups = _groups(request)
    sent = [one for group in groups for one in group]
    encoder = await dense_encoder(service, request.model)
    read = await contents(service, sent)
    await _check_lengths(service, request, encoder, sent)
    made = await _made(service, request, encoder, sent, read)
    billed = {"input_tokens": sum(one.tokens for one in made), "images": sum(one.is_image for one in sent)}
    return json_response(
        {
            "response_type": "embeddings_by_type",
            "id": str(uuid.uuid4()),
            "embeddings": _by_type(_summed(groups, made), request.embedding_types),
            "texts": request.texts or [],
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
        }
    )


def _parts_in(inputs: Sequence[MixedInput]) -> int:
    return sum(len(mixed.content) for mixed in inputs)


def _groups(request: EmbedRequest) -> list[list[PlacedInput]]:
    """What becomes one vector each. Raises InvalidRequest for options that do not exist, and for nothing to embed."""
    given = [name for name in ("texts", "images", "inputs") if getattr(request, name)]
    if len(given) != 1:
        raise InvalidRequest(
            f"{' and '.join(given) or 'none of texts, images and inputs'} {'are' if given else 'is'} given: send one "
            f"of the three, and at least one element of it"
        )
    if request.input_type == "image" and request.texts:
        raise InvalidRequest("input_type 'image' is for images: texts are search_document or search_query")
    for unknown in ("int8", "uint8"):
        if unknown in request.embedding_types:
            raise InvalidRequest(
                f"embedding_types has {unknown!r}, whose scale must be found on vectors of one collection, and a "
                f"request holds too few: ask for float and let Qdrant quantise them"
            )
    if request.truncate == "START":
        raise InvalidRequest("truncate is 'START', but the encoders here cut off the end: send 'END' or 'NONE'")
    texts = [[PlacedInput(f"texts[{i}]", text)] for i, text in enumerate(request.texts or ())]
    images = [[PlacedInput(f"images[{i}]", uri, is_image=True)] for i, uri in enumerate(request.images or ())]
    inputs = [
        [placed_part(f"inputs[{i}].content[{j}]", part) for j, part in enumerate(mixed.content)]
        for i, mixed in enumerate(request.inputs or ())
    ]
    return texts + images + inputs


async def _check_lengths(
    service: Service, request: EmbedRequest, encoder: Encoder, sent: Sequence[PlacedInput]
) -> None:
    """Raise InvalidRequest for a text longer than `max_tokens`, or than the encoder reads where truncate is NONE.

    Encoders cut at their context length and nowhere else, so a text that a smaller `max_tokens` would cut is refused.
    """
    most = {"max_tokens": request.max_tokens or math.inf, "context_length": encoder.spec.context_length or math.inf}
    name = min(most, key=most.__getitem__)
    if math.isinf(most[name]) or (name == "context_length" and request.truncate != "NONE"):
        return
    texts = [one for one in sent if not one.is_image]
    counts = await service.threads.run(lambda: [encoder.count_tokens(one.content) for one in texts])
    for one, count in zip(texts, counts, strict=True):
        if count > most[name]:
            raise InvalidRequest(f"{one.place} has {count} tokens, more than the {name} of {most[name]}: shorten it")


async def _made(
    service: Service, request: EmbedRequest, encoder: Encoder, sent: Sequence[PlacedInput], read: Sequence[str | bytes]
) -> list[Result]:
    """What became of each of `sent`, with the task of `input_type`, or without where the encoder has no such task."""
    role: Role = "query" if request.input_type == "search_query" else "document"
    task = request.input_type if request.input_type in ("classification", "clustering") else None
    requests = [Request(encoder.spec.name, one, role=role, task=task, dim=request.output_dimension) for one in read]
    try:
        return await embedded_or_raised(service, sent, requests)
    except SettingsError:
        if task is None:
            raise
    return await embedded_or_raised(service, sent, [replace(one, task=None) for one in requests])


def _summed(groups: Sequence[Sequence[PlacedInput]], made: Sequence[Result]) -> list[DenseArray]:
    """One vector a group: the only one, or the sum of several brought back to norm 1."""
    vectors: Iterator[DenseArray] = (np.asarray(one.vector, dtype=np.float32) for one in made)
    taken = [list(islice(vectors, len(group))) for group in groups]
    return [few[0] if len(few) == 1 else l2_normalize(np.sum(few, axis=0)) for few in taken]


def _by_type(vectors: Sequence[DenseArray], types: Sequence[EmbeddingType]) -> dict[str, list[Any]]:
    """The vectors in each type that is asked for.

    Signs are packed eight to a number, 1 for a positive coordinate, the first as the highest bit; zeros fill the last
    one up. `binary` is `ubinary` less 128.
    """
    made: dict[str, list[Any]] = {}
    for wanted in types:
        if wanted == "base64":
            made[wanted] = [base64_of(vector) for vector in vectors]
        elif wanted == "float":
            made[wanted] = list(vectors)
        else:
            packed = [np.packbits(vector > 0) for vector in vectors]
            made[wanted] = packed if wanted == "ubinary" else [_signed(bits) for bits in packed]
    return made


def _signed(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """0..255 -> -128..127, in the same order."""
    return (bits.astype(np.int16) - 128).astype(np.int8)
