"""What waits for a forward pass: the inputs of one kind, in order of arrival."""

from __future__ import annotations

import time
from collections.abc import Sequence

from PIL import Image

from mmembed.batching.cache import BatchKey, CacheKey, Content, Result
from mmembed.batching.submission import Submission
from mmembed.errors import MmembedError
from mmembed.types import Vector


class Entry:
    """One input that somebody waits for, or several do."""

    __slots__ = ("content", "fault", "key", "since", "submissions", "tokens")

    def __init__(self, key: CacheKey, content: Content) -> None:
        self.key = key
        self.content = content
        self.submissions: list[Submission] = []
        self.since = 0.0  # when it was ready for its forward pass
        self.tokens: int | None = None if key.batch.modality == "text" else 0  # None: not counted yet
        self.fault: MmembedError | None = None

    @property
    def pixels(self) -> int:
        """Of an image that can only be preprocessed in its forward pass, and waits as large as it is."""
        return self.content.width * self.content.height if isinstance(self.content, Image.Image) else 0


class Queue:
    """The inputs that may share a forward pass."""

    def __init__(self, batch: BatchKey) -> None:
        self.batch = batch
        self.undecoded: dict[CacheKey, Entry] = {}  # bytes of images
        self.decoding: dict[CacheKey, Entry] = {}
        self.ready: dict[CacheKey, Entry] = {}

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
