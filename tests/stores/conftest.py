"""Every store there is, and a name that nobody else uses."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from filled import SERVER, grpc_store

from mmembed.stores import open_store
from mmembed.types import Store


@pytest.fixture(params=["edge", "memory", "grpc", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "grpc":
        with grpc_store() as (over_grpc, _):
            yield over_grpc
        return
    if request.param == "server" and not SERVER:
        pytest.skip("MMEMBED_TEST_QDRANT_URL is not set: it names a Qdrant server that tests may write to")
    url = {"edge": f"edge:{tmp_path / 'store'}", "memory": ":memory:", "server": SERVER or ""}[request.param]
    opened = open_store(url)
    yield opened
    opened.close()


@pytest.fixture
def name(store: Store) -> Iterator[str]:
    """A collection's name that nobody else uses; what is made under it is dropped."""
    fresh = f"mmembed-test-{uuid.uuid4().hex[:8]}"
    yield fresh
    if fresh in store.collections() and store.contract(fresh):
        store.drop(fresh)
