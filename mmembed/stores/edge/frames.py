"""What goes through the pipe to Edge, as msgpack: plain values, arrays, and the few dataclasses that are named here.

Unlike a pickle a frame can make nothing else, whoever wrote it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgpack
import numpy as np

from mmembed.errors import InvalidQuery
from mmembed.types import Examples, Leg, Point, SparseVector, StoreQuery

_CLASSES: tuple[type[Any], ...] = (Point, Leg, StoreQuery, Examples)
_FIELDS = [tuple(field.name for field in dataclasses.fields(each) if field.init) for each in _CLASSES]
_CODES = {each: code for code, each in enumerate(_CLASSES)}
_TUPLE, _SPARSE, _FLOATS, _ARRAY, _DATE, _MOMENT = range(len(_CLASSES), len(_CLASSES) + 6)
_DTYPES = {np.dtype(kind).str for kind in ("f2", "f4", "f8", "i4", "i8", "u4", "u8", "u1", "i1", "?")}
_FLOAT32 = np.dtype(np.float32)


def pack(message: object) -> bytes:
    """One message as bytes. Raises InvalidQuery for a number or a text that Qdrant has no room for."""
    try:
        return bytes(msgpack.packb(message, default=_packed, strict_types=True))
    except OverflowError as exc:
        raise InvalidQuery("a whole number is beyond the 64 bits that Qdrant has for it: give a smaller one") from exc
    except UnicodeEncodeError as exc:
        raise InvalidQuery("a text holds half a character (a lone surrogate): write it in UTF-8") from exc
    except ValueError as exc:  # recursion limit exceeded
        raise InvalidQuery(f"what is asked of the store cannot be sent ({exc}): nest it less deeply") from exc


def unpack(body: bytes | bytearray) -> Any:
    """The message that `pack` made into these bytes; lists and tuples stay apart, arrays can be written to."""
    return msgpack.unpackb(body, ext_hook=_unpacked, strict_map_key=False)


def _packed(value: Any) -> Any:
    kind = type(value)
    if kind is np.ndarray:
        if value.ndim == 1 and value.dtype == _FLOAT32:  # nearly all of what is sent
            return msgpack.ExtType(_FLOATS, value.tobytes())
        return msgpack.ExtType(_ARRAY, pack([value.dtype.str, list(value.shape), value.tobytes()]))
    if (code := _CODES.get(kind)) is not None:
        return msgpack.ExtType(code, pack([getattr(value, name) for name in _FIELDS[code]]))
    if kind is SparseVector:
        return msgpack.ExtType(_SPARSE, pack(list(value)))
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, pack(list(value)))
    if isinstance(value, date):  # in a filter
        return msgpack.ExtType(_MOMENT if isinstance(value, datetime) else _DATE, pack(value.isoformat()))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):  # a StrEnum, say
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"a {kind.__name__} does not go through the pipe to Edge")


def _unpacked(code: int, body: bytes) -> Any:
    if code == _FLOATS:
        return np.frombuffer(bytearray(body), dtype=np.float32)
    values = unpack(body)
    if code == _TUPLE:
        return tuple(values)
    if code in (_DATE, _MOMENT):
        return (datetime if code == _MOMENT else date).fromisoformat(values)
    if code == _SPARSE:
        return SparseVector(*values)
    if code == _ARRAY:
        dtype, shape, content = values
        if dtype not in _DTYPES:  # of Python objects, say
            raise ValueError(f"an array of {dtype} does not go through the pipe to Edge")
        return np.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
    return _CLASSES[code](**dict(zip(_FIELDS[code], values, strict=True)))
