"""Texts and pictures made ready to be sent, and cut into requests that an API takes."""

from __future__ import annotations

import base64
import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from mmembed.errors import EncoderRefused, InputError
from mmembed.types import DenseArray

if TYPE_CHECKING:
    from PIL.Image import Image

_PIECE = re.compile(r"[^\W\d_]+|\d|\n+|[^\w\s]|_")
_FRAME_TOKENS = 2  # one before a text and one after it, at most

# PNG loses nothing. What it cannot bring under the limit is sent as JPEG, as it mostly came.
_ENCODINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("png", {"compress_level": 1}),
    ("jpeg", {"quality": 95, "subsampling": 0}),
    ("jpeg", {"quality": 80}),
)


class Cost(NamedTuple):
    """What one input takes up in a request."""

    tokens: int
    size: int  # bytes


@dataclass(frozen=True)
class Limits:
    """What one request may hold, as the API documents it."""

    texts: int
    images: int = 1
    tokens: int | None = None  # of all texts, or all pictures, together
    total_bytes: int = 8_000_000  # of the inputs together
    image_bytes: int = 5_000_000  # of one picture as a data URI
    image_pixels: int = 2_400_000  # larger pictures are shrunk before they are sent
    pixels_a_token: int | None = None
    refuses_long_texts: bool = False  # beyond context_length it answers 400 instead of truncating


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, more often too many than too few: the vocabulary is the vendor's own.

    A word counts one for each four ASCII letters begun, or three UTF-8 bytes of other letters; each digit,
    punctuation mark and run of new lines counts one. Prose comes out a fifth to a half too high; strings of
    random letters can come out too low. What a request may hold is reckoned by `most_tokens` instead.

    >>> estimate_tokens("A dog, 12 years old")
    10
    """
    return _FRAME_TOKENS + sum(map(_tokens, _PIECE.findall(text)))


def cut_to_tokens(text: str, most: int) -> str:
    """The beginning of a text that is at most `most` tokens by `estimate_tokens`.

    >>> cut_to_tokens("A dog, 12 years old", 6)
    'A dog, 1'
    """
    left = most - _FRAME_TOKENS
    for piece in _PIECE.finditer(text):
        word = piece.group()
        if _tokens(word) > left:
            return text[: piece.start()] + cut_to_bytes(word, left * _bytes_a_token(word))
        left -= _tokens(word)
    return text


def _tokens(piece: str) -> int:
    return math.ceil(len(piece.encode("utf-8", "replace")) / _bytes_a_token(piece)) if piece.isalpha() else 1


def _bytes_a_token(piece: str) -> int:
    return 4 if piece.isascii() else 3


def most_tokens(text: str) -> int:
    """More tokens than this a text cannot have: byte-pair vocabularies spend at least a byte on each."""
    return _FRAME_TOKENS + len(text.encode("utf-8", "replace"))


def cut_to_bytes(text: str, size: int) -> str:
    """The longest beginning of a text that is at most `size` bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


def request_slices(costs: Sequence[Cost], *, limits: Limits, count: int) -> Iterator[slice]:
    """Consecutive runs of at most `count` inputs, each within the limits; an input beyond a limit is a run of its own.

    >>> list(request_slices([Cost(5, 1), Cost(5, 1), Cost(5, 1)], limits=Limits(texts=96, tokens=10), count=96))
    [slice(0, 2, None), slice(2, 3, None)]
    """
    start, tokens, size = 0, 0, 0
    for i, cost in enumerate(costs):
        tokens, size = tokens + cost.tokens, size + cost.size
        full = size > limits.total_bytes or (limits.tokens is not None and tokens > limits.tokens)
        if i > start and (full or i - start >= count):
            yield slice(start, i)
            start, tokens, size = i, cost.tokens, cost.size
    if costs:
        yield slice(start, len(costs))


def data_uri(image: Image, *, limits: Limits) -> tuple[str, int]:
    """One RGB picture -> `data:image/png;base64,...` within the limits, and its number of pixels.

    Raises InputError for a picture that no encoding brings under `limits.image_bytes`.
    """
    from mmembed.images import upright_rgb  # Pillow is for encoders of images alone

    image = upright_rgb(image)
    if image.width * image.height > limits.image_pixels:
        scale = math.sqrt(limits.image_pixels / (image.width * image.height))
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    for kind, options in _ENCODINGS:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        uri = f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
        if len(uri) <= limits.image_bytes:
            return uri, image.width * image.height
    raise InputError(
        f"a picture of {image.width} x {image.height} pixels is {len(uri):,} bytes even as a JPEG, more than the "
        f"{limits.image_bytes:,} that the API takes: shrink it"
    )


# --- Texts that are too long for an API which refuses them instead of truncating ---

logger = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[Sequence[str]], DenseArray]
"""n texts -> `(n, dim)`, in one request."""

_REFUSED_FOR_LENGTH = frozenset({400, 413, 422})
_SPECIAL_TOKENS = 8  # room for those that a server adds


def ask_fitting(ask: Ask, texts: Sequence[str], *, longest: int) -> DenseArray:
    """Ask; where that is refused and some texts may be too long, ask for each of those alone.

    Texts are cut to `longest` tokens as we count them first, so that what becomes of one never depends on the
    others: a text that is refused in company is refused alone.
    """
    doubtful = [most_tokens(text) > longest for text in texts]
    texts = [cut_to_tokens(text, longest) if doubt else text for text, doubt in zip(texts, doubtful, strict=True)]
    try:
        return ask(texts)
    except EncoderRefused as exc:
        if exc.status not in _REFUSED_FOR_LENGTH or not any(doubtful):
            raise
        logger.debug("%d texts were refused, of which some may be too long: %s", len(texts), exc)
    pairs, alone = list(zip(texts, doubtful, strict=True)), len(texts) == 1
    short = [text for text, doubt in pairs if not doubt]
    rows = iter(ask(short) if short else ())
    made = [_shortened(ask, text, longest, refused=alone)[0] if doubt else next(rows) for text, doubt in pairs]
    return np.stack(made)


def _shortened(ask: Ask, text: str, longest: int, *, refused: bool) -> DenseArray:
    """One text, cut further each time that it is refused, until it is sure to fit; `refused`: as it is, already."""
    cuts = [text, cut_to_tokens(text, longest // 2), cut_to_tokens(text, longest // 4)]
    *longer, last = dict.fromkeys([*cuts[refused:], cut_to_bytes(text, max(longest - _SPECIAL_TOKENS, 1))])
    for cut in longer:
        try:
            return ask([cut])
        except EncoderRefused as exc:
            if exc.status not in _REFUSED_FOR_LENGTH:
                raise
            logger.debug("%d bytes were refused, so fewer are sent: %s", len(cut.encode()), exc)
    return ask([last])
