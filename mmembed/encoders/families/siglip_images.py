"""The two ways in which transformers' image-text models read pictures: all of one size, or of any aspect ratio.

Not a family: `siglip.py` loads the checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image

from mmembed.encoders.families.towers import stack_pixels
from mmembed.encoders.registry import EncoderName, whole_number
from mmembed.errors import EncoderLoadError
from mmembed.types import Pixels

_LEAST, _MOST = 16, 4096
_PREPROCESSING = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


class ImagePreprocessor(Protocol):
    """The image side of a model."""

    image_size: int | None

    def settings(self) -> dict[str, object]: ...
    def preprocess(self, image: Image.Image) -> Pixels: ...
    def features(self, pixels: Sequence[Pixels]) -> torch.Tensor: ...


class SquarePreprocessor:
    """The image side of a fixed resolution."""

    def __init__(self, name: EncoderName, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor
        self.image_size: int | None = model.config.vision_config.image_size
        made = self.preprocess(Image.new("RGB", (8, 4))).shape
        if made != (3, self.image_size, self.image_size):
            raise EncoderLoadError(
                f"encoder {str(name)!r}: its image processor makes pictures of {made[-1]} x {made[-2]} pixels, the "
                f"model takes {self.image_size} x {self.image_size}: give the preprocessor_config.json that belongs "
                f"to it"
            )

    def settings(self) -> dict[str, object]:
        return _settings(self._processor)

    def preprocess(self, image: Image.Image) -> Pixels:
        pixels = self._processor(images=[image], return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(pixels, dtype=np.float32)

    def features(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        made = self._model.get_image_features(pixel_values=stack_pixels(pixels, self._model))
        return cast(torch.Tensor, made.pooler_output)


class NaflexPreprocessor:
    """The image side of a Siglip2Model (arXiv 2502.14786)."""

    image_size: int | None = None

    def __init__(self, name: EncoderName, model: Any, processor: Any, max_patches: str | None) -> None:
        """Raises SettingsError for a `max_patches` that is no number, EncoderLoadError for a foreign processor."""
        self._model = model
        self._processor = processor
        self._patch: int = model.config.vision_config.patch_size
        if getattr(processor, "patch_size", None) != self._patch:
            raise EncoderLoadError(
                f"encoder {str(name)!r}: its image processor makes patches of {getattr(processor, 'patch_size', 'no')} "
                f"pixels, the model takes {self._patch}: give the preprocessor_config.json that belongs to it"
            )
        patches = whole_number(name, "max_patches", max_patches, least=_LEAST, most=_MOST)
        self.max_patches: int = patches or processor.max_num_patches

    def settings(self) -> dict[str, object]:
        """How pictures are prepared, for a fingerprint."""
        return {**_settings(self._processor), "max_patches": self.max_patches, "patch_size": self._patch}

    def preprocess(self, image: Image.Image) -> Pixels:
        """One RGB picture -> `(3, height, width)`, sides that are multiples of a patch, the aspect ratio nearly kept.

        What the processor made into rows of patches is put together again: only so does its shape tell the grid.
        """
        made = self._processor(images=[image], max_num_patches=self.max_patches, return_tensors="np")
        rows, columns = (int(n) for n in made["spatial_shapes"][0])
        patches = made["pixel_values"][0][: rows * columns].reshape(rows, columns, self._patch, self._patch, 3)
        patched = patches.transpose(4, 0, 2, 1, 3).reshape(3, rows * self._patch, columns * self._patch)
        return np.ascontiguousarray(patched, dtype=np.float32)

    def features(self, pixels: Sequence[Pixels]) -> torch.Tensor:
        """b pictures of any shapes -> `(b, dim)`. Each is padded to `max_patches`, and the mask hides the padding."""
        patches = [_patches(patched, self._patch) for patched in pixels]  # (rows * columns, patch * patch * 3) each
        padded = [np.pad(own, ((0, self.max_patches - len(own)), (0, 0))) for own in patches]
        mask = np.arange(self.max_patches) < np.array([[len(own)] for own in patches])  # (b, max_patches)
        grids = [(height // self._patch, width // self._patch) for _, height, width in (p.shape for p in pixels)]
        batch = stack_pixels(padded, self._model)
        made = self._model.get_image_features(
            pixel_values=batch,
            pixel_attention_mask=torch.from_numpy(mask.astype(np.int64)).to(batch.device),
            spatial_shapes=torch.tensor(grids, device=batch.device),
        )
        return cast(torch.Tensor, made.pooler_output)


def _settings(processor: Any) -> dict[str, object]:
    processing = json.loads(processor.to_json_string())
    return {key: processing.get(key) for key in _PREPROCESSING}


def _patches(patched: Pixels, side: int) -> Pixels:
    """`(3, height, width)` -> `(patches, side * side * 3)`, row by row, as the model was trained.

    >>> _patches(np.arange(24.0, dtype=np.float32).reshape(3, 2, 4), 2).astype(int).tolist()
    [[0, 8, 16, 1, 9, 17, 4, 12, 20, 5, 13, 21], [2, 10, 18, 3, 11, 19, 6, 14, 22, 7, 15, 23]]
    """
    _, height, width = patched.shape
    grid = patched.reshape(3, height // side, side, width // side, side)
    return grid.transpose(1, 3, 2, 4, 0).reshape(-1, side * side * 3)
