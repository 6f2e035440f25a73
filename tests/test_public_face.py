"""The public face: names, signatures and fields change on purpose, with a line of the changelog."""

from __future__ import annotations

import importlib.util
import re

from places import ROOT

import mmembed


def test_the_public_face_is_as_written_down() -> None:
    """docs/public-face.txt is what the code has: `make docs` writes a change of it, and CHANGELOG.md tells it."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "public-face.txt").read_text(encoding="utf-8") == generate.public_face()


def test_every_public_name_stands_in_it() -> None:
    """No name of `mmembed.__all__` is missing from the file."""
    face = (ROOT / "docs" / "public-face.txt").read_text(encoding="utf-8")
    assert set(mmembed.__all__) <= set(re.findall(r"^mmembed\.(\w+)", face, re.MULTILINE))
