"""`mmembed classify` in processes of its own, with real pictures and a real Edge folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from programs import DEMO, Program

import mmembed
from mmembed.classification import Classes, embed_classes, labels_of
from mmembed.classification.calibration import Calibration, write_calibration
from mmembed.classification.calibration_fit import save_calibration
from mmembed.stores import open_store

NAMES = {"1f382.png": "birthday cake", "1f34e.png": "red apple", "1f681.png": "helicopter"}
LABELS = "birthday cake,red apple,helicopter"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A home with a folder of three pictures, which are indexed too."""
    program = Program(tmp_path_factory.mktemp("home"))
    program.environment["XDG_CACHE_HOME"] = str(program.root / "cache")
    (program.root / "pictures").mkdir()
    for name in NAMES:
        shutil.copy(DEMO / "pictograms" / name, program.root / "pictures" / name)
    store = open_store(f"edge:{program.root / 'store.mm'}")
    mmembed.ingest_images(store, "images", [program.root / "pictures"], encoder=mmembed.load_encoder("tiny"))
    store.close()
    return program


def calibration_of(classes: Classes, **changes: object) -> Calibration:
    fitted = Calibration(
        "temperature",
        classes.fingerprint,
        classes.labels.key,
        classes.names,
        temperature=20.0,
        thresholds=dict.fromkeys(classes.names, 0.34),
        rule="precision>=0.9",
        images=30,
    )
    return replace(fitted, **changes)  # type: ignore[arg-type]


def test_json_is_one_line_a_image(program: Program) -> None:
    """Exactly uri and labels, all of them, best first, as the Python call gives them; classes are kept on the disk."""
    result = program("classify", "pictures", "--labels", LABELS, "--json")
    assert (result.code, result.err) == (0, "")
    assert [list(row) for row in result.rows] == [["uri", "labels"]] * 3
    assert [Path(row["uri"]).name for row in result.rows] == sorted(NAMES)
    for row in result.rows:
        assert [list(one) for one in row["labels"]] == [["label", "score", "probability"]] * 3
        assert row["labels"][0]["label"] == NAMES[Path(row["uri"]).name]
        assert sum(one["probability"] for one in row["labels"]) == pytest.approx(1)
        assert row["labels"] == sorted(row["labels"], key=lambda one: -one["score"])
    files = [Path(row["uri"]) for row in result.rows]
    expected = mmembed.classify(files, LABELS.split(","), encoder=mmembed.load_encoder("tiny"))
    for row, found in zip(result.rows, expected, strict=True):
        assert isinstance(found, mmembed.Classified)
        assert row["labels"][0]["score"] == pytest.approx(found.labels[0].score, abs=1e-6)
    assert len(list((program.root / "cache" / "mmembed" / "classes").rglob("*.npy"))) == 3


def test_people_read_one_line_a_image(program: Program) -> None:
    """A file of labels, with its groups; what is below a threshold or like the background is none of these."""
    (program.root / "labels.txt").write_text("food > birthday cake | cake with candles\nfood > red apple\ntrain\n")
    result = program(
        *("classify", "pictures/*.png", "--labels", "labels.txt", "--templates", "plain"),
        *("--background", "helicopter", "--threshold", "0.5", "--threshold", "red apple=1.1"),
    )
    apple, cake, car = result.out.splitlines()
    assert (result.code, result.err) == (0, "")
    assert f"{program.root}/pictures/1f34e.png: none of these [food " in apple
    assert "1f382.png: food > birthday cake 9" in cake
    assert "1f681.png: none of these [food " in car


