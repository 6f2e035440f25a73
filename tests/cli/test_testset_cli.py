"""`mmembed testset` as a user runs it: a process of its own, with its variables, output and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from files import encoded, photo

import mmembed
from mmembed.demo import DOCUMENTS
from mmembed.evaluation.formats.beir import read_beir
from mmembed.testing.http import ReceivedRequest, StandIn

SECRET = "sk-secret-1234567890"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the demo's documents, of a quick encoder, and thirty pictures with captions that say nothing."""
    folder = tmp_path_factory.mktemp("testset")
    for number in range(30):
        (folder / f"{number}.png").write_bytes(encoded(photo(seed=number)))
    (folder / "captions.csv").write_text("uri,caption\n" + "\n".join(f"{i}.png,zq{i}x" for i in range(30)))
    url = f"edge:{folder / 'demo.mm'}"
    store = mmembed.open_store(url)
    fake, tiny = mmembed.load_encoder("fake"), mmembed.load_encoder("tiny")
    mmembed.ingest_documents(store, "documents", [DOCUMENTS], encoder=fake, cross_encoder=tiny, images_into=None)
    mmembed.ingest_images(store, "images", [folder / "captions.csv"], encoder=tiny, caption_encoder=fake)
    store.close()
    return url


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MMEMBED_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-m", "mmembed", "testset", *map(str, words)],
        env={**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_it_writes_a_test_set_and_says_what_is_in_it(url: str, tmp_path: Path) -> None:
    """By headings, filtered by words: one line on stdout, nothing on stderr, and `eval` can read the folder."""
    done = run("--in", "documents", "--store", url, "--output", tmp_path / "set", "--filter-by", "bm25", "--first", 1)
    assert (done.returncode, done.stderr) == (0, "")
    read = read_beir(tmp_path / "set")
    assert done.stdout.startswith(f"{tmp_path / 'set'}: {len(read.queries)} queries with ")
    assert " relevant of 8 in the corpus, from a sample of 7" in done.stdout
    assert json.loads((tmp_path / "set" / "testset.json").read_text())["round_trip"] == {
        "vector_name": "bm25",
        "first": 1,
    }


def test_it_warns_of_a_filter_that_leaves_little(url: str, tmp_path: Path) -> None:
    """By the pictures hardly a caption that says nothing finds its own, and what is left says nothing of others."""
    done = run("--store", url, "--output", tmp_path, "--first", 1, "--json")
    assert done.returncode == 0
    made = json.loads(done.stdout)
    assert list(made) == ["folder", "documents", "sampled", "queries", "judgements", "dropped", "failures"]
    assert made["dropped"]["not found again"] > made["queries"]
    assert "--no-filter" in done.stderr
    assert done.stderr.count("\n") == 1


def test_its_key_goes_to_the_chat_and_openais_does_not(url: str, tmp_path: Path) -> None:
    """MMEMBED_CHAT_API_KEY is sent to the server of --chat, OPENAI_API_KEY only to OpenAI; failures end with 3."""

    def answer(asked: ReceivedRequest) -> object:
        good = "The small kitchen" not in asked.body["messages"][0]["content"]
        return {"choices": [{"message": {"content": '["ferry", "sail boat"]' if good else SECRET}}]}

    with StandIn(answer) as server:
        options = ["--in", "documents", "--store", url, "--chat", server.url, "--chat-model", "m", "--no-filter"]
        first = run(*options, "--output", tmp_path / "a", MMEMBED_CHAT_API_KEY=SECRET)
        assert first.returncode == 3
        assert "kitchen.md" in first.stderr
        assert {asked.headers["authorization"] for asked in server.requests} == {f"Bearer {SECRET}"}
        assert {asked.body["model"] for asked in server.requests} == {"m"}
        number = len(server.requests)
        second = run(*options, "--output", tmp_path / "b", OPENAI_API_KEY=SECRET)
        assert second.returncode == 3
        assert not [asked for asked in server.requests[number:] if "authorization" in asked.headers]
    assert len(read_beir(tmp_path / "a").queries) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chat", "http://localhost:1/v1"], "--chat-model NAME"),
        (["--chat-model", "m"], "--chat URL"),
        (["--chat", "http://localhost:1/v1", "--chat-model", "m", "--from", "headings"], "leave out --chat"),
        (["--no-filter", "--filter-by", "bm25"], "--no-filter"),
        (["--from", "thin-air"], "thin-air"),
        (["--sample", "0"], "--sample"),
    ],
)
def test_options_that_exclude_one_another(options: list[str], said: str, url: str, tmp_path: Path) -> None:
    """A usage error in one line, code 2, before anything is read or written."""
    done = run("--in", "documents", "--store", url, "--output", tmp_path / "set", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "set").exists()
