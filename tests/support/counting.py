"""An encoder that counts what it is asked to encode."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image

from mmembed.types import Embeddings, Encoder, Role


class Counting:
    """Another encoder, counted; with a prefix, which is what a prompt is, queries differ from documents."""

    def __init__(self, encoder: Encoder, *, query_prefix: str = "") -> None:
        self._encoder, self._prefix = encoder, query_prefix
        self.spec, self.dtype, self.batch_size = encoder.spec, encoder.dtype, encoder.batch_size
        self.logit_scale, self.logit_bias = encoder.logit_scale, encoder.logit_bias
        self.texts: list[str] = []
        self.images = 0

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        self.texts += texts
        prefixed = [f"{self._prefix}{text}" for text in texts] if role == "query" else list(texts)
        return self._encoder.encode_text(prefixed, role=role, task=task)

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        self.images += len(images)
        return self._encoder.encode_image(images)

    def count_tokens(self, text: str) -> int:
        return self._encoder.count_tokens(text)
