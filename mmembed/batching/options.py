"""What batching is told from outside: its limits, who watches it, and where encoders come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mmembed.types import Encoder

STOPPING = "the service is stopping and takes nothing new: try again in a few seconds"


@dataclass(frozen=True)
class BatchingOptions:
    """Limits of every batcher, and of the cache that they share."""

    batch_size: int | None = None  # inputs a forward pass; None: the encoder's own choice
    max_batch_tokens: int = 16_384  # tokens a forward pass
    max_wait_ms: float = 5.0  # how long a forward pass waits for more inputs
    max_queue: int = 2048  # inputs that may wait for one encoder
    max_inputs: int = 1024  # inputs of one call
    max_pixels: int = 50_000_000  # of one image
    cache_mb: float = 256.0  # MiB of vectors


class Observer(Protocol):
    """Is told what happens; a service counts it."""

    in_flight: int  # calls that were admitted and are not answered yet

    def batch(self, encoder: str, modality: str, size: int, seconds: float) -> None:
        """One forward pass."""

    def queued(self, encoder: str, modality: str, n: int) -> None:
        """`n` inputs wait now."""

    def cache(self, hits: int, misses: int) -> None: ...

    def failure(self, kind: str) -> None:
        """One input failed; `kind` is the name of its error's class."""


class EncoderSource(Protocol):
    """Names, in any spelling, to encoders. `known` and `loaded` do not block."""

    def names(self) -> list[str]:
        """Every name that may be asked for, sorted."""

    def known(self, name: str) -> str | None:
        """The name that a spelling stands for; None where that takes a look at the store."""

    def resolve(self, name: str) -> str:
        """The same with that look. Raises UnknownEncoder, StoreUnavailable."""

    def loaded(self) -> Mapping[str, Encoder]:
        """Those that are there, by name."""

    def encoder(self, name: str) -> Encoder:
        """The encoder, loaded if need be. Raises what loading it raises."""
