"""Pictures in: once, twice, moved, copied, broken, gone, and killed half-way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import files
import numpy as np
import pytest
from PIL import Image

from mmembed.collection import Collection
from mmembed.collection.payload import item_id
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.encoders.registry import load_encoder
from mmembed.encoders.wrapper import WrappedEncoder
from mmembed.errors import (
    CollectionMismatch,
    CollectionNotOurs,
    StoreError,
    StoreFull,
    UnreadableSource,
    UnsupportedModality,
)
from mmembed.ingest import IngestReport, ingest_documents, ingest_images
from mmembed.stores import open_store
from mmembed.types import Encoder, Store

COLOURS = ["red", "green", "blue", "yellow", "cyan", "magenta"]


class CountingEncoder(WrappedEncoder):
    """The fake encoder, counting what it is asked to decode and encode."""

    def __init__(self) -> None:
        super().__init__(load_encoder("fake"))
        self.batch_size = 2
        self.encoded = 0

    def encode_image(self, images):  # type: ignore[no-untyped-def]
        self.encoded += len(images)
        return super().encode_image(images)


@pytest.fixture
def fake() -> Encoder:
    return load_encoder("fake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures of one colour each, two of them a folder deeper."""
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        where = root / "deep" if number > 3 else root
        Image.new("RGB", (40 + number, 30), colour).save(where / f"{colour}.png")
    return root


def uris(store: Store, collection: str = "images") -> dict[str, str]:
    """file name -> id of every point."""
    return {Path(p.payload["uri"]).name: p.id for p in store.scroll(collection)}


def counts(report: IngestReport) -> tuple[int, int, int, int, int, int]:
    """embedded, unchanged, moved, copied, removed, failed."""
    failed = len(report.failures)
    return (report.embedded, report.unchanged, report.moved, report.copied, report.removed, failed)


def test_a_folder_becomes_points(store: Store, folder: Path, fake: Encoder) -> None:
    """Each picture is a point with its vector, its size and its hash, under an id made of its path."""
    report = ingest_images(store, "images", [folder], encoder=fake)
    assert counts(report) == (6, 0, 0, 0, 0, 0)
    assert store.count("images") == 6
    path = folder / "deep" / "cyan.png"
    (point,) = store.retrieve("images", [item_id("image", str(path))], vectors=True)
    assert point.payload["uri"] == str(path)
    assert (point.payload["width"], point.payload["height"], point.payload["format"]) == (44, 30, "PNG")
    expected = np.asarray(fake.encode_image([Image.open(path)]))[0]
    np.testing.assert_allclose(point.vectors["image"], expected, atol=1e-6)
    contract = store.contract("images")
    assert contract is not None
    assert contract.vectors["image"].fingerprint == fake.spec.fingerprint


def test_a_second_run_decodes_and_embeds_nothing(store: Store, folder: Path) -> None:
    """Unchanged files are recognised by size and time; a touched one by its hash."""
    encoder = CountingEncoder()
    ingest_images(store, "images", [folder], encoder=encoder)
    assert encoder.encoded == 6
    assert counts(ingest_images(store, "images", [folder], encoder=encoder)) == (0, 6, 0, 0, 0, 0)
    os.utime(folder / "red.png", ns=(1, 1))
    assert counts(ingest_images(store, "images", [folder], encoder=encoder)) == (0, 6, 0, 0, 0, 0)
    assert encoder.encoded == 6
    (point,) = store.retrieve("images", [uris(store)["red.png"]])
    assert point.payload["mtime_ns"] == 1


def test_a_changed_image_is_embedded_again(store: Store, folder: Path, fake: Encoder) -> None:
    """Same path, other pixels: one point, the new vector."""
    ingest_images(store, "images", [folder], encoder=fake)
    Image.new("RGB", (9, 9), "white").save(folder / "red.png")
    assert counts(ingest_images(store, "images", [folder], encoder=fake)) == (1, 5, 0, 0, 0, 0)
    (point,) = store.retrieve("images", [item_id("image", str(folder / "red.png"))], vectors=True)
    assert point.payload["width"] == 9
    white = np.asarray(fake.encode_image([Image.new("RGB", (9, 9), "white")]))[0]
    np.testing.assert_allclose(point.vectors["image"], white, atol=1e-6)


