"""The encoder under test. Whatever it does wrong becomes a Fault here, so that a check holds only its own question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mmembed.testing.foreign import ForeignEncoder
from mmembed.testing.known import KnownAnswers
from mmembed.testing.report import Fault, NotJudged
from mmembed.testing.texts import text_roles
from mmembed.testing.vectors import check_form, distance, split_rows
from mmembed.types import Embeddings, Encoder, EncoderSpec, Modality, Role, Vector

if TYPE_CHECKING:
    from PIL.Image import Image

_T = TypeVar("_T")

_TOLERANCES = {"float32": 1e-4, "float16": 1e-2}
"""Dtype of the weights -> distance of two unit vectors that still counts as none. 1e-2 is a cosine of 0.99995."""

_TOLERANCE_OTHERWISE = 5e-2
"""A cosine of 0.99875: bfloat16 alone moves a text by 0.016 with its batch-mates, and a server tells no dtype."""


@dataclass(frozen=True)
class Subject:
    """An encoder and what is expected of it; see `check_encoder` for the fields."""

    encoder: Encoder
    tolerance: float
    longest: int
    against: Encoder | None = None
    known: KnownAnswers | None = None
    load: Callable[[str], Encoder] | None = None
    checkpoint: Path | None = None
    prompts: tuple[str, str] | None = None
    expect_first: int | None = None
    expect_last: int | None = None

    @property
    def spec(self) -> EncoderSpec:
        return self.encoder.spec

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """In which it reads texts."""
        return text_roles(self.encoder)

    def encode(
        self, modality: Modality, inputs: Sequence[Any], *, role: Role | None = None, task: str | None = None
    ) -> Embeddings:
        """What the encoder returned, as it is. Texts without a role: as documents, or else as queries."""
        if modality == "image":
            return call_encoder("encode_image", lambda: self.encoder.encode_image(list(inputs)))
        side = role or self.roles[-1]
        return call_encoder("encode_text", lambda: self.encoder.encode_text(list(inputs), role=side, task=task))

    def form(self, modality: Modality, inputs: Sequence[Any], *, role: Role | None = None, named: str = "") -> str:
        """Of what n texts or images become, as `check_form` tells it; a Fault begins with what they are `named`."""
        try:
            return check_form(self.encode(modality, inputs, role=role), len(inputs), self.spec)
        except Fault as fault:
            raise Fault(f"{named}: {fault}" if named else str(fault)) from fault

    def texts(self, texts: Sequence[str], *, role: Role | None = None, task: str | None = None) -> list[Vector]:
        """n texts -> n vectors."""
        return split_rows(self.encode("text", texts, role=role, task=task), len(texts), self.spec.kind)

    def images(self, images: Sequence[Image]) -> list[Vector]:
        """n images -> n vectors."""
        return split_rows(self.encode("image", images), len(images), self.spec.kind)

    def count_tokens(self, text: str) -> int:
        """Raises NotJudged for an encoder of `wrap` that was given no tokenizer: it counts words."""
        if isinstance(self.encoder, ForeignEncoder) and self.encoder.token_ids is None:
            raise NotJudged("no token_ids were given, so tokens cannot be counted")
        count: Any = call_encoder("count_tokens", lambda: self.encoder.count_tokens(text))
        if not isinstance(count, int) or count < 0:
            raise Fault(f"count_tokens({text[:20]!r}) is {count!r}, not a whole number")
        return count

    def equal(self, pairs: Iterable[tuple[str, Vector, Vector]], *, tolerance: float | None = None) -> str:
        """Hold (what, one, other) against each other; tells how far the farthest are apart, or raises Fault."""
        allowed = self.tolerance if tolerance is None else tolerance
        apart, what = max(((distance(one, other), what) for what, one, other in pairs), key=lambda pair: pair[0])
        if apart > allowed:
            raise Fault(f"{what}: {_closeness(apart)}, {allowed:g} is allowed")
        return f"at most {apart:.1g} apart" if apart else "equal"


def call_encoder(what: str, function: Callable[[], _T]) -> _T:
    """Call into the encoder; whatever it raises is a Fault that tells type and message."""
    try:
        return function()
    except Exception as exc:  # a stranger's encoder may raise anything
        message = " ".join(str(exc).split())[:200]
        raise Fault(f"{what} raised {type(exc).__name__}: {message}") from exc


def tolerance_of(encoder: Encoder) -> float:
    """By its dtype. A remote one runs in a dtype that nobody tells."""
    remote = getattr(getattr(encoder, "spec", None), "remote", False)  # or no encoder
    dtype = "" if remote else str(getattr(encoder, "dtype", ""))
    return _TOLERANCES.get(dtype, _TOLERANCE_OTHERWISE)


def _closeness(apart: float) -> str:
    if not np.isfinite(apart):
        return "vectors of another shape, or not finite"
    return f"{apart:.2g} apart, a cosine of {1 - apart**2 / 2:.4f}"
