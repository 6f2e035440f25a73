"""Fixtures that every test module may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test data, found through MMEMBED_TEST_DATA."""
    folder = os.environ.get("MMEMBED_TEST_DATA")
    if not folder:
        pytest.skip("MMEMBED_TEST_DATA is not set: it names the folder of real pictures and texts")
    return Path(folder)
