"""The house's own rules: imports point down, the public face is light, every name is where it says."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import mmembed

ROOT = Path(mmembed.__file__).parent
FLOORS = [
    *("errors", "types", "vectors"),  # ground: nouns and arithmetic
    *("statistics", "streams"),
    *("images", "documents", "sources"),  # files in
    *("encoders", "collection", "stores", "batching"),  # the central nouns
    *("ingest", "retrieval", "classification", "evaluation"),  # verbs
    *("testing", "demo", "service", "cli"),  # edges
]
"""What stands at the top of mmembed, from the ground up: each imports from those before it, and from nothing else."""


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


def module_of(file: Path) -> str:
    return ".".join(("mmembed", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def modules_in(file: Path) -> set[str]:
    """The modules of mmembed that a file imports, by name or for the names in them; the public face apart."""
    known = {module_of(other) for other in ROOT.rglob("*.py")} - {"mmembed"}
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return (found & known) - {module_of(file)}


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    """The list of floors is what stands at the top of the package, and that is not much."""
    rooms = {room_of(file) for file in ROOT.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(FLOORS)
    assert len(FLOORS) <= 22


def test_imports_point_down() -> None:
    """Nothing imports what stands beside it or above: no exceptions, and imports for types alone count as well."""
    wrong = [
        f"{file.relative_to(ROOT)} imports {imported}"
        for file in ROOT.rglob("*.py")
        if (room := room_of(file)) in FLOORS
        for imported in sorted(imports_of(file) - {room})
        if imported not in FLOORS or FLOORS.index(imported) >= FLOORS.index(room)
    ]
    assert wrong == []


def test_no_circles() -> None:
    """No module imports itself by way of others, in whatever function or for whatever types."""
    imports = {module_of(file): modules_in(file) for file in ROOT.rglob("*.py")}
    below: set[str] = set()  # those from which no way leads to a circle
    while leaves := {module for module in imports.keys() - below if imports[module] - {module} <= below}:
        below |= leaves
    assert sorted(imports.keys() - below) == []


def test_leaves_do_not_import_one_another() -> None:
    """An encoder family imports no other family: each can be read, and broken, alone."""
    families = {point.value.partition(":")[0].rpartition(".")[2] for point in entry_points(group="mmembed.encoders")}
    families |= {"cross_encoder"}
    for file in (ROOT / "encoders" / "families").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        others = {name for name in families - {file.stem} if f"mmembed.encoders.families.{name} " in text}
        assert others == set(), file.name


def test_import_is_light() -> None:
    """`import mmembed` loads neither torch nor a Qdrant client nor a web framework."""
    heavy = ["torch", "transformers", "fastapi", "qdrant_edge", "qdrant_client", "open_clip", "numpy"]
    code = f"import sys, mmembed; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_importing_encoders_is_light() -> None:
    """`import mmembed.encoders`, all that a plugin imports, loads no model's library, no HTTP client and no store."""
    heavy = ["torch", "transformers", "sentence_transformers", "open_clip", "httpx", "qdrant_client", "qdrant_edge"]
    code = (
        f"import sys, mmembed.encoders as e; print([m for m in {heavy} if m in sys.modules], "
        "[n for n in e.__all__ if not hasattr(e, n)])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[] []"


def test_public_names_exist() -> None:
    """Every name in `__all__` can be fetched, and a misspelt one is an AttributeError."""
    for name in mmembed.__all__:
        assert getattr(mmembed, name).__module__.startswith("mmembed."), name
    assert not hasattr(mmembed, "lod_encoder")


def test_no_module_hides_a_name_of_its_folder() -> None:
    """What a folder offers bears no name of a module in it: importing that module would put it in the name's place."""
    for face in ROOT.rglob("__init__.py"):
        folder = import_module(".".join(["mmembed", *face.parent.relative_to(ROOT).parts]))
        modules = {file.stem for file in face.parent.iterdir()}
        assert modules & set(getattr(folder, "__all__", [])) == set(), face


@pytest.mark.parametrize(
    "part", ["classification", "classification.few_shot", "evaluation", "evaluation.harnesses", "evaluation.testsets"]
)
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
