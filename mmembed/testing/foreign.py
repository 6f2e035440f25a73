"""Any model, as an `Encoder` that can be checked, out of the function that embeds with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from mmembed.encoders.checkpoint import fingerprint
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.tokens import characters
from mmembed.errors import UnsupportedModality
from mmembed.types import DenseArray, EncoderSpec, Role

if TYPE_CHECKING:
    from PIL.Image import Image

EmbedTexts: TypeAlias = Callable[[list[str]], npt.ArrayLike]
EmbedImages: TypeAlias = Callable[[list["Image"]], npt.ArrayLike]


class ForeignEncoder:
    """An `Encoder` of dense vectors; `wrap` makes one."""

    logit_scale: float | None = None
    logit_bias: float | None = None
    batch_size = 32

    def __init__(
        self,
        spec: EncoderSpec,
        dtype: str,
        sides: dict[Role, EmbedTexts],
        images: EmbedImages | None,
        token_ids: Callable[[str], list[int]] | None,
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.token_ids = token_ids
        self._sides = sides
        self._images = images

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)` float32, as they were embedded: nothing is normalised here."""
        read = texts_in(texts)
        if not read:
            return np.zeros((0, self.spec.dim or 0), dtype=np.float32)
        return np.asarray(self._sides[role](read), dtype=np.float32)

    def encode_image(self, images: Sequence[Image]) -> DenseArray:
        """n pictures of any mode, which arrive upright in RGB -> `(n, dim)` float32.

        Raises UnsupportedModality where no function for them was given.
        """
        if self._images is None:
            raise UnsupportedModality(self.spec.name, "images", self.spec.modalities)
        read = images_in(images)
        if not read:
            return np.zeros((0, self.spec.dim or 0), dtype=np.float32)
        return np.asarray(self._images(read), dtype=np.float32)

    def count_tokens(self, text: str) -> int:
        """Tokens where `token_ids` was given, otherwise words."""
        return len(text.split()) if self.token_ids is None else len(self.token_ids(characters(text)))


def wrap(
    embed: EmbedTexts,
    *,
    queries: EmbedTexts | None = None,
    images: EmbedImages | None = None,
    token_ids: Callable[[str], list[int]] | None = None,
    name: str = "wrapped",
    context_length: int | None = None,
    dtype: str = "float32",
) -> ForeignEncoder:
    """An `Encoder` to check, not to index with: its fingerprint is that of its name.

    Only the container changes on the way: the vectors become float32, and are not normalised. An empty list is
    answered here, and a lone surrogate in a text arrives as "?".

    Args:
        embed: n texts -> n vectors of one length: an array, or a list of them. Called once here, for their length.
        queries: the same for queries, where they are embedded otherwise than documents.
        images: n upright RGB pictures -> n vectors.
        token_ids: what really goes into the model for one text, special tokens included.
        context_length: where the model cuts texts off, in tokens.
        dtype: of its weights, or "unknown", as behind a server: it says how far equal texts may be apart.
    """
    dim = np.asarray(embed(["a"]), dtype=np.float32).shape[-1]
    spec = EncoderSpec(
        name=name,
        kind="dense",
        dim=dim,
        modalities=frozenset({"text"} if images is None else {"image", "text"}),
        fingerprint=fingerprint({"wrapped": name, "dim": dim}),
        context_length=context_length,
    )
    return ForeignEncoder(spec, dtype, {"document": embed, "query": queries or embed}, images, token_ids)
