"""`mmembed verify`, as a program of its own: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints_text import build_bert

import mmembed.testing

MINE = """
from collections.abc import Sequence

from letters import count
from mmembed.testing import wrap

scale = 1
encoder = wrap(lambda texts: [count(text) for text in texts], name="letters")


def make():
    return wrap(lambda texts: list(map(count, texts)), queries=lambda texts: [count(text[::2]) for text in texts])


def padded(texts):
    longest = max(map(len, texts))
    return [count(text + "e" * (longest - len(text))) for text in texts]


def careless():
    return wrap(padded, name="letters")


def torn():
    raise RuntimeError("no weights here")
"""
LETTERS = """
import numpy as np


def count(text):
    row = np.array([1 + text.lower().count(letter) for letter in "etaoinshr"])
    return row / np.linalg.norm(row)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file that makes encoders, and a module beside it that it imports."""
    root = tmp_path_factory.mktemp("verify")
    (root / "mine.py").write_text(MINE)
    (root / "letters.py").write_text(LETTERS)
    return root


def verify(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mmembed", "verify", *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        check=False,
    )


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Name of each check -> its outcome, from --json."""
    report: dict[str, Any] = json.loads(done.stdout)
    assert set(report) == {"encoder", "ok", "checks"}
    return {check["name"]: check["outcome"] for check in report["checks"]}


def test_a_sound_encoder_is_a_table_and_exit_code_0(folder: Path) -> None:
    """One line a check, without colours where nobody watches, and a verdict at the end."""
    done = verify(folder, "fake")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "fake"
    assert "passed   text form        float32 (8, 32), norm 1" in lines
    assert lines[-1].startswith("right, as far as was judged: 18 checks passed, ")
    assert "\x1b" not in done.stdout


def test_a_fault_says_why_it_matters_and_exits_with_1(folder: Path) -> None:
    """An encoder made by a function of a file, which pads to the longest text of its batch."""
    done = verify(folder, "mine.py:careless", "--record", "never.json")
    assert (done.returncode, done.stderr) == (1, "")
    assert "fault    text batches" in done.stdout
    assert "why it matters: what an index finds would depend on what happened to be embedded" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("wrong: 1 fault (text batches), ")
    assert not (folder / "never.json").exists()


def test_json_is_the_same_for_a_machine(folder: Path) -> None:
    """Every check with its outcome, what was found and why it is asked; exit codes stay."""
    sound, wrong = verify(folder, "mine.py:encoder", "--json"), verify(folder, "mine.py:careless", "--json")
    assert (sound.returncode, wrong.returncode) == (0, 1)
    assert "fault" not in outcomes(sound).values()
    assert [name for name, outcome in outcomes(wrong).items() if outcome == "fault"] == ["text batches"]
    assert set(json.loads(wrong.stdout)["checks"][0]) == {"name", "outcome", "found", "why"}


def test_one_encoder_is_held_against_another(folder: Path) -> None:
    """--against takes the same names, and what differs is named with its side."""
    same = verify(folder, "mine.py:encoder", "--against", "mine.py:encoder", "--json")
    other = verify(folder, "mine.py:make", "--against", "mine.py:encoder")
    assert outcomes(same)["against"] == "passed"
    assert other.returncode == 1
    assert re.search(r"^fault    against +query '", other.stdout, re.MULTILINE)
    loose = verify(folder, "mine.py:make", "--against", "mine.py:encoder", "--tolerance", "1", "--json")
    assert outcomes(loose)["against"] == "passed"


def test_answers_of_today_are_compared_tomorrow(folder: Path) -> None:
    """--record writes a file without a fault only; --known passes for the same encoder and not for another."""
    assert verify(folder, "mine.py:encoder", "--record", "today.json").returncode == 0
    recorded = json.loads((folder / "today.json").read_text("utf-8"))
    assert (recorded["encoder"], len(recorded["queries"]), recorded["images"]) == ("letters", 8, {})
    assert outcomes(verify(folder, "mine.py:encoder", "--known", "today.json", "--json"))["known answers"] == "passed"
    other = verify(folder, "mine.py:make", "--known", "today.json", "--json")
    assert (other.returncode, outcomes(other)["known answers"]) == (1, "fault")


def test_thorough_loads_the_name_again(folder: Path) -> None:
    """Without it the name is not judged, with it what it loads is the same encoder."""
    assert outcomes(verify(folder, "fake?dim=64", "--json"))["name"] == "skipped"
    done = verify(folder, "fake?dim=64", "--thorough", "--json", "--device", "cpu", "--batch-size", "4")
    assert outcomes(done)["name"] == "passed"


def test_the_documented_file_can_be_verified(folder: Path, tmp_path: Path) -> None:
    """The ten lines around a model of sentence-transformers that the package's docstring shows."""
    checkpoint = build_bert(tmp_path / "bert", pooling="mean")
    shown = (
        (mmembed.testing.__doc__ or "")
        .partition("    # mine.py\n")[2]
        .partition("\n    report = check_encoder(encoder")[0]
    )
    code = "\n".join(line.removeprefix("    ") for line in shown.splitlines()).replace("FOLDER", str(checkpoint))
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "documented.py").write_text(code)
    done = verify(folder, f"{tmp_path / 'documented.py'}:encoder", "--against", f"sentence:{checkpoint}", "--json")
    assert done.returncode == 0, done.stdout
    assert outcomes(done)["against"] == "passed"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.py:encoder"], "there is no file 'nowhere.py' to take an encoder from"),
        (["mine.py:another"], "mine.py defines no 'another'"),
        (["mine.py:scale"], "'scale' in mine.py is a int, not an encoder"),
        (["mine.py:torn"], "torn() in mine.py cannot be run (RuntimeError: no weights here)"),
        (["mine.py:encoder", "--known", "letters.py"], "letters.py holds no known answers"),
        (["tinny"], "did you mean 'tiny'"),
    ],
)
def test_what_cannot_be_tried_is_one_line(folder: Path, words: list[str], sentence: str) -> None:
    """A wrong name, file or object is an error of one line on stderr, and nothing on stdout."""
    done = verify(folder, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