def test_further_keys_come_with_the_options_that_make_them(program: Program) -> None:
    """none_of_these with a threshold or background, groups with a hierarchy; --top-k cuts the labels."""
    (program.root / "labels.json").write_text(json.dumps({"food": ["birthday cake", "red apple"], "thing": ["train"]}))
    common = ("classify", "pictures/1f681.png", "--json", "--top-k", "1")
    (row,) = program(*common, "--labels", "labels.json", "--background", "helicopter").rows
    assert list(row) == ["uri", "labels", "none_of_these", "groups"]
    assert (len(row["labels"]), row["none_of_these"]) == (1, True)
    assert {group["label"] for group in row["groups"]} == {"food", "thing"}
    (row,) = program(*common, "--labels", "birthday cake,red apple", "--threshold", "1").rows
    assert row == {"uri": row["uri"], "labels": [], "none_of_these": True}


def test_bad_images_are_told_by_the_exit_code(program: Program) -> None:
    """One bad picture is a line on stderr and code 3; with all bad, or none there, it is 1."""
    (program.root / "bad.jpg").write_bytes(b"no picture")
    result = program("classify", "bad.jpg", "pictures", "--labels", LABELS, "--json")
    assert (result.code, len(result.rows)) == (3, 3)
    assert result.err.startswith("failed: ")
    assert result.err.count("bad.jpg") == result.err.count("\n") == 1
    result = program("classify", "bad.jpg", "--labels", LABELS)
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("error: nothing could be classified: all 1 failed\n")
    (program.root / "empty").mkdir()
    assert "no pictures found" in program.fails("classify", "empty", "--labels", LABELS)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--labels", "cat"), 1, "'cat' is the only label"),
        (("--labels", "cat,,dog"), 1, "a label is empty"),
        (("--labels", "lables.txt"), 2, "there is no file 'lables.txt'"),
        (
            ("--labels", "cat,dog", "--templates", "simpel"),
            2,
            "'simpel' is not one of openai, simple, plain, nor a file",
        ),
        (("--labels", "cat,dog", "--threshold", "cow=0.5"), 1, "'cow', which is not a label"),
        (("--labels", "cat,dog", "--threshold", "half"), 2, "'half' is neither a number nor LABEL=NUMBER"),
        (("--labels", "cat,dog", "--in", "nothing", "--store", "edge:store.mm"), 1, "no collection 'nothing'"),
        (("--labels", "cat,dog", "--encoder", "bm25"), 1, "cannot encode labels as dense vectors"),
        ((), 2, "--labels"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    program: Program, options: tuple[str, ...], code: int, message: str
) -> None:
    """Nothing on stdout, one line on stderr."""
    assert message in program.fails("classify", "pictures", *options, code=code)


def test_a_collection_lends_its_encoder_and_its_calibration(program: Program) -> None:
    """--in takes both of these labels alone; --calibration takes a file; thresholds then make none_of_these."""
    classes = embed_classes(mmembed.load_encoder("tiny"), labels_of(LABELS.split(",")))
    store = open_store(f"edge:{program.root / 'store.mm'}")
    save_calibration(store, "images", calibration_of(classes))
    store.close()
    among = ("classify", "pictures/1f382.png", "--json", "--in", "images", "--store", "edge:store.mm")
    (calibrated,) = program(*among, "--labels", "helicopter,red apple,birthday cake").rows
    assert calibrated["none_of_these"] is False
    assert [one["label"] for one in calibrated["labels"]] == ["birthday cake"]
    assert 0.34 < calibrated["labels"][0]["probability"] < 0.6
    (other,) = program(*among, "--labels", "helicopter,red apple").rows
    assert list(other) == ["uri", "labels"]
    mismatch = program.fails(*among, "--labels", LABELS, "--encoder", "fake")
    assert "was made by tiny, not by fake" in mismatch

    write_calibration(program.root / "calibration.json", calibration_of(classes, temperature=1e6, thresholds={}))
    from_file = ("classify", "pictures/1f382.png", "--json", "--calibration", "calibration.json")
    (flat,) = program(*from_file, "--labels", LABELS).rows
    assert [one["probability"] for one in flat["labels"]] == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert "fitted to other labels" in program.fails(*from_file, "--labels", "cat,dog")
