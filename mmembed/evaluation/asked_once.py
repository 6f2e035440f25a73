"""An encoder that is asked for one query several times in a row, and encodes it once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmembed.registry import load_encoder
from mmembed.types import Embeddings, Encoder, LoadOptions, Role

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["AskedOnce", "EncodersOnce"]


class AskedOnce:
    """An encoder of queries that keeps what it made of the last batch of texts, and of the last of pictures."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.spec = encoder.spec
        self.dtype = encoder.dtype
        self.batch_size = encoder.batch_size
        self.logit_scale = encoder.logit_scale
        self.logit_bias = encoder.logit_bias
        self._texts: tuple[object, Embeddings] | None = None
        self._images: tuple[object, Embeddings] | None = None

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        asked = (tuple(texts), role, task)
        if self._texts is None or self._texts[0] != asked:
            self._texts = (asked, self._encoder.encode_text(texts, role=role, task=task))
        return self._texts[1]

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        asked = tuple((image.size, image.tobytes()) for image in images)
        if self._images is None or self._images[0] != asked:
            self._images = (asked, self._encoder.encode_image(images))
        return self._images[1]

    def count_tokens(self, text: str) -> int:
        return self._encoder.count_tokens(text)


class EncodersOnce(Mapping[str, Encoder]):
    """Encoders by the names that collections remember, loaded when they are first looked up."""

    def __init__(self, run: LoadOptions, loaded: Iterable[Encoder]) -> None:
        self._run = run
        self._encoders = {encoder.spec.name: AskedOnce(encoder) for encoder in loaded}

    def __getitem__(self, name: str) -> Encoder:
        if name not in self._encoders:
            run = self._run
            encoder = load_encoder(
                name,
                device=run.device,
                dtype=run.dtype,
                batch_size=run.batch_size,
                trust_remote_code=run.trust_remote_code,
            )
            self._encoders[name] = AskedOnce(encoder)
        return self._encoders[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoders)

    def __len__(self) -> int:
        return len(self._encoders)