def test_a_moved_image_keeps_its_vector(store: Store, folder: Path) -> None:
    """Where the old path is gone the point moves; its vector is not computed again."""
    encoder = CountingEncoder()
    ingest_images(store, "images", [folder], encoder=encoder)
    (folder / "red.png").rename(folder / "deep" / "rosso.png")
    assert counts(ingest_images(store, "images", [folder], encoder=encoder)) == (0, 5, 1, 0, 0, 0)
    assert encoder.encoded == 6
    found = uris(store)
    assert "red.png" not in found
    (point,) = store.retrieve("images", [found["rosso.png"]], vectors=["image"])
    red = np.asarray(encoder.encode_image([Image.new("RGB", (9, 9), "red")]))[0]
    np.testing.assert_allclose(point.vectors["image"], red, atol=1e-6)
    assert (point.payload["width"], point.payload["format"]) == (40, "PNG")
    if path := thumbnail_path(Collection(store, "images"), point.id):
        assert path.exists()


def test_a_copy_is_a_point_of_its_own(store: Store, folder: Path) -> None:
    """Where the old path is still there the new one is a second point; its vector is reused."""
    encoder = CountingEncoder()
    ingest_images(store, "images", [folder], encoder=encoder)
    shutil.copyfile(folder / "red.png", folder / "red copy.png")
    shutil.copyfile(folder / "red.png", folder / "red copy 2.png")
    assert counts(ingest_images(store, "images", [folder], encoder=encoder)) == (0, 6, 0, 2, 0, 0)
    assert encoder.encoded == 6
    assert {"red.png", "red copy.png", "red copy 2.png"} <= set(uris(store))


def test_copies_within_one_run_are_embedded_once(store: Store, folder: Path) -> None:
    """The second of two equal new files takes the vector of the first, in its batch or a later one."""
    for number in range(5):
        shutil.copyfile(folder / "red.png", folder / f"z{number}.png")
    encoder = CountingEncoder()
    assert counts(ingest_images(store, "images", [folder], encoder=encoder)) == (6, 0, 0, 5, 0, 0)
    assert encoder.encoded == 6
    assert store.count("images") == 11


def test_a_copy_of_what_a_image_has_become(store: Store, folder: Path, fake: Encoder) -> None:
    """A new file equal to one that changed in the same run has the new vector, not the one that is still stored."""
    ingest_images(store, "images", [folder], encoder=fake)
    for name in ("red.png", "the same.png"):
        Image.new("RGB", (50, 20), "white").save(folder / name)
    ingest_images(store, "images", [folder], encoder=fake)
    white = np.asarray(fake.encode_image([Image.new("RGB", (9, 9), "white")]))[0]
    for point in store.retrieve("images", [uris(store)[name] for name in ("red.png", "the same.png")], vectors=True):
        np.testing.assert_allclose(point.vectors["image"], white, atol=1e-6)
        assert point.payload["width"] == 50


