"""The real program in processes of its own, with real files and real Qdrant Edge folders."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from files import pdf
from PIL import Image
from programs import DEMO, Program, Result

import mmembed
from mmembed.encoders.presets import PRESETS
from mmembed.stores import open_store

COUNTS = ["embedded", "unchanged", "moved", "copied", "removed", "held_back"]
REPORT_KEYS = [*COUNTS, "failures", "seconds", "passed_over", "warnings"]
HIT_KEYS = ["id", "score", "probability", "uri", "collection", "vector", "payload"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A program whose default store holds `images` by tiny and `documents` by minilm."""
    program = Program(tmp_path_factory.mktemp("cli"))
    images = program.root / "pictures"
    shutil.copytree(DEMO / "pictograms", images, ignore=lambda _, names: [n for n in names if n > "1f440"])
    texts = program.root / "texts"
    texts.mkdir()
    sections = ["# Füchse\n\nDie Straße in 北京: " + "full of foxes. " * 60] * 3
    (texts / "grün und 北京.md").write_text("\n\n".join(sections))
    shutil.copy(DEMO / "documents" / "weather.md", texts)
    result = program("index", "images", "pictures", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.rows[0]["embedded"] == len(list(images.glob("*.png")))
    result = program("index", "documents", "texts", "--no-images", "--json")
    assert result.code == 0, result.err
    assert result.rows[0]["embedded"] == 2
    return program


def colours(folder: Path, *names: str) -> Path:
    """A folder with a small picture of each colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (20, 20), name).save(folder / f"{name}.png")
    return folder


# --- what each command prints -------------------------------------------------------------------


def test_version_and_help(program: Program) -> None:
    """The version is one line; help goes to stdout; without a command it is shown with exit code 2."""
    assert program("--version") == Result(0, f"{mmembed.__version__}\n", "")
    shown = program("search", "--help")
    assert (shown.code, shown.err) == (0, "")
    assert "mmembed search" in shown.out
    assert program().code == 2


def test_encoders_loads_no_torch(program: Program) -> None:
    """Listing names every preset and family and imports none of them."""
    code = (
        "import sys; sys.argv[1:] = ['encoders', '--json']\n"
        "from mmembed.cli import main\n"
        "try: main()\n"
        "except SystemExit as exc: assert not exc.code\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'qdrant_client', 'qdrant_edge'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=program.environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["name"] for row in rows if "name" in row] == list(PRESETS)
    assert {"tiny", "open_clip", "siglip", "sentence"} <= {row["family"] for row in rows if "family" in row}


def test_index_reports(program: Program) -> None:
    """One JSON object, or one line for people; the second run embeds nothing; --sync removes what is gone."""
    folder = colours(program.root / "my pictures ü", "red", "green", "blue")
    first = program("index", "images", folder, "--json")
    assert (first.code, first.err) == (0, "")
    (report,) = first.rows
    assert list(report) == REPORT_KEYS
    empty = {"failures": [], "seconds": 0, "passed_over": {}, "warnings": []}
    assert {**report, "seconds": 0} == dict.fromkeys(COUNTS, 0) | {"embedded": 3, **empty}
    (folder / "blue.png").unlink()
    again = program("index", "images", "my pictures ü", "--sync")
    assert (again.code, again.err) == (0, "removing pictures that are gone: 1\n")
    assert again.out.startswith("pictures: 2 unchanged, 1 removed in ")
    assert (program.data_home / "mmembed" / "store.mm").is_dir()
    assert program("collections").out == "images: 2 points, images\n    image          tiny\n"


def test_a_dry_run_and_what_it_saves(program: Program) -> None:
    """It makes no store, names each change and writes none; an emptied folder is held back until one insists."""
    folder = colours(program.root / "p", "red", "green")
    (folder / "a.heic").touch()
    (folder / "b.HEIC").touch()
    dry = program("index", "images", "p", "--dry-run")
    assert dry.code == 0
    assert dry.out.splitlines()[:2] == [f"would embed {folder}/green.png", f"would embed {folder}/red.png"]
    assert "pictures, dry run: 2 embedded in " in dry.out
    assert dry.out.endswith("passed over: 2 .heic\n")
    assert not (program.data_home / "mmembed" / "store.mm").exists()
    program("index", "images", "p")
    for name in ("red", "green"):
        (folder / f"{name}.png").unlink()
    colours(folder / "sub", "blue")
    held = program("index", "images", "p", "--sync")
    assert held.code == 0, "others are there, so these two were deleted one by one"
    (folder / "sub").rename(program.root / "away")
    held = program("index", "images", "p", "--sync", "--json")
    assert (held.code, held.rows[0]["held_back"], held.rows[0]["removed"]) == (1, 1, 0)
    assert "held back: " in held.err
    assert "add --insist if they are gone for good" in held.err
    assert program("index", "images", "p", "--insist").err.startswith("error: --insist is for what a sync removes")
    insisted = program("index", "images", "p", "--sync", "--insist", "--trash", "gone.jsonl")
    assert (insisted.code, insisted.err) == (0, "removing pictures that are gone: 1\n")
    assert json.loads((program.root / "gone.jsonl").read_text())["uri"] == f"{folder}/sub/blue.png"


def test_search_prints_one_hit_a_line(indexed: Program) -> None:
    """Hits on stdout, best first, with the path, a probability where there is one, and the whole payload."""
    result = indexed("search", "guitar", "--limit", "3", "--json")
    assert (result.code, result.err) == (0, "")
    assert [list(row) for row in result.rows] == [HIT_KEYS] * 3
    scores = [row["score"] for row in result.rows]
    assert scores == sorted(scores, reverse=True)
    best = result.rows[0]
    assert (Path(best["uri"]).name, best["collection"], best["vector"]) == ("1f3b8.png", "images", "image")
    assert best["payload"]["uri"] == best["uri"] == str(indexed.root / "pictures" / "1f3b8.png")
    assert best["payload"]["width"] == 72
    every = indexed("search", "guitar", "--limit", "100", "--json").rows
    assert sum(row["probability"] for row in every) == pytest.approx(1)
    assert every[0]["probability"] == pytest.approx(best["probability"])
    lines = indexed("search", "guitar", "-n", "3").out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(best["uri"])
    assert f"{best['score']:.4f}" in lines[0]


def test_search_of_documents(indexed: Program) -> None:
    """Hybrid by default, words in any script, the best passage of each document or all of them."""
    result = indexed("search", "北京 Straße foxes", "--in", "documents", "--json")
    assert [Path(row["uri"]).name for row in result.rows] == ["grün und 北京.md", "weather.md"]
    assert [(row["vector"], row["probability"]) for row in result.rows] == [(None, None)] * 2
    assert "北京" in result.out
    words = ("search", "foxes", "--in", "documents", "--using", "bm25", "--json")
    assert len(indexed(*words).rows) == 1
    everything = indexed(*words, "--all-passages").rows
    assert len(everything) == len({row["id"] for row in everything}) == everything[0]["payload"]["passages"] > 1


def test_search_by_image_and_filter(indexed: Program) -> None:
    """A picture alone, beside words, subtracted; a filter in Qdrant's JSON; no hit is no error."""
    guitar = indexed.root / "pictures" / "1f3b8.png"
    wanted = json.dumps({"must": [{"key": "uri", "match": {"value": str(guitar)}}]})
    (only,) = indexed("search", "--image", guitar, "--filter", wanted, "--json").rows
    assert (only["uri"], only["score"]) == (str(guitar), pytest.approx(1, abs=1e-3))
    (passage,) = indexed("search", "--image", "pictures/1f3b8.png", "--in", "documents", "-n", "1", "--json").rows
    assert passage["vector"] == "cross"
    nothing = json.dumps({"must": [{"key": "uri", "match": {"value": "nowhere"}}]})
    assert indexed("search", "--id", only["id"], "--filter", nothing) == Result(0, "", "no hits\n")
    assert indexed("search", "--id", only["id"], "--filter", nothing, "--json") == Result(0, "", "")


def test_search_in_several_collections(indexed: Program) -> None:
    """Hits of all of them, best first, each with its collection; one that cannot answer is named on stderr."""
    asked = ["search", "rain clouds", "--in", "images", "--in", "documents"]
    found = indexed(*asked, "--json")
    assert (found.code, found.err) == (0, "")
    assert [list(row) for row in found.rows] == [HIT_KEYS] * len(found.rows)
    assert {row["collection"] for row in found.rows} == {"images", "documents"}
    assert [row["score"] for row in found.rows] == sorted((row["score"] for row in found.rows), reverse=True)
    assert " in documents\n" in indexed(*asked).out
    id = found.rows[0]["id"]
    (first, *_) = indexed("search", "--id", id, "--in", "images", "--in", "documents", "--json").rows
    assert first["collection"] == found.rows[0]["collection"]
    skipping = indexed("search", "--id", id, "--in", "images", "--in", "documents", "--json").err
    assert skipping.startswith("skipped: ")
    assert skipping.count("\n") == 1
    assert "no encoder 'x'" in indexed.fails(*asked, "--rerank", "x")
    assert "no collection 'nothing'" in indexed.fails(*asked, "--in", "nothing")


def test_late_vectors_and_rerankers(program: Program) -> None:
    """Encoders of further vectors are named once and remembered; each stage of a search can be left out."""
    for name in ("geese", "hens"):
        (program.root / f"{name}.txt").write_text(f"A note about {name} on a farm")
    first = ("index", "documents", ".", "--no-images", "--encoder", "fake", "--cross-encoder", "fake", "--json")
    more = ("--sparse-encoder", "fake?kind=sparse", "--late-encoder", "fake?kind=multi")
    assert program(*first, *more).rows[0]["embedded"] == 2
    assert program(*first).rows[0]["unchanged"] == 2
    (row,) = program("collections", "--json").rows
    assert (row["vectors"]["sparse"], row["vectors"]["late"]) == ("fake?kind=sparse", "fake?kind=multi")
    ask = ("search", "hens farm", "--in", "documents", "--json")
    (best, _) = program(*ask).rows
    assert (best["vector"], best["score"], Path(best["uri"]).name) == ("late", pytest.approx(2, abs=1e-5), "hens.txt")
    (best, _) = program(*ask, "--no-late").rows
    assert best["vector"] is None
    vectors = [row["vector"] for row in program(*ask, "--candidates", "1").rows]
    assert vectors == ["late", None]
    assert "no encoder 'nope'" in program.fails(*ask, "--rerank", "nope:x")
    assert "weights are for mixed queries" in program.fails(*ask, "--weight", "text=2")
    colours(program.root / "pictures", "red")
    late = ("--late-encoder", "fake?kind=multi")
    assert program("index", "images", "pictures", "--encoder", "fake", *late).code == 0
    assert [row["vector"] for row in program("search", "red", "--json").rows] == ["late"]


def test_collections_delete_and_drop(program: Program) -> None:
    """Points go by id or by filter, never by an empty one; a collection goes whole; each prints what went."""
    assert program("collections") == Result(0, "", f"no collections in edge:{program.data_home}/mmembed/store.mm\n")
    folder = colours(program.root / "pictures", "red", "green", "blue")
    assert program("index", "images", folder, "--encoder", "fake").code == 0
    (row,) = program("collections", "--json").rows
    assert row == {"collection": "images", "kind": "images", "points": 3, "vectors": {"image": "fake"}}
    assert "mmembed drop images" in program.fails("delete", "--filter", "{}", code=2)
    assert "give ids or --filter" in program.fails("delete", code=2)
    red = json.dumps({"must": [{"key": "uri", "match": {"value": str(folder / "red.png")}}]})
    assert program("delete", "--filter", red) == Result(0, "1 points removed from images\n", "")
    (hit, _) = program("search", "x", "--json").rows
    assert program("delete", hit["id"], hit["id"]).out == "1 points removed from images\n"
    assert program("drop", "images") == Result(0, "images removed (1 points)\n", "")
    assert program("collections", "--json").out == ""


def remaining(program: Program) -> dict[str, int]:
    """How many points each collection holds."""
    return {row["collection"]: row["points"] for row in program("collections", "--json").rows}


def test_a_deleted_document_takes_its_images_with_it(program: Program) -> None:
    """By a filter on its uri or by the ids of all its passages, no image embedded in it stays; others do."""
    folder = program.root / "texts"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green")):
        image = Image.effect_noise((200, 200), 50).convert("RGB")
        image.paste(colour, (0, 0, 100, 200))
        pdf(folder / f"{name}.pdf", [("Words about one colour, which is enough for a passage.", image)] * 2)
    words = ["--encoder", "fake", "--cross-encoder", "fake"]
    assert program("index", "images", colours(program.root / "own", "red"), "--encoder", "fake").code == 0
    assert program("index", "documents", "texts", *words).code == 0
    before = remaining(program)
    assert before["images"] == 4
    uri = json.dumps({"must": [{"key": "uri", "match": {"value": str(folder / "a.pdf")}}]})
    assert program("delete", "--in", "documents", "--filter", uri).code == 0
    assert remaining(program)["images"] == 3
    asked = ["search", "colour", "--in", "documents", "--all-passages", "--limit", "50", "--json"]
    ids = [row["id"] for row in program(*asked).rows if row["uri"] == str(folder / "b.pdf")]
    assert ids
    assert program("delete", "--in", "documents", *ids).code == 0
    assert remaining(program)["images"] == 2
    left = {row["uri"] for row in program("search", "x", "--json").rows}
    assert left == {str(program.root / "own" / "red.png"), *(uri for uri in left if "c.pdf" in uri)}


def test_info(program: Program) -> None:
    """What a report of a fault needs: versions, the store, the device."""
    (facts,) = program("info", "--json", "--store", "edge:here").rows
    assert facts["mmembed"] == mmembed.__version__
    assert facts["store"] == "edge:here"
    assert {"python", "platform", "device", "torch", "qdrant-client"} <= set(facts)


def test_the_store_of_the_environment(program: Program) -> None:
    """MMEMBED_STORE is the store where --store is not given, and --store goes before it."""
    colours(program.root / "pictures", "red")
    mine, other = f"edge:{program.root}/mine", f"edge:{program.root}/other"
    assert program("index", "images", "pictures", "--encoder", "fake", MMEMBED_STORE=mine).code == 0
    assert program("collections", MMEMBED_STORE=mine).out.startswith("images: 1 points")
    assert "no collections" in program("collections", "--store", other, MMEMBED_STORE=mine).err
    assert not program.data_home.exists()


# --- what goes wrong ----------------------------------------------------------------------------


def test_usage_errors(program: Program) -> None:
    """Exit code 2 and one line that names the option, before anything is opened or loaded."""
    (program.root / "x.txt").write_text("x")
    asked: list[tuple[list[str], str]] = [
        (["nonsense"], "No such command 'nonsense'"),
        (["search"], "give words, --image FILE, --id POINT"),
        (["search", "x", "--filter", "{nope"], "not a Qdrant filter"),
        (["search", "x", "--filter", '{"mustt": []}'], "not a Qdrant filter"),
        (["search", "x", "--limit", "0"], "--limit"),
        (["search", "--image", "missing.png"], "there is no file 'missing.png'"),
        (["search", "x", "--weight", "3"], "'3' is not NAME=NUMBER"),
        (["index", "images"], "Missing argument 'PATH...'"),
    ]
    for words, says in asked:
        line = program.fails(*words, code=2)
        assert says in line
    assert not program.data_home.exists()


def test_errors_are_one_line(program: Program) -> None:
    """Exit code 1, and a sentence with what to do next."""
    folder = colours(program.root / "pictures", "red")
    line = program.fails("index", "images", folder, "--encoder", "siglip2-b23")
    assert "'siglip2-b32'" in line
    assert "there is no store at edge:" in program.fails("search", "x", "--in", "photos")
    mmembed.open_store(f"edge:{program.root / 'data' / 'mmembed' / 'store.mm'}").close()
    line = program.fails("search", "x", "--in", "photos")
    assert "no collection 'photos'" in line
    assert "index images or documents first" in line
    line = program.fails("search", "x", "--store", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1" in line
    assert "none of the three forms" in program.fails("search", "x", "--store", "photos")
    assert program("index", "images", folder, "--encoder", "fake").code == 0
    line = program.fails("index", "images", folder, "--encoder", "fake:other")
    assert "was made by fake, not by fake:other" in line
    assert "--encoder fake, or into another collection" in line
    assert "was made by fake, not by fake:other" in program.fails("search", "x", "--encoder", "fake:other")
    assert "there are images" in program.fails("search", "x", "--in", "documents")


def test_errors_spell_parameters_as_flags(program: Program) -> None:
    """What an error calls `cross_encoder=` in Python is --cross-encoder here, also in the line of a failed file."""
    (program.root / "a.txt").write_text("Some words about foxes.")
    words = ["index", "documents", "a.txt", "--encoder", "fake"]
    assert program(*words, "--cross-encoder", "fake?dim=8").code == 0
    assert "index with --cross-encoder 'fake?dim=8'" in program.fails(*words, "--cross-encoder", "fake")
    folder = colours(program.root / "pictures", "red")
    assert "raise --max-pixels\n" in program("index", "images", folder, "--encoder", "fake", "--max-pixels", "9").err


def test_nothing_to_index(program: Program) -> None:
    """Exit code 1 for a missing path, a pattern without files and an empty folder; none leaves a collection behind."""
    (program.root / "empty").mkdir()
    assert "no such file or folder" in program.fails("index", "images", "missing", "--encoder", "fake")
    assert "matches no file" in program.fails("index", "images", "empty/*.png", "--encoder", "fake")
    for kind in ("images", "documents"):
        result = program("index", kind, "empty", "--encoder", "fake")
        assert result.code == 1
        assert result.err == f"error: nothing could be indexed: no {'pictures' if kind == 'images' else kind} found\n"
    assert program("collections").out == ""


def test_a_folder_without_permission(program: Program) -> None:
    """What may not be read is a failure of its own, by name."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    colours(program.root / "pictures", "red")
    closed = colours(program.root / "pictures" / "closed", "blue")
    closed.chmod(0)
    try:
        result = program("index", "images", "pictures", "--json")
    finally:
        closed.chmod(0o700)
    assert result.code == 3
    assert [failure["uri"] for failure in result.rows[0]["failures"]] == [str(closed)]


def test_bad_images(program: Program) -> None:
    """Among good ones they are failures and exit code 3; alone, exit code 1."""
    folder = colours(program.root / "pictures", "red", "green")
    bad = program.root / "bad"
    bad.mkdir()
    Image.effect_noise((200, 200), 90).save(bad / "whole.jpg")
    (bad / "cut off.jpg").write_bytes((bad / "whole.jpg").read_bytes()[:500])
    (bad / "whole.jpg").unlink()
    alone = program("index", "images", "bad", "--json", "--encoder", "fake")
    assert alone.code == 1
    assert alone.err == "error: nothing could be indexed: all 1 failed\n"
    assert [list(failure) for failure in alone.rows[0]["failures"]] == [["uri", "error"]]
    shutil.copy(bad / "cut off.jpg", folder)
    mixed = program("index", "images", folder, "--json", "--encoder", "fake")
    assert (mixed.code, mixed.err) == (3, "")
    (report,) = mixed.rows
    assert report["embedded"] == 2
    (failure,) = report["failures"]
    assert failure["uri"] == str(folder / "cut off.jpg")
    assert "broken JPEG picture" in failure["error"]
    for_people = program("index", "images", folder, "--encoder", "fake")
    assert for_people.code == 3
    assert for_people.out.startswith("pictures: 2 unchanged, 1 failed in ")
    assert for_people.err == f"failed: {failure['error']}\n"


def test_texts_alone_leave_the_images_free(program: Program) -> None:
    """Documents without pictures make no collection of pictures, so that one may be made by any encoder later."""
    (program.root / "a.txt").write_text("Some words about foxes.")
    assert program("index", "documents", "a.txt", "--encoder", "fake", "--cross-encoder", "fake").code == 0
    assert [row["collection"] for row in program("collections", "--json").rows] == ["documents"]
    colours(program.root / "pictures", "red")
    assert program("index", "images", "pictures", "--encoder", "fake").code == 0


def test_odd_sources(program: Program) -> None:
    """Links, patterns, a manifest with bad lines, the same file twice, a relative path from another folder."""
    folder = colours(program.root / "pictures", "red", "green", "blue")
    (program.root / "linked").symlink_to(folder)
    (folder / "loop").symlink_to(folder)
    manifest = program.root / "list.jsonl"
    manifest.write_text(
        '{"uri": "pictures/red.png", "caption": "eine rote Wand", "year": 2020}\n'
        "not json\n\n"
        '{"uri": "pictures/gone.png"}\n'
        '{"caption": "no uri"}\n'
    )
    result = program("index", "images", "pictures/*.png", "pictures/red.png", "pictures", "--json", "--encoder", "fake")
    assert (result.code, result.rows[0]["embedded"], result.rows[0]["copied"]) == (0, 3, 0)
    listed = program("index", "images", "list.jsonl", "--json", "--caption-encoder", "fake")
    assert listed.code == 3
    errors = [failure["error"] for failure in listed.rows[0]["failures"]]
    assert ["line 2" in errors[0], "gone.png" in errors[1], "line 5" in errors[2]] == [True] * 3
    assert program("collections", "--json").rows[0]["points"] == 3
    (hit,) = program("search", "rote Wand", "--using", "caption_bm25", "--json").rows
    assert (hit["uri"], hit["payload"]["year"]) == (str(folder / "red.png"), 2020)


# --- other processes ----------------------------------------------------------------------------


def test_a_folder_in_use_is_waited_for_then_named(program: Program) -> None:
    """After ten seconds the process that holds it is named with its command."""
    folder = program.root / "held"
    held = open_store(f"edge:{folder}")
    started = time.monotonic()
    try:
        line = program.fails("collections", "--store", f"edge:{folder}")
    finally:
        held.close()
    assert time.monotonic() - started > 10
    assert str(os.getpid()) in line
    assert "pytest" in line


def test_two_searches_at_once_wait_for_each_other(indexed: Program) -> None:
    """One folder serves one process at a time: the second waits instead of failing."""
    both = [indexed.start("search", "guitar", "-n", "1", "--json") for _ in range(2)]
    for child in both:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (0, "")
        assert Path(json.loads(out)["uri"]).name == "1f3b8.png"


def test_a_reader_that_stops_reading_is_no_fault(indexed: Program) -> None:
    """`mmembed search ... | head -1` ends without a traceback."""
    child = indexed.start("search", "guitar", "--json", "-n", "200")
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr is not None
    err = child.stderr.read()
    child.stderr.close()
    child.wait(timeout=60)
    assert "Traceback" not in err


def test_ctrl_c_leaves_a_store_that_the_next_run_completes(program: Program) -> None:
    """Interrupted among many pictures: exit code 130, one line, and what was stored is not embedded again."""
    folder, pixels = program.root / "many", np.random.default_rng(0)
    folder.mkdir()
    for n in range(600):
        Image.fromarray(pixels.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{n:03}.png")
    thumbnails = program.data_home / "mmembed" / "store.mm" / "thumbnails" / "images"
    child = program.start("index", "images", "many", "--encoder", "fake", "--batch-size", "2", "--json")
    out = err = ""
    reader = threading.Timer(60, child.kill)
    reader.start()
    while child.poll() is None and len(list(thumbnails.glob("*/*.webp"))) < 20:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    reader.cancel()
    assert (child.returncode, out) == (130, ""), err
    assert err == "interrupted: run the same command again to go on where it stopped\n"
    (kept,) = program("collections", "--json").rows
    assert 0 < kept["points"] < 600
    (report,) = program("index", "images", "many", "--json").rows
    assert (report["unchanged"], report["embedded"]) == (kept["points"], 600 - kept["points"])


def test_a_terminal_shows_progress(program: Program) -> None:
    """On a terminal a bar with rate and time left is drawn on stderr, and stdout stays clean."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are for POSIX systems")
    folder = program.root / "many"
    folder.mkdir()
    for n in range(60):
        Image.new("RGB", (8, 8), (n, random.Random(n).randrange(256), 0)).save(folder / f"{n:02}.png")
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mmembed",
            "index",
            "images",
            "many",
            "--encoder",
            "fake",
            "--batch-size",
            "4",
            "--json",
        ],
        cwd=program.root,
        env={**program.environment, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    assert child.stdout is not None
    out = child.stdout.read()
    child.stdout.close()
    assert child.wait(timeout=60) == 0
    assert json.loads(out)["embedded"] == 60
    text = drawn.decode(errors="replace")
    assert "pictures" in text
    assert "/60" in text
    assert "/s" in text
