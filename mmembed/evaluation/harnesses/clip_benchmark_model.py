"""An encoder as CLIP_benchmark calls one: a module of torch's, a transform of pictures, a tokenizer of texts.

CLIP_benchmark hands tensors around and nothing else, so pictures travel as the encoder's own pixels and texts as
their bytes. It runs models under autocast unless told otherwise (`amp=False`, `--no_amp`): the encoder here keeps out
of it and works in its own precision, but what CLIP_benchmark then does with the vectors is in half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mmembed.encoders.registry import load_encoder
from mmembed.errors import MissingDependency, SettingsError, UnsupportedModality
from mmembed.images import upright_rgb
from mmembed.types import Encoder, PixelEncoder

if TYPE_CHECKING:
    from PIL.Image import Image

Parts: TypeAlias = tuple[nn.Module, Callable[["Image"], Tensor], Callable[[Sequence[str]], Tensor]]
"""Model, transform and tokenizer: what CLIP_benchmark's own load functions return."""

MODEL_TYPE = "mmembed"
_PADDING = 0xFF  # a byte that no UTF-8 text holds


class ClipModel(nn.Module):
    """What CLIP_benchmark calls a model: `encode_image` of what the transform made, `encode_text` of tokens."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def encode_image(self, images: Tensor) -> Tensor:
        """`(n, 3, height, width)` pixels -> `(n, dim)` unit rows; rows of an encoder without pixels are done."""
        with torch.autocast(images.device.type, enabled=False):
            tower = _pixel_encoder(self.encoder)
            if tower is None:
                return images.float()
            rows = tower.encode_pixels(list(images.float().cpu().numpy()))
        return torch.from_numpy(rows).to(images.device)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """`(n, bytes)` from `tokenize` -> `(n, dim)` unit rows. A label or caption is a query that finds pictures."""
        with torch.autocast(tokens.device.type, enabled=False):
            texts = [row[row != _PADDING].tobytes().decode("utf-8", "surrogatepass") for row in tokens.cpu().numpy()]
            rows = self.encoder.encode_text(texts, role="query")
        return torch.from_numpy(np.asarray(rows)).to(tokens.device)


def _transform(encoder: Encoder, image: Image) -> Tensor:
    """A picture -> what the model takes."""
    rgb, tower = upright_rgb(image), _pixel_encoder(encoder)
    pixels = np.asarray(encoder.encode_image([rgb]))[0] if tower is None else tower.preprocess_image(rgb)
    return torch.from_numpy(pixels)


def tokenize(texts: Sequence[str]) -> Tensor:
    """n strings -> `(n, longest)` bytes, as UTF-8, the shorter ones padded."""
    rows = [text.encode("utf-8", "surrogatepass") for text in texts]
    longest = max(map(len, rows), default=0)
    padded = b"".join(row.ljust(longest, bytes([_PADDING])) for row in rows)
    return torch.tensor([*padded], dtype=torch.uint8).reshape(len(rows), longest)


def load_clip_model(
    model_name: str | Encoder,
    pretrained: str | None = None,  # noqa: ARG001  the name says which weights
    cache_dir: str | None = None,  # noqa: ARG001  they lie where Hugging Face puts them
    device: str | torch.device | None = None,
) -> Parts:
    """An encoder, or its name -> `(model, transform, tokenizer)`, as CLIP_benchmark's own load functions return them.

    Args:
        device: of an encoder that is loaded here.

    Raises:
        SettingsError: the encoder is not dense.
        UnsupportedModality: it does not read both pictures and texts.
    """
    encoder = model_name
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, device=None if device is None else str(device))
    spec = encoder.spec
    if spec.kind != "dense":
        raise SettingsError(
            f"encoder {spec.name} makes {spec.kind} vectors, and CLIP_benchmark compares dense ones: choose another"
        )
    for modality, what in (("image", "pictures"), ("text", "texts")):
        if modality not in spec.modalities:
            raise UnsupportedModality(spec.name, what, spec.modalities)
    # no closure, as worker processes of a data loader have to pickle it
    return ClipModel(encoder).eval(), partial(_transform, encoder), tokenize


def register_clip_benchmark() -> None:
    """Make `--model_type mmembed --model NAME` known to CLIP_benchmark in this process; twice is no error.

    Raises MissingDependency where it is not installed.
    """
    if find_spec("clip_benchmark") is None:
        raise MissingDependency("running CLIP_benchmark", "clip_benchmark", "mmembed[harnesses]")
    from clip_benchmark import models

    models.TYPE2FUNC[MODEL_TYPE] = load_clip_model
    if MODEL_TYPE not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(MODEL_TYPE)


def _pixel_encoder(encoder: Encoder) -> PixelEncoder | None:
    """`encoder`, where its pictures become pixels of one size: only such can be stacked into a batch."""
    return encoder if isinstance(encoder, PixelEncoder) and encoder.spec.image_size is not None else None
