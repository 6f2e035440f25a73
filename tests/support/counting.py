"""An encoder that counts what it is asked to encode."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image

from mmembed.encoders.wrapper import WrappedEncoder
from mmembed.types import Embeddings, Encoder, Role


class Counting(WrappedEncoder):
    """Another encoder, counted; with a prefix, which is what a prompt is, queries differ from documents."""

    def __init__(self, encoder: Encoder, *, query_prefix: str = "") -> None:
        super().__init__(encoder)
        self._prefix = query_prefix
        self.texts: list[str] = []
        self.images = 0

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        self.texts += texts
        prefixed = [f"{self._prefix}{text}" for text in texts] if role == "query" else list(texts)
        return super().encode_text(prefixed, role=role, task=task)

    def encode_image(self, images: Sequence[Image]) -> Embeddings:
        self.images += len(images)
        return super().encode_image(images)
