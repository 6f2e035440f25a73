"""What encoders of texts alone have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmembed.errors import UnsupportedModality
from mmembed.types import EncoderSpec

if TYPE_CHECKING:
    from PIL.Image import Image


class TextEncoder:
    """No image tower and no probabilities; a subclass has the rest of an `Encoder`."""

    spec: EncoderSpec
    logit_scale: float | None = None
    logit_bias: float | None = None

    def encode_image(self, images: Sequence[Image]) -> Any:
        """Raises UnsupportedModality: only texts are read here."""
        raise UnsupportedModality(self.spec.name, "pictures", self.spec.modalities)
