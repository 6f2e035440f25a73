"""Encoders for code that runs in threads, whose inputs go through the lanes and the cache like everybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from PIL.Image import Image

from mmembed.batching.batcher import Lane
from mmembed.batching.cache import Input, prepared_input, reads_as_one, text_input, texts_as_one
from mmembed.batching.options import EncoderSource
from mmembed.errors import MmembedError, UnsupportedModality
from mmembed.types import DenseArray, Embeddings, Encoder, PixelEncoder, Pixels, Role, Vector

__all__ = ["LaneEncoder", "LanePixelEncoder", "ServedEncoders"]


class LaneEncoder:
    """An `Encoder`, equal to that of its lane but for the company its inputs have in a forward pass."""

    def __init__(self, lane: Lane) -> None:
        encoder = lane.encoder
        self._lane = lane
        self.spec = encoder.spec
        self.dtype = encoder.dtype
        self.batch_size = lane.batch_size
        self.logit_scale = encoder.logit_scale
        self.logit_bias = encoder.logit_bias
        self.undivided: frozenset[Role] = frozenset(getattr(encoder, "undivided", ()))

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        """Raises what the encoder raises, and Overloaded where too much waits already."""
        encoder = self._lane.encoder
        if not texts:
            return encoder.encode_text(texts, role=role, task=task)
        if reads_as_one(encoder, role):
            return self._stacked(self._made(texts_as_one(encoder, texts, role=role, task=task)))
        return self._encoded([text_input(encoder, text, role=role, task=task) for text in texts])

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        encoder = self._lane.encoder
        if "image" not in self.spec.modalities:
            raise UnsupportedModality(self.spec.name, "pictures", self.spec.modalities)
        if not images:
            return encoder.encode_image(images)
        return self._encoded([prepared_input(encoder, image) for image in images])

    def count_tokens(self, text: str) -> int:
        return self._lane.encoder.count_tokens(text)

    def _encoded(self, inputs: Sequence[Input]) -> Embeddings:
        """A batch at a time: a long list must neither fill the queue nor make others wait behind it."""
        rows: list[Vector] = []
        step = min(self.batch_size, self._lane.max_queue)
        for start in range(0, len(inputs), step):
            rows += self._made(inputs[start : start + step])
        return self._stacked(rows)

    def _made(self, inputs: Sequence[Input]) -> list[Vector]:
        outcomes = self._lane.submit({one.key: one for one in inputs}.values()).result()
        rows: list[Vector] = []
        for one in inputs:
            outcome = outcomes[one.key]
            if isinstance(outcome, MmembedError):
                raise outcome.with_traceback(None)  # it may be raised to several, each of whom would lengthen it
            rows.append(outcome.vector)
        return rows

    def _stacked(self, rows: list[Vector]) -> Embeddings:
        return np.stack(rows) if self.spec.kind == "dense" else rows  # type: ignore[return-value]


class LanePixelEncoder(LaneEncoder):
    """The same of a `PixelEncoder`, which is one as well."""

    def __init__(self, lane: Lane, encoder: PixelEncoder) -> None:
        super().__init__(lane)
        self._preprocess = encoder.preprocess_image

    def preprocess_image(self, image: Image) -> Pixels:
        return self._preprocess(image)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        if not pixels:
            return np.zeros((0, self.spec.dim or 0), dtype=np.float32)
        return np.asarray(self._encoded([prepared_input(self._lane.encoder, one) for one in pixels]))


class ServedEncoders(Mapping[str, Encoder]):
    """Name, in any spelling, -> the encoder in its lane. Blocks while one is loaded.

    Raises UnknownEncoder for what is not served, and what loading it raised.
    """

    def __init__(self, served: EncoderSource, lane_of: Callable[[Encoder], Lane]) -> None:
        self._served = served
        self._lane_of = lane_of

    def __getitem__(self, name: str) -> Encoder:
        encoder = self._served.encoder(name)
        lane = self._lane_of(encoder)
        return LanePixelEncoder(lane, encoder) if isinstance(encoder, PixelEncoder) else LaneEncoder(lane)

    def __iter__(self) -> Iterator[str]:
        return iter(self._served.names())

    def __len__(self) -> int:
        return len(self._served.names())
