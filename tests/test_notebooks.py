"""The notebooks run from top to bottom, and what they show is what they were stored with."""

from __future__ import annotations

import base64
import importlib
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from places import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+\.\d+")
TOLERANCE = 0.02  # of a score or probability between machines
MAX_BYTES = 300_000


def run(notebook: Any, folder: Path) -> Any:
    """The same notebook with the outputs of a new kernel that works in `folder`; a cell that fails raises."""
    copy = nbformat.from_dict(notebook)
    for cell in code_cells(copy):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(copy, timeout=300, kernel_name="python3", record_timing=False, resources=resources).execute()
    return copy


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[str]:
    """What a reader sees below a cell, sorted by kind: texts as they are, pictures as that they are there."""
    lines = []
    for output in cell.outputs:
        if output.output_type == "stream":
            lines.append(f"{output.name}: {output.text}")
            continue
        assert output.output_type in ("execute_result", "display_data"), output
        if "image/png" in output.data:
            lines.append("picture")
        else:
            lines.append(output.data.get("text/markdown", output.data.get("text/plain")))
    return sorted(lines)


@pytest.fixture
def own_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Jupyter that leaves no trace in the user's home, and a matplotlib that has built its cache of fonts."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    importlib.import_module("matplotlib.font_manager")  # says on stderr, once, that it builds it


@pytest.mark.usefixtures("own_jupyter")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_is_stored(path: Path, tmp_path: Path) -> None:
    """A new run raises nothing, warns of nothing, leaves no file, and shows the stored texts and numbers."""
    folder = tmp_path / "work"
    folder.mkdir()
    stored = nbformat.read(path, as_version=4)
    again = run(stored, folder)
    assert list(folder.iterdir()) == []
    for before, after in zip(code_cells(stored), code_cells(again), strict=True):
        for old, new in zip(shown(before), shown(after), strict=True):
            assert NUMBER.sub("0.0", new) == NUMBER.sub("0.0", old), before.source
            numbers = [[float(number) for number in NUMBER.findall(text)] for text in (new, old)]
            assert numbers[0] == pytest.approx(numbers[1], abs=TOLERANCE), before.source
        assert not any(line.startswith("stderr") for line in shown(after)), shown(after)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_as_it_ran(path: Path) -> None:
    """Every cell of code was run once, in order, without an error; the file is valid and small."""
    assert path.stat().st_size < MAX_BYTES
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_path_of_a_machine_is_shown(path: Path) -> None:
    """No output holds an absolute path: a reader's differ from those of whoever ran it."""
    for cell in code_cells(nbformat.read(path, as_version=4)):
        for text in shown(cell):
            assert not re.search(r"(?<![\w.>])/\w+/", text), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_images_are_images(path: Path) -> None:
    """There is at least one, and each stored picture opens and is not one plain colour."""
    cells = code_cells(nbformat.read(path, as_version=4))
    images = [output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs]
    assert any(images)
    for encoded in filter(None, images):
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=2**24) or []) > 2


def test_the_list_names_every_notebook() -> None:
    """The README of the folder links each of them."""
    listed = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        assert f"({path.name})" in listed
