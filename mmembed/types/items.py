"""What goes in: items to index, and those that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmembed.types.encoders import Modality

if TYPE_CHECKING:
    from PIL.Image import Image

Payload: TypeAlias = dict[str, Any]

ImageContent: TypeAlias = "Path | bytes | Image | npt.NDArray[np.uint8]"
"""An image: a file, its bytes, one that is decoded, or `(height, width)` or `(height, width, 1 | 3 | 4)` uint8,
which is grey, RGB or RGBA."""


@dataclass(frozen=True)
class Item:
    """One thing to index: an image or a document, in a file or in memory.

    Its content is one of `path`, `content` and `text`. What is in memory must stay as it is until it was indexed:
    a frame that is drawn into the array of the one before needs an array of its own.

    >>> Item("shop/17", "image", content=np.zeros((30, 40, 3), np.uint8), caption="a cap", payload={"price": 12.5})
    >>> Item("note-1", "text", text="Foxes hunt at dusk.", id="0c3bd1a2-8a4e-4f6e-9d0b-1f5f3c1f7d11")
    >>> Item("mail/9/offer.pdf", "text", content=attachment)
    """

    uri: str  # an absolute path, or whatever else names it; a document in bytes is of the kind that it ends in
    modality: Modality
    path: Path | None = None  # the file that holds it
    content: bytes | Image | npt.NDArray[np.uint8] | None = None  # a file's bytes; or an image, see ImageContent
    caption: str | None = None  # of an image
    payload: Payload = field(default_factory=dict)
    source: str | None = None  # the manifest that named it
    text: str | None = None  # a document, as plain text
    id: str | None = None  # the UUID of its point, of a document of its first passage; None: made of modality and uri


@dataclass(frozen=True)
class Failure:
    """One input that could not be indexed, and why, in one sentence."""

    uri: str
    error: str
    source: str | None = None  # the manifest that named it
