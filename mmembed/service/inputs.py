"""What goes into a lane: one text or picture each, under a key that is equal where the vector will be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np
from PIL import Image

from mmembed.service.cache import Key, Line
from mmembed.types import Encoder, PixelEncoder, Pixels, Role

__all__ = [
    "Content",
    "Input",
    "Prepared",
    "picture_input",
    "prepared_input",
    "reads_as_one",
    "text_input",
    "texts_as_one",
]

Prepared: TypeAlias = Image.Image | Pixels
"""A picture as its encoder takes it: preprocessed where that can be done beside the forward pass."""

Content: TypeAlias = str | bytes | Image.Image | Pixels
"""A text, the bytes of a picture file, or a picture that is prepared already."""

_calls = count(1)


@dataclass(frozen=True, slots=True)
class Input:
    encoder: Encoder
    key: Key
    content: Content


def text_input(encoder: Encoder, text: str, *, role: Role, task: str | None) -> Input:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return Input(encoder, Key(encoder.spec.fingerprint, Line("text", role, task), digest), text)


def reads_as_one(encoder: Encoder, role: Role) -> bool:
    """Whether all texts of a call are one document to this encoder (late chunking), so that nobody may join them."""
    return role in getattr(encoder, "undivided", ())


def texts_as_one(encoder: Encoder, texts: Sequence[str], *, role: Role, task: str | None) -> list[Input]:
    """The texts of one call for such an encoder; equal ones have different vectors."""
    line = Line("text", role, task, alone=next(_calls))
    return [
        Input(encoder, Key(encoder.spec.fingerprint, line, place.to_bytes(8)), text) for place, text in enumerate(texts)
    ]


def picture_input(encoder: Encoder, content: bytes) -> Input:
    """The bytes of a picture file. Equal bytes are equal pictures; the same picture in other bytes is another."""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Input(encoder, Key(encoder.spec.fingerprint, Line("image", "document", None), digest), content)


def prepared_input(encoder: Encoder, picture: Prepared) -> Input:
    """An upright RGB picture, which is preprocessed here and now, or one that was already."""
    if isinstance(picture, Image.Image):
        picture = encoder.preprocess_image(picture) if isinstance(encoder, PixelEncoder) else picture
    digest = hashlib.blake2b(digest_size=16, person=b"prepared")
    if isinstance(picture, Image.Image):
        digest.update(f"{picture.mode} {picture.size}".encode())
        digest.update(picture.tobytes())
    else:
        digest.update(f"{picture.shape}".encode())
        digest.update(np.ascontiguousarray(picture).data)
    return Input(encoder, Key(encoder.spec.fingerprint, Line("image", "document", None), digest.digest()), picture)
