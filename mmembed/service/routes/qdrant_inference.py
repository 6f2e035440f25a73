"""The inference back end that a self-hosted Qdrant asks for vectors (`QDRANT__INFERENCE__ADDRESS`).

inputs, models and modalities mixed -> read -> pictures fetched, each once -> engine -> vectors in the same order

Qdrant checks nothing of the answer, takes no status but 200 for one, and passes on the sentence of a 400 alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import fastapi
import numpy as np
from fastapi import APIRouter, Depends, Response

from mmembed.batching.cache import Result
from mmembed.batching.engine import EncodeRequest
from mmembed.errors import InputError, InvalidEmbedding, InvalidRequest, MmembedError, Overloaded, RequestTooLarge
from mmembed.service.error_responses import json_response, status_of
from mmembed.service.images import fetch_images, is_address, key_of
from mmembed.service.json_bodies import JsonRoute
from mmembed.service.middleware.auth import needs, secret_of
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.schemas.qdrant_inference import (
    ROLES,
    InferenceInput,
    InferenceRequest,
    InputPart,
    ParsedInput,
    described,
    read_input,
)
from mmembed.service.state import Service, ServiceOf
from mmembed.types import SparseVector
from mmembed.vectors import l2_normalize


class QdrantRoute(JsonRoute):
    """A route whose errors are those that Qdrant reads: it passes on the sentence of 400 and 429 alone."""

    @staticmethod
    def error_shape(status: int, sentence: str, kind: str) -> tuple[int, dict[str, Any]]:
        return 400 if 400 <= status < 500 and status != 429 else status, {"error": sentence}


router = APIRouter(tags=["Qdrant inference"], route_class=QdrantRoute, responses=our_errors())

_P = ParamSpec("_P")
_T = TypeVar("_T")

_FETCHED_AT_ONCE = 16  # pictures whose files one request holds in memory for each of its rounds
_ROUNDS = 2  # one is fetched while another is embedded
_MAX_FLOATS = 1_048_576  # of a multivector; Qdrant refuses as many
_NOTHING = 1e-6  # norm of a sum that has no direction
_MIB = 1 << 20

_ANSWER = {
    "embeddings": [[0.6, 0.0, 0.8], {"indices": [1, 7], "values": [0.3, 0.9]}, [[1.0, 0.0], [0.0, 1.0]]],
    "usage": {"models": {"tiny": {"tokens": 4}}},
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "A vector for each input, in order.", "content": {"application/json": {"example": _ANSWER}}},
    400: {
        "description": "An input, an option or the key is wrong: one sentence, which Qdrant passes on.",
        "content": {"application/json": {"example": {"error": "input 0 of 1 (counted from 0), ..."}}},
    },
    429: {"description": "Too much is waiting: try again after `Retry-After` seconds."},
}


@router.get("/qdrant/infer", summary="What this address is for")
async def get_infer() -> dict[str, str]:
    """One sentence for the operator who opens the address in a browser."""
    return {
        "about": "mmembed answers Qdrant's inference requests here, which come by POST: set QDRANT__INFERENCE__ADDRESS "
        "to this address."
    }


async def _secret(request: fastapi.Request, body: InferenceRequest) -> str | None:
    """The key: Qdrant hands on that of its client in the body."""
    return secret_of(request.headers) or body.token


@router.post(
    "/qdrant/infer",
    summary="Vectors for Qdrant",
    response_class=Response,
    response_model=None,
    responses=_RESPONSES,
    dependencies=[Depends(needs("infer", secret=_secret))],
)
async def post_infer(body: InferenceRequest, service: ServiceOf) -> Response:
    """Embeds what Qdrant forwards of a client's documents, pictures and inference objects."""
    role = ROLES[body.inference]
    parsed = _good(body.inputs, [_tried(read_input, one, role) for one in body.inputs])
    models = {one.model for one in parsed}
    served = await service.threads.run(lambda: {model: _tried(service.served.resolve, model) for model in models})
    _good(body.inputs, [served[one.model] for one in parsed])  # before anything is fetched
    pieces = [(one, part) for one in parsed for part in one.parts]
    if len(pieces) > service.settings.max_inputs:
        raise RequestTooLarge(
            f"{len(pieces)} texts and pictures came in one request, and {service.settings.max_inputs} are taken at "
            f"once: upsert fewer points at a time or raise --max-inputs"
        )
    outcomes = iter(await _embed(service, pieces))
    results = _good(body.inputs, [_combined(one, [next(outcomes) for _ in one.parts]) for one in parsed])
    tokens: Counter[str] = Counter()
    for one, result in zip(parsed, results, strict=True):
        tokens[one.model] += result.tokens
    answer = {
        "embeddings": [  # as Qdrant reads them: a list, a list of lists, or indices with values
            result.vector._asdict() if isinstance(result.vector, SparseVector) else result.vector for result in results
        ],
        "usage": {"models": {model: {"tokens": count} for model, count in tokens.items()}},
    }
    return json_response(answer)


