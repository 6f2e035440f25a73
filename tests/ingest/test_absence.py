"""Nothing is lost by absence: disks that are not mounted, files that move and come back, runs that only look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmembed.encoders import load_encoder
from mmembed.errors import SettingsError
from mmembed.ingest import IngestReport, ingest_documents, ingest_images
from mmembed.ingest.report import PlannedChange
from mmembed.stores import open_store
from mmembed.types import Encoder, Payload, Store


@pytest.fixture(scope="module")
def fake() -> Encoder:
    return load_encoder("fake")


@pytest.fixture(params=["edge", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind that needs no server."""
    opened = open_store(f"edge:{tmp_path / 'store.mm'}" if request.param == "edge" else ":memory:")
    yield opened
    opened.close()


def paint(folder: Path, *names: str) -> Path:
    """Small pictures, each unlike the others."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = np.random.default_rng(sum(map(ord, name))).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(rows).save(folder / name, "PNG")
    return folder


def payloads(store: Store, folder: Path) -> dict[str, Payload]:
    return {str(Path(p.payload["uri"]).relative_to(folder)): p.payload for p in store.scroll("images")}


def outcome(report: IngestReport) -> tuple[int, int, int]:
    """removed, held back, warnings."""
    return (report.removed, report.held_back, len(report.warnings))


# --- what sync removes --------------------------------------------------------------------------


def test_an_emptied_root_removes_nothing(store: Store, fake: Encoder, tmp_path: Path) -> None:
    """A disk that is not mounted is an empty folder: all points stay, and the report says how to insist."""
    root = paint(tmp_path / "m", "a.png", "sub/b.png")
    ingest_images(store, "images", [root], encoder=fake)
    root.rename(tmp_path / "away")
    root.mkdir()
    (root / "NOT MOUNTED").touch()
    report = ingest_images(store, "images", [root], encoder=fake, sync=True)
    assert (outcome(report), store.count("images")) == ((0, 2, 1), 2)
    assert report.warnings[0].startswith(f"{root} holds no pictures any more, and those that were indexed from it (2) ")
    assert "`insist=True`" in report.warnings[0]
    report = ingest_images(store, "images", [root], encoder=fake, sync=True, insist=True)
    assert (outcome(report), store.count("images")) == ((2, 0, 0), 0)


@pytest.mark.parametrize("left", ["an empty folder", "no folder", "a link to nothing"])
def test_a_folder_below_that_is_gone_removes_nothing(left: str, memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """A mounted, vanished or linked sub-folder keeps its points, while single files beside it go."""
    root = paint(tmp_path / "m", "a.png", "b.png", "disk/c.png", "disk/deep/d.png")
    ingest_images(memory, "images", [root], encoder=fake)
    (root / "disk").rename(tmp_path / "away")
    (root / "a.png").unlink()
    if left == "an empty folder":
        (root / "disk").mkdir()
    elif left == "a link to nothing":
        (root / "disk").symlink_to(tmp_path / "nowhere")
    report = ingest_images(memory, "images", [root], encoder=fake, sync=True)
    assert outcome(report) == (1, 2, 1)
    assert report.warnings[0].startswith(
        f"{root}/disk holds no pictures any more, and those that were indexed from it (2) "
    )
    assert sorted(payloads(memory, root)) == ["b.png", "disk/c.png", "disk/deep/d.png"]
    if (root / "disk").is_symlink():
        (root / "disk").unlink()
    shutil.rmtree(root / "disk", ignore_errors=True)
    (tmp_path / "away").rename(root / "disk")
    assert ingest_images(memory, "images", [root], encoder=fake, sync=True).unchanged == 3


def test_a_link_to_a_file_out_of_sight_is_there(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """A link whose target cannot be seen is a failure, and its point stays."""
    root = paint(tmp_path / "m", "a.png")
    disk = paint(tmp_path / "disk", "b.png")
    (root / "b.png").symlink_to(disk / "b.png")
    ingest_images(memory, "images", [root], encoder=fake)
    disk.rename(tmp_path / "away")
    report = ingest_images(memory, "images", [root], encoder=fake, sync=True, insist=True)
    assert (outcome(report), len(report.failures), memory.count("images")) == ((0, 0, 0), 1, 2)


def test_a_manifest_of_files_on_a_disk_that_is_not_mounted(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """What it names there stays; what its lines no longer name goes, as its author said."""
    disk = paint(tmp_path / "disk", "a.png", "b.png", "c.png")
    manifest = tmp_path / "l.csv"
    manifest.write_text(f"uri\n{disk}/a.png\n{disk}/b.png\n{disk}/c.png\n")
    ingest_images(memory, "images", [manifest], encoder=fake)
    disk.rename(tmp_path / "away")
    manifest.write_text(f"uri\n{disk}/a.png\n{disk}/b.png\n")
    report = ingest_images(memory, "images", [manifest], encoder=fake, sync=True)
    assert (outcome(report), sorted(payloads(memory, disk))) == ((1, 2, 1), ["a.png", "b.png"])


def test_a_large_removal_needs_to_be_insisted_on(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """More than a hundred that are more than a tenth are counted and stay; a hundred go, told before the first."""
    root = paint(tmp_path / "m", *(f"{n:03}.png" for n in range(160)))
    ingest_images(memory, "images", [root], encoder=fake)
    for n in range(101):
        (root / f"{n:03}.png").unlink()
    report = ingest_images(memory, "images", [root], encoder=fake, sync=True)
    assert (outcome(report), memory.count("images")) == ((0, 101, 1), 160)
    assert report.warnings[0].startswith("101 of 160 pictures are gone from the disk")
    paint(root, "100.png")
    told: list[tuple[int, int]] = []

    def tell(report: IngestReport) -> None:
        if report.to_remove:
            told.append((report.to_remove, memory.count("images")))

    report = ingest_images(memory, "images", [root], encoder=fake, sync=True, on_progress=tell)
    assert (outcome(report), told) == ((100, 0, 0), [(100, 160)])


def test_documents_of_a_folder_that_is_gone(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """They stay as pictures do, with all their passages."""
    for name in ("a.md", "sub/b.md", "c.md"):
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_text(f"# {name}\n\nFoxes hunt at dusk.")

    def run(*, insist: bool = False) -> IngestReport:
        return ingest_documents(
            memory, "documents", [tmp_path / "m"], encoder=fake, cross_encoder=fake, sync=True, insist=insist
        )

    run()
    shutil.rmtree(tmp_path / "m" / "sub")
    (tmp_path / "m" / "c.md").unlink()
    assert outcome(run()) == (1, 1, 1)
    assert "/m/sub holds no documents any more" in run().warnings[0]
    assert outcome(run(insist=True)) == (1, 0, 0)


def test_what_is_removed_can_be_brought_back(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """The trash is a manifest: read again once the files are back, captions, payload and tags are as they were."""
    root = paint(tmp_path / "m", "a.png", "b.png")
    rows = [{"uri": "a.png", "caption": "a red ball", "album": "party", "tags": ["x"]}, {"uri": "b.png"}]
    (root / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest_images(memory, "images", [root / "l.jsonl"], encoder=fake, caption_encoder=fake)
    (root / "a.png").rename(tmp_path / "a.png")
    trash = tmp_path / "trash.jsonl"
    trash.write_text(json.dumps({"uri": "earlier.png"}) + "\n")
    report = ingest_images(memory, "images", [root], encoder=fake, sync=True, trash=trash)
    assert (report.removed, sorted(payloads(memory, root))) == (1, ["b.png"])
    earlier, line = map(json.loads, trash.read_text().splitlines())
    assert earlier["uri"] == "earlier.png"
    assert (line["uri"], line["caption"], line["payload"]["album"]) == (str(root / "a.png"), "a red ball", "party")
    (tmp_path / "a.png").rename(root / "a.png")
    trash.write_text(json.dumps(line) + "\n")
    ingest_images(memory, "images", [trash], encoder=fake, caption_encoder=fake)
    back = payloads(memory, root)["a.png"]
    assert (back["caption"], back["album"], back["tags"], back["width"]) == ("a red ball", "party", ["x"], 6)


def test_trash_and_insist_are_for_sync(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """Without it they are refused, as is a trash that could not be read as a manifest or written."""
    root = paint(tmp_path / "m", "a.png", "b.png")
    with pytest.raises(SettingsError, match="`insist=True` is for what a sync removes"):
        ingest_images(memory, "images", [root], encoder=fake, insist=True)
    with pytest.raises(SettingsError, match=r"let its name end in \.jsonl"):
        ingest_images(memory, "images", [root], encoder=fake, sync=True, trash="gone.txt")
    ingest_images(memory, "images", [root], encoder=fake)
    (root / "a.png").unlink()
    with pytest.raises(SettingsError, match="so nothing was removed"):
        ingest_images(memory, "images", [root], encoder=fake, sync=True, trash=tmp_path / "no" / "t.jsonl")
    assert memory.count("images") == 2


# --- what is known follows the contents ---------------------------------------------------------


def with_words(store: Store, fake: Encoder, root: Path) -> Path:
    """A picture of which a manifest says a caption, an album and a title, and which has tags."""
    paint(root, "a.png")
    row = {"uri": "a.png", "caption": "a red ball", "album": "party", "title": "Ball"}
    (root / "l.jsonl").write_text(json.dumps(row))
    ingest_images(store, "images", [root / "l.jsonl"], encoder=fake, caption_encoder=fake)
    (point,) = store.scroll("images", payload=False)
    tags = {"labels": ["ball"], "labels_scores": {"ball": 0.9}, "labels_by": "x"}
    store.set_payload("images", [point.id], tags)
    return root


KNOWN = {"caption": "a red ball", "album": "party", "title": "Ball", "labels": ["ball"]}


@pytest.mark.parametrize("by", ["folder", "manifest"])
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_what_is_known_follows_the_contents(how: str, by: str, store: Store, fake: Encoder, tmp_path: Path) -> None:
    """Caption, its vectors, payload and tags are at the new place, and stay there in the runs after."""
    root = with_words(store, fake, tmp_path / "m")
    (root / "x").mkdir()
    (shutil.move if how == "moved" else shutil.copyfile)(root / "a.png", root / "x" / "b.png")
    source = root / "x"
    if by == "manifest":
        source = root / "x" / "new.csv"
        source.write_text("uri,stars\nb.png,5\n")
    for number in range(3):
        report = ingest_images(store, "images", [source], encoder=fake, caption_encoder=fake)
        assert getattr(report, "unchanged" if number else how) == 1
        points = {Path(p.payload["uri"]).name: p for p in store.scroll("images", vectors=True)}
        assert sorted(points) == (["b.png"] if how == "moved" else ["a.png", "b.png"])
        there = points["b.png"]
        assert {key: there.payload.get(key) for key in KNOWN} == KNOWN
        assert there.payload.get("stars") == ("5" if by == "manifest" else None)
        assert set(there.vectors) == {"image", "caption", "caption_bm25"}


def test_a_manifest_has_the_last_word_on_what_follows(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """A caption of its own replaces the one that followed; one manifest that names both copies means what it says."""
    root = with_words(memory, fake, tmp_path / "m")
    shutil.copyfile(root / "a.png", root / "b.png")
    shutil.copyfile(root / "a.png", root / "c.png")
    (root / "l.jsonl").write_text(
        "\n".join(map(json.dumps, [{"uri": "a.png", "caption": "a red ball", "album": "party"}, {"uri": "b.png"}]))
    )
    ingest_images(memory, "images", [root / "l.jsonl"], encoder=fake, caption_encoder=fake)
    (root / "new.jsonl").write_text(json.dumps({"uri": "c.png", "caption": "a tomato"}))
    ingest_images(memory, "images", [root / "new.jsonl"], encoder=fake, caption_encoder=fake)
    found = payloads(memory, root)
    assert ("caption" in found["b.png"], "album" in found["b.png"]) == (False, False)
    assert (found["c.png"]["caption"], found["c.png"]["album"]) == ("a tomato", "party")


def test_names_that_are_exchanged(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """Two pictures that change names keep their own captions, and a copy met in the same run has them too."""
    root = paint(tmp_path / "m", "a.png", "b.png")
    rows = [{"uri": "a.png", "caption": "of a"}, {"uri": "b.png", "caption": "of b"}]
    (root / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shutil.copyfile(root / "a.png", root / "copy.png")
    ingest_images(memory, "images", [root / "l.jsonl", root], encoder=fake, caption_encoder=fake)
    assert payloads(memory, root)["copy.png"]["caption"] == "of a"
    (root / "a.png").rename(root / "t.png")
    (root / "b.png").rename(root / "a.png")
    (root / "t.png").rename(root / "b.png")
    ingest_images(memory, "images", [root], encoder=fake, caption_encoder=fake)
    found = payloads(memory, root)
    assert (found["a.png"]["caption"], found["b.png"]["caption"]) == ("of b", "of a")


def test_a_document_keeps_its_payload_and_title(memory: Store, fake: Encoder, tmp_path: Path) -> None:
    """What a manifest said of a document, its title too, is on every passage at the new place, run after run."""
    (tmp_path / "a.txt").write_text("Foxes hunt at dusk.")
    (tmp_path / "l.jsonl").write_text(json.dumps({"uri": "a.txt", "title": "Of foxes", "shelf": "b"}))

    def run(source: Path) -> IngestReport:
        return ingest_documents(memory, "documents", [source], encoder=fake, cross_encoder=fake, images_into=None)

    run(tmp_path / "l.jsonl")
    (tmp_path / "x").mkdir()
    (tmp_path / "a.txt").rename(tmp_path / "x" / "b.txt")
    assert run(tmp_path / "x").moved == 1
    (tmp_path / "x" / "l.csv").write_text("uri,stars\nb.txt,5\n")
    for source in (tmp_path / "x", tmp_path / "x" / "l.csv", tmp_path / "x"):
        assert run(source).unchanged == 1
        (point,) = memory.scroll("documents")
        assert (point.payload["title"], point.payload["shelf"]) == ("Of foxes", "b")


# --- dry runs -----------------------------------------------------------------------------------


def test_a_dry_run_says_all_and_writes_nothing(store: Store, fake: Encoder, tmp_path: Path) -> None:
    """Before the first run and later: what would be embedded, moved, copied and removed, and then it is so."""
    root = paint(tmp_path / "m", "a.png", "b.png", "c.png")
    report = ingest_images(store, "images", [root], encoder=fake, sync=True, dry_run=True)
    assert (report.embedded, store.collections()) == (3, [])
    ingest_images(store, "images", [root], encoder=fake)
    before = list(store.scroll("images", vectors=True))
    (root / "a.png").rename(root / "moved.png")
    shutil.copyfile(root / "b.png", root / "copy.png")
    (root / "c.png").unlink()
    paint(root, "new.png")
    (root / "broken.png").symlink_to(root / "nowhere.png")
    options = {"sync": True, "trash": tmp_path / "t.jsonl"}
    report = ingest_images(store, "images", [root], encoder=fake, dry_run=True, **options)  # type: ignore[arg-type]
    assert report.planned == [
        PlannedChange("copy", f"{root}/copy.png", f"{root}/b.png"),
        PlannedChange("move", f"{root}/moved.png", f"{root}/a.png"),
        PlannedChange("embed", f"{root}/new.png"),
        PlannedChange("remove", f"{root}/c.png"),
    ]
    after = list(store.scroll("images", vectors=True))
    assert [(p.id, p.payload) for p in after] == [(p.id, p.payload) for p in before]
    assert not (tmp_path / "t.jsonl").exists()
    done = ingest_images(store, "images", [root], encoder=fake, sync=True)
    for count in ("embedded", "unchanged", "moved", "copied", "removed", "held_back"):
        assert getattr(done, count) == getattr(report, count), count
    assert [f.uri for f in done.failures] == [f.uri for f in report.failures] == [f"{root}/broken.png"]


def test_a_dry_run_with_a_late_encoder(store: Store, fake: Encoder, tmp_path: Path) -> None:
    """Pictures that lack the vector would be embedded, and the collection does not get it."""
    root = paint(tmp_path / "m", "a.png")
    ingest_images(store, "images", [root], encoder=fake)
    late = load_encoder("fake?kind=multi")
    assert ingest_images(store, "images", [root], encoder=fake, late_encoder=late, dry_run=True).embedded == 1
    contract = store.contract("images")
    assert contract is not None
    assert "late" not in contract.vectors


def test_a_dry_run_of_documents(store: Store, fake: Encoder, tmp_path: Path) -> None:
    """No collection is made, of pictures neither; a vector that would be added is not, and counts as to be embedded."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.md").write_text("# A\n\nFoxes.")

    def run(*, dry_run: bool, late: Encoder | None = None) -> IngestReport:
        return ingest_documents(
            store, "documents", [tmp_path / "m"], encoder=fake, cross_encoder=fake, late_encoder=late, dry_run=dry_run
        )

    assert (run(dry_run=True).embedded, store.collections()) == (1, [])
    run(dry_run=False)
    assert (run(dry_run=True).unchanged, run(dry_run=True).images) == (1, None)
    assert run(dry_run=True, late=load_encoder("fake?kind=multi")).embedded == 1
    contract = store.contract("documents")
    assert contract is not None
    assert "late" not in contract.vectors
