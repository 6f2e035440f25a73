"""What Qdrant sends its inference back end, and each of its inputs as the texts and pictures to embed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from mmembed.errors import InvalidRequest
from mmembed.service.fetching import short_url
from mmembed.service.images import is_address
from mmembed.types import Role

ROLES: Mapping[str, Role] = {"update": "document", "search": "query"}
_OPTIONS = ("dim", "mrl", "task", "role")
_IMAGE_KEYS = ("image", "url", "base64")
_SNIPPET = 60  # characters of an input in an error
_LARGEST = sys.float_info.max  # JSON has larger whole numbers, which no float holds

EXAMPLE: dict[str, Any] = {
    "inputs": [
        {"data": "a red car", "data_type": "text", "model": "tiny", "options": None},
        {"data": "https://example.com/car.jpg", "data_type": "image", "model": "tiny", "options": {"dim": 128}},
    ],
    "inference": "update",
    "token": None,
}


class InferenceInput(BaseModel, strict=True):  # other fields are those of a Qdrant to come
    """One thing to embed."""

    data: Any = Field(
        None, description="A text, a picture (address, data URI, base64), or an object with either or both."
    )
    data_type: Literal["text", "image", "object"]
    model: str = Field(min_length=1)
    options: dict[str, Any] | None = Field(None, description="dim or mrl, task, role; null and {} are the same.")


class InferenceRequest(BaseModel, strict=True, json_schema_extra={"examples": [EXAMPLE]}):
    """The inputs of one request to Qdrant: each once, in any order, of any models."""

    inputs: list[InferenceInput] = Field(min_length=1, fail_fast=True)
    inference: Literal["update", "search"] = Field(description="update: documents; search: queries.")
    token: str | None = Field(None, description="A key of the scope infer, where no header carries one.")


@dataclass(frozen=True)
class InputPart:
    """A text, or a picture as the request carries it."""

    content: Any  # a string, or whatever was sent as a picture
    is_image: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class ParsedInput:
    """One input: its vector is that of its part, or the normalised weighted sum of its parts."""

    model: str
    parts: tuple[InputPart, ...]
    role: Role
    dim: int | None
    task: str | None


def read_input(input: InferenceInput, role: Role) -> ParsedInput:
    """Raises InvalidRequest for data of another type and for options that do not exist."""
    options = input.options or {}
    if unknown := [key for key in options if key not in _OPTIONS]:
        raise InvalidRequest(f"there is no option {unknown[0][:_SNIPPET]!r}: known are {', '.join(_OPTIONS)}")
    dim, mrl = (_size(options, key) for key in ("dim", "mrl"))
    if dim is not None and mrl is not None and dim != mrl:
        raise InvalidRequest(f"options dim ({dim}) and mrl ({mrl}) are two names of the same size: give one")
    task = options.get("task")
    if task is not None and not (isinstance(task, str) and task):
        raise InvalidRequest(f"option task is the name of a task, not {_snippet(task)}")
    side = options.get("role")
    if side not in (None, *ROLES.values()):
        raise InvalidRequest(f"option role is 'query' or 'document', not {_snippet(side)}")
    return ParsedInput(input.model, _parts(input), side or role, mrl if dim is None else dim, task)


def described(position: int, count: int, input: InferenceInput) -> str:
    """An input for an error: "input 2 of 5 (counted from 0), text 'two parrots' for model 'minilm'".

    Of a picture only what it is or its address.
    """
    kind, snippet = input.data_type, _snippet(input.data)
    if kind == "image":
        snippet = _image_snippet(input.data)
    elif isinstance(input.data, Mapping):
        snippet = f"with {_keys(input.data)}"
    model = input.model[:_SNIPPET]
    return f"input {position} of {count} (counted from 0), {kind} {snippet} for model {model!r}"


def _parts(input: InferenceInput) -> tuple[InputPart, ...]:
    """A picture's content is looked at only when it is read."""
    content = input.data
    if input.data_type == "image":
        return (InputPart(content, is_image=True),)
    if isinstance(content, str):
        return (InputPart(content),)
    if input.data_type == "text" or not isinstance(content, Mapping):
        what = (
            "a text is a string" if input.data_type == "text" else "an object is a string or has the key text or image"
        )
        raise InvalidRequest(f"{what}, not {_snippet(content)}")
    images = [key for key in _IMAGE_KEYS if key in content]
    if (unknown := set(content) - {"text", "weights", *_IMAGE_KEYS}) or len(images) > 1:
        found = _keys(content) if not unknown else repr(min(unknown)[:_SNIPPET])
        raise InvalidRequest(f"an object has the keys text, weights and one of {', '.join(_IMAGE_KEYS)}, not {found}")
    weights = _weights(content)
    parts = []
    if "text" in content:
        if not isinstance(text := content["text"], str):
            raise InvalidRequest(f"text of an object is a string, not {_snippet(text)}")
        parts.append(InputPart(text, weight=weights.get("text", 1.0)))
    for key in images:
        source = content[key] if key == "image" else {key: content[key]}
        parts.append(InputPart(source, is_image=True, weight=weights.get("image", 1.0)))
    if not parts or (weights and len(parts) < 2):
        raise InvalidRequest(
            "weights are for both a text and an image" if parts else "an object has text, image or both"
        )
    return tuple(parts)


def _weights(content: Mapping[str, Any]) -> dict[str, float]:
    weights = content.get("weights")
    if weights is None:
        return {}
    if not isinstance(weights, dict) or set(weights) - {"text", "image"}:
        raise InvalidRequest(f"weights are {{'text': number, 'image': number}}, not {_snippet(weights)}")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= _LARGEST:
            raise InvalidRequest(f"the weight of {name} is a finite number, not {_snippet(weight)}")
    return {name: float(weight) for name, weight in weights.items()}


def _size(options: Mapping[str, Any], key: str) -> int | None:
    """A whole positive number; 64.0 is one, since gRPC clients may send it so."""
    size = options.get(key)
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int | float) or size != size // 1 or size < 1:
        raise InvalidRequest(f"option {key} is a positive whole number of dimensions, not {_snippet(size)}")
    return int(size)


def _snippet(content: object) -> str:
    if isinstance(content, str):  # cut first: it may have megabytes
        return repr(content) if len(content) <= _SNIPPET else repr(content[: _SNIPPET - 3] + "...")
    if isinstance(content, Mapping):
        return f"an object with {_keys(content)}"
    return f"a list of {len(content)}" if isinstance(content, list) else json.dumps(content)[:_SNIPPET]


def _image_snippet(content: object) -> str:
    source = content.get("url", content) if isinstance(content, Mapping) else content
    if is_address(source):
        return short_url(str(source))
    if not isinstance(source, str):
        return _snippet(source)
    return f"in a data URI {source[:20]!r}..." if source[:5].lower() == "data:" else f"{source[:20]!r}..."


def _keys(content: Mapping[str, Any]) -> str:
    return ", ".join(repr(key[:20]) for key in [*content][:5]) or "no keys"
