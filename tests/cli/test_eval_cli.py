"""`mmembed eval`: tables and JSON on stdout, all else on stderr, files where they are asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_images import class_names, pictograms
from PIL import Image

IMAGES = pictograms()[::4]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """classes/, captions.json beside its pictures, beir/, a log."""
    made = tmp_path_factory.mktemp("eval")
    (made / "photos").mkdir()
    for image in IMAGES:
        into = made / "classes" / class_names()[image.label]
        into.mkdir(parents=True, exist_ok=True)
        shutil.copy(image.path, into)
        shutil.copy(image.path, made / "photos")
    (made / "photos" / "captions.json").write_text(json.dumps({p.path.name: [p.name] for p in IMAGES}))
    (made / "beir" / "qrels").mkdir(parents=True)
    corpus = [{"_id": "d1", "title": "red", "text": "fox"}, {"_id": "d2", "title": "", "text": "blue whale"}]
    (made / "beir" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (made / "beir" / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "red fox"}\n{"_id": "q2", "text": "blue whale"}\n'
    )
    (made / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n")
    (made / "log.jsonl").write_text(
        "".join(json.dumps({"query": p.name, "clicked": [p.path.name]}) + "\n" for p in IMAGES[:8])
    )
    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command itself, in a process of its own, where nothing of the user's is."""

    def command(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "MMEMBED_STORE": f"edge:{tmp_path}/own.mm",
        }
        done = subprocess.run(
            [sys.executable, "-m", "mmembed", "eval", *map(str, words)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return command


def test_captions_are_measured_both_ways(run: Run, folder: Path, tmp_path: Path) -> None:
    """Two tables; --plot draws both into one file; --output holds every query; the user's store is left alone."""
    done = run("captions", folder / "photos", "--plot", tmp_path / "p.png", "--output", tmp_path / "o.json")
    assert "text to image, photos" in done.stdout
    assert "image to text, photos" in done.stdout
    assert "hit_rate@10" in done.stdout
    with Image.open(tmp_path / "p.png") as plot:
        assert plot.height > plot.width > 500
    written = json.loads((tmp_path / "o.json").read_text())
    assert len(written["text_to_image"]["systems"][0]["per_query"]["exact"]["hit_rate@1"]) == len(IMAGES)
    assert not (tmp_path / "own.mm").exists()


def test_a_kept_collection_serves_the_next_run(run: Run, folder: Path, tmp_path: Path) -> None:
    """--in keeps what was indexed, in the store of the user; the second run gives the same JSON."""
    first = run("zero-shot", folder / "classes", "--in", "kept", "--json")
    assert (tmp_path / "own.mm").is_dir()
    second = run("zero-shot", folder / "classes", "--in", "kept", "--json")
    assert json.loads(first.stdout) == json.loads(second.stdout)
    assert json.loads(first.stdout)["facts"]["collection"] == "kept"
    searched = run("searches", folder / "log.jsonl", "--in", "kept", "--json", "--measure", "mrr@10", "--seed", 3)
    report = json.loads(searched.stdout)
    assert list(report["systems"][0]["measures"]) == ["MRR@10"]
    assert (report["queries"], report["seed"]) == (8, 3)
    compared = run("searches", folder / "log.jsonl", "--in", "kept", "--compare", "fake", "tiny", "--json")
    assert [system["name"] for system in json.loads(compared.stdout)["systems"]] == ["fake", "tiny"]


def test_two_encoders_are_compared(run: Run, folder: Path, tmp_path: Path) -> None:
    """--compare gives both systems and a p; with --store each has a collection of its own."""
    done = run(
        *("retrieval", folder / "beir", "--compare", "fake", "bm25", "--json", "--measure", "nDCG@10"),
        *("--store", f"edge:{tmp_path / 's.mm'}", "--plot", tmp_path / "p.svg"),
    )
    report = json.loads(done.stdout)
    assert [system["name"] for system in report["systems"]] == ["fake", "bm25"]
    assert report["comparisons"][0]["measures"]["nDCG@10"]["exact"]["p"] == 1.0
    assert len(set(report["facts"]["collection"])) == 2
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_passages_and_runs(run: Run, folder: Path, tmp_path: Path) -> None:
    """--passages searches as an index does; TREC runs are judged as they are."""
    done = run("retrieval", folder / "beir", "--passages", "--encoder", "fake", "--json", "--measure", "hit_rate@1")
    assert json.loads(done.stdout)["systems"][0]["measures"]["hit_rate@1"]["exact"]["value"] == 1.0
    (tmp_path / "qrels").write_text("q1 0 d1 1\nq2 0 d2 1\n")
    (tmp_path / "a.run").write_text("q1 Q0 d1 1 2.0 a\nq2 Q0 d1 1 2.0 a\n")
    (tmp_path / "b.run").write_text("q1 Q0 d1 1 2.0 b\nq2 Q0 d2 1 2.0 b\n")
    judged = run(
        *("runs", tmp_path / "a.run", tmp_path / "b.run", "--qrels", tmp_path / "qrels"),
        *("--json", "--measure", "hit_rate@1"),
    )
    values = [s["measures"]["hit_rate@1"]["exact"]["value"] for s in json.loads(judged.stdout)["systems"]]
    assert values == [0.5, 1.0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_results_that_cannot_be_written_are_shown_all_the_same(run: Run, folder: Path) -> None:
    """The table stands on stdout, and one sentence on stderr says why there is no file."""
    done = run("retrieval", folder / "beir", "--encoder", "fake", "--output", "/dev/full", code=1)
    assert "nDCG@10" in done.stdout
    assert "the results cannot be written to --output or --plot (No space left on device)" in done.stderr


def test_test_sets_of_one_name_do_not_mix_in_one_store(run: Run, folder: Path, tmp_path: Path) -> None:
    """Each has a collection of its own, which its next run takes up again."""
    store = ("--store", f"edge:{tmp_path / 'shared.mm'}", "--encoder", "fake", "--json")
    other = shutil.copytree(folder / "beir", tmp_path / "beir")
    row = json.dumps({"_id": "d3", "text": "red fox"})
    (other / "corpus.jsonl").write_text((folder / "beir" / "corpus.jsonl").read_text() + row + "\n")
    reports = [json.loads(run("retrieval", place, *store).stdout) for place in (other, folder / "beir", other)]
    assert [report["warnings"] for report in reports] == [[], [], []]
    assert [report["facts"]["points"] for report in reports] == [3, 2, 3]
    assert reports[0] == reports[2]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("captions", "photos", "--encoder", "bm25"), 1, "cannot encode"),
        (("captions", "nowhere.json"), 1, "cannot be read"),
        (("zero-shot", "one"), 1, "there is one class"),
        (("retrieval", "photos"), 1, "is not a test set that can be read"),
        (("retrieval", "beir", "--measure", "goodness"), 1, "no measure 'goodness'"),
        (("retrieval", "beir", "--compare", "fake", "fake"), 2, "cannot be compared with itself"),
        (("retrieval", "beir", "--compare", "fake", "bm25", "--encoder", "fake"), 2, "give one of them"),
        (("retrieval", "beir", "--plot", "p.pdf"), 2, "neither in .png nor in .svg"),
        (("retrieval", "beir", "--output", "no/such/o.json"), 2, "there is no folder"),
        (("retrieval", "beir", "--output", "photos"), 2, "is a folder: name a file in it"),
        (("retrieval", "beir", "--plot", "a.png"), 2, "is a folder: name a file in it"),
        (("searches", "empty.jsonl"), 1, "the log is empty"),
        (("searches", "log.jsonl", "--in", "a", "--in", "a"), 2, "cannot be compared with itself"),
        (("searches", "log.jsonl"), 1, "there is no store"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: tuple[str, ...], code: int, message: str, run: Run, folder: Path
) -> None:
    """On stderr, with nothing on stdout."""
    (folder / "empty.jsonl").write_text("")
    (folder / "a.png").mkdir(exist_ok=True)
    shutil.copytree(folder / "classes" / "animal", folder / "one" / "animal", dirs_exist_ok=True)
    placed = [folder / word if (folder / word).exists() or word == "nowhere.json" else word for word in words]
    done = run(*placed, code=code)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
