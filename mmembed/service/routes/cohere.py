"""Cohere's embeddings API: POST /v2/embed.

`input_type` is the role: search_query is a query, everything else a document. classification and clustering are also
tasks: an encoder that knows such a task is asked for it, another makes the vector of a document, as it would without.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from mmembed.errors import InvalidRequest, SettingsError
from mmembed.service.error_responses import json_response
from mmembed.service.json_bodies import JsonRoute
from mmembed.service.middleware.auth import needs
from mmembed.service.routes.embeddings import base64_of, check_count, contents, dense_encoder, embed_all
from mmembed.service.schemas.common import ListOf, Strict
from mmembed.service.schemas.embeddings import Part, PlacedInput, placed_part
from mmembed.service.schemas.openapi import cohere_errors
from mmembed.service.state import Service, ServiceOf
from mmembed.types import DenseArray, Encoder, Role
from mmembed.vectors import l2_normalize


class CohereRoute(JsonRoute):
    """A route whose errors are those that Cohere's clients read."""

    @staticmethod
    def error_shape(status: int, sentence: str, kind: str) -> tuple[int, dict[str, Any]]:
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


class EmbeddingsByType(BaseModel, populate_by_name=True):
    floats: list[list[float]] | None = Field(None, alias="float")
    binary: list[list[int]] | None = Field(
        None, description="Eight signs per number, which is -128 where none is positive."
    )
    ubinary: list[list[int]] | None = Field(None, description="Eight signs per number; the first is its highest bit.")
    base64: list[str] | None = Field(None, description="Of little-endian float32.")


class EmbedAnswer(BaseModel):
    response_type: Literal["embeddings_by_type"]
    id: str
    embeddings: EmbeddingsByType
    texts: list[str] = Field(description="Those of the request.")
    meta: dict[str, Any]


@router.post("/v2/embed", summary="Embed as Cohere does", response_model=EmbedAnswer)
async def post_embed(request: EmbedRequest, service: ServiceOf) -> Response:
    """Vectors of texts, pictures, or both together, in order, of norm 1 (before they become signs).

    400 names the place of the first bad input, as in "texts[3]: ...".
    """
    parts = sum(len(mixed.content) for mixed in request.inputs or ())
    check_count(service, len(request.texts or ()) + len(request.images or ()) + parts)
    groups = _groups(request)
    inputs = [placed for group in groups for placed in group]
    encoder = await dense_encoder(service, request.model)
    files_and_texts = await contents(service, inputs)
    await _check_lengths(service, request, encoder, inputs)
    vectors, tokens = await _embed(service, request, encoder, inputs, files_and_texts)
    billed = {"input_tokens": tokens, "images": sum(placed.is_image for placed in inputs)}
    return json_response(
        {
            "response_type": "embeddings_by_type",
            "id": str(uuid.uuid4()),
            "embeddings": _by_type(_summed(groups, vectors), request.embedding_types),
            "texts": request.texts or [],
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
        }
    )


def _groups(request: EmbedRequest) -> list[list[PlacedInput]]:
    """What becomes one vector each. Raises InvalidRequest for options that do not exist, and for nothing to embed."""
    names = [name for name in ("texts", "images", "inputs") if getattr(request, name)]
    if len(names) != 1:
        raise InvalidRequest(
            f"{' and '.join(names) or 'none of texts, images and inputs'} {'are' if names else 'is'} given: send one "
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
    service: Service, request: EmbedRequest, encoder: Encoder, inputs: Sequence[PlacedInput]
) -> None:
    """Raise InvalidRequest for a text longer than `max_tokens`, or than the encoder reads where truncate is NONE.

    Encoders cut at their context length and nowhere else, so a text that a smaller `max_tokens` would cut is refused.
    """
    most = {"max_tokens": request.max_tokens or math.inf, "context_length": encoder.spec.context_length or math.inf}
    name = min(most, key=most.__getitem__)
    if math.isinf(most[name]) or (name == "context_length" and request.truncate != "NONE"):
        return
    texts = [placed for placed in inputs if not placed.is_image]
    counts = await service.threads.run(lambda: [encoder.count_tokens(text.content) for text in texts])
    for text, count in zip(texts, counts, strict=True):
        if count > most[name]:
            raise InvalidRequest(f"{text.place} has {count} tokens, more than the {name} of {most[name]}: shorten it")


async def _embed(
    service: Service,
    request: EmbedRequest,
    encoder: Encoder,
    inputs: Sequence[PlacedInput],
    contents: Sequence[str | bytes],
) -> tuple[list[DenseArray], int]:
    """What `embed_all` gives with the task of `input_type`, or without where the encoder has no such task."""
    role: Role = "query" if request.input_type == "search_query" else "document"
    task = request.input_type if request.input_type in ("classification", "clustering") else None
    embed = partial(embed_all, service, inputs, contents, encoder=encoder, role=role, dim=request.output_dimension)
    try:
        return await embed(task=task)
    except SettingsError:
        if task is None:
            raise
    return await embed(task=None)


def _summed(groups: Sequence[Sequence[PlacedInput]], vectors: Iterable[DenseArray]) -> list[DenseArray]:
    """One vector a group: the only one, or the sum of several brought back to norm 1."""
    following = iter(vectors)
    by_group = [list(islice(following, len(group))) for group in groups]
    return [rows[0] if len(rows) == 1 else l2_normalize(np.sum(rows, axis=0)) for rows in by_group]


def _by_type(vectors: Sequence[DenseArray], types: Sequence[EmbeddingType]) -> dict[str, list[Any]]:
    """The vectors in each type that is asked for.

    Signs are packed eight to a number, 1 for a positive coordinate, the first as the highest bit; zeros fill the last
    one up. `binary` is `ubinary` less 128.
    """
    writers: dict[str, Callable[[DenseArray], Any]] = {
        "float": lambda vector: vector,
        "base64": base64_of,
        "ubinary": lambda vector: np.packbits(vector > 0),
        "binary": lambda vector: (np.packbits(vector > 0).astype(np.int16) - 128).astype(np.int8),
    }
    return {name: [writers[name](vector) for vector in vectors] for name in types}
