"""`colours`: finds pictures by the names of their colours, without any weights."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from mmembed.encoders import EncoderLoadError, EncoderName, EncoderSpec, LoadOptions, fingerprint, images_in, texts_in

_SIDE = 32  # pixels a side; colours need no more


class ColoursEncoder:
    dtype = "float32"
    logit_scale: float | None = None  # nothing was trained, so hits carry no probability
    logit_bias: float | None = None

    def __init__(self, name: EncoderName, run: LoadOptions) -> None:
        self.batch_size = run.batch_size or 256
        self.spec = EncoderSpec(
            name=str(name),  # what a collection remembers, and loads again to search
            kind="dense",
            dim=8,
            modalities=frozenset({"image", "text"}),
            fingerprint=fingerprint({"colours": 1, "side": _SIDE}),  # raise the 1 with any change to the vectors
        )

    def encode_image(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        small = [image.resize((_SIDE, _SIDE), Image.Resampling.BOX) for image in images_in(images)]
        return _histograms([np.asarray(image).reshape(-1, 3) for image in small])

    def encode_text(self, texts: Sequence[str], *, role: str, task: str | None = None) -> npt.NDArray[np.float32]:
        """A text is a picture of the colours it names, as a query and as a document alike."""
        return _histograms(
            [np.array([ImageColor.getrgb(name)[:3] for name in _colours(text)]) for text in texts_in(texts)]
        )

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"\w+", text))


def load(name: EncoderName, run: LoadOptions) -> ColoursEncoder:
    if name.model:
        raise EncoderLoadError(f"encoder {str(name)!r}: 'colours' has no models, only the name 'colours' loads it")
    return ColoursEncoder(name, run)


def _colours(text: str) -> list[str]:
    """The CSS colours in a text ("dark red" is also darkred); every pure colour if there are none."""
    words = re.findall(r"\w+", text.lower())
    found = [word for word in [*words, *map("".join, pairwise(words))] if word in ImageColor.colormap]
    return found or ["black", "white", "red", "lime", "blue", "yellow", "magenta", "cyan"]


def _histograms(images: Sequence[npt.NDArray[np.integer]]) -> npt.NDArray[np.float32]:
    """n pictures of (pixels, 3) bytes -> (n, 8) roots of shares: a cosine is the overlap of two histograms."""
    rows = np.zeros((len(images), 8), dtype=np.float32)
    for row, (r, g, b) in zip(rows, (image.T / 255 for image in images), strict=True):
        black, white = 1 - np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
        pure = [r - np.maximum(g, b), g - np.maximum(r, b), b - np.maximum(r, g)]
        mixed = [np.minimum(r, g) - b, np.minimum(r, b) - g, np.minimum(g, b) - r]
        row[:] = np.maximum([black, white, *pure, *mixed], 0).mean(axis=1)  # the eight of a pixel sum to 1
    return np.sqrt(rows)  # of norm 1, since the shares sum to 1
