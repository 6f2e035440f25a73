"""A picture as a request carries it -> the bytes of its file: an address, a data URI or base64, never a path."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any

from mmembed.errors import InvalidRequest, RequestTooLarge, UnreadableImage
from mmembed.service.fetching import Fetcher, shown

__all__ = ["is_address", "picture_bytes"]

_BYTES = "a data URI (data:image/png;base64,...) or the bytes of the file in base64"
_HOW = f"send an http(s) address, {_BYTES}"
_KINDS = ("url", "base64")
_DATA_HEAD = re.compile(r"data:image/[\w.+-]+(;[\w-]+=[\w.+-]+)*;base64", re.ASCII | re.IGNORECASE)


def is_address(source: object) -> bool:
    """Whether the picture must be fetched: an http(s) address, plain or as {"url": ...}."""
    text = source.get("url") if isinstance(source, Mapping) else source
    return isinstance(text, str) and text[:8].lower().startswith(("http://", "https://"))


async def picture_bytes(
    source: str | Mapping[str, Any], *, fetcher: Fetcher, max_bytes: int, urls: bool = True
) -> bytes:
    """The bytes of the file that `source` is, at most `max_bytes` of them; whether they are a picture, decoding tells.

    Raises UnreadableImage for what is no picture, ForbiddenUrl for an address that is not fetched, InvalidRequest for
    another type or an address where `urls` is false, RequestTooLarge.
    """
    kind, text = _parted(source)
    if kind != "base64" and is_address(text):
        if not urls:
            raise InvalidRequest(f"pictures are not fetched from addresses here: send {_BYTES}")
        return await fetcher.fetch(text)
    if kind != "base64" and text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not _DATA_HEAD.fullmatch(head):
            raise UnreadableImage(f"the data URI {head[:40]!r} holds no picture: write data:image/png;base64,...")
    elif kind == "url":
        raise UnreadableImage(f"{shown(text)} is neither an http(s) address nor a data URI: {_HOW}")
    return _decoded(text, max_bytes)


def _parted(source: str | Mapping[str, Any]) -> tuple[str, str]:
    """("", text) of a string, ("url" or "base64", text) of an object with that one key."""
    if isinstance(source, str):
        return "", source
    if not isinstance(source, Mapping):
        raise InvalidRequest(f"a picture is a string or an object, not {type(source).__name__}: {_HOW}")
    if len(source) != 1 or (kind := next(iter(source))) not in _KINDS:
        found = ", ".join(repr(str(key)[:20]) for key in [*source][:5]) or "nothing"
        raise InvalidRequest(f"a picture as an object has one key, 'url' or 'base64', not {found}")
    if not isinstance(text := source[kind], str):
        raise InvalidRequest(f"{kind!r} of a picture is a string, not {type(text).__name__}")
    return kind, text


def _decoded(text: str, max_bytes: int) -> bytes:
    """Standard base64 with padding, white space ignored."""
    plain = "".join(text.split())
    if not plain:
        raise UnreadableImage(f"the picture is empty: {_HOW}")
    if len(plain) // 4 * 3 - plain[-2:].count("=") > max_bytes:
        raise RequestTooLarge(f"the picture is larger than {max_bytes / 2**20:g} MiB: shrink it")
    try:
        return binascii.a2b_base64(plain, strict_mode=True)
    except ValueError:  # binascii.Error, and a plain one of what is not ASCII
        raise UnreadableImage(
            f"{shown(plain)} is neither an http(s) address, a data URI nor base64, and files of the server are not "
            f"read: {_HOW}"
        ) from None
