"""`tiny`: a small trained two-tower encoder for pictograms, emoji and simple drawings; its weights ship here.

Not for photographs. The model card, with training data and figures, is `tiny_weights/MODEL_CARD.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from mmembed.encoders.checkpoint import fingerprint, pick_device, weights_checksum
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.tokens import characters
from mmembed.errors import EncoderLoadError
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Pixels, Role
from mmembed.vectors import l2_normalize

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


class _Shortcut(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut: torch.Tensor = self.norm(self.conv(functional.avg_pool2d(x, 2)))
        return shortcut


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first block of a width halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else _Shortcut(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(self.shortcut(x) + inner)


class _Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)


class _ImageTower(nn.Module):
    """(b, 3, 64, 64) -> (b, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Stem()
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in zip((32, *_WIDTHS), _WIDTHS, strict=False)))
        self.projection = nn.Linear(_WIDTHS[-1], _DIM)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem.norm(self.stem.conv(pixels)))  # (b, 32, 32, 32)
        pooled = self.blocks(x).mean(dim=(2, 3))  # (b, 256)
        projected: torch.Tensor = self.projection(pooled)
        return projected


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_DIM)
        self.fc1 = nn.Linear(_DIM, 2 * _DIM)
        self.fc2 = nn.Linear(2 * _DIM, _DIM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.fc2(functional.gelu(self.fc1(self.norm(x))))
        return projected


class _TextTower(nn.Module):
    """(b, 16) token ids, 0 is padding -> (b, 256): a gated mean of token embeddings and a small MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_VOCABULARY, _DIM)
        self.gate = nn.Linear(_DIM, 1)
        self.mlp = _Mlp()
        self.projection = nn.Linear(_DIM, _DIM)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded = self.embedding(ids)  # (b, 16, 256)
        gate = torch.sigmoid(self.gate(embedded)) * (ids != 0).unsqueeze(-1)  # (b, 16, 1)
        # A text without tokens has no gates open: the mean is then zero, not 0 / 0.
        mean = (gate * embedded).sum(dim=1) / gate.sum(dim=1).clamp_min(1e-6)  # (b, 256)
        projected: torch.Tensor = self.projection(mean + self.mlp(mean))
        return projected


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

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:  # noqa: ARG002
        """n strings, cut to 16 tokens -> (n, 256). Query and document are encoded alike. SettingsError for a task."""
        check_task(self.spec.name, task)
        ids = np.zeros((len(texts), _CONTEXT), dtype=np.int64)
        whole = [characters(text) for text in texts]
        for row, encoding in enumerate(self._tokenizer.encode_batch(whole, add_special_tokens=False)):
            kept = encoding.ids[:_CONTEXT]
            ids[row, : len(kept)] = kept
        return self._run(self._towers.text, [torch.from_numpy(row) for row in ids])

    def preprocess_image(self, image: Image.Image) -> Pixels:
        """An upright RGB picture, squashed into 54 x 54 on a white 64 x 64 -> (3, 64, 64)."""
        canvas = Image.new("RGB", (_SIDE, _SIDE), "white")
        inner = image.convert("RGB").resize((_INNER, _INNER), Image.Resampling.BILINEAR)
        canvas.paste(inner, ((_SIDE - _INNER) // 2, (_SIDE - _INNER) // 2))
        pixels = (np.asarray(canvas, dtype=np.float32) / 255 - _MEAN) / _STD  # (64, 64, 3)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        return self._run(self._towers.image, [torch.from_numpy(image) for image in pixels])

    def encode_image(self, images: Sequence[Image.Image]) -> DenseArray:
        return self.encode_pixels([self.preprocess_image(image) for image in images])

    @torch.inference_mode()
    def _run(self, tower: nn.Module, rows: Sequence[torch.Tensor]) -> DenseArray:
        if not rows:
            return np.zeros((0, _DIM), dtype=np.float32)
        batches = [
            tower(torch.stack(list(rows[i : i + self.batch_size])).to(self.device)).float().cpu().numpy()
            for i in range(0, len(rows), self.batch_size)
        ]
        return l2_normalize(np.concatenate(batches))


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