def test_sync_removes_what_is_gone_and_nothing_else(store: Store, folder: Path, tmp_path: Path, fake: Encoder) -> None:
    """Only points under the folders that were named, and only where the file is certainly gone."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (5, 5), "black").save(elsewhere / "black.png")
    ingest_images(store, "images", [folder, elsewhere], encoder=fake)
    (elsewhere / "black.png").unlink()
    (folder / "blue.png").unlink()
    assert counts(ingest_images(store, "images", [folder], encoder=fake)) == (0, 5, 0, 0, 0, 0)
    assert "blue.png" in uris(store)
    gone = uris(store)["blue.png"]
    assert counts(ingest_images(store, "images", [folder], encoder=fake, sync=True)) == (0, 5, 0, 0, 1, 0)
    assert set(uris(store)) == {"red.png", "green.png", "yellow.png", "cyan.png", "magenta.png", "black.png"}
    if path := thumbnail_path(Collection(store, "images"), gone):
        assert not path.exists()
    with pytest.raises(UnreadableSource):
        ingest_images(store, "images", [tmp_path / "not there"], encoder=fake, sync=True)
    assert store.count("images") == 6


def test_bad_files_are_reported_and_the_rest_is_finished(store: Store, folder: Path, fake: Encoder) -> None:
    """A truncated JPEG, a text called .jpg, an empty file and a 30,000 x 30,000 PNG fail alone; 1 x 1 works."""
    Image.new("RGB", (200, 200), "red").save(folder / "whole.jpg", quality=95)
    (folder / "a truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:400])
    (folder / "b text.jpg").write_text("not a picture")
    (folder / "c empty.png").touch()
    Image.new("1", (30_000, 30_000)).save(folder / "d huge.png")
    Image.new("RGB", (1, 1), "red").save(folder / "e one.png")
    report = ingest_images(store, "images", [folder], encoder=fake)
    assert counts(report) == (8, 0, 0, 0, 0, 4)
    reasons = {Path(f.uri).name: f.error for f in report.failures}
    assert list(reasons) == ["a truncated.jpg", "b text.jpg", "c empty.png", "d huge.png"]
    assert "30000 x 30000 pixels" in reasons["d huge.png"]
    assert all("\n" not in reason for reason in reasons.values())
    assert "e one.png" in uris(store)


def test_a_file_that_breaks_keeps_its_old_point(store: Store, folder: Path, fake: Encoder) -> None:
    """Nothing already stored is lost because today's file cannot be read."""
    ingest_images(store, "images", [folder], encoder=fake)
    (folder / "red.png").write_bytes(b"broken")
    assert counts(ingest_images(store, "images", [folder], encoder=fake, sync=True)) == (0, 5, 0, 0, 0, 1)
    assert "red.png" in uris(store)


def test_thumbnails_lie_beside_the_store(folder: Path, tmp_path: Path, fake: Encoder) -> None:
    """A WebP of at most 256 pixels a side for every point."""
    Image.new("RGB", (1000, 500), "red").save(folder / "wide.png")
    store = open_store(f"edge:{tmp_path / 's.mm'}")
    ingest_images(store, "images", [folder], encoder=fake)
    path = thumbnail_path(Collection(store, "images"), uris(store)["wide.png"])
    store.close()
    assert path is not None
    with Image.open(path) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (256, 128))


def test_manifests_bring_payload_and_captions(store: Store, folder: Path, fake: Encoder) -> None:
    """Columns become payload, captions become vectors, and a new caption costs no new picture vector."""
    manifest = folder / "list.jsonl"
    rows = [
        {"uri": "red.png", "caption": "a red wall", "year": 2020, "tags": ["warm"]},
        {"uri": "deep/cyan.png", "caption": "open water", "year": 2021},
        {"uri": "missing.png"},
    ]
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    encoder = CountingEncoder()
    report = ingest_images(store, "images", [manifest], encoder=encoder, caption_encoder=fake)
    assert (report.embedded, len(report.failures), encoder.encoded) == (2, 1, 2)
    (point,) = store.retrieve("images", [uris(store)["red.png"]], vectors=True)
    assert set(point.vectors) == {"image", "caption", "caption_bm25"}
    assert (point.payload["year"], point.payload["tags"], point.payload["caption"]) == (2020, ["warm"], "a red wall")
    rows[0] |= {"caption": "a crimson wall", "year": 1999}
    manifest.write_text("\n".join(json.dumps(row) for row in rows))
    assert ingest_images(store, "images", [manifest], encoder=encoder, caption_encoder=fake).unchanged == 2
    assert encoder.encoded == 2
    (point,) = store.retrieve("images", [uris(store)["red.png"]], vectors=["caption"])
    assert (point.payload["caption"], point.payload["year"]) == ("a crimson wall", 1999)
    expected = np.asarray(fake.encode_text(["a crimson wall"], role="document"))[0]
    np.testing.assert_allclose(point.vectors["caption"], expected, atol=1e-6)


