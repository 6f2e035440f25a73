"""Vectors of inputs that came before, kept by what was in them: least recently used first out, bounded in bytes."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from mmembed.images import upright_rgb
from mmembed.types import Encoder, Modality, PixelEncoder, Pixels, Role, SparseVector, Vector

_OVERHEAD = 600  # bytes of an entry beside its numbers: measured with dense float32 of 256 dimensions


class BatchKey(NamedTuple):
    """What inputs have in common that may share a forward pass. Images have no role: theirs is always "document"."""

    modality: Modality
    role: Role
    task: str | None
    alone: int = 0  # not 0: the texts of one call, which the encoder reads as one document, apart from all others


class CacheKey(NamedTuple):
    """Equal if and only if the vectors are."""

    fingerprint: str  # of the encoder
    batch: BatchKey
    digest: bytes  # of the content


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one input."""

    vector: Vector  # (dim,), sparse, or (rows, dim); read-only
    tokens: int  # of a text, cut to the context length; 0 for an image


class VectorCache:
    """Used by many threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[CacheKey, Result] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> Result | None:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: CacheKey, result: Result) -> None:
        """Keep it, at the cost of those used least recently; what is larger than the whole cache is not kept."""
        size = size_of(key, result)
        if size > self.max_bytes:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self.bytes += size - (size_of(key, old) if old is not None else 0)
            self._entries[key] = result
            while self.bytes > self.max_bytes:
                self.bytes -= size_of(*self._entries.popitem(last=False))


def size_of(key: CacheKey, result: Result) -> int:
    """Bytes of an entry, with its key: a task may be a long instruction."""
    vector = result.vector
    numbers = vector.indices.nbytes + vector.values.nbytes if isinstance(vector, SparseVector) else vector.nbytes
    return numbers + sys.getsizeof(key.batch.task) + _OVERHEAD


# --- Keys of what is encoded: one text or image each, equal where the vector will be ---

Prepared: TypeAlias = Image.Image | Pixels
"""An image as its encoder takes it: preprocessed where that can be done beside the forward pass."""

Content: TypeAlias = str | bytes | Image.Image | Pixels
"""A text, the bytes of an image file, or an image that is prepared already."""

_calls = count(1)


def text_key(encoder: Encoder, text: str, *, role: Role, task: str | None) -> CacheKey:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return CacheKey(encoder.spec.fingerprint, BatchKey("text", role, task), digest)


def reads_as_one(encoder: Encoder, role: Role) -> bool:
    """Whether all texts of a call are one document to this encoder (late chunking), so that nobody may join them."""
    return role in encoder.spec.whole_call


def keys_as_one(encoder: Encoder, n: int, *, role: Role, task: str | None) -> list[CacheKey]:
    """Keys of the n texts of one call for such an encoder; equal ones have different vectors."""
    batch = BatchKey("text", role, task, alone=next(_calls))
    return [CacheKey(encoder.spec.fingerprint, batch, place.to_bytes(8)) for place in range(n)]


def image_key(encoder: Encoder, content: bytes) -> CacheKey:
    """Of the bytes of an image file. Equal bytes are equal images; the same image in other bytes is another."""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return CacheKey(encoder.spec.fingerprint, BatchKey("image", "document", None), digest)


def prepare_image(encoder: Encoder, image: Image.Image) -> Prepared:
    """An image brought in order, preprocessed here and now where the encoder allows it."""
    return encoder.preprocess_image(image) if isinstance(encoder, PixelEncoder) else upright_rgb(image)


def prepared_key(encoder: Encoder, image: Prepared) -> CacheKey:
    digest = hashlib.blake2b(digest_size=16, person=b"prepared")
    if isinstance(image, Image.Image):
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    else:
        digest.update(f"{image.shape}".encode())
        digest.update(np.ascontiguousarray(image).data)
    return CacheKey(encoder.spec.fingerprint, BatchKey("image", "document", None), digest.digest())
