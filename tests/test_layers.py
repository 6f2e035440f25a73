"""The house's own rules: imports point down, the public face is light, every name is where it says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmembed

ROOT = Path(mmembed.__file__).parent
FLOORS = [
    {"errors", "types", "vectors", "presets"},
    {
        *("registry", "loading", "hub", "adapters", "tokens", "instructions", "sentence_models", "joint", "remote"),
        *("images", "documents", "sources", "settings"),
    },
    {"encoders", "rerankers", "stores"},
    {"ingest", "retrieval", "zero_shot"},
    {"demo", "testing", "service", "few_shot", "evaluation", "harnesses", "testsets"},
    {"cli"},
]
GROUND_ORDER = ["errors", "types", "vectors", "presets"]  # the ground floor reads from left to right
LEANS_ON = {
    "registry": set(),
    "hub": {"registry", "loading"},
    "tokens": {"hub"},
    "adapters": {"registry", "loading", "hub"},
    "sentence_models": {"hub", "tokens", "images"},
    "remote": {"registry", "loading", "tokens"},
    "sources": {"images"},
}  # within the first floor


def floor_of(module: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if module in names)


def imports_of(file: Path) -> set[str]:
    """First part below mmembed of everything a file imports, inside functions too; type-only imports as well."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mmembed":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mmembed.")}
    return found


def test_imports_point_down() -> None:
    """Nothing imports from its own floor or one above, but for what the floors list."""
    wrong = []
    for file in ROOT.rglob("*.py"):
        module = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if module in ("__init__", "__main__"):
            continue
        for imported in imports_of(file) - {module, "__version__"}:
            ground = module in GROUND_ORDER and imported in GROUND_ORDER
            allowed = (
                floor_of(imported) < floor_of(module)
                or (ground and GROUND_ORDER.index(imported) < GROUND_ORDER.index(module))
                or imported in LEANS_ON.get(module, set())
            )
            if not allowed:
                wrong.append(f"{file.relative_to(ROOT)} imports {imported}")
    assert wrong == []


def test_leaves_do_not_import_one_another() -> None:
    """An encoder family imports no other family: each can be read, and broken, alone."""
    families = {
        "bge_m3",
        "bm25",
        "decoder_lm",
        "fake",
        "late",
        "open_clip",
        "sentence",
        "siglip",
        "splade",
        "tiny",
        "vlm",
    }
    for file in (ROOT / "encoders").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        others = {name for name in families - {file.stem} if f"mmembed.encoders.{name} " in text}
        assert others == set(), file.name


def test_the_map_of_the_service_names_every_module() -> None:
    """The docstring of `mmembed.service` has each of its modules once, and no other."""
    text = (ROOT / "service" / "__init__.py").read_text(encoding="utf-8").partition("\n\n")[2].partition("\n\n")[2]
    there = {file.name for file in (ROOT / "service").glob("*.py")} - {"__init__.py"}
    assert sorted(re.findall(r"\w+\.py", text)) == sorted(there)


def test_import_is_light() -> None:
    """`import mmembed` loads neither torch nor a Qdrant client nor a web framework."""
    heavy = ["torch", "transformers", "fastapi", "qdrant_edge", "qdrant_client", "open_clip", "numpy"]
    code = f"import sys, mmembed; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    """Every name in `__all__` can be fetched, and a misspelt one is an AttributeError."""
    for name in mmembed.__all__:
        assert getattr(mmembed, name).__module__.startswith("mmembed."), name
    assert not hasattr(mmembed, "lod_encoder")


@pytest.mark.parametrize("part", ["evaluation", "few_shot", "harnesses", "testsets", "zero_shot"])
def test_parts_are_attributes(part: str) -> None:
    """`import mmembed` is enough to write `mmembed.evaluation`, and what each part names it has."""
    code = f"import mmembed; part = mmembed.{part}; print([n for n in part.__all__ if not hasattr(part, n)])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_no_machine_in_the_code() -> None:
    """No absolute path of a machine and no registry's host stands in the package."""
    hosts = ["/".join(["", "work", ""]), "/".join(["", "root", ""]), "py" + "pi.org", "python" + "hosted"]
    for file in [*ROOT.rglob("*.py"), *ROOT.rglob("*.md")]:
        text = file.read_text(encoding="utf-8")
        assert not [host for host in hosts if host in text], file
