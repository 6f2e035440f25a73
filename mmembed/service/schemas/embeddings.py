"""What OpenAI's and Cohere's embeddings API have in common: parts of a request, dense encoders, faults with a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import Field

from mmembed.service.schemas.common import Strict


class TextPart(Strict):
    """A text as a part of a request."""

    type: Literal["text"]
    text: str = Field(examples=["two parrots on a branch"])


class ImageUrl(Strict):
    """Where a picture is: a data URI, which holds it, or an http(s) address."""

    url: str = Field(examples=["data:image/png;base64,iVBORw0KGgo..."])
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Of OpenAI's chats; changes nothing here.")


class ImagePart(Strict):
    """A picture as a part of a request."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True)
class PlacedInput:
    """One text or picture of a request, and where it stood: "input[3]"."""

    place: str
    content: str  # a text, or what names a picture
    is_image: bool = False


def placed_part(place: str, part: Part) -> PlacedInput:
    """A part of a request that stood at `place`."""
    if isinstance(part, TextPart):
        return PlacedInput(place, part.text)
    return PlacedInput(place, part.image_url.url, is_image=True)
