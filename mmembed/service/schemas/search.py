"""Queries and hits, as JSON: the models behind the routes and their OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from mmembed.retrieval.query import GROUP_SIZE, MAX_CANDIDATES, Strategy
from mmembed.service.schemas.common import ImageInput, Strict
from mmembed.service.schemas.filters import QdrantFilter
from mmembed.types import FacetValue

_MAX_LIMIT = 1000
_MAX_OFFSET = 10_000
_MAX_TEXT = 100_000  # characters; every encoder cuts a query long before
_SOME = Field(max_length=32, fail_fast=True)  # parts to subtract, liked, or not

Text = Annotated[str, Field(max_length=_MAX_TEXT)]
Row = Annotated[list[FiniteFloat], Field(fail_fast=True)]
Rows = Annotated[list[Row], Field(fail_fast=True)]


class TextOrImage(Strict):
    """Something that the hits should not show: one text or one picture."""

    text: Text | None = None
    image: ImageInput | None = Field(None, description="As in the query.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        fields = [*type(self).model_fields]
        if sum(getattr(self, field) is not None for field in fields) != 1:
            raise PydanticCustomError("part", "this is one {fields}", {"fields": " or one ".join(fields)})
        return self


class ExampleInput(TextOrImage):
    """One text, one picture or one stored point."""

    id: str | None = Field(None, max_length=64, description="A stored point.")


class SearchFields(Strict):
    """What may be asked of one collection and of several alike."""

    text: Text | None = Field(None, description="Words to search with.", examples=["two parrots"])
    image: ImageInput | None = Field(
        None,
        description='A picture: an http(s) address, a data URI or base64; or {"url": ...}, or {"base64": ...}.',
        examples=[{"url": "https://example.org/parrot.jpg"}],
    )
    id: str | None = Field(None, max_length=64, description="A stored point: what is like it, without itself.")
    vector: Row | Rows | None = Field(
        None, description="A vector of the collection's own encoder, or the rows of a multivector."
    )
    vector_name: str | None = Field(None, max_length=256, description="Search by this vector of the collection alone.")
    encoder: str | None = Field(
        None,
        max_length=1024,
        description="For a collection that mmembed did not make: the served encoder of its vector.",
    )
    minus: Annotated[list[TextOrImage], _SOME] = Field([], description="What the hits should not show.")
    positive: Annotated[list[ExampleInput], _SOME] = Field(
        [], description="Examples of what is liked, in place of a query."
    )
    negative: Annotated[list[ExampleInput], _SOME] = Field([], description="Examples of what is not.")
    strategy: Strategy = Field("average_vector", description="How Qdrant weighs examples.")
    weights: dict[Literal["text", "image", "minus"], FiniteFloat] | None = Field(
        None,
        description="Of the parts of a mixed query; text 1, image 1, minus 0.5 by default.",
        examples=[{"text": 1, "image": 0.5}],
    )
    filter: QdrantFilter | None = Field(
        None,
        description="A filter of Qdrant over the payload.",
        examples=[{"must": [{"key": "licence", "match": {"value": "CC0"}}]}],
    )
    limit: int = Field(10, ge=1, le=_MAX_LIMIT, description="Hits at most.")
    offset: int = Field(0, ge=0, le=_MAX_OFFSET, description="Hits to leave out: those of the pages before.")
    score_threshold: FiniteFloat | None = Field(
        None, description="Lowest score; a fused score means nothing, so the search is then by one vector."
    )
    task: str | None = Field(None, max_length=4096, description="Task or instruction, for encoders that take one.")
    all_passages: bool = Field(False, description="Every passage of a document, not only its best.")
    exact: bool = Field(False, description="Compare with every vector instead of walking the search graph.")
    late: bool = Field(
        True, description="Let the vector `late` of a collection, where it has one, order the candidates of a text."
    )
    rerank: str | None = Field(
        None,
        max_length=1024,
        description="A reranker that is served, which reads the words beside each of the best candidates.",
    )
    candidates: int = Field(
        100,
        ge=1,
        le=MAX_CANDIDATES,
        description="How many of the best hits `rerank` reads, `late` orders and `diversity` chooses from.",
    )
    diversity: FiniteFloat | None = Field(
        None, ge=0, le=1, description="How much it counts that a hit is unlike those before it (MMR)."
    )
    with_probability: bool = Field(True, description="Give each hit its probability, where the encoder has a scale.")
    with_payload: bool = Field(True, description="Give each hit its payload.")


_SEARCH: JsonDict = {"text": "two parrots on a branch", "limit": 5}
_FILTERED: JsonDict = {
    "text": "parrots",
    "minus": [{"text": "a cage"}],
    "filter": {"must": [{"key": "album", "match": {"value": "2024"}}]},
}
_SEVERAL: JsonDict = {"text": "a cat that cries at night", "collection_weights": {"documents": 2}}


class SearchRequest(SearchFields, json_schema_extra={"examples": [_SEARCH, _FILTERED]}):
    """Ask with `text`, `image`, both of them, `vector`, or the `id` of a stored point."""

    group_by: str | None = Field(
        None, max_length=256, description="A payload key: `limit` then counts its values, and hits come group by group."
    )
    group_size: int = Field(GROUP_SIZE, ge=1, le=_MAX_LIMIT, description="Hits of one group at most.")


class SeveralRequest(SearchFields, json_schema_extra={"examples": [_SEVERAL]}):
    """The same query to several collections, whose hits are fused by rank."""

    collections: list[Annotated[str, Field(max_length=256)]] | None = Field(
        None, min_length=1, max_length=256, fail_fast=True, description="All that mmembed made, if none is named."
    )
    collection_weights: dict[str, Annotated[FiniteFloat, Field(gt=0)]] | None = Field(
        None,
        description="1 by default: 2 gives two hits of a collection for each of another.",
        examples=[{"images": 2}],
    )


class FoundHit(BaseModel):
    """One hit."""

    id: str = Field(examples=["5d2f0f0e-7f6f-5a39-9b52-b3b4a9a0b7a1"])
    score: float = Field(description="Comparable only within one search.", examples=[0.31])
    probability: float | None = Field(None, description="That the query describes it; null without a scale.")
    collection: str = Field(examples=["images"])
    vector: str | None = Field(description="The vector that was searched by; null where several were.")
    group: FacetValue | None = Field(None, description="The value of `group_by` that it stands for.")
    uri: str | None = Field(description="Where it was indexed from.")
    name: str | None = Field(description="Last part of the uri.", examples=["parrot.jpg"])
    kind: Literal["image", "text"] | None = Field(description="null in a collection that mmembed did not make.")
    text: str | None = Field(description="The passage of a document, or the caption of a picture.")
    thumbnail: str | None = Field(description="Where a small WebP of the picture is, if there is one.")
    payload: dict[str, Any] | None = Field(None, description="All that is stored with it.")


class SearchAnswer(BaseModel):
    """Hits of one collection, best first."""

    hits: list[FoundHit]
    seconds: float = Field(description="From the request's arrival to this answer.", examples=[0.012])


class SeveralAnswer(SearchAnswer):
    """Hits of several collections, best first."""

    skipped: dict[str, str] = Field(description="Collections that cannot answer this query, and why.")
