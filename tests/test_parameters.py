"""An error names a parameter as Python has it, and each edge spells it its own way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmembed
from mmembed.cli.options import as_flags
from mmembed.errors import InvalidQuery, StoreError
from mmembed.service.error_responses import sentence_of
from mmembed.service.settings import Settings

PACKAGE = Path(mmembed.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OWN_FLAGS = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}  # of `mmembed serve`, whoever asks
ALLOWED = {
    "collection/contract.py": {"--upgrade"},  # of pip
    "demo/sheet.py": {"--line", "--soft"},  # of CSS
    "evaluation/harnesses/clip_benchmark_model.py": {"--model", "--model_type", "--no_amp"},  # of CLIP_benchmark
}


def strings(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_nothing_below_the_command_line_spells_a_flag() -> None:
    """No string names a flag, docstrings included, but those of the service's own settings and of other programs."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        if name.startswith("cli/"):
            continue
        flags = {flag for text in strings(file) for flag in FLAG.findall(text)}
        left = flags - ALLOWED.get(name, set()) - (OWN_FLAGS if name.startswith("service/") else set())
        if left:
            found[name] = left
    assert not found


@pytest.mark.parametrize(
    ("python", "flag", "field"),
    [
        ("index with `cross_encoder=`", "index with --cross-encoder", 'index with "cross_encoder"'),
        ("try `dtype='float32'`", "try --dtype float32", 'try "dtype": "float32"'),
        ("with `encoder='fake?dim=8'`", "with --encoder 'fake?dim=8'", 'with "encoder": "fake?dim=8"'),
        ("the vector with `vector_name=`", "the vector with --using", 'the vector with "vector_name"'),
        ("leave ?dim= out of `a name`", "leave ?dim= out of `a name`", "leave ?dim= out of `a name`"),
    ],
)
def test_each_edge_spells_a_parameter(python: str, flag: str, field: str) -> None:
    """Python keeps the sentence, the command line has flags, the service fields of JSON, of all kinds of errors."""
    for error in (InvalidQuery(python), StoreError(python)):
        assert str(error) == python
        assert as_flags(str(error)) == flag
        assert sentence_of(error, ()) == field