def test_a_bare_folder_keeps_what_a_manifest_said(store: Store, folder: Path, fake: Encoder) -> None:
    """Indexing the folder later neither forgets captions and payload nor counts the files as changed."""
    (folder / "list.csv").write_text("uri,caption,place\nred.png,a red wall,Rome\n")
    ingest_images(store, "images", [folder / "list.csv"], encoder=fake, caption_encoder=fake)
    assert counts(ingest_images(store, "images", [folder], encoder=fake)) == (5, 1, 0, 0, 0, 0)
    Image.new("RGB", (7, 7), "pink").save(folder / "red.png")
    assert ingest_images(store, "images", [folder], encoder=fake).embedded == 1
    (point,) = store.retrieve("images", [uris(store)["red.png"]], vectors=True)
    assert (point.payload["caption"], point.payload["place"], point.payload["width"]) == ("a red wall", "Rome", 7)
    assert "caption" in point.vectors


def test_sync_drops_what_a_manifest_no_longer_names(store: Store, folder: Path, fake: Encoder) -> None:
    """A row that left the manifest leaves the collection, though its file is still there."""
    manifest = folder / "list.csv"
    manifest.write_text("uri\nred.png\nblue.png\n")
    ingest_images(store, "images", [manifest], encoder=fake)
    manifest.write_text("uri\nblue.png\n")
    assert ingest_images(store, "images", [manifest], encoder=fake, sync=True).removed == 1
    assert set(uris(store)) == {"blue.png"}


def test_what_a_manifest_no_longer_says_is_forgotten(store: Store, folder: Path, fake: Encoder) -> None:
    """A caption or column taken out of a row leaves the point and its vectors; the picture's vector is kept."""
    manifest = folder / "list.jsonl"
    manifest.write_text(json.dumps({"uri": "red.png", "caption": "a red wall", "shelf": "b", "payload": {"price": 3}}))
    encoder = CountingEncoder()
    ingest_images(store, "images", [manifest], encoder=encoder, caption_encoder=fake)
    manifest.write_text(json.dumps({"uri": "red.png", "price": 3}))
    for _ in range(2):
        assert ingest_images(store, "images", [manifest], encoder=encoder, caption_encoder=fake).unchanged == 1
        (point,) = store.retrieve("images", [uris(store)["red.png"]], vectors=True)
        assert set(point.vectors) == {"image"}
        assert point.payload["price"] == 3
        assert not {"caption", "shelf"} & set(point.payload)
    assert encoder.encoded == 1


def test_sync_and_a_manifest_with_bad_lines(store: Store, folder: Path, fake: Encoder) -> None:
    """A named file that is gone is removed; a line that cannot be read may name any file, so no row counts as left."""
    manifest = folder / "list.jsonl"
    rows = [json.dumps({"uri": name}) for name in ("red.png", "blue.png", "green.png")]
    manifest.write_text("\n".join(rows))
    ingest_images(store, "images", [manifest], encoder=fake)
    manifest.write_text("\n".join([rows[0], rows[1].replace(":", "=")]))
    assert ingest_images(store, "images", [manifest], encoder=fake, sync=True).removed == 0
    manifest.write_text(rows[0])
    (folder / "red.png").unlink()
    (folder / "blue.png").unlink()
    report = ingest_images(store, "images", [manifest], encoder=fake, sync=True)
    assert (report.removed, len(report.failures), uris(store)) == (3, 1, {})


def test_another_encoder_is_refused(store: Store, folder: Path, fake: Encoder) -> None:
    """A collection takes vectors of the encoder that it remembers, and says which that is."""
    ingest_images(store, "images", [folder], encoder=fake)
    with pytest.raises(CollectionMismatch, match="was made by fake, not by fake:other"):
        ingest_images(store, "images", [folder], encoder=load_encoder("fake:other"))
    with pytest.raises(UnsupportedModality):
        ingest_images(store, "images", [folder], encoder=load_encoder("bm25"))


def test_documents_are_no_images(store: Store, folder: Path, fake: Encoder) -> None:
    """A collection of the other kind is refused by name."""
    from mmembed.ingest import ingest_documents

    (folder / "a.txt").write_text("some words")
    ingest_documents(store, "mine", [folder], encoder=fake, cross_encoder=fake, images_into=None)
    with pytest.raises(StoreError, match="holds documents, not images"):
        ingest_images(store, "mine", [folder], encoder=fake)


