"""What waits for a forward pass: the inputs of one kind, in order of arrival."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from mmembed.batching.cache import BatchKey, CacheKey, Content, Result
from mmembed.batching.submission import Submission
from mmembed.errors import MmembedError
from mmembed.types import Vector


@dataclass(eq=False, slots=True)
class Entry:
    """One input that somebody waits for, or several do."""

    key: CacheKey
    content: Content
    submissions: list[Submission] = field(default_factory=list)
    since: float = 0.0  # when it was ready for its forward pass
    tokens: int | None = None  # None: not counted yet; 0 of an image
    fault: MmembedError | None = None

    @property
    def pixels(self) -> int:
        """Of an image that can only be preprocessed in its forward pass, and waits as large as it is."""
        return self.content.width * self.content.height if isinstance(self.content, Image.Image) else 0


@dataclass(eq=False)
class Queue:
    """The inputs that may share a forward pass."""

    batch: BatchKey
    undecoded: dict[CacheKey, Entry] = field(default_factory=dict)  # bytes of images
    decoding: dict[CacheKey, Entry] = field(default_factory=dict)
    ready: dict[CacheKey, Entry] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.undecoded) + len(self.decoding) + len(self.ready)

    def add(self, entry: Entry) -> None:
        if isinstance(entry.content, bytes):
            self.undecoded[entry.key] = entry
        else:
            self.add_ready(entry)

    def add_ready(self, entry: Entry) -> None:
        entry.since = time.monotonic()
        self.ready[entry.key] = entry

    def remove(self, key: CacheKey) -> bool:
        """Whether it was waiting: not if it is being decoded, or has begun."""
        return (self.undecoded.pop(key, None) or self.ready.pop(key, None)) is not None

    def next_undecoded(self) -> Entry:
        """The first of those that are not decoded, which is being decoded from now on."""
        entry = self.undecoded.pop(next(iter(self.undecoded)))
        self.decoding[entry.key] = entry
        return entry


def results_of(entries: Sequence[Entry], vectors: Sequence[Vector | MmembedError]) -> list[Result | MmembedError]:
    """What became of each; `vectors` are those of the entries without a fault, in order."""
    following = iter(vectors)
    outcomes = [next(following) if entry.fault is None else entry.fault for entry in entries]
    return [
        outcome if isinstance(outcome, MmembedError) else Result(outcome, entry.tokens or 0)
        for entry, outcome in zip(entries, outcomes, strict=True)
    ]
