"""Encoders around encoders: what is the same for all of them, and one that remembers its last query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmembed.encoders.inputs import images_in
from mmembed.streams import check_several
from mmembed.types import Embeddings, Encoder, Role

if TYPE_CHECKING:
    from PIL.Image import Image


class WrappedEncoder:
    """An encoder that is another one but for what a subclass changes."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.spec = encoder.spec
        self.dtype = encoder.dtype
        self.batch_size = encoder.batch_size
        self.logit_scale = encoder.logit_scale
        self.logit_bias = encoder.logit_bias

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        return self.encoder.encode_text(texts, role=role, task=task)

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        return self.encoder.encode_image(images)

    def count_tokens(self, text: str) -> int:
        return self.encoder.count_tokens(text)


class _LastQuery(WrappedEncoder):
    """Keeps what it made of the last batch of texts, and of the last of images."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self._texts: tuple[object, Embeddings] | None = None
        self._images: tuple[object, Embeddings] | None = None

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        check_several(texts, "texts")
        query = (tuple(texts), role, task)
        if self._texts is None or self._texts[0] != query:
            self._texts = (query, self.encoder.encode_text(texts, role=role, task=task))
        return self._texts[1]

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        images = images_in(images)  # the bytes of another mode say nothing without its palette
        query = tuple((image.size, image.tobytes()) for image in images)
        if self._images is None or self._images[0] != query:
            self._images = (query, self.encoder.encode_image(images))
        return self._images[1]


class RepeatedQueries(Mapping[str, Encoder]):
    """The same encoders, for searches that ask one query several times in a row: each encodes it once."""

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        self._encoders = encoders
        self._wrapped: dict[int, _LastQuery] = {}

    def of(self, encoder: Encoder) -> Encoder:
        """One that is loaded, remembering its last query."""
        return self._wrapped.setdefault(id(encoder), _LastQuery(encoder))

    def __getitem__(self, name: str) -> Encoder:
        return self.of(self._encoders[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoders)

    def __len__(self) -> int:
        return len(self._encoders)