def test_a_collection_of_somebody_else_is_not_touched(folder: Path, fake: Encoder) -> None:
    """Without a contract nothing is written."""
    from qdrant_client import models

    store = open_store(":memory:")
    store._client.create_collection(  # type: ignore[attr-defined]
        "theirs", vectors_config=models.VectorParams(size=32, distance=models.Distance.COSINE)
    )
    with pytest.raises(CollectionNotOurs, match="was not made by mmembed"):
        ingest_images(store, "theirs", [folder], encoder=fake)
    assert store.count("theirs") == 0


KILLED = """
import sys, time
from mmembed import ingest_images, load_encoder, open_store

class Slow:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
    def preprocess_image(self, image): return self.inner.preprocess_image(image)
    def encode_pixels(self, pixels):
        print("batch", flush=True)
        time.sleep(0.05)
        return self.inner.encode_pixels(pixels)

encoder = Slow(load_encoder("fake", batch_size=2))
store = open_store(sys.argv[1])
ingest_images(store, "images", [sys.argv[2]], encoder=encoder)
"""


@pytest.mark.parametrize("batches", [1, 3, 7])
def test_killed_and_run_again_it_ends_the_same(tmp_path: Path, fake: Encoder, batches: int) -> None:
    """SIGKILL after some batches; the next run embeds only the rest and the state is that of one run."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(folder / f"{number:02}.png")
    url = f"edge:{tmp_path / 'killed.mm'}"
    with subprocess.Popen([sys.executable, "-c", KILLED, url, str(folder)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(batches + 1):
            assert child.stdout.readline() == b"batch\n"
        child.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    store = open_store(url)
    before = store.count("images")
    assert before >= 2 * batches - 2
    report = ingest_images(store, "images", [folder], encoder=fake)
    assert (report.unchanged, report.embedded) == (before, 20 - before)
    killed = {p.id: np.asarray(p.vectors["image"]) for p in store.scroll("images", vectors=True)}
    store.close()
    whole = open_store(":memory:")
    ingest_images(whole, "images", [folder], encoder=fake)
    for point in whole.scroll("images", vectors=True):
        np.testing.assert_allclose(killed.pop(point.id), point.vectors["image"], atol=1e-6)
    assert killed == {}


def test_a_move_cut_short_is_finished_by_the_next_run(store: Store, folder: Path, fake: Encoder) -> None:
    """Killed between storing the new place and forgetting the old one, the next run forgets it."""
    ingest_images(store, "images", [folder], encoder=fake)
    old = uris(store)["red.png"]
    (left,) = store.retrieve("images", [old], vectors=True)
    (folder / "red.png").rename(folder / "rosso.png")
    ingest_images(store, "images", [folder], encoder=fake)
    store.upsert("images", [left])
    store.set_payload("images", [uris(store)["rosso.png"]], {"moved_from": old})
    assert ingest_images(store, "images", [folder], encoder=fake).unchanged == 6
    assert "red.png" not in uris(store)


def test_real_photographs(store: Store, data: Path) -> None:
    """Folders of photographs go in with their sizes; every grey, CMYK or turned one among them too."""
    report = ingest_images(store, "images", [data / "clothing" / "hat"], encoder=load_encoder("tiny"))
    assert report.failures == []
    assert report.embedded == len(list((data / "clothing" / "hat").iterdir())) - report.copied


def test_a_store_that_goes_away_half_way(folder: Path, tmp_path: Path, fake: Encoder) -> None:
    """Its process killed between two writes of an index: it is opened again, and the run ends with nothing lost."""
    url = f"edge:{tmp_path / 'gone.mm'}"
    store = open_store(url)
    killed: list[int] = []

    class Killing(CountingEncoder):
        def encode_image(self, images):  # type: ignore[no-untyped-def]
            if self.encoded == 4:
                killed.append(store._pipe.pid)  # type: ignore[attr-defined]
                os.kill(killed[0], signal.SIGKILL)
                os.waitid(os.P_PID, killed[0], os.WEXITED | os.WNOWAIT)
            return super().encode_image(images)

    assert counts(ingest_images(store, "images", [folder], encoder=Killing())) == (6, 0, 0, 0, 0, 0)
    assert len(killed) == 1
    store.close()
    again = open_store(url)
    assert again.count("images") == 6
    assert counts(ingest_images(again, "images", [folder], encoder=fake)) == (0, 6, 0, 0, 0, 0)
    again.close()


def test_a_full_disk_loses_nothing(folder: Path, tmp_path: Path, fake: Encoder) -> None:
    """On a small file system: a sentence about the disk; what was stored is there, and with room it goes on."""
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420m", "tmpfs", str(mount)], check=False)
    if mounted.returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here: that takes root")
    try:
        store = open_store(f"edge:{mount / 's.mm'}")
        ingest_images(store, "images", [folder / "deep"], encoder=fake)
        ballast = mount / "ballast"
        free = shutil.disk_usage(mount).free
        with ballast.open("wb") as file:
            file.write(b"\0" * (free - 2**20))
        with pytest.raises(StoreFull, match="MiB"):
            ingest_images(store, "images", [folder], encoder=fake)
        assert store.count("images") == 2
        ballast.unlink()
        assert counts(ingest_images(store, "images", [folder], encoder=fake)) == (4, 2, 0, 0, 0, 0)
        store.close()
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_a_manifest_cannot_set_what_is_read(store: Store, folder: Path, fake: Encoder) -> None:
    """Columns called width, size and format give way to the file's own, and a second run still changes nothing."""
    (folder / "list.csv").write_text("uri,width,size,format,shelf\nred.png,1,2,three,b\n")
    ingest_images(store, "images", [folder / "list.csv"], encoder=fake)
    assert counts(ingest_images(store, "images", [folder / "list.csv"], encoder=fake)) == (0, 1, 0, 0, 0, 0)
    (point,) = store.retrieve("images", [uris(store)["red.png"]])
    assert (point.payload["width"], point.payload["format"], point.payload["shelf"]) == (40, "PNG", "b")


