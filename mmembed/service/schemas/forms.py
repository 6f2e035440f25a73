"""A search, or a picture to label, as a form: the JSON of the query in the field `query`, pictures beside it as files.

    curl -F image=@parrot.jpg -F 'query={"limit": 5}' http://localhost:8600/v1/search/images

The form becomes the JSON request that it stands for, so that both are read by the same model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile

from mmembed.errors import InvalidRequest, RequestTooLarge
from mmembed.service.indexing.ingestion import UploadedFile
from mmembed.service.indexing.uploads import clean_name
from mmembed.service.json_bodies import JsonRoute, check_elements

_MAX_FILES = 33  # a picture, and those to subtract
_MAX_QUERY_BYTES = 8 * 2**20


@dataclass(frozen=True)
class FormFiles:
    """The images that came as files of a form."""

    image: bytes | None = None
    minus: tuple[bytes, ...] = ()


def files_of(request: Request) -> FormFiles:
    """What came with the request; nothing with one that is JSON."""
    files: FormFiles = getattr(request.state, "files", None) or FormFiles()
    return files


class JsonOrForm(JsonRoute):
    """A route that takes its body as JSON, or as a form whose field `query` is that JSON."""

    fields: tuple[str, ...] = ("image", "minus_image", "query")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def read_and_answer(request: Request) -> Response:
            if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                return await answer(request)
            await _require_whole(request)
            limits = {"max_files": _MAX_FILES, "max_fields": len(self.fields), "max_part_size": _MAX_QUERY_BYTES}
            async with request.form(**limits) as form:
                query = _query(form, self.fields)
                images, minus = await _read(form, "image"), await _read(form, "minus_image")
            if len(images) > 1:
                raise InvalidRequest(f"the form has {len(images)} files 'image': send one")
            files = FormFiles(images[0] if images else None, minus)
            return await answer(_as_json(request, query, files))

        return read_and_answer


async def _require_whole(request: Request) -> None:
    """Raise InvalidRequest for a form without its last boundary: the parser would leave out what it is half-way in."""
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary")
    if boundary is None or b"--" + boundary + b"--" not in await request.body():
        raise InvalidRequest("the form breaks off before its last boundary, or names none: send all of it")


class ImageForm(JsonOrForm):
    """The same of a route that takes one picture and subtracts nothing."""

    fields = ("image", "query")


def _query(form: FormData, fields: tuple[str, ...]) -> bytes:
    """The JSON of the query. Raises InvalidRequest for a field that does not exist, or of the wrong kind."""
    for name in form:
        if name not in fields:
            raise InvalidRequest(f"the form has a field {name[:40]!r}: it may have {', '.join(fields)}")
    queries = form.getlist("query")
    if len(queries) > 1 or any(isinstance(query, UploadFile) for query in queries):
        raise InvalidRequest("the form's field 'query' is one text, the JSON of the query")
    return str(queries[0]).encode("utf-8", "surrogatepass") if queries else b"{}"


async def _read(form: FormData, name: str) -> tuple[bytes, ...]:
    files = [file for file in form.getlist(name) if isinstance(file, UploadFile)]
    if len(files) < len(form.getlist(name)):
        raise InvalidRequest(f"the form's field {name!r} is a file: send pictures as text within 'query'")
    return tuple([await file.read() for file in files])


def _as_json(request: Request, query: bytes, files: FormFiles) -> Request:
    """The same request with the query as its body, and the files in its state."""
    body = {b"content-type": b"application/json", b"content-length": str(len(query)).encode()}
    headers = [*((name, value) for name, value in request.scope["headers"] if name not in body), *body.items()]
    state = {**request.scope.get("state", {}), "files": files}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": query, "more_body": False}

    return Request({**request.scope, "headers": headers, "state": state}, receive)


def form_of(model: str, route: type[JsonOrForm] = JsonOrForm) -> dict[str, Any]:
    """The OpenAPI of the form, for `openapi_extra`; `model` is the name of the query's schema."""
    binary = {"type": "string", "format": "binary"}
    every = {
        "image": {**binary, "description": "The picture, as a file."},
        "minus_image": {"type": "array", "items": binary, "description": "Pictures to subtract."},
        "query": {"$ref": f"#/components/schemas/{model}"},
    }
    fields = {name: every[name] for name in route.fields}
    schema = {"type": "object", "properties": fields, "additionalProperties": False}
    encoding = {"query": {"contentType": "application/json"}}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema, "encoding": encoding}}}}


# --- The form of an index request: files, and what the client says of each ---

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
                        "items": {
                            "type": "string",
                            "description": "JSON, a list parallel to the files: what is said of each.",
                            "examples": ['[{"caption": "a red kite", "payload": {"album": "2024"}}]'],
                        },
                    },
                }
            }
        },
    }
}


class ItemFacts(BaseModel, extra="forbid"):
    """What a client says of one file. Keys of the payload that mmembed writes itself give way to it."""

    caption: str | None = Field(default=None, max_length=100_000)
    payload: dict[str, Any] | None = None

    @field_validator("payload")
    @classmethod
    def _has_finite_numbers(cls, payload: dict[str, Any] | None) -> dict[str, Any] | None:
        json.dumps(payload, allow_nan=False)  # pydantic takes NaN, which is no JSON; ValueError
        return payload


_ITEMS = TypeAdapter(list[ItemFacts | None])


def uploaded_files(form: FormData, limit: int) -> list[UploadedFile]:
    """The files of a form, each with what is said of it."""
    unknown = sorted({name for name in form if name not in ("file", "items")})
    if unknown:
        raise InvalidRequest(f"the form has a field {unknown[0][:80]!r}: there are `file`, once a file, and `items`")
    files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
    if not files or len(files) < len(form.getlist("file")):
        raise InvalidRequest("the form needs at least one part `file`, and each with a file name")
    if len(files) > limit:
        raise RequestTooLarge(f"more than {limit} files were sent, and so many are taken at once: split them")
    items = [item or ItemFacts() for item in _items(form.getlist("items"), len(files))]
    return [
        UploadedFile(clean_name(part.filename or ""), part.file, part.size or 0, item.caption, item.payload)
        for part, item in zip(files, items, strict=True)
    ]


def _items(parts: list[UploadFile | str], count: int) -> Sequence[ItemFacts | None]:
    if not parts:
        return [None] * count
    if len(parts) > 1 or not isinstance(parts[0], str):
        raise InvalidRequest("the field `items` is one JSON list, without a file name")
    check_elements(parts[0].encode("utf-8", "surrogatepass"))
    try:
        items = _ITEMS.validate_json(parts[0])
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            f"the field `items` cannot be read: {f'{where}: ' if where else ''}{first['msg']}"
        ) from exc
    if len(items) != count:
        raise InvalidRequest(
            f"`items` says something of {len(items)} files, and {count} were sent: give one entry a file"
        )
    return items
