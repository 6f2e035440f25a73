"""JSON bodies: bounded, null as if it were left out, and large ones read and validated off the event loop.

A parser holds the interpreter's lock until it has done, so a thread alone is not enough: what would become
millions of objects is refused from its bytes.
"""

from __future__ import annotations

import asyncio
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from mmembed.errors import RequestTooLarge

_HERE_BYTES = 64 << 10  # parsed and validated in the event loop: a millisecond or two
_MOST_ELEMENTS = 200_000  # of lists and objects; the rows of a large multivector are 130,000 numbers
_MOST_FIELDS = 20_000  # of one object: each that is unknown is an error to write down


class JsonRoute(APIRoute):
    """A route whose body is JSON. A large one reaches FastAPI as the model that it is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def read_and_answer(request: Request) -> Response:
            bounded = _BoundedRequest(request.scope, request.receive)
            if self.body_field is not None and "json" in request.headers.get("content-type", "").lower():
                body = await bounded.body()
                if len(body) > _HERE_BYTES:
                    bounded.parsed = [await asyncio.to_thread(self._validated, body)]
            return await answer(bounded)

        return read_and_answer

    def _validated(self, body: bytes) -> object:
        assert self.body_field is not None
        check_elements(body)
        try:
            value = orjson.loads(body.removeprefix(BOM_UTF8))
        except orjson.JSONDecodeError as exc:
            what = {"error": exc.msg.partition(":")[0]}
            fault = {"type": "json_invalid", "loc": ("body", exc.pos), "msg": "JSON decode error", "ctx": what}
            raise RequestValidationError([fault]) from None
        model, errors = self.body_field.validate(without_nulls(value), {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors[:1])
        return model


class _BoundedRequest(Request):
    """FastAPI asks it for its JSON."""

    parsed: list[object] | None = None  # of one element, once it is there

    async def json(self) -> Any:
        if self.parsed is None:
            self.parsed = [without_nulls(json.loads(await self.body()))]
        return self.parsed[0]


def check_elements(body: bytes) -> None:
    """Raise RequestTooLarge for JSON of more lists, objects, strings and numbers than are taken.

    Counted in its bytes, with what stands in strings left out where it matters.
    """
    if _separators(body) <= _MOST_ELEMENTS:
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * _MOST_ELEMENTS or sum(map(_separators, plain.split(b'"')[::2])) > _MOST_ELEMENTS:
        raise RequestTooLarge(f"the JSON has more than {_MOST_ELEMENTS:,} elements: send it in parts")


def _separators(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def without_nulls(value: Any) -> Any:
    """The same without fields that are null: clients write them for what they leave out. Nulls in lists stay.

    Raises RequestTooLarge for an object of more fields than any has.
    """
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if len(part) > _MOST_FIELDS:
                raise RequestTooLarge(f"an object has {len(part):,} fields, more than {_MOST_FIELDS:,}: leave some out")
            for name in [name for name, inner in part.items() if inner is None]:
                del part[name]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return value
