"""OpenAI's embeddings API: POST /v1/embeddings and GET /v1/models.

Further than OpenAI's it goes in pictures (a data URI among the texts, or a part {"type": "image_url", ...}), in
`role`, "document" unless "query" is asked for, and in `task`. Each text, picture or part is an input of its own.
Its tokens are not taken: they are numbers of OpenAI's vocabulary, which no encoder here knows.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Depends, HTTPException, Response
from pydantic import BaseModel, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from mmembed.errors import InvalidRequest, UnknownEncoder
from mmembed.service.error_responses import json_response
from mmembed.service.json_bodies import JsonRoute
from mmembed.service.middleware.auth import needs
from mmembed.service.routes.embeddings import base64_of, check_count, contents, dense_encoder, embed_all
from mmembed.service.schemas.common import ListOf, Strict
from mmembed.service.schemas.embeddings import ImagePart, PlacedInput, TextPart, placed_part
from mmembed.service.schemas.openapi import openai_errors
from mmembed.service.state import ServiceOf
from mmembed.types import Role

_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAIRoute(JsonRoute):
    """A route whose errors are those that OpenAI's clients read."""

    @staticmethod
    def error_shape(status: int, sentence: str, kind: str) -> tuple[int, dict[str, Any]]:
        type_ = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        return status, {"error": {"message": sentence, "type": type_, "param": None, "code": kind}}


router = APIRouter(
    tags=["embeddings"], route_class=OpenAIRoute, dependencies=[Depends(needs("infer"))], responses=openai_errors()
)

_IMAGE = re.compile(r"data:image/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII | re.IGNORECASE)


def _in_one_sentence(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
    """Of a union pydantic tells what each of its members would have wanted; here the first bad element is told."""
    try:
        return parse(value)
    except ValidationError as exc:
        bad = _first_bad(exc) if isinstance(value, list) else None
        what = "it" if bad is None else f"element {bad} (counted from 0)"
        raise ValueError(
            f"{what} is none of a text, a part {{'type': 'text', 'text': ...}} and a part "
            f"{{'type': 'image_url', 'image_url': {{'url': ...}}}}: send one of them, or a list"
        ) from exc


def _first_bad(failed: ValidationError) -> int | None:
    """The element at which the list stopped being any of the lists there are: the latest of their first faults."""
    firsts: dict[object, int] = {}
    for error in failed.errors(include_url=False, include_input=False):
        place = error["loc"][1] if len(error["loc"]) > 1 else None
        if isinstance(place, int):
            firsts[error["loc"][0]] = min(place, firsts.get(error["loc"][0], place))
    return max(firsts.values(), default=None)


Input: TypeAlias = str | ListOf[str | TextPart | ImagePart] | ListOf[int] | ListOf[ListOf[int]]


class EmbeddingsRequest(Strict):
    """What OpenAI's clients send, with `role` and `task`."""

    input: Annotated[Input, WrapValidator(_in_one_sentence)] = Field(
        description="A text or a list of texts; pictures as data URIs, or as parts with a data URI or an address.",
        examples=[["two parrots on a branch", "a red kite"]],
    )
    model: str = Field(min_length=1, description="An encoder that is served.", examples=["tiny"])
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: of little-endian float32.")
    dimensions: int | None = Field(None, ge=1, description="The first so many, of an encoder trained for that.")
    user: str | None = Field(None, description="Taken, and not used.")
    role: Role = Field("document", description="On which side of a search the texts are.")
    task: str | None = Field(None, description="What for, where the encoder knows tasks.")


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="OpenAI's date of release; of encoders it is not known.")
    owned_by: str = "mmembed"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


@router.post("/v1/embeddings", summary="Embed as OpenAI does", response_model=EmbeddingsAnswer)
async def post_embeddings(request: EmbeddingsRequest, service: ServiceOf) -> Response:
    """Vectors of texts and pictures, in order, of norm 1; `usage` counts the tokens of texts as the encoder reads them.

    400 names the place of the first bad input, as in "input[3]: ...".
    """
    encoder = await dense_encoder(service, request.model)
    check_count(service, 1 if isinstance(request.input, str) else len(request.input))
    inputs = _placed(request.input, encoder.spec.name)
    held = await contents(service, inputs)
    vectors, tokens = await embed_all(
        service, inputs, held, encoder=encoder, role=request.role, task=request.task, dim=request.dimensions
    )
    written = [base64_of(vector) for vector in vectors] if request.encoding_format == "base64" else vectors
    return json_response(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(written)],
            "model": encoder.spec.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _placed(input: Input, encoder: str) -> list[PlacedInput]:
    """The inputs of a request with their places. Raises InvalidRequest for none at all, and for tokens."""
    elements = [input] if isinstance(input, str) else input
    if not elements:
        raise InvalidRequest("input is an empty list: send at least one text or picture")
    inputs: list[PlacedInput] = []
    for index, element in enumerate(elements):
        place = "input" if isinstance(input, str) else f"input[{index}]"
        if isinstance(element, str):
            inputs.append(PlacedInput(place, element, is_image=_IMAGE.match(element) is not None))
        elif isinstance(element, TextPart | ImagePart):
            inputs.append(placed_part(place, element))
        else:
            raise InvalidRequest(
                f"{place} holds tokens, which are numbers of OpenAI's vocabulary and mean nothing to encoder "
                f"{encoder!r}: send the text itself (in LangChain check_embedding_ctx_length=False does)"
            )
    return inputs


@router.get("/v1/models", summary="The models of these embeddings")
async def get_models(service: ServiceOf) -> ModelList:
    """The encoders that /v1/embeddings can answer with: those served, but for sparse ones and multivectors."""
    names = await service.threads.run(service.served.names)
    loaded = service.served.loaded()
    dense = [name for name in names if name not in loaded or loaded[name].spec.kind == "dense"]
    return ModelList(data=[Model(id=name) for name in dense])


@router.get("/v1/models/{model:path}", summary="One model of these embeddings")
async def get_model(model: str, service: ServiceOf) -> Model:
    """A served encoder by any of its names; 404 for what is not served."""
    try:
        return Model(id=await service.threads.run(service.served.resolve, model))
    except UnknownEncoder as exc:
        raise HTTPException(404, str(exc)) from exc
