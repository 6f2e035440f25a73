"""Encoders for code that runs in threads, whose inputs share forward passes and the cache with everybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from PIL.Image import Image

from mmembed.batching.batcher import Batcher
from mmembed.batching.cache import CacheKey, Content, keys_as_one, prepare_image, prepared_key, reads_as_one, text_key
from mmembed.batching.options import EncoderSource
from mmembed.encoders.wrapper import WrappedEncoder
from mmembed.errors import MmembedError, UnsupportedModality
from mmembed.streams import check_several
from mmembed.types import DenseArray, Embeddings, Encoder, PixelEncoder, Pixels, Role, Vector


class BatchedEncoder(WrappedEncoder):
    """An encoder, equal to the one it wraps but for the company its inputs have in a forward pass."""

    def __init__(self, batcher: Batcher) -> None:
        super().__init__(batcher.encoder)
        self._batcher = batcher
        self.batch_size = batcher.batch_size

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        """Raises what the encoder raises, and Overloaded where too much waits already."""
        check_several(texts, "texts")
        if not texts:
            return super().encode_text(texts, role=role, task=task)
        if reads_as_one(self.encoder, role):
            keys = keys_as_one(self.encoder, len(texts), role=role, task=task)
            return self._encoded(keys, texts, step=len(texts))
        return self._encoded([text_key(self.encoder, text, role=role, task=task) for text in texts], texts)

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        if "image" not in self.spec.modalities:
            raise UnsupportedModality(self.spec.name, "pictures", self.spec.modalities)
        check_several(images, "images")
        if not images:
            return super().encode_image(images)
        prepared = [prepare_image(self.encoder, image) for image in images]
        return self._encoded([prepared_key(self.encoder, image) for image in prepared], prepared)

    def _encoded(self, keys: Sequence[CacheKey], contents: Sequence[Content], *, step: int | None = None) -> Embeddings:
        """A batch at a time: a long list must neither fill the queue nor make others wait behind it."""
        rows: list[Vector] = []
        step = step or min(self.batch_size, self._batcher.max_queue)
        for start in range(0, len(keys), step):
            some = keys[start : start + step]
            submission = self._batcher.submit(dict(zip(some, contents[start : start + step], strict=True)))
            if submission.missing:
                with submission.watched():
                    submission.future.result()
            for key in some:
                result = submission.results[key]
                if isinstance(result, MmembedError):
                    raise result.with_traceback(None)  # it may be raised to several, each of whom would lengthen it
                rows.append(result.vector)
        return np.stack(rows) if self.spec.kind == "dense" else rows  # type: ignore[return-value]


class BatchedPixelEncoder(BatchedEncoder):
    """The same of a `PixelEncoder`, which is one as well."""

    def __init__(self, batcher: Batcher, encoder: PixelEncoder) -> None:
        super().__init__(batcher)
        self._preprocess = encoder.preprocess_image

    def preprocess_image(self, image: Image) -> Pixels:
        return self._preprocess(image)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        if not pixels:
            return np.zeros((0, self.spec.dim or 0), dtype=np.float32)
        return np.asarray(self._encoded([prepared_key(self.encoder, one) for one in pixels], pixels))


class BatchedEncoders(Mapping[str, Encoder]):
    """Name, in any spelling, -> the encoder, its inputs batched. Blocks while one is loaded.

    Raises UnknownEncoder for what is not served, and what loading it raised.
    """

    def __init__(self, source: EncoderSource, batcher_of: Callable[[Encoder], Batcher]) -> None:
        self._source = source
        self._batcher_of = batcher_of

    def __getitem__(self, name: str) -> Encoder:
        encoder = self._source.encoder(name)
        batcher = self._batcher_of(encoder)
        return BatchedPixelEncoder(batcher, encoder) if isinstance(encoder, PixelEncoder) else BatchedEncoder(batcher)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names())

    def __len__(self) -> int:
        return len(self._source.names())
