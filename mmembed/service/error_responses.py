"""Every error becomes one answer: its status from one table, one sentence, in the shape that its route declares."""

from __future__ import annotations

import hashlib
import http
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from mmembed import errors as e

STATUS: dict[type[e.MmembedError], int] = {
    e.MmembedError: 500,
    e.EncoderError: 500,
    e.UnknownEncoder: 400,
    e.EncoderLoadError: 503,
    e.MissingDependency: 503,
    e.UnsupportedModality: 400,
    e.EncoderUnavailable: 503,
    e.EncoderRefused: 502,
    e.InputError: 400,
    e.StoreError: 400,
    e.StoreUnavailable: 503,
    e.StoreFull: 507,
    e.CollectionNotFound: 404,
    e.PointNotFound: 404,
    e.CollectionNotOurs: 403,
    e.CollectionMismatch: 409,
    e.ServiceError: 400,
    e.Unauthorized: 401,
    e.Forbidden: 403,
    e.RequestTooLarge: 413,
    e.RequestTimeout: 408,
    e.Overloaded: 429,
    e.SettingsError: 400,  # an option of the request, such as a task that the encoder does not know
}
_RETRY_SECONDS = 5  # where an error does not say when to try again
_UNPARSED = "There was an error parsing the body"  # FastAPI's words for what its JSON parser gives up on
_INTERNAL = "internal error: the log of the service says more"
_PATHS = re.compile(r"(?:edge:|(?<![\w/.]))/(?!/)(?:[^\s/'\",;:()]+/)+([^\s/'\",;:()]*)")

ErrorShape: TypeAlias = Callable[[int, str, str], tuple[int, dict[str, Any]]]
"""Status, sentence and name of an error -> the status and the JSON that are sent.

The class of a router's routes has one as `error_shape`, where its clients read another than ours."""

logger = logging.getLogger(__name__)


