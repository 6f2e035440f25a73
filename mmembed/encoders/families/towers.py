"""What open_clip's and transformers' image-text models share: batches in, unit vectors out.

Not a family: `open_clip.py` and `siglip.py` build two `Towers` and hand them to `ImageTextEncoder`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from mmembed.encoders.checkpoint import pick_device, pick_dtype
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.prompts import check_task
from mmembed.encoders.tokens import characters
from mmembed.errors import EncoderLoadError
from mmembed.images import upright_rgb
from mmembed.streams import batched
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Pixels, Role
from mmembed.vectors import l2_normalize

PROBE = "A Photo_of 2 cats, naïve & small!"  # letter case, punctuation and accents tell tokenizers apart
_T = TypeVar("_T")


class Towers(Protocol):
    """One image-text model as its library gives it."""

    model: torch.nn.Module
    logit_scale: float  # the multiplier, read before the weights are cast to half precision
    logit_bias: float | None

    def preprocess(self, image: Image.Image) -> Pixels:
        """One RGB picture -> `(3, height, width)`; called from several threads at once."""
        ...

    def token_ids(self, text: str) -> list[int]:
        """Tokens of one text, special ones included, neither truncated nor padded."""
        ...

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """b strings -> `(b, context_length)` token ids, truncated and padded."""
        ...

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        """`(b, context_length)` -> `(b, dim)`, of any length."""
        ...

    def image_features(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        """b preprocessed pictures -> `(b, dim)`, of any length; on the model's device and in its dtype."""
        ...


class ImageTextEncoder:
    """Pictures and texts in one space. With a `logit_bias` labels are independent (SigLIP), without they compete."""

    def __init__(self, spec: EncoderSpec, towers: Towers, run: LoadOptions) -> None:
        self.spec = spec
        self.logit_scale: float | None = towers.logit_scale
        self.logit_bias = towers.logit_bias
        self._device = pick_device(run.device)
        dtype = pick_dtype(run.dtype, self._device)
        self.dtype = str(dtype).removeprefix("torch.")
        self.batch_size = run.batch_size or (256 if self._device.type == "cuda" else 32)
        towers.model.to(device=self._device, dtype=dtype).eval()
        self._towers = towers
        self._tokenizing = threading.Lock()  # a fast tokenizer keeps truncation and padding as state

    def count_tokens(self, text: str) -> int:
        """Tokens of one text, special ones included, neither truncated nor padded."""
        with self._tokenizing:
            return len(self._towers.token_ids(characters(text)))

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`; queries and documents alike, since these models know no prompts.

        Every text is padded to `context_length`: SigLIP pools the last position and attends to its padding,
        so with shorter padding a vector would depend on its batch-mates.

        Raises:
            SettingsError: a task, which these models do not know either.
        """
        check_task(self.spec.name, task)
        return unit_rows(self._text_features, texts_in(texts), batch_size=self.batch_size, dim=self.spec.dim or 0)

    def encode_image(self, images: Sequence[Image.Image]) -> DenseArray:
        """n pictures of any mode -> `(n, dim)`."""
        return self.encode_pixels([self._towers.preprocess(image) for image in images_in(images)])

    def preprocess_image(self, image: Image.Image) -> Pixels:
        """One picture of any mode -> `(3, height, width)`, turned upright, transparency on white; thread-safe."""
        return self._towers.preprocess(upright_rgb(image))

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        """n preprocessed pictures -> `(n, dim)`."""
        return unit_rows(self._towers.image_features, pixels, batch_size=self.batch_size, dim=self.spec.dim or 0)

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        with self._tokenizing:
            ids = self._towers.tokenize(texts)
        return self._towers.text_features(ids.to(self._device))


@torch.inference_mode()
def unit_rows(
    features: Callable[[list[_T]], torch.Tensor], inputs: Iterable[_T], *, batch_size: int, dim: int
) -> DenseArray:
    """n inputs -> `(n, dim)`, rows of norm 1, in forward passes over `batch_size` of them, each by `features`."""
    batches = (features(batch).float().cpu().numpy() for batch in batched(inputs, batch_size))
    return l2_normalize(np.concatenate([np.empty((0, dim), dtype=np.float32), *batches]))


def stack_pixels(pixels: Sequence[Pixels], model: torch.nn.Module) -> torch.Tensor:
    """b arrays of one shape -> a batch where `model` is, in its dtype."""
    weight = next(model.parameters())
    return torch.from_numpy(np.stack(pixels)).to(device=weight.device, dtype=weight.dtype)


def probe_tokens(towers: Towers, *, name: str, vocabulary: int, last: int | None) -> list[int]:
    """Token ids of a fixed text, which a fingerprint takes in: another tokenizer or normaliser, other ids.

    Raises EncoderLoadError for ids outside the model's vocabulary, or a text that does not end with the
    token `last` (None: anything may): the wrong tokenizer, or the right one read wrongly.
    """
    ids = towers.token_ids(PROBE)
    if max(ids) >= vocabulary:
        raise EncoderLoadError(
            f"encoder {name!r}: its tokenizer makes token {max(ids)} where the model has {vocabulary}: "
            f"give the tokenizer that the model was trained with"
        )
    if last is not None and ids[-1] != last:
        raise EncoderLoadError(
            f"encoder {name!r}: its tokenizer ends a text with token {ids[-1]}, the model expects the end-of-text "
            f"token {last}: give the tokenizer that the model was trained with"
        )
    return ids
