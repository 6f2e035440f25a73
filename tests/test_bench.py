"""The benches run and say what they measured; how fast they are is for the benches themselves to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

BENCH = ROOT / "bench"
REACHED, MISSED = 0, 3

pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="the benches are in the repository, not in its packages")


def run(*command: str, codes: tuple[int, ...] = (REACHED, MISSED), **environment: str) -> str:
    """Standard output of a Python command that must end with one of `codes`."""
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=BENCH.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode in codes, finished.stderr
    return finished.stdout + (finished.stderr if finished.returncode == 2 else "")


def lines(name: str, *options: str, out: Path, **environment: str) -> dict[str, dict[str, Any]]:
    """What was measured -> its line, which must be the same on paper as on the screen."""
    printed = run(str(BENCH / f"{name}.py"), "--json", str(out), *options, **environment)
    assert out.read_text() == printed
    measured = [json.loads(line) for line in printed.splitlines()]
    assert all({"value", "unit", "level", "reached", "cpus", "versions"} <= set(line) for line in measured)
    return {line["what"]: line for line in measured}


def test_startup_measures_the_import_and_two_commands(tmp_path: Path) -> None:
    """Neither the import nor the command line loads a heavy package, and each start has a level."""
    measured = lines("startup", "--rounds", "1", out=tmp_path / "out.jsonl")
    assert [measured[what]["level"] for what in ("import mmembed", "mmembed --help", "mmembed encoders")] == [
        "<= 0.3",
        "<= 0.6",
        "<= 0.6",
    ]
    assert measured["heavy packages loaded by the import and the command line"]["value"] == 0


def test_ingest_counts_what_a_second_run_touches(tmp_path: Path) -> None:
    """Of an unchanged folder nothing is decoded or embedded, and memory is that of two processes."""
    measured = lines("ingest", "--small", "6", "--large", "40", "--rounds", "1", out=tmp_path / "out.jsonl")
    assert measured["of 6 unchanged, decoded or embedded"]["value"] == 0
    assert measured["of 40 unchanged, decoded or embedded"]["value"] == 0
    assert measured["peak memory of 40 JPEGs"]["value"] > 50
    assert measured["peak memory, many over few"]["level"] == "<= 1.2"


def test_open_clip_ingest_makes_the_vectors_of_the_plain_loop(tmp_path: Path) -> None:
    """Both sides encode the same files to the same vectors."""
    options = ["--images", "3", "--rounds", "1", "--architecture", "ViT-S-32-alt"]
    measured = lines("open_clip_ingest", *options, out=tmp_path / "out.jsonl")
    assert measured["largest difference of a coordinate"]["reached"]
    assert measured["time of mmembed over plain"]["level"] == "<= 1"


def test_zero_shot_classifies_what_the_tower_alone_encodes(tmp_path: Path) -> None:
    """Both sides agree on the best label of each picture, and what labels cost is said apart."""
    options = ["--images", "3", "--rounds", "1", "--architecture", "ViT-S-32-alt"]
    measured = lines("zero_shot", *options, out=tmp_path / "out.jsonl")
    assert measured["pictures whose best label differs"]["reached"]
    assert measured["time of classify over decoding and tower alone"]["level"] == "<= 1.1"
    assert measured["10 labels embedded with 7 templates"]["value"] > 0


def test_decoder_ways_make_equal_vectors(tmp_path: Path) -> None:
    """Queries after a prefix and packed texts have the vectors of the plain way."""
    options = ["--queries", "6", "--texts", "8", "--rounds", "1", "--layers", "1"]
    measured = lines("decoder", *options, out=tmp_path / "out.jsonl")
    for what in ("queries after a prefix", "texts packed"):
        assert measured[f"{what}, largest difference of a coordinate"]["reached"]


def test_tagging_tags_every_point_once(tmp_path: Path) -> None:
    """Every point is tagged, none the second time, and the level is in proportion to their number."""
    measured = lines(
        "tagging", "--points", "300", "--dim", "16", "--labels", "4", "--best", "5", out=tmp_path / "out.jsonl"
    )
    assert (measured["tag"]["tagged"], measured["tag"]["level"]) == (300, "<= 0.06")
    assert measured["tag again, nothing new"]["unchanged"] == 300
    assert 5 <= measured["the 5 best of each label alone"]["tagged"] <= 20


def test_cranfield_finds_what_was_judged(data: Path, tmp_path: Path) -> None:
    """A few abstracts are found by words and by meaning, as whole points and as text files; no level is set."""
    options = ["--abstracts", "14", "--queries", "2"]
    measured = lines("cranfield", *options, out=tmp_path / "out.jsonl", MMEMBED_TEST_DATA=str(data))
    values = {what: line["value"] for what, line in measured.items()}
    assert len(values) == 9
    assert all(0.4 < value <= 1 for value in values.values()), values
    assert measured["hybrid, text files through ingest_documents and search"]["documents"] == 14
    assert all(line["level"] is None for line in measured.values())


def test_cranfield_says_which_data_it_needs() -> None:
    """Without the folder of real data the bench is a usage error that names the variable."""
    assert "MMEMBED_TEST_DATA is not set" in run(str(BENCH / "cranfield.py"), codes=(2,), MMEMBED_TEST_DATA="")


def test_all_benches_run_from_one_command(tmp_path: Path) -> None:
    """`python -m bench NAME --json FOLDER` runs the named bench and keeps its lines."""
    run("-m", "bench", "startup", "--json", str(tmp_path))
    assert (tmp_path / "startup.jsonl").read_text().count("\n") == 5
    assert "no bench nothing" in run("-m", "bench", "nothing", codes=(2,))


def test_service_answers_what_is_sent_to_it(tmp_path: Path) -> None:
    """Around the served store and encoder every good request is answered, and added latency has a level."""
    options = ["--points", "200", "--calls", "5", "--rounds", "1", "--load", "300"]
    measured = lines("service", "--part", "latency", "--part", "corrupt", *options, out=tmp_path / "out.jsonl")
    assert measured["search by words, added at p50"]["level"] == "<= 3"
    assert measured["embedding of a text, added at p50"]["served_ms"] > 0
    lost = measured["good pictures among corrupt ones, not answered"]
    assert (lost["value"], lost["requests"], lost["corrupt"]) == (0, 300, 3)
    assert measured["corrupt pictures, answered otherwise than by 400"]["value"] == 0


def test_service_is_held_against_the_encoder_itself(tmp_path: Path) -> None:
    """Texts and pictures by 64 clients have a level of the encoder called directly."""
    options = ["--architecture", "ViT-S-32-alt", "--inputs", "8", "--rounds", "1"]
    measured = lines("service", "--part", "throughput", *options, out=tmp_path / "out.jsonl")
    for what in ("texts", "JPEGs"):
        assert measured[f"{what}, 64 clients over direct"]["level"] == ">= 0.9"
        assert measured[f"{what}, 64 clients, failures"]["value"] == 0


def test_service_watches_its_event_loop(tmp_path: Path) -> None:
    """Beside an idle loop it is watched while the store loads, takes points and optimises."""
    measured = lines("service", "--part", "loop", "--loop-points", "1200", out=tmp_path / "out.jsonl")
    gaps = {what: line for what, line in measured.items() if what.startswith("longest gap")}
    assert [line["level"] for line in gaps.values()] == [None, None, "<= 50", "<= 50", "<= 50"]
    assert all(line["value"] >= 5 for line in gaps.values())
