"""What the schemas of several routes share: strict models, filters, pictures, lists that stop at the first fault."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    Discriminator,
    FailFast,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError
from qdrant_client import models

_T = TypeVar("_T")


class _FirstFault(FailFast):
    """Pydantic's own has no hash, which a union of lists needs."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


ListOf = Annotated[list[_T], _FirstFault()]
"""A list of which the first bad element is told: all of them would be gigabytes where millions are sent."""


_MAX_FILTER_ERRORS = 2000  # that are looked at; each takes microseconds to write down
_MAX_FILTER_PARTS = 50_000  # keys and values; a list of ids is the largest that makes sense


class Strict(BaseModel, extra="forbid", strict=True):
    """A misspelt field is refused, and a number is not written as a string."""


def branch_by(kind: type | UnionType) -> Discriminator:
    """Hold a value against the branch "[many]" if it is a `kind`, else "[one]": errors are then about what was meant.

    The brackets keep the branch out of the sentence, which names fields.
    """
    return Discriminator(lambda value: "[many]" if isinstance(value, kind) else "[one]")


ImageInput = Annotated[Annotated[str, Tag("[one]")] | Annotated[dict[str, str], Tag("[many]")], branch_by(dict)]


def _filter_or_sentence(value: Any, validate: ValidatorFunctionWrapHandler) -> models.Filter:
    """Qdrant's filters are unions of unions: of the hundred ways in which one is wrong, say where it is."""
    waiting, seen = [value], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if seen > _MAX_FILTER_PARTS:
            raise PydanticCustomError("filter", "the filter has more than 50,000 parts: make it smaller")
        waiting += part.values() if isinstance(part, dict) else ()
        waiting += part if isinstance(part, list) else ()
    try:
        condition: models.Filter = validate(value)
    except ValidationError as exc:
        wrong = exc.errors(include_input=False) if exc.error_count() <= _MAX_FILTER_ERRORS else []
        deepest: list[str] = max((_inside(value, error["loc"]) for error in wrong), key=len, default=[])
        place = ".".join(deepest)
        raise PydanticCustomError(
            "filter",
            "this is not a Qdrant filter{at}: see https://qdrant.tech/documentation/concepts/filtering",
            {"at": f" at {place[:200]}" if place else ""},
        ) from None
    return condition


def _inside(value: Any, loc: Sequence[int | str]) -> list[str]:
    """The steps of a place that lead somewhere in `value`: the others are names of models."""
    steps: list[str] = []
    for step in loc:
        if (isinstance(value, dict) and step in value) or (isinstance(value, list) and isinstance(step, int)):
            steps.append(str(step))
            value = value[step]  # type: ignore[index]  # an int where it is a list
    return steps


QdrantFilter = Annotated[models.Filter, WrapValidator(_filter_or_sentence)]
