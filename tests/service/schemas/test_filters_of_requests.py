"""Filters of strangers: none is too deep, too large or too slow for the service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import TypeAdapter
from service_app import running

from mmembed import open_store
from mmembed.service.schemas.filters import QdrantFilter
from mmembed.types import Contract, Point, VectorContract

FILTERS: TypeAdapter[Any] = TypeAdapter(QdrantFilter)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three hundred points `n` = 0 to 299, `word` = "w0" to "w299"."""
    folder: Path = tmp_path_factory.mktemp("filters")
    store = open_store(f"edge:{folder / 'store.mm'}")
    vector = VectorContract("tiny", "x", "image", "dense", 4)
    store.create("points", Contract("images", {"image": vector}), indexes={"n": "integer", "word": "keyword"})
    row = np.array([1, 0, 0, 0], dtype=np.float32)
    ids = [f"00000000-0000-0000-0000-{n:012}" for n in range(300)]
    store.upsert("points", [Point(id, {"image": row}, {"n": n, "word": f"w{n}"}) for n, id in enumerate(ids)])
    store.close()
    with running(folder) as service:
        yield service.url


def matches(key: str, values: list[Any]) -> list[dict[str, Any]]:
    return [{"key": key, "match": {"value": value}} for value in values]


def ask(url: str, filter: dict[str, Any]) -> httpx.Response:
    body = {"vector": [1, 0, 0, 0], "filter": filter, "limit": 1000}
    return httpx.post(f"{url}/v1/search/points", json=body, timeout=60)


@pytest.mark.parametrize("leaf", [{"key": "n", "match": {"value": 1}}, {"key": "n", "match": {"value": [1]}}, 3])
@pytest.mark.parametrize("inside", ["must", "nested"])
@pytest.mark.parametrize("depth", [17, 150])
def test_a_deep_filter_is_refused_at_once(leaf: Any, inside: str, depth: int, url: str) -> None:
    """Whatever it ends in, a filter in a filter in a filter is 400 before any branch of it is tried."""
    deep = leaf
    for _ in range(depth):
        deep = {"must": [deep if inside == "must" else {"nested": {"key": "n", "filter": deep}}]}
    began = time.perf_counter()
    answer = ask(url, {"should": [deep] * 20})
    assert (answer.status_code, time.perf_counter() - began < 2) == (400, True)
    assert "deeper than 32 levels" in answer.text
    assert httpx.request("DELETE", f"{url}/v1/points/points", json={"filter": deep}).status_code == 400


def test_filters_of_a_sensible_depth_are_taken(url: str) -> None:
    """Ten filters within one another are one."""
    deep: dict[str, Any] = {"key": "n", "match": {"value": 7}}
    for _ in range(10):
        deep = {"must": [deep]}
    assert [hit["payload"]["n"] for hit in ask(url, deep).json()["hits"]] == [7]


@pytest.mark.parametrize("clause", ["must", "should", "must_not"])
def test_many_conditions_are_refused(clause: str, url: str) -> None:
    """More conditions than are held against every point are 400, also where they are spread over filters in it."""
    ranges = [{"key": "n", "range": {"gt": n}} for n in range(501)]
    spread = {clause: [{"must": ranges[at : at + 100]} for at in range(0, 500, 100)]}
    for filter in ({clause: ranges}, spread, {"min_should": {"conditions": ranges, "min_count": 1}}):
        answer = ask(url, filter)
        assert (answer.status_code, "more than 500 conditions" in answer.text) == (400, True), answer.text


@pytest.mark.parametrize(("key", "of"), [("n", int), ("word", "w{}".format)])
def test_many_values_of_one_key_are_one_condition(key: str, of: Any, url: str) -> None:
    """Ten thousand alternatives for a key find what each of them would, and leave out what each of them would."""
    values = [of(n) for n in range(100, 10_100)]
    began = time.perf_counter()
    found = ask(url, {"should": matches(key, values)}).json()["hits"]
    left = ask(url, {"must_not": matches(key, values)}).json()["hits"]
    assert sorted(hit["payload"]["n"] for hit in found) == [*range(100, 300)]
    assert sorted(hit["payload"]["n"] for hit in left) == [*range(100)]
    assert time.perf_counter() - began < 10


def test_only_alternatives_of_one_kind_are_joined() -> None:
    """Texts, numbers and truths stay apart, what must hold together stays as it was, and no order is lost."""
    mixed = [*matches("a", ["x", 1, "y", True, 2, "x"]), *matches("b", [1]), {"key": "a", "range": {"gt": 1}}]
    joined = FILTERS.validate_python({"should": list(mixed)}).model_dump(exclude_none=True)["should"]
    assert [one.get("match") for one in joined] == [
        {"any": ["x", "y"]},
        {"any": [1, 2]},
        {"value": True},
        {"any": [1]},
        None,
    ]
    kept = FILTERS.validate_python({"must": matches("a", ["x", "y"])}).model_dump(exclude_none=True)
    assert kept == {"must": matches("a", ["x", "y"])}
