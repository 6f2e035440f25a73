"""The plugins of four vendors, installed as pip does: found by name, light, and right by their own tests."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import mmembed, python
from places import ROOT

from mmembed.testing.http import ReceivedRequest, Reply, StandIn

FAMILIES = ["cohere", "jina", "openai", "voyage"]
FOLDERS = [ROOT / "plugins" / f"mmembed-{family}" for family in FAMILIES]
MODEL = "intfloat/multilingual-e5-small"  # a model of the hub that was trained with prompts
KEYS = ["CO_API_KEY", "COHERE_API_KEY", "JINA_API_KEY", "OPENAI_API_KEY", "VOYAGE_API_KEY", "MMEMBED_API_KEYS"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all four are installed in; on the path, they are installed packages."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    python("-m", "pip", "install", *options, "--target", str(target), *map(str, FOLDERS))
    return target


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of whoever runs the tests is in reach of them."""
    for variable in KEYS:
        monkeypatch.delenv(variable, raising=False)


def e5(asked: ReceivedRequest) -> Reply:
    """A server of one model that embeds words, which wants the key `local`."""
    if asked.headers.get("authorization") != "Bearer local":
        return Reply({"detail": "no key"}, status=401)
    assert asked.body["model"] == MODEL
    rows = np.ones((len(asked.body["input"]), 384), dtype="<f4")
    for row, text in zip(rows, asked.body["input"], strict=True):
        for word in re.findall(r"\w+", text.lower()):
            row[zlib.crc32(word.encode()) % 384] += 9
    encoded = [base64.b64encode(row.tobytes()).decode() for row in rows]
    return Reply({"data": [{"index": i, "embedding": row} for i, row in enumerate(encoded)]})


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(e5) as standin:
        yield standin


def test_listing_names_the_families_and_imports_none(installed: Path) -> None:
    """All four are known without having been imported, and without an HTTP client."""
    code = (
        "import sys, mmembed; names = ['httpx', *(f'mmembed_{f}' for f in sys.argv[1:])]; "
        "print(*[f for f in mmembed.families() if f in sys.argv], *[m for m in names if m in sys.modules])"
    )
    assert python("-c", code, *FAMILIES, on=installed).split() == FAMILIES
    assert python("-c", code, *FAMILIES).split() == []


def test_they_load_without_torch_or_a_call(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the table is loaded from its name and a key, without torch and without asking anybody."""
    for variable in KEYS[1:5]:
        monkeypatch.setenv(variable, "secret-key")
    names = ["cohere:embed-v4.0", "jina:jina-clip-v2", "openai:text-embedding-3-small", "voyage:voyage-4"]
    code = (
        "import sys, mmembed; encoders = [mmembed.load_encoder(name) for name in sys.argv[1:]]; "
        "print([(e.spec.name, e.spec.dim) for e in encoders], 'torch' in sys.modules, 'PIL' in sys.modules)"
    )
    printed = python("-c", code, *names, on=installed)
    assert printed.strip() == f"{list(zip(names, [1536, 1024, 1536, 1024], strict=True))} False False"


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("cohere:embed-v4.0", "CO_API_KEY or COHERE_API_KEY"),
        ("jina:jina-clip-v2", "JINA_API_KEY"),
        ("openai:text-embedding-3-small", "OPENAI_API_KEY"),
        ("voyage:voyage-4", "VOYAGE_API_KEY"),
    ],
)
def test_a_missing_key_is_one_line_on_the_command_line(
    installed: Path, tmp_path: Path, name: str, variables: str
) -> None:
    """Indexing without a key fails before anything is read or made, with the variable to set."""
    (tmp_path / "note.txt").write_text("a note")
    store = tmp_path / "store.mm"
    arguments = ["index", "documents", str(tmp_path / "note.txt"), "--encoder", name, "--store", f"edge:{store}"]
    (line,) = mmembed(*arguments, on=installed, status=1).splitlines()
    assert re.fullmatch(rf"error: api\.\S+ wants an API key .* set the environment variable {variables}", line)


def test_documents_are_indexed_and_found_through_a_server(
    installed: Path, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passages and queries go to the server with their prompts, and no key is stored."""
    monkeypatch.setenv("MMEMBED_API_KEYS", f"local@{server.url.removeprefix('http://')}")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-sent")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "trees.txt").write_text("Oak trees lose their leaves in November.")
    (notes / "trams.txt").write_text("The tram to the harbour runs every ten minutes.")
    name = f"openai:{MODEL}?base_url={server.url}/v1"
    store = f"edge:{tmp_path / 'store.mm'}"
    printed = mmembed("index", "documents", str(notes), "--encoder", name, "--store", store, on=installed)
    assert "2 embedded" in printed
    searched = ["search", "when does the tram run", "--in", "documents", "--store", store, "--json"]
    best = json.loads(mmembed(*searched, on=installed).splitlines()[0])
    assert Path(best["uri"]).name == "trams.txt"
    sent = [text for asked in server.requests for text in asked.body["input"]]
    assert sorted(text.partition(" ")[0] for text in sent) == ["passage:", "passage:", "query:"]
    assert {asked.headers["authorization"] for asked in server.requests} == {"Bearer local"}
    stored = b"".join(file.read_bytes() for file in (tmp_path / "store.mm").rglob("*") if file.is_file())
    assert server.url.encode() in stored
    assert b"sk-never-sent" not in stored


def test_the_plugins_pass_their_own_tests(installed: Path, tmp_path: Path) -> None:
    """Their tests run against what pip installed, in a pytest of their own."""
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'own'}"]
    printed = python("-m", "pytest", *options, *map(str, FOLDERS), on=installed, cwd=ROOT)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE)
    assert "failed" not in printed


@pytest.mark.parametrize("folder", FOLDERS, ids=FAMILIES)
def test_a_plugin_stays_small(folder: Path) -> None:
    """A module is a page or two, and its README stands in the list of plugins."""
    (module,) = folder.glob("*.py")
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 150
    assert f"({folder.name})" in (folder.parent / "README.md").read_text(encoding="utf-8")
