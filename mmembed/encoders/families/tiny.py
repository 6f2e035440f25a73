"""`tiny`: a small trained two-tower encoder for pictograms, emoji and simple drawings; its weights ship here.

Not for photographs. The model card, with training data and figures, is `tiny_weights/MODEL_CARD.md`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from mmembed.encoders.checkpoint import fingerprint, pick_device, weights_checksum
from mmembed.encoders.families.towers import unit_rows
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.tokens import characters
from mmembed.errors import EncoderLoadError
from mmembed.images import upright_rgb
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Pixels, Role

_WIDTHS = (64, 64, 128, 128, 256, 256)
_DIM = 256
_CONTEXT = 16
_SIDE = 64
_INNER = 54  # the picture inside its white frame
_MEAN, _STD = 0.5, 0.3
_VOCABULARY = 8192
_BATCH = 64
_WEIGHTS = Path(__file__).parent / "tiny_weights" / "weights.safetensors"
_TOKENIZER = Path(__file__).parent / "tiny_weights" / "tokenizer.json"


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first block of a width halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3, stride=1 if inputs == outputs else 2)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = _convolution(outputs, outputs, 3)
        self.norm2 = nn.BatchNorm2d(outputs)
        halved = {"pool": nn.AvgPool2d(2), "conv": _convolution(inputs, outputs, 1), "norm": nn.BatchNorm2d(outputs)}
        self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(OrderedDict(halved))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(self.shortcut(x) + inner)


class _ImageTower(nn.Module):
    """(b, 3, 64, 64) -> (b, 256)."""

    def __init__(self) -> None:
        super().__init__()
        stem = {"conv": _convolution(3, 32, 3, stride=2), "norm": nn.BatchNorm2d(32), "relu": nn.ReLU()}
        self.stem = nn.Sequential(OrderedDict(stem))
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise((32, *_WIDTHS))))
        self.projection = nn.Linear(_WIDTHS[-1], _DIM)

    def forward(self, pixels: torch.Tensor) -> Any:
        blocks = self.blocks(self.stem(pixels))  # (b, 256, 4, 4)
        return self.projection(blocks.mean(dim=(2, 3)))


class _TextTower(nn.Module):
    """(b, 16) token ids, 0 is padding -> (b, 256): a gated mean of token embeddings and a small MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_VOCABULARY, _DIM)
        self.gate = nn.Linear(_DIM, 1)
        inner = {"fc1": nn.Linear(_DIM, 2 * _DIM), "gelu": nn.GELU(), "fc2": nn.Linear(2 * _DIM, _DIM)}
        self.mlp = nn.Sequential(OrderedDict({"norm": nn.LayerNorm(_DIM), **inner}))
        self.projection = nn.Linear(_DIM, _DIM)

    def forward(self, ids: torch.Tensor) -> Any:
        embedded = self.embedding(ids)  # (b, 16, 256)
        gate = torch.sigmoid(self.gate(embedded)) * (ids != 0).unsqueeze(-1)  # (b, 16, 1)
        # A text without tokens has no gates open: the mean is then zero, not 0 / 0.
        mean = (gate * embedded).sum(dim=1) / gate.sum(dim=1).clamp_min(1e-6)  # (b, 256)
        return self.projection(mean + self.mlp(mean))


class _TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = _ImageTower()
        self.text = _TextTower()
        self.logit_scale = nn.Parameter(torch.zeros(()))


class TinyEncoder:
    """Pictograms and their names in one space of 256 dimensions; softmax probabilities."""

    logit_bias = None

    def __init__(self, name: EncoderName, run: LoadOptions) -> None:
        self.device = pick_device(run.device)
        self.dtype = "float32"
        self.batch_size = run.batch_size or _BATCH
        self._towers = _load_towers(_WEIGHTS).to(self.device)
        self.logit_scale = float(self._towers.logit_scale.exp())
        self._tokenizer = Tokenizer.from_str(_TOKENIZER.read_text(encoding="utf-8"))
        self.spec = EncoderSpec(
            name=str(name),
            kind="dense",
            dim=_DIM,
            modalities=frozenset({"image", "text"}),
            fingerprint=fingerprint(
                {"tiny": weights_checksum([_WEIGHTS, _TOKENIZER]), "image": [_INNER, _SIDE, _MEAN, _STD]}
            ),
            context_length=_CONTEXT,
            image_size=_SIDE,
            licence="Apache-2.0",
        )

    def count_tokens(self, text: str) -> int:
        # encode_batch lets other threads run meanwhile, which encode does not: a second for a million characters
        return len(self._tokenizer.encode_batch([characters(text)], add_special_tokens=False)[0])

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings, cut to 16 tokens -> (n, 256). Query and document are encoded alike. SettingsError for a task."""
        check_task(self.spec.name, task)
        whole = texts_in(texts)
        ids = np.zeros((len(whole), _CONTEXT), dtype=np.int64)
        for row, encoding in zip(ids, self._tokenizer.encode_batch(whole, add_special_tokens=False), strict=True):
            kept = encoding.ids[:_CONTEXT]
            row[: len(kept)] = kept
        return self._run(self._towers.text, ids)

    def preprocess_image(self, image: Image.Image) -> Pixels:
        """A picture of any mode, squashed into 54 x 54 on a white 64 x 64 -> (3, 64, 64)."""
        canvas = Image.new("RGB", (_SIDE, _SIDE), "white")
        inner = upright_rgb(image).resize((_INNER, _INNER), Image.Resampling.BILINEAR)
        canvas.paste(inner, ((_SIDE - _INNER) // 2, (_SIDE - _INNER) // 2))
        pixels = (np.asarray(canvas, dtype=np.float32) / 255 - _MEAN) / _STD  # (64, 64, 3)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        return self._run(self._towers.image, pixels)

    def encode_image(self, images: Sequence[Image.Image]) -> DenseArray:
        return self.encode_pixels([self.preprocess_image(image) for image in images_in(images)])

    def _run(self, tower: nn.Module, rows: Iterable[npt.NDArray[Any]]) -> DenseArray:
        def features(batch: list[npt.NDArray[Any]]) -> Any:
            return tower(torch.from_numpy(np.stack(batch)).to(self.device))

        return unit_rows(features, rows, batch_size=self.batch_size, dim=_DIM)


def load(name: EncoderName, run: LoadOptions) -> TinyEncoder:
    """`tiny`. Always float32: half precision saves nothing on five million parameters."""
    if name.model:
        raise EncoderLoadError(f"encoder {str(name)!r}: 'tiny' has one set of weights, so it takes no model name")
    return TinyEncoder(name, run)


def _load_towers(weights: Path) -> _TwoTowers:
    towers = _TwoTowers().eval().requires_grad_(False)
    state = {key: value.float() for key, value in load_file(weights).items()}
    missing, unexpected = towers.load_state_dict(state, strict=False)
    # num_batches_tracked counts training steps; the weights file leaves it out.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise EncoderLoadError(f"{weights.name} lacks {missing} and has {unexpected} too many: reinstall mmembed")
    return towers
