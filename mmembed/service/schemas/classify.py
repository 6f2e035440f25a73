"""Labels of pictures: requests and answers, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Tag

from mmembed.service.schemas.common import ImageInput, ListOf, Strict, branch_by

_MAX_NAME = 300  # characters of a label, a text or a template
_MAX_DEPTH = 16

Name = Annotated[str, Field(max_length=_MAX_NAME)]
_HOW = 'an http(s) address, a data URI or base64; or {"url": ...}, or {"base64": ...}'


class LabelTexts(Strict):
    """A label that is described in other words than its name, or stands below others."""

    label: Name = Field(description="What it is called in the answer.", examples=["cat"])
    texts: ListOf[Name] = Field([], description="What goes into the templates; the name itself, if nothing is given.")
    parents: ListOf[Name] = Field(
        [], max_length=_MAX_DEPTH, description="From the root down.", examples=[["animal", "pet"]]
    )


_Label = Annotated[Annotated[Name, Tag("[one]")] | Annotated[LabelTexts, Tag("[many]")], branch_by(dict | LabelTexts)]
_Templates = Annotated[
    Annotated[Literal["openai", "simple", "plain"], Tag("[one]")]
    | Annotated[ListOf[Name], Field(min_length=1), Tag("[many]")],
    branch_by(list),
]
_Threshold = Annotated[
    Annotated[FiniteFloat, Tag("[one]")] | Annotated[dict[str, FiniteFloat], Tag("[many]")], branch_by(dict)
]


class ClassifyRequest(Strict):
    """Ask about one picture (`image`, or a file of the form), several (`images`), or a stored point (`id`)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image": {"url": "https://example.org/pet.jpg"}, "labels": ["cat", "dog"], "background": ["a thing"]},
                {"collection": "images", "id": "5d2f0f0e-7f6f-5a39-9b52-b3b4a9a0b7a1", "labels": ["cat", "dog"]},
            ]
        }
    )

    image: ImageInput | None = Field(
        None, description=f"A picture: {_HOW}.", examples=[{"url": "https://example.org/pet.jpg"}]
    )
    images: Annotated[ListOf[ImageInput], Field(min_length=1)] | None = Field(
        None, description="Several pictures, each with a result of its own: one that cannot be read harms no other."
    )
    id: str | None = Field(
        None, max_length=64, description="A point of `collection`: its stored vector is used and no picture is read."
    )
    labels: Annotated[ListOf[_Label], Field(min_length=1)] = Field(
        description="What the picture may show.", examples=[["cat", "dog"]]
    )
    background: ListOf[Name] = Field(
        [],
        description="Texts that compete with the labels and mean none of them.",
        examples=[["something else"]],
    )
    templates: _Templates = Field(
        "simple",
        description="Sentences that a label is put into: OpenAI's 80, the short 7, the label alone, or your own "
        "with {} in each.",
        examples=[["a drawing of a {}."]],
    )
    encoder: str | None = Field(
        None, max_length=1024, description="A served encoder; by default that of `collection`, without one `tiny`."
    )
    collection: str | None = Field(
        None,
        max_length=256,
        description="A collection of pictures: its encoder is used, and its calibration for these labels.",
    )
    top_k: int | None = Field(None, ge=1, description="The best labels at most; all by default.")
    threshold: _Threshold | None = Field(
        None,
        description="Least probability of a label, one for all or one for each; those below it are left out.",
        examples=[0.5],
    )


class LabelFound(BaseModel):
    """One label."""

    label: str = Field(examples=["cat"])
    score: float = Field(description="Cosine between the picture and the label.", examples=[0.27])
    probability: float | None = Field(description="null for an encoder without a scale.", examples=[0.93])


class Verdicts(BaseModel):
    """What one picture shows."""

    labels: list[LabelFound] = Field(description="Best first.")
    none_of_these: bool | None = Field(
        description="Whether no label is meant; null where neither a background nor a threshold can tell."
    )
    groups: list[LabelFound] = Field(description="The parents of labels, best first.")


class LabelFailure(BaseModel):
    """Why one of several pictures has no labels."""

    error: str = Field(examples=["the picture is empty"])
    type: str = Field(examples=["UnreadableImage"])


class _AnswerFields(BaseModel):
    encoder: str = Field(description="Full name of the encoder.", examples=["tiny"])
    calibrated: bool = Field(description="Whether probabilities are those of the collection's calibration.")
    seconds: float = Field(description="From the request's arrival to this answer.", examples=[0.012])


class ClassifyAnswer(Verdicts, _AnswerFields):
    """The labels of one picture."""


class ClassifySeveralAnswer(_AnswerFields):
    """The labels of several pictures, in the order in which they came."""

    results: list[Verdicts | LabelFailure]
