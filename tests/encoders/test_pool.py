"""Encoders by name: each loaded once, from any thread, and given back on demand."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from plugin_sites import install_plugin

from mmembed import Encoders, load_encoder
from mmembed.errors import UnknownEncoder
from mmembed.types import LoadOptions

COUNTING = """
import threading, time
from mmembed.encoders.families import fake
calls = []
def load(name, run):
    calls.append((name.model, run.batch_size))
    time.sleep(0.2)
    if name.model == "broken":
        raise ValueError("no weights")
    return fake.load(name.with_model(""), run)
"""


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """What a family of encoders was asked to load."""
    install_plugin(tmp_path, "mmembed-counting", "counting", COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    calls: list[tuple[str, int | None]] = import_module("mmembed_counting").calls
    calls.clear()
    return calls


def test_each_is_loaded_once_from_any_thread(counting: list[tuple[str, int | None]]) -> None:
    """Sixteen threads that ask at the same moment get one encoder, loaded once with the options of the pool."""
    encoders = Encoders(LoadOptions(batch_size=3))
    start = threading.Barrier(16)

    def ask(_: int) -> int:
        start.wait()
        return id(encoders["counting:a"])

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1
    assert counting == [("a", 3)]


def test_a_failure_is_told_to_all_and_tried_again(counting: list[tuple[str, int | None]]) -> None:
    """What loading raised reaches whoever waited, and the next who asks loads anew."""
    encoders = Encoders()
    for times in (1, 2):
        with pytest.raises(ValueError, match="no weights"):
            encoders["counting:broken"]
        assert len(counting) == times
    assert list(encoders) == []
    with pytest.raises(UnknownEncoder):
        encoders["nobody:x"]


def test_a_preset_is_its_encoder() -> None:
    """Names that stand for the same encoder give one object, and an encoder that is there is never loaded."""
    fake = load_encoder("fake")
    encoders = Encoders(loaded=[fake])
    assert encoders["fake"] is fake
    assert encoders["tiny"] is encoders[encoders["tiny"].spec.name]
    assert set(encoders) == {"fake", "tiny"}


def test_clearing_gives_the_memory_back() -> None:
    """After `clear` nothing here holds an encoder, and the next look-up loads another."""
    encoders = Encoders()
    gone = weakref.ref(encoders["fake"])
    encoders.clear()
    gc.collect()
    assert gone() is None
    assert len(encoders) == 0
    assert encoders["fake"].spec.name == "fake"
