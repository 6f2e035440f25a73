"""The README tells the truth: its code runs and prints what it says, and it stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoints_clip import OPEN_CLIP_SIGLIP, open_clip_folder
from pages import blocks_of, demo_folder, run_blocks, run_service
from places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures` and `texts`, as the README has them, and what its Python made of them."""
    root = demo_folder(tmp_path_factory.mktemp("readme"))
    run_blocks(blocks_of("README.md", "mmembed"), root)
    return root


def test_the_python_blocks_print_what_they_say(folder: Path) -> None:
    """All the Python of the README has its output below it, as it ran here, and made the store of the other blocks."""
    assert [block.language for block in blocks_of("README.md", "mmembed")] == ["sh", "python", "text"]
    assert [block.language for block in blocks_of("README.md")].count("python") == 1
    assert (folder / "demo.mm").is_dir()


def test_the_shell_prints_what_it_says(folder: Path) -> None:
    """Every command of "In the shell", after the Python above it."""
    run_blocks(blocks_of("README.md", "In the shell"), folder)


def test_real_models_run_on_small_checkpoints(folder: Path, tmp_path: Path) -> None:
    """The commands for siglip2-b32, with a checkpoint of its class made here in its place."""
    replaced = {
        "siglip2-b32": f"open_clip:{open_clip_folder(tmp_path / 'siglip', OPEN_CLIP_SIGLIP)}",
        "edge:demo.mm": f"edge:{tmp_path / 'real.mm'}",
    }
    run_blocks(blocks_of("README.md", "Photographs"), folder, replaced)


def test_the_service_says_where_it_listens(folder: Path) -> None:
    """The command of "As a service" serves the store that the Python made."""
    assert run_service(blocks_of("README.md", "As a service"), folder) == 0


def test_labels(folder: Path) -> None:
    """The command of "What is in this picture?"."""
    run_blocks(blocks_of("README.md", "What is in this picture?"), folder)


def test_it_is_short() -> None:
    """A newcomer reads 120 words before the first Python, and 1,600 in all."""
    assert len(README.partition("```python")[0].split()) <= 120
    assert len(README.split()) <= 1600


def test_every_make_target_of_the_readme_exists() -> None:
    """`make NAME` in the README is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make (\w+)`", README))
    assert named == {"demo", "test", "check", "wheel", "lowest"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