def _tried(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | MmembedError:
    """What `call` returns, or the error that it raises."""
    try:
        return call(*args, **kwargs)
    except MmembedError as exc:
        return exc


def _good(inputs: Sequence[InferenceInput], outcomes: Sequence[_T | MmembedError]) -> list[_T]:
    """The outcomes if every one is good.

    Raises InvalidRequest about the first input that is at fault, else the first error, which is one of the service.
    """
    errors = [(place, outcome) for place, outcome in enumerate(outcomes) if isinstance(outcome, MmembedError)]
    faults = [(place, error) for place, error in errors if _is_fault(error)]
    if faults:
        place, error = faults[0]
        others = f" ({len(faults) - 1} more of them are bad)" if len(faults) > 1 else ""
        raise InvalidRequest(f"{described(place, len(inputs), inputs[place])}: {error}{others}")
    for _, error in errors:
        raise error
    return [outcome for outcome in outcomes if not isinstance(outcome, MmembedError)]


def _is_fault(error: MmembedError) -> bool:
    """Whether the input is to blame, and not the service or its load; also for having no vector."""
    return isinstance(error, InvalidEmbedding) or (status_of(error) < 500 and not isinstance(error, Overloaded))


async def _embed(service: Service, pieces: Sequence[tuple[ParsedInput, InputPart]]) -> list[Result | MmembedError]:
    """One outcome a piece. Pictures are fetched in rounds, so that few of their files are in memory at a time."""
    outcomes: dict[int, Result | MmembedError] = {}
    running = asyncio.Semaphore(_ROUNDS)

    async def embed_round(places: Sequence[int]) -> None:
        async with running:
            images = [place for place in places if pieces[place][1].is_image]
            fetched = await fetch_images(
                [pieces[place][1].content for place in images],
                fetcher=service.fetcher,
                max_bytes=round(service.settings.max_body_mb * _MIB),
            )
            files = dict(zip(images, fetched, strict=True))
            requests = {}
            for place in places:
                one, part = pieces[place]
                content = files[place] if part.is_image else part.content
                if isinstance(content, MmembedError):
                    outcomes[place] = content
                else:
                    requests[place] = EncodeRequest(one.model, content, one.role, one.task, one.dim)
            outcomes.update(zip(requests, await service.engine.embed([*requests.values()]), strict=True))

    try:
        async with asyncio.TaskGroup() as tasks:
            for places in _rounds([part for _, part in pieces]):
                tasks.create_task(embed_round(places))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [outcomes[place] for place in range(len(pieces))]


def _rounds(parts: Sequence[InputPart]) -> list[list[int]]:
    """Places of what came with the request, then of so many addresses at a time; the same address in one round."""
    first: list[int] = []
    fetched: dict[tuple[bool, str], list[int]] = {}
    for place, part in enumerate(parts):
        is_fetched = part.is_image and is_address(part.content)
        (fetched.setdefault(key_of(part.content), []) if is_fetched else first).append(place)
    addresses = [*fetched.values()]
    cuts = [addresses[i : i + _FETCHED_AT_ONCE] for i in range(0, len(addresses), _FETCHED_AT_ONCE)]
    later = [[place for places in cut for place in places] for cut in cuts]
    return [places for places in (first, *later) if places]


def _combined(parsed: ParsedInput, outcomes: Sequence[Result | MmembedError]) -> Result | MmembedError:
    """The vector of one input: that of its part, or the normalised weighted sum of its text and its image."""
    results: list[Result] = []
    for outcome in outcomes:
        if isinstance(outcome, MmembedError):
            return outcome
        results.append(outcome)
    vector, tokens = results[0].vector, sum(one.tokens for one in results)
    if len(results) > 1:
        kind = "sparse" if isinstance(vector, SparseVector) else "multi" if vector.ndim == 2 else "dense"
        if kind != "dense":
            return InvalidRequest(f"encoder {parsed.model!r} gives {kind} vectors: send the text or the image alone")
        largest = max(abs(part.weight) for part in parsed.parts) or 1.0  # sums of huge weights would overflow
        shares = [
            part.weight / largest * np.asarray(one.vector) for part, one in zip(parsed.parts, results, strict=True)
        ]
        total = np.sum(shares, axis=0)
        if np.linalg.norm(total) < _NOTHING:
            return InvalidRequest("its text and its image cancel out: change their weights")
        vector = l2_normalize(total)
    if not isinstance(vector, SparseVector) and vector.ndim == 2 and vector.size >= _MAX_FLOATS:
        return InputError(f"its multivector has {vector.size:,} numbers, and Qdrant stores {_MAX_FLOATS - 1:,}: cut it")
    return Result(vector, tokens)
