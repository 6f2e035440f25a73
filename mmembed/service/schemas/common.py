"""What the schemas of several routes share: strict models, pictures, lists that stop at the first fault."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, TypeVar

from pydantic import BaseModel, Discriminator, FailFast, Tag

_T = TypeVar("_T")


class _FirstFault(FailFast):
    """Pydantic's own has no hash, which a union of lists needs."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


ListOf = Annotated[list[_T], _FirstFault()]
"""A list of which the first bad element is told: all of them would be gigabytes where millions are sent."""


class Strict(BaseModel, extra="forbid", strict=True):
    """A misspelt field is refused, and a number is not written as a string."""


def branch_by(kind: type | UnionType) -> Discriminator:
    """Hold a value against the branch "[many]" if it is a `kind`, else "[one]": errors are then about what was meant.

    The brackets keep the branch out of the sentence, which names fields.
    """
    return Discriminator(lambda value: "[many]" if isinstance(value, kind) else "[one]")


ImageInput = Annotated[Annotated[str, Tag("[one]")] | Annotated[dict[str, str], Tag("[many]")], branch_by(dict)]