def test_a_file_that_is_out_of_sight_has_not_moved(store: Store, folder: Path, tmp_path: Path, fake: Encoder) -> None:
    """The same picture indexed where the first one's disk or machine cannot be seen is a copy: its point stays."""
    disk = tmp_path / "disk" / "pictures"
    disk.mkdir(parents=True)
    shutil.copyfile(folder / "red.png", disk / "far.png")
    ingest_images(store, "images", [disk], encoder=fake)
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    report = ingest_images(store, "images", [folder], encoder=fake)
    assert (report.moved, report.copied) == (0, 1)
    assert "far.png" in uris(store)


def test_a_folder_that_was_renamed_has_moved(store: Store, folder: Path, fake: Encoder) -> None:
    """Within a folder of the run, pictures follow their renamed subfolder."""
    ingest_images(store, "images", [folder], encoder=fake)
    (folder / "deep").rename(folder / "deeper")
    assert counts(ingest_images(store, "images", [folder], encoder=fake)) == (0, 4, 2, 0, 0, 0)


# --- late interaction ---------------------------------------------------------------------------


def late_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(load_encoder("fake?kind=multi").encode_image([image.convert("RGB")])[0])


def test_late_vectors_of_images(store: Store, folder: Path) -> None:
    """Every picture gets one, made of it at its full size; moves and new captions keep it, a later run remembers it."""
    encoder, late = load_encoder("fake"), load_encoder("fake?kind=multi", batch_size=4)
    ingest_images(store, "images", [folder], encoder=encoder, late_encoder=late)
    contract = store.contract("images")
    assert contract is not None
    made = contract.vectors["late"]
    assert (made.encoder, made.kind, made.modality) == ("fake?kind=multi", "multi", "image")
    shutil.copyfile(folder / "red.png", folder / "again.png")
    (folder / "blue.png").rename(folder / "deep" / "blau.png")
    Image.new("RGB", (31, 17), "pink").save(folder / "green.png")
    (folder / "list.csv").write_text("uri,caption\nyellow.png,a yellow wall\n")
    assert counts(ingest_images(store, "images", [folder], encoder=encoder)) == (1, 4, 1, 1, 0, 0)
    assert counts(ingest_images(store, "images", [folder / "list.csv"], encoder=encoder)) == (0, 1, 0, 0, 0, 0)
    found = list(store.scroll("images", vectors=True))
    assert len(found) == 7
    for point in found:
        np.testing.assert_allclose(point.vectors["late"], late_of(Path(point.payload["uri"])), atol=1e-6)
        assert ("caption" in point.vectors) == point.payload["uri"].endswith("yellow.png")


