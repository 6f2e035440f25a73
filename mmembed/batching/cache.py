"""Vectors of inputs that came before, kept by what was in them: least recently used first out, bounded in bytes."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from mmembed.types import Encoder, Modality, PixelEncoder, Pixels, Role, SparseVector, Vector

__all__ = [
    "Content",
    "Input",
    "Kept",
    "Key",
    "Line",
    "Prepared",
    "VectorCache",
    "picture_input",
    "prepared_input",
    "reads_as_one",
    "size_of",
    "text_input",
    "texts_as_one",
]

_OVERHEAD = 600  # bytes of an entry beside its numbers: measured with dense float32 of 256 dimensions


class Line(NamedTuple):
    """What inputs have in common that may share a forward pass. Pictures have no role: theirs is always "document"."""

    modality: Modality
    role: Role
    task: str | None
    alone: int = 0  # not 0: the texts of one call, which the encoder reads as one document, apart from all others


class Key(NamedTuple):
    """Equal if and only if the vectors are."""

    fingerprint: str  # of the encoder
    line: Line
    digest: bytes  # of the content


@dataclass(frozen=True, slots=True)
class Kept:
    vector: Vector  # whole; read-only
    tokens: int  # of a text, cut to the context length; 0 for a picture


class VectorCache:
    """Used by many threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Kept | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: Key, kept: Kept) -> None:
        """Keep it, at the cost of those used least recently; what is larger than the whole cache is not kept."""
        size = size_of(key, kept)
        if size > self.max_bytes:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self.bytes += size - (size_of(key, old) if old is not None else 0)
            self._entries[key] = kept
            while self.bytes > self.max_bytes:
                self.bytes -= size_of(*self._entries.popitem(last=False))


def size_of(key: Key, kept: Kept) -> int:
    """Bytes of an entry, with its key: a task may be a long instruction."""
    vector = kept.vector
    numbers = vector.indices.nbytes + vector.values.nbytes if isinstance(vector, SparseVector) else vector.nbytes
    return numbers + sys.getsizeof(key.line.task) + _OVERHEAD


# --- What goes into a lane: one text or picture each, under a key that is equal where the vector will be ---

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
