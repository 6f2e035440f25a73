"""A plugin from its folder to a search: installed as pip does, found by name, remembered, and missed when gone."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
from commands import mmembed, python
from places import ROOT

from mmembed.demo import PICTOGRAMS

EXAMPLE = ROOT / "plugins" / "mmembed-example"
SHOWN = {"red": "1f34e.png", "yellow": "1f34c.png", "green": "1f966.png", "blue": "1f30a.png"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the plugin is installed in, and nothing else; on the path, it is an installed package."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    python("-m", "pip", "install", *options, "--target", str(target), str(EXAMPLE))
    return target


@pytest.fixture(scope="module")
def indexed(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with an apple, a banana, broccoli and a wave, made by the plugin on the command line."""
    root = tmp_path_factory.mktemp("pictograms")
    for name in SHOWN.values():
        (root / "pictures").mkdir(exist_ok=True)
        shutil.copy(PICTOGRAMS / name, root / "pictures")
    store = f"edge:{root / 'store.mm'}"
    printed = mmembed("index", "images", str(root / "pictures"), "--encoder", "colours", "--store", store, on=installed)
    assert printed.startswith("pictures: 4 embedded")
    return store


@pytest.mark.parametrize("module", sorted((ROOT / "plugins").glob("*/*.py")), ids=lambda file: file.stem)
def test_a_plugin_imports_from_one_place(module: Path) -> None:
    """All that the author of an encoder needs of mmembed is in `mmembed.encoders`."""
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    sources = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    assert {source for source in sources if source.startswith("mmembed")} == {"mmembed.encoders"}


def test_the_module_fits_one_screen() -> None:
    """It stays short enough to be read at a glance."""
    assert len((EXAMPLE / "mmembed_example.py").read_text(encoding="utf-8").splitlines()) <= 70


def test_listing_names_the_family_and_imports_nothing(installed: Path) -> None:
    """`families()` knows an installed plugin without having imported it; without the package it does not."""
    code = "import sys, mmembed; print('colours' in mmembed.families(), 'mmembed_example' in sys.modules)"
    assert python("-c", code, on=installed).split() == ["True", "False"]
    assert python("-c", code).split() == ["False", "False"]
    assert re.search(r"^  colours +from mmembed-example$", mmembed("encoders", on=installed), re.MULTILINE)


def test_it_loads_by_name_without_torch(installed: Path) -> None:
    """`load_encoder("colours")` imports the plugin, and no more than the plugin needs."""
    code = (
        "import sys, mmembed; spec = mmembed.load_encoder('colours').spec; "
        "print(spec.name, spec.dim, 'mmembed_example' in sys.modules, 'torch' in sys.modules)"
    )
    assert python("-c", code, on=installed).split() == ["colours", "8", "True", "False"]


@pytest.mark.parametrize("colour", SHOWN)
def test_words_find_the_right_colour(installed: Path, indexed: str, colour: str) -> None:
    """A search that names no encoder is answered by the plugin, and the best hit is of the colour asked for."""
    (line,) = mmembed(
        "search", f"a {colour} wall", "--store", indexed, "--limit", "1", "--json", on=installed
    ).splitlines()
    hit = json.loads(line)
    assert Path(hit["uri"]).name == SHOWN[colour]
    assert hit["probability"] is None


def test_the_collection_remembers_the_plugin(installed: Path, indexed: str) -> None:
    """The name of the plugin's encoder stands in the collection, and another encoder is refused."""
    (line,) = mmembed("collections", "--store", indexed, "--json", on=installed).splitlines()
    assert json.loads(line) == {"collection": "images", "kind": "images", "points": 4, "vectors": {"image": "colours"}}
    refused = mmembed("search", "red", "--encoder", "fake?dim=8", "--store", indexed, on=installed, status=1)
    assert "was made by colours, not by fake?dim=8" in refused


def test_an_uninstalled_plugin_is_missed_by_name(indexed: str) -> None:
    """Without the package a search fails in one sentence that names the family; the collection can still be listed."""
    (line,) = mmembed("search", "a red wall", "--store", indexed, status=1).splitlines()
    assert line.startswith("error: no encoder 'colours': installed families are bge-m3, ")
    assert "colours" in mmembed("collections", "--store", indexed)


def test_the_plugin_passes_its_own_tests(installed: Path) -> None:
    """Its tests run against what pip installed, in a pytest of their own."""
    printed = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE), on=installed, cwd=EXAMPLE)
    assert re.search(r"\d+ passed", printed)
    assert "failed" not in printed