def test_late_vectors_that_come_later_are_made_up_for(store: Store, folder: Path) -> None:
    """Pictures indexed without one are encoded again, copies and moved ones too; what is said of them stays."""
    shutil.copyfile(folder / "red.png", folder / "again.png")
    (folder / "list.csv").write_text("uri,place\nred.png,Rome\n")
    encoder = CountingEncoder()
    ingest_images(store, "images", [folder, folder / "list.csv"], encoder=encoder)
    (folder / "blue.png").rename(folder / "deep" / "blau.png")
    shutil.copyfile(folder / "green.png", folder / "grün.png")
    late = load_encoder("fake?kind=multi")
    report = ingest_images(store, "images", [folder], encoder=encoder, late_encoder=late)
    assert (report.embedded + report.copied, report.unchanged, report.failures) == (8, 0, [])
    found = {Path(p.payload["uri"]).name: p for p in store.scroll("images", vectors=True)}
    assert len(found) == 8
    assert "blue.png" not in found
    assert found["red.png"].payload["place"] == "Rome"
    for point in found.values():
        np.testing.assert_allclose(point.vectors["late"], late_of(Path(point.payload["uri"])), atol=1e-6)
        assert "moved_from" not in point.payload or point.payload["moved_from"] is None
    before = encoder.encoded
    assert counts(ingest_images(store, "images", [folder], encoder=encoder)) == (0, 8, 0, 0, 0, 0)
    assert encoder.encoded == before


def test_images_inside_documents_get_late_vectors_later(store: Store, tmp_path: Path) -> None:
    """One that has no file of its own is taken from its unchanged document again, once."""
    fake = load_encoder("fake")
    (tmp_path / "texts").mkdir()
    files.word(
        tmp_path / "texts" / "shown.docx", [(0, "Walls"), "A red wall.", (files.photo(), "a wall")], title="Walls"
    )

    def ingest() -> IngestReport:
        return ingest_documents(store, "documents", [tmp_path / "texts"], encoder=fake, cross_encoder=fake)

    first = ingest().images
    assert first is not None
    assert first.embedded >= 1
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    late = load_encoder("fake?kind=multi")
    ingest_images(store, "images", [tmp_path / "red.png"], encoder=fake, late_encoder=late)
    again = ingest()
    assert (again.unchanged, again.embedded) == (1, 0)
    assert again.images is not None
    assert again.images.embedded == first.embedded
    assert all("late" in point.vectors for point in store.scroll("images", vectors=["late"]))
    last = ingest()
    assert last.images is not None
    assert (last.unchanged, last.images.embedded) == (1, 0)


def test_late_encoders_of_images(store: Store, folder: Path, fake: Encoder) -> None:
    """One vector a picture is refused as `late`, several as `image`, and so is another encoder than the remembered."""
    late = load_encoder("fake?kind=multi")
    with pytest.raises(StoreError, match=r"makes dense vectors, and the vector 'late' is for multivectors"):
        ingest_images(store, "images", [folder], encoder=fake, late_encoder=fake)
    with pytest.raises(StoreError, match=r"makes multivectors, and the vector 'image' is for dense vectors"):
        ingest_images(store, "images", [folder], encoder=late)
    with pytest.raises(UnsupportedModality, match="cannot encode pictures"):
        ingest_images(store, "images", [folder], encoder=fake, late_encoder=load_encoder("fake?kind=sparse"))
    assert store.collections() == []
    ingest_images(store, "images", [folder], encoder=fake, late_encoder=late)
    with pytest.raises(CollectionMismatch, match=r"`late_encoder='fake\?kind=multi'`"):
        ingest_images(store, "images", [folder], encoder=fake, late_encoder=load_encoder("fake:b?kind=multi"))