def our_shape(status: int, sentence: str, kind: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": sentence, "type": kind}


def route_of(scope: Scope) -> BaseRoute | None:
    """The route of a request, or the one that would take it by another method; None: there is none at its path.

    Also before the router has chosen it: what is refused early has to know.
    """
    chosen: BaseRoute | None = scope.get("route")
    if chosen is not None or "app" not in scope:
        return chosen
    other = None
    for route in scope["app"].router.routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route  # type: ignore[no-any-return]
        if match is Match.PARTIAL:
            other = other or route
    return other


def shape_of(scope: Scope) -> ErrorShape:
    """How errors of a request look: as the route that it is for declares it, else like ours."""
    shape: ErrorShape = getattr(route_of(scope), "error_shape", our_shape)
    return shape


def status_of(error: e.MmembedError) -> int:
    """That of the nearest ancestor in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_response(error: e.MmembedError, *, shape: ErrorShape = our_shape, hidden: Sequence[str] = ()) -> Response:
    """The answer in this shape; `hidden` are addresses of ours that no client is told."""
    status = status_of(error)
    headers = {}
    if isinstance(error, e.Overloaded):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    elif status == 503:
        headers["retry-after"] = str(_RETRY_SECONDS)
    elif status == 401:
        headers["www-authenticate"] = "Bearer"
    return _answer(shape, status, sentence_of(error, hidden), type(error).__name__, headers)


def sentence_of(error: e.MmembedError, hidden: Sequence[str]) -> str:
    """What a client is told of an error."""
    if isinstance(error, e.StoreError | e.EncoderError) or status_of(error) >= 500:
        return without_places(as_fields(error), hidden)
    return as_fields(error)


def as_fields(error: e.MmembedError | str) -> str:
    """Its sentence with parameters as fields of JSON: `dtype='float32'` -> "dtype": "float32"."""
    return e.respell(str(error), lambda name, value: f'"{name}"' + (f": {value}" if value else "").replace("'", '"'))


def fault_response(shape: ErrorShape) -> Response:
    """For what is our own mistake: nothing of it is told."""
    return _answer(shape, 500, _INTERNAL, "InternalError", {})


def add_error_answers(app: FastAPI) -> None:
    """Make `app` answer each error of its routes by this module."""

    @app.exception_handler(e.MmembedError)
    async def ours(request: Request, exc: e.MmembedError) -> Response:
        if status_of(exc) >= 500 and request.url.path != "/ready":  # which is asked until it is well
            logger.warning("%s %s: %s: %s", request.method, request.url.path, type(exc).__name__, exc)
        return error_response(exc, shape=shape_of(request.scope), hidden=hidden_of(request.scope))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> Response:
        return error_response(e.InvalidRequest(validation_sentence(exc.errors())), shape=shape_of(request.scope))

    app.exception_handler(HTTPException)(_of_starlette)


def validation_sentence(errors: Sequence[Mapping[str, Any]]) -> str:
    """Pydantic's errors -> one sentence that names the first field at fault; what was sent is not said back."""
    first = errors[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        sentence = f"the body is not JSON: {first['ctx']['error']}"
        return f"{sentence} at character {where[-1]}" if where[-1].isdigit() else sentence
    place = where[0] if where else "body"
    field = ".".join(part for part in where[1:] if "[" not in part)  # which is a type, one of several
    named = f"{field!r} of the {place}" if field else f"the {place}"
    unknown = first["type"] == "extra_forbidden"
    message = "there is no such field here" if unknown else first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{named}: {message[:1].lower()}{message[1:]}"


async def _of_starlette(request: Request, exc: HTTPException) -> Response:
    """What the router and the parser of forms raise: an unknown path, a wrong method, a broken form."""
    path = request.url.path
    if exc.status_code == 404 and exc.detail == http.HTTPStatus.NOT_FOUND.phrase:
        sentence = f"there is nothing at {path[:200]}: /openapi.json lists what there is"
    elif exc.status_code == 405:
        sentence = f"{path[:200]} does not take {request.method[:20]}: /openapi.json lists what it takes"
    elif exc.detail == _UNPARSED:
        sentence = (
            "the body cannot be read: it is not UTF-8, is nested too deeply, or has a number with too many digits"
        )
    else:
        sentence = str(exc.detail)
    kind = "InvalidRequest" if exc.status_code == 400 else http.HTTPStatus(exc.status_code).phrase.title()
    return _answer(shape_of(request.scope), exc.status_code, sentence, kind.replace(" ", ""), dict(exc.headers or {}))


def _answer(shape: ErrorShape, status: int, sentence: str, kind: str, headers: dict[str, str]) -> Response:
    status, body = shape(status, sentence, kind)
    return json_response(body, status=status, headers=headers)


def hidden_of(scope: Scope) -> Sequence[str]:
    """Addresses that no client of this service is told."""
    service = getattr(scope["app"].state, "service", None) if "app" in scope else None
    return service.hidden if service is not None else ()


def without_places(sentence: str, hidden: Sequence[str]) -> str:
    """Addresses of the store become "the store", and of a path of this computer only its last part stays."""
    for place in hidden:
        sentence = sentence.replace(place, "the store")
    sentence = sentence.replace("the store the store", "the store")
    return _PATHS.sub(lambda match: match.group(1) or "the folder", sentence)


# --- JSON answers, written by orjson: arrays of numpy go out as they lie in memory, never through Python lists ---

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def json_bytes(content: Any) -> bytes:
    """JSON in UTF-8 of dicts, lists, dataclasses, numpy arrays and numbers; NaN and infinities become null."""
    try:
        return orjson.dumps(content, default=_plain, option=_OPTIONS)
    except orjson.JSONEncodeError as exc:
        if "surrogates" not in str(exc):
            raise
        # a client's own text that is said back to it may hold half a character, which UTF-8 has no bytes for
        return json.dumps(content, default=_plain).encode()


def json_response(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes(content), status_code=status, headers=headers, media_type="application/json")


def unless_known(request: Request, content: bytes, *, media_type: str, cache_control: str) -> Response:
    """The content with its digest as ETag, or 304 for a client that has it."""
    etag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": cache_control}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known or known == {"*"}:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _plain(value: Any) -> Any:
    """What orjson leaves to us: arrays of a layout or type that it does not write."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
