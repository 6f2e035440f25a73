"""What there is in the store and is served, as JSON: the models behind routes/collections.py."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from mmembed.types import FacetValue


class VectorFacts(BaseModel, from_attributes=True):
    encoder: str
    modality: str
    kind: str
    dim: int | None


class CollectionFacts(BaseModel):
    name: str
    kind: Literal["images", "documents"] | None = Field(description="null: mmembed did not make it.")
    points: int
    vectors: dict[str, VectorFacts]
    searchable: Literal[True] | str = Field(description="true, or a sentence that says why not.")


class CollectionList(BaseModel):
    collections: list[CollectionFacts]


class Facet(BaseModel):
    value: FacetValue
    count: int


class Facets(BaseModel):
    facets: dict[str, list[Facet]] = Field(
        description="Payload keys, each with its most frequent values.",
        examples=[{"licence": [{"value": "CC0", "count": 12}, {"value": "CC-BY-4.0", "count": 3}]}],
    )


class EncoderFacts(BaseModel):
    """What is known of an encoder; all but its name once it is loaded."""

    name: str
    kind: str | None = None
    dim: int | None = None
    modalities: list[str] | None = None
    matryoshka_dims: list[int] | None = None
    context_length: int | None = None
    image_size: int | None = None
    licence: str | None = None
    loaded: bool = False
    error: str | None = None


class EncoderList(BaseModel):
    encoders: list[EncoderFacts]


class Alive(BaseModel):
    status: Literal["ok"] = "ok"
