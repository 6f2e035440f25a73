"""The form of an index request: files, and what the client says of each."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from starlette.datastructures import FormData, UploadFile

from mmembed.errors import InvalidRequest, RequestTooLarge
from mmembed.service.ingestion import Sent
from mmembed.service.uploads import clean_name

__all__ = ["FORM", "sent_files"]

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


class SaidOfItem(BaseModel):
    """What a client says of one file. Keys of the payload that mmembed writes itself give way to it."""

    model_config = ConfigDict(extra="forbid")

    caption: str | None = Field(None, max_length=100_000)
    payload: dict[str, Any] | None = None

    @field_validator("payload")
    @classmethod
    def _has_finite_numbers(cls, payload: dict[str, Any] | None) -> dict[str, Any] | None:
        json.dumps(payload, allow_nan=False)  # pydantic takes NaN, which is no JSON; ValueError
        return payload


_SAID = TypeAdapter(list[SaidOfItem | None])


def sent_files(form: FormData, limit: int) -> list[Sent]:
    """The files of a form, each with what is said of it."""
    unknown = sorted({name for name in form if name not in ("file", "items")})
    if unknown:
        raise InvalidRequest(f"the form has a field {unknown[0][:80]!r}: there are `file`, once a file, and `items`")
    files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
    if not files or len(files) < len(form.getlist("file")):
        raise InvalidRequest("the form needs at least one part `file`, and each with a file name")
    if len(files) > limit:
        raise RequestTooLarge(f"more than {limit} files were sent, and so many are taken at once: divide them")
    said = _said(form.getlist("items"), len(files))
    return [
        Sent(
            clean_name(part.filename or ""),
            part.file,
            part.size or 0,
            one.caption if one is not None else None,
            one.payload if one is not None else None,
        )
        for part, one in zip(files, said, strict=True)
    ]


def _said(parts: list[UploadFile | str], count: int) -> list[SaidOfItem | None]:
    if not parts:
        return [None] * count
    if len(parts) > 1 or not isinstance(parts[0], str):
        raise InvalidRequest("the field `items` is one JSON list, without a file name")
    try:
        said = _SAID.validate_json(parts[0])
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            f"the field `items` cannot be read: {f'{where}: ' if where else ''}{first['msg']}"
        ) from exc
    if len(said) != count:
        raise InvalidRequest(
            f"`items` says something of {len(said)} files, and {count} were sent: give one entry a file"
        )
    return said
