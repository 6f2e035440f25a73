"""The images of a request -> the bytes of their files: addresses, data URIs or base64, never paths."""

from __future__ import annotations

import asyncio
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mmembed.errors import InvalidRequest, MmembedError, Overloaded, RequestTooLarge, UnreadableImage
from mmembed.service.fetching import Fetcher, short_url

ImageSource: TypeAlias = str | Mapping[str, Any]
"""As a client writes it: an address, a data URI or base64, or {"url": ...} or {"base64": ...}."""

_BYTES = "a data URI (data:image/png;base64,...) or the bytes of the file in base64"
_HOW = f"send an http(s) address, {_BYTES}"
_KINDS = ("url", "base64")
_DATA_HEAD = re.compile(r"data:image/[\w.+-]+(;[\w-]+=[\w.+-]+)*;base64", re.ASCII | re.IGNORECASE)


def is_address(source: object) -> bool:
    """Whether the picture must be fetched: an http(s) address, plain or as {"url": ...}."""
    text = source.get("url") if isinstance(source, Mapping) else source
    return isinstance(text, str) and text[:8].lower().startswith(("http://", "https://"))


async def fetch_images(
    sources: Sequence[ImageSource | bytes], *, fetcher: Fetcher, max_bytes: int, max_bytes_together: int | None = None
) -> list[bytes | MmembedError]:
    """The file of each image, in order, or why there is none; all side by side, equal ones fetched once.

    `max_bytes`: of one that the request itself carries; the fetcher bounds the others. Files that are here already
    are handed on as they are.

    Raises RequestTooLarge for images of more than `max_bytes_together`, Overloaded where too many are being fetched.
    """
    left = max_bytes_together

    async def fetched(source: ImageSource) -> bytes | MmembedError:
        nonlocal left
        try:
            content = await image_bytes(source, fetcher=fetcher, max_bytes=max_bytes)
        except Overloaded:
            raise
        except MmembedError as exc:
            return exc
        if left is not None and max_bytes_together is not None:
            left -= len(content)
            if left < 0:
                most = max_bytes_together / 2**20
                raise RequestTooLarge(f"the pictures are more than {most:g} MiB together: send them in parts")
        return content

    distinct = {key_of(source): source for source in sources if not isinstance(source, bytes)}
    tasks = {key: asyncio.ensure_future(fetched(source)) for key, source in distinct.items()}
    try:
        await asyncio.gather(*tasks.values())
    finally:
        for task in tasks.values():
            task.cancel()
    return [source if isinstance(source, bytes) else tasks[key_of(source)].result() for source in sources]


def key_of(source: ImageSource) -> tuple[bool, str]:
    """Equal for the same image."""
    return (True, source) if isinstance(source, str) else (False, json.dumps(source, sort_keys=True))


async def image_bytes(source: ImageSource, *, fetcher: Fetcher, max_bytes: int, urls: bool = True) -> bytes:
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
        raise UnreadableImage(f"{short_url(text)} is neither an http(s) address nor a data URI: {_HOW}")
    return _decoded(text, max_bytes)


def _parted(source: ImageSource) -> tuple[str, str]:
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
            f"{short_url(plain)} is neither an http(s) address, a data URI nor base64, and files of the server are not "
            f"read: {_HOW}"
        ) from None
