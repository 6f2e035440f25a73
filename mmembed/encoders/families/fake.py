"""`fake`: deterministic and weightless, for tests and documentation. Equal words or pictures, equal vectors.

Dense, or with `?kind=sparse` and `?kind=multi` of the other two kinds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from mmembed.encoders.checkpoint import fingerprint
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.text_encoder import TextEncoder
from mmembed.errors import EncoderLoadError
from mmembed.images import upright_rgb
from mmembed.types import DenseArray, Encoder, EncoderSpec, LoadOptions, Pixels, Role, SparseVector
from mmembed.vectors import l2_normalize

_SIDE = 8


class FakeEncoder:
    """Texts by the words they share, pictures by their 8 x 8 thumbnail; text and picture do not meet."""

    dtype = "float32"
    logit_scale: float | None = 10.0
    logit_bias: float | None = None

    def __init__(self, name: EncoderName, run: LoadOptions, *, dim: int) -> None:
        self.batch_size = run.batch_size or 32
        self._projection = np.random.default_rng(0).standard_normal((3 * _SIDE * _SIDE, dim)).astype(np.float32)
        self.spec = EncoderSpec(
            name=str(name),
            kind="dense",
            dim=dim,
            modalities=frozenset({"image", "text"}),
            fingerprint=fingerprint({"fake": dim, "model": name.model}),
            context_length=64,
            image_size=_SIDE,
        )

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        check_task(self.spec.name, task)
        rows = np.array([self._words(text) for text in texts_in(texts)], dtype=np.float32)
        return l2_normalize(rows.reshape(len(rows), self._projection.shape[1]))

    def preprocess_image(self, image: Image.Image) -> Pixels:
        small = upright_rgb(image).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.float32) / 255 - 0.5  # (8, 8, 3)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        flat = np.array(pixels, dtype=np.float32).reshape(len(pixels), 3 * _SIDE * _SIDE)
        return l2_normalize(flat @ self._projection + 1e-3)  # mid grey has no direction without the offset

    def encode_image(self, images: Sequence[Image.Image]) -> DenseArray:
        return self.encode_pixels([self.preprocess_image(image) for image in images_in(images)])

    def _words(self, text: str) -> DenseArray:
        words = ["", *text.lower().split()[:64]]  # the empty word gives an empty text a direction
        seeds = [int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest()) for word in words]
        dim = self._projection.shape[1]
        total = sum(np.random.default_rng(seed).standard_normal(dim) for seed in seeds)
        return np.asarray(total, dtype=np.float32)


class FakeSparseEncoder(TextEncoder):
    """A coordinate for each different word: its index a hash, its value ln(1 + how often). No words, no coordinates."""

    dtype = "float32"

    def __init__(self, name: EncoderName, run: LoadOptions) -> None:
        self.batch_size = run.batch_size or 32
        self.spec = EncoderSpec(
            name=str(name),
            kind="sparse",
            dim=None,
            distance="dot",
            modalities=frozenset({"text"}),
            fingerprint=fingerprint({"fake": "sparse", "model": name.model}),
        )

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def encode_text(
        self, texts: Sequence[str], *, role: Role, task: str | None = None
    ) -> list[SparseVector]:  # fmt: skip
        check_task(self.spec.name, task)
        return [self._weights(text) for text in texts_in(texts)]

    def _weights(self, text: str) -> SparseVector:
        digests = [hashlib.blake2b(word.encode(), digest_size=4).digest() for word in text.lower().split()]
        indices = np.array([int.from_bytes(digest) for digest in digests], dtype=np.uint32)
        unique, counts = np.unique(indices, return_counts=True)
        return SparseVector(unique, np.log1p(counts).astype(np.float32))


class FakeMultiEncoder:
    """A row for each word of a text, for each quarter of a picture: those of `FakeEncoder`."""

    dtype = "float32"
    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(self, name: EncoderName, run: LoadOptions, *, dim: int) -> None:
        self._dense = FakeEncoder(name, run, dim=dim)
        self.batch_size = self._dense.batch_size
        made_of = fingerprint({"fake": "multi", "dim": dim, "model": name.model})
        self.spec = replace(self._dense.spec, kind="multi", fingerprint=made_of, image_size=None)

    def count_tokens(self, text: str) -> int:
        return self._dense.count_tokens(text)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> list[DenseArray]:
        check_task(self.spec.name, task)
        return [self._dense.encode_text(text.split()[:64] or [""], role=role) for text in texts_in(texts)]

    def encode_image(self, images: Sequence[Image.Image]) -> list[DenseArray]:
        return [self._dense.encode_image(_quarters(image)) for image in images_in(images)]


def _quarters(image: Image.Image) -> list[Image.Image]:
    across, down = max(1, image.width // 2), max(1, image.height // 2)
    return [
        image.crop((x, y, x + across, y + down)) for y in (0, image.height - down) for x in (0, image.width - across)
    ]


def load(name: EncoderName, run: LoadOptions, *, dim: str = "32", kind: str = "dense") -> Encoder:
    """`fake`, or `fake:ANY?dim=64&kind=multi`: another word after the colon is another, incompatible encoder."""
    if not dim.isdigit() or int(dim) < 1:
        raise EncoderLoadError(f"encoder {str(name)!r}: dim must be a whole number above 0, not {dim!r}")
    if kind == "dense":
        return FakeEncoder(name, run, dim=int(dim))
    if kind == "multi":
        return FakeMultiEncoder(name, run, dim=int(dim))
    if kind == "sparse":
        return FakeSparseEncoder(name, run)
    raise EncoderLoadError(f"encoder {str(name)!r}: kind must be dense, sparse or multi, not {kind!r}")
