"""What is passed over in folders and patterns, and what counts it: other kinds, lock files, bins, our own files."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from mmembed.collection import Collection
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.encoders import load_encoder
from mmembed.errors import UnreadableSource
from mmembed.ingest import ingest_images
from mmembed.service.indexing.uploads import keep_upload, uploads_folder
from mmembed.sources import scan
from mmembed.sources.labelled import read_class_folders
from mmembed.stores import open_store
from mmembed.types import Failure

KINDS = frozenset({".png", ".webp", ".docx"})


def scanned(*roots: str | Path) -> tuple[list[str], dict[str, int]]:
    """The names of what is found, and what was passed over; any failure fails the test."""
    counts: Counter[str] = Counter()
    found = list(scan(roots, modality="image", suffixes=KINDS, passed_over=counts))
    assert [each for each in found if isinstance(each, Failure)] == []
    return [Path(each.uri).name for each in found], dict(counts)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_other_kinds_are_counted_by_suffix(tmp_path: Path) -> None:
    """In a folder all of them, in whatever case; of a pattern those that it matches, once each."""
    touch(tmp_path, "a.png", "b.heic", "c.HEIC", "sub/d.heic", "README", ".hidden.heic", "sub/~$w.pptx")
    assert scanned(tmp_path) == (["a.png"], {".heic": 3, "without suffix": 1, ".pptx": 1})
    assert scanned(f"{tmp_path}/**/*.*") == (["a.png"], {".heic": 3, ".pptx": 1})
    assert scanned(f"{tmp_path}/*.png") == (["a.png"], {})


@pytest.mark.parametrize("name", ["~$report.docx", "~WRL0001.docx", "~wrd0123.docx"])
def test_lock_files_of_office_programs(name: str, tmp_path: Path) -> None:
    """They are counted, not read, even where a shell's * named them."""
    touch(tmp_path, name, "~wrapped.docx", "report.docx")
    expected = (["report.docx", "~wrapped.docx"], {"lock file": 1})
    assert scanned(tmp_path) == scanned(f"{tmp_path}/*.docx") == scanned(f"{tmp_path}/**/*.docx") == expected
    assert scanned(tmp_path / name, tmp_path / "report.docx", tmp_path / "~wrapped.docx") == expected


@pytest.mark.parametrize(
    "name", ["@eaDir", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", ".Trash-1000", ".Trashes", "lost+found", "__MACOSX"]
)
def test_bins_and_system_folders(name: str, tmp_path: Path) -> None:
    """What other programs keep beside files is no input, at any depth."""
    touch(tmp_path, f"{name}/a.png", f"sub/{name}/deep/b.png", "c.png")
    assert scanned(tmp_path) == (["c.png"], {"system folder": 2})


def test_what_mmembed_writes_is_never_its_input(tmp_path: Path) -> None:
    """Store, thumbnails and uploads, this one's and another's, by folder, link, pattern and file, index after index."""
    with Image.new("RGB", (9, 9), "red") as image:
        image.save(tmp_path / "a.png")
    apart = tmp_path / "service"
    content = (tmp_path / "a.png").read_bytes()
    upload = keep_upload(uploads_folder(apart, "images"), "u.png", io.BytesIO(content), size=len(content))
    touch(tmp_path / "uploads" / "ours" / ("0" * 32), "theirs.png")  # no upload: its folder is not its content's hash
    encoder = load_encoder("fake")
    for url in (f"edge:{tmp_path / 's.mm'}", f"edge:{tmp_path / 'deep' / 't.mm'}"):
        store = open_store(url)
        for _ in range(3):
            ingest_images(store, "images", [tmp_path], encoder=encoder)
            points = list(store.scroll("images"))
            assert [Path(point.payload["uri"]).name for point in points] == ["a.png"]
        thumbnail = thumbnail_path(Collection(store, "images"), points[0].id)
        store.close()
    assert thumbnail is not None
    assert thumbnail.exists()
    (apart / "thumbnails" / "images" / thumbnail.parent.name).mkdir(parents=True)
    copied = apart / "thumbnails" / "images" / thumbnail.parent.name / thumbnail.name  # as beside a server's uploads
    copied.write_bytes(thumbnail.read_bytes())
    links = tmp_path / "links"
    links.mkdir()
    (links / "store").symlink_to(tmp_path / "s.mm")
    (links / "thumbnails").symlink_to(tmp_path / "s.mm" / "thumbnails")
    (links / "thumbnail.webp").symlink_to(thumbnail)
    (links / "upload.png").symlink_to(upload)
    assert scanned(tmp_path) == (["a.png", "theirs.png"], {"store": 4, "thumbnail": 2, "upload": 2})
    for root in (tmp_path / "s.mm", links / "thumbnails", thumbnail.parent, tmp_path / "s.mm" / "collections"):
        assert scanned(root) == ([], {"store": 1})
    assert scanned(apart / "thumbnails") == ([], {"thumbnail": 1})
    assert scanned(upload.parent) == ([], {"upload": 1})
    assert scanned(f"{tmp_path}/**/*")[0] == ["a.png", "theirs.png"]
    with pytest.raises(UnreadableSource, match="matches no file of the kinds"):
        scanned(f"{links}/*/*/*/*.webp")
    (failure,) = scan([thumbnail], modality="image", suffixes=KINDS)
    assert isinstance(failure, Failure)
    assert failure.error == f"{thumbnail}: mmembed wrote it (a thumbnail): name what it was made of"


def test_a_bin_is_no_class(tmp_path: Path) -> None:
    """Labelled folders have the classes that a person made, not the bin of a disk station."""
    touch(tmp_path, "cat/a.png", "@eaDir/cat/b.png", "#recycle/c.png", "$RECYCLE.BIN/d.png")
    assert [(each.path.name, each.label) for each in read_class_folders(tmp_path)] == [("a.png", "cat")]
