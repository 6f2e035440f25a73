"""What an encoder is given, brought in order or refused: each begins with one of these two, and guesses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmembed.encoders.tokens import characters
from mmembed.errors import InputError
from mmembed.streams import check_several

if TYPE_CHECKING:
    from PIL.Image import Image


def texts_in(texts: Sequence[str]) -> list[str]:
    """n strings, "?" for each lone surrogate. Raises NotAList for a bare one, InputError for what is no string."""
    check_several(texts, "texts")
    other = next((text for text in texts if not isinstance(text, str)), None)
    if other is not None:
        raise InputError(f"texts are strings, and one of them is a {type(other).__name__}: decode or leave it out")
    return [characters(text) for text in texts]


def images_in(images: Sequence[Image]) -> list[Image]:
    """n images of any mode -> upright RGB, on white. Raises NotAList for a bare one, UnreadableImage for a file."""
    from mmembed.images import upright_rgb  # and Pillow, which an encoder of texts can do without

    check_several(images, "images")
    return [upright_rgb(image) for image in images]
