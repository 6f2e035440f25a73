"""One word a concept: what GLOSSARY.md says is what the code does."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

PACKAGE = ROOT / "mmembed"
PAGE = (ROOT / "GLOSSARY.md").read_text(encoding="utf-8")
WORDS, _, SHARED = PAGE.partition("## Names that several modules define")


def rows(table: str) -> list[list[str]]:
    """The cells of each row below a table's head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def identifiers(file: Path) -> Iterator[str]:
    """Every name that a file defines or uses, but for those in what others wrote."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


def public_names(file: Path) -> Iterator[str]:
    """What a module defines at its top without an underscore."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(targets=targets):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_"))


def test_a_word_that_another_replaces_stands_in_no_identifier() -> None:
    """`picture` and the like are words of no name in the package."""
    replaced = [word.strip() for row in rows(WORDS) for word in row[2].split(",") if word.strip()]
    assert "picture" in replaced
    pattern = re.compile("|".join(f"(?<![a-z]){word}s?(?![a-z])" for word in replaced), re.IGNORECASE)
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in PACKAGE.rglob("*.py")
        for name in identifiers(file)
        if pattern.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    }
    assert sorted(found) == []


def test_no_public_name_has_two_meanings() -> None:
    """A public name that more than one module defines is one of the few that the glossary explains."""
    places: defaultdict[str, set[str]] = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        for name in public_names(file):
            places[name].add(str(file.relative_to(PACKAGE)))
    shared = {row[0].strip("`") for row in rows(SHARED)}
    assert {name: sorted(where) for name, where in places.items() if len(where) > 1 and name not in shared} == {}
    assert {name for name in shared if len(places[name]) < 2} == set()
