"""Vectors of inputs that came before, kept by what was in them: least recently used first out, bounded in bytes."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from mmembed.types import Modality, Role, SparseVector, Vector

__all__ = ["Kept", "Key", "Line", "VectorCache", "size_of"]

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
