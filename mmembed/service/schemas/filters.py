"""Qdrant filters of requests: bounded before anything is made of them, in one sentence where they are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError
from qdrant_client import models

_MAX_LEVELS = 32  # lists and objects within one another: fifteen filters; pydantic tries every branch at each
_MAX_CONDITIONS = 500  # filters in filters too; Qdrant holds each against every point that no index rules out
_MAX_PARTS = 50_000  # keys and values; a list of ids is the largest that makes sense
_MAX_ERRORS = 2000  # that are looked at; each takes microseconds to write down
_CLAUSES = ("must", "should", "must_not", "conditions")  # the last one is that of `min_should`


def _filter_or_sentence(value: Any, validate: ValidatorFunctionWrapHandler) -> models.Filter:
    """Qdrant's filters are unions of unions: of the hundred ways in which one is wrong, say where it is."""
    _bound(value)
    try:
        condition: models.Filter = validate(value)
    except ValidationError as exc:
        wrong = exc.errors(include_input=False) if exc.error_count() <= _MAX_ERRORS else []
        deepest: list[str] = max((_inside(value, error["loc"]) for error in wrong), key=len, default=[])
        place = ".".join(deepest)
        raise PydanticCustomError(
            "filter",
            "this is not a Qdrant filter{at}: see https://qdrant.tech/documentation/concepts/filtering",
            {"at": f" at {place[:200]}" if place else ""},
        ) from None
    return condition


def _bound(value: Any) -> None:
    """Raise for what is too deep or too large; many values of one key become one condition on the way."""
    waiting, parts, conditions = [(value, 0)], 0, 0
    while waiting:
        part, level = waiting.pop()
        parts += 1
        if isinstance(part, dict):
            for clause in ("should", "must_not"):
                if isinstance(part.get(clause), list):
                    part[clause] = _joined(part[clause])
            found = [part[clause] for clause in _CLAUSES if clause in part]
            conditions += sum(len(one) if isinstance(one, list) else 1 for one in found)
        if level > _MAX_LEVELS:
            raise PydanticCustomError("filter", f"the filter is deeper than {_MAX_LEVELS} levels: make it flatter")
        if conditions > _MAX_CONDITIONS:
            raise PydanticCustomError(
                "filter",
                f"the filter has more than {_MAX_CONDITIONS} conditions: write the values of one key as one "
                f'"match": {{"any": [...]}}',
            )
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if parts + len(waiting) + len(inner) > _MAX_PARTS:
            raise PydanticCustomError("filter", f"the filter has more than {_MAX_PARTS:,} parts: make it smaller")
        waiting += [(each, level + 1) for each in inner]


def _joined(conditions: list[Any]) -> list[Any]:
    """Alternatives with the values of one key as one: Qdrant looks a list up, and tries conditions one by one."""
    joined: list[Any] = []
    values: dict[tuple[str, type], list[Any]] = {}  # of a key: texts and numbers do not mix
    for condition in conditions:
        found = _alternatives(condition)
        if not found:
            joined.append(condition)
            continue
        place = (condition["key"], type(found[0]))
        if place not in values:
            values[place] = []
            joined.append({"key": condition["key"], "match": {"any": values[place]}})
        values[place] += found
    if len(joined) == len(conditions):
        return conditions
    for each in values.values():
        each[:] = dict.fromkeys(each)
    return joined


def _alternatives(condition: Any) -> list[Any]:
    """The texts or the whole numbers of which a condition wants one for its key, where it wants nothing else."""
    if not isinstance(condition, dict) or condition.keys() != {"key", "match"}:
        return []
    match = condition["match"]
    if not isinstance(condition["key"], str) or not isinstance(match, dict) or len(match) != 1:
        return []
    found = [match["value"]] if "value" in match else match.get("any")
    if not isinstance(found, list) or not found or type(found[0]) not in (str, int):
        return []
    return found if all(type(each) is type(found[0]) for each in found) else []


def _inside(value: Any, loc: Sequence[int | str]) -> list[str]:
    """The steps of a place that lead somewhere in `value`: the others are names of models."""
    steps: list[str] = []
    for step in loc:
        if (isinstance(value, dict) and step in value) or (isinstance(value, list) and isinstance(step, int)):
            steps.append(str(step))
            value = value[step]  # type: ignore[index]  # an int where it is a list
    return steps


QdrantFilter = Annotated[models.Filter, WrapValidator(_filter_or_sentence)]
