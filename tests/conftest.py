"""Fixtures that every test module may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mmembed.types import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from web_service import OpenTab

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test data, found through MMEMBED_TEST_DATA."""
    folder = os.environ.get("MMEMBED_TEST_DATA")
    if not folder:
        pytest.skip("MMEMBED_TEST_DATA is not set: it names the folder of real pictures and texts")
    return Path(folder)


@pytest.fixture(params=["edge", "memory", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind; on a server, what a test makes is dropped after it."""
    from mmembed.stores import open_store

    url = {"edge": f"edge:{tmp_path / 'store.mm'}", "memory": ":memory:"}.get(request.param)
    url = url or os.environ.get("MMEMBED_TEST_QDRANT_URL")
    if not url:
        pytest.skip("MMEMBED_TEST_QDRANT_URL is not set: it names a Qdrant server to test against")
    opened = open_store(url, api_key=os.environ.get("MMEMBED_QDRANT_API_KEY"))
    before = set(opened.collections())
    if before & {"images", "documents"}:
        opened.close()
        pytest.skip(f"{url} has collections that this test would write to: {', '.join(sorted(before))}")
    yield opened
    if request.param == "server":
        for name in set(opened.collections()) - before:
            opened.drop(name)
    opened.close()


@pytest.fixture
def memory() -> Iterator[Store]:
    """An empty store in memory."""
    from mmembed.stores import open_store

    opened = open_store(":memory:")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium, for the tests of one file."""
    from browser import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture
def open_tab(browser: Browser, url: str) -> OpenTab:
    """Opens tabs on the page that the file's own fixture `url` serves."""
    from browser import tab

    return partial(tab, browser, url)


@pytest.fixture
def page(open_tab: OpenTab) -> Iterator[Page]:
    with open_tab() as opened:
        yield opened.page
