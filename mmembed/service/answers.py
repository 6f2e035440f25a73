"""JSON answers, written by orjson: arrays of numpy go out as they lie in memory, never through Python lists."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

__all__ = ["json_bytes", "json_response"]

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


def _plain(value: Any) -> Any:
    """What orjson leaves to us: arrays of a layout or type that it does not write."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
