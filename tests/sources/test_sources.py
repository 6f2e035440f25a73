"""Folders, files, patterns and manifests, with everything that lies about on a real disk."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from pathlib import Path

import files
import pytest

from mmembed.errors import UnreadableSource
from mmembed.sources import FileState, content_hash, file_state, scan
from mmembed.types import Failure, Item

IMAGES = frozenset({".jpg", ".png"})


def found(*roots: str | Path, exclude: tuple[str, ...] = ()) -> list[Item | Failure]:
    return list(scan(roots, modality="image", suffixes=IMAGES, exclude=exclude))


def uris(*roots: str | Path, exclude: tuple[str, ...] = ()) -> list[str]:
    """The uris that a scan finds; any failure fails the test."""
    items = found(*roots, exclude=exclude)
    assert [item for item in items if isinstance(item, Failure)] == []
    return [item.uri for item in items]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_folder_is_searched_to_the_bottom_in_order(tmp_path: Path) -> None:
    """All files of the kinds asked for, by sorted names, whatever the case of their suffixes."""
    touch(tmp_path, "b.jpg", "a/z.PNG", "a/b/c/d.jpg", "c.txt", "a/notes.pdf", "no_suffix")
    expected = [str(tmp_path / name) for name in ("a/b/c/d.jpg", "a/z.PNG", "b.jpg")]
    assert uris(tmp_path) == uris(f"{tmp_path}/") == expected
    first = found(tmp_path)[0]
    assert first == Item(uri=expected[0], modality="image", path=Path(expected[0]))


def test_deep_trees_are_no_problem() -> None:
    """A tree deeper than Python's recursion limit is walked."""
    inside = os.getcwd()
    with files.public_folder() as folder:  # not pytest's: it could not delete it
        try:
            os.chdir(folder)
            for _ in range(1100):
                os.mkdir("d")
                os.chdir("d")
            Path("x.jpg").write_bytes(b"x")
            by_folder, by_pattern = uris(folder), uris(f"{folder}/**/*.jpg")
            Path("x.jpg").unlink()
        finally:
            while os.getcwd() != str(folder):
                here = os.path.basename(os.getcwd())
                os.chdir("..")
                os.rmdir(here)
            os.chdir(inside)
    assert by_folder == by_pattern == [f"{folder}/{'d/' * 1100}x.jpg"]


def test_hidden_and_excluded_are_left_out(tmp_path: Path) -> None:
    """Names that begin with a dot are skipped; exclude matches a name, the end of a path, or a whole path."""
    touch(tmp_path, "a.jpg", ".hidden.jpg", ".cache/b.jpg", "drafts/c.jpg", "old/drafts/d.jpg", "e.tmp.jpg")
    assert uris(tmp_path) == [str(tmp_path / n) for n in ("a.jpg", "drafts/c.jpg", "e.tmp.jpg", "old/drafts/d.jpg")]
    assert uris(tmp_path, exclude=("drafts", "*.tmp.jpg")) == [str(tmp_path / "a.jpg")]
    assert uris(tmp_path, exclude=(f"{tmp_path}/old", "drafts/*", "e*")) == [str(tmp_path / "a.jpg")]


def test_links_lead_out_but_never_round(tmp_path: Path) -> None:
    """A linked folder elsewhere is entered once; links into the tree, above it or in a ring are not followed."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root, "a.jpg", "sub/b.jpg")
    touch(elsewhere, "c.jpg", "deep/d.jpg")
    (root / "again").symlink_to(root / "sub")
    (root / "sub" / "up").symlink_to(root)
    (root / "sub" / "above").symlink_to(tmp_path)
    (root / "out").symlink_to(elsewhere)
    (root / "out2").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "file.jpg").symlink_to(elsewhere / "c.jpg")
    names = [str(root / name) for name in ("a.jpg", "file.jpg", "out/c.jpg", "out/deep/d.jpg", "sub/b.jpg")]
    assert uris(root) == names


def test_links_to_nothing_and_pipes_fail(tmp_path: Path) -> None:
    """What has the name of a picture and is no file is a Failure, and nothing waits for it."""
    touch(tmp_path, "z.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    *failures, last = found(tmp_path)
    assert [Path(f.uri).name for f in failures] == ["gone.jpg", "loop.jpg", "pipe.jpg"]
    assert all(isinstance(f, Failure) and "not a regular file, or a link to nothing" in f.error for f in failures)
    assert isinstance(last, Item)


def test_unreadable_folder_fails_and_the_rest_goes_on() -> None:
    """A folder that may not be read is one Failure; its neighbours are found."""
    with files.public_folder() as folder:
        touch(folder, "a/1.jpg", "b/2.jpg", "c/3.jpg")
        (folder / "b").chmod(0)
        with files.unprivileged():
            first, failure, last = found(folder)
            by_pattern = found(f"{folder}/**/*.jpg")
        (folder / "b").chmod(0o700)
    assert (first.uri, last.uri) == (f"{folder}/a/1.jpg", f"{folder}/c/3.jpg")
    assert failure == Failure(f"{folder}/b", f"{folder}/b: the folder cannot be read (Permission denied)")
    assert by_pattern == [first, failure, last]


def test_names_that_are_not_utf8_fail(tmp_path: Path) -> None:
    """A name in another encoding, of a file or a folder, is a Failure that can be printed."""
    os.makedirs(os.fsencode(tmp_path) + b"/folder\xff")
    for name in (b"/caf\xe9.jpg", b"/folder\xff/in.jpg", b"/ok.jpg"):
        with open(os.fsencode(tmp_path) + name, "wb"):
            pass
    one, two, item = found(tmp_path)
    assert [one.uri, two.uri] == [f"{tmp_path}/caf\\udce9.jpg", f"{tmp_path}/folder\\udcff"]
    assert all("not valid UTF-8" in failure.error for failure in (one, two))
    assert item.uri == f"{tmp_path}/ok.jpg"


def test_one_file(tmp_path: Path) -> None:
    """A named file is its item; of a kind that was not asked for, it fails."""
    touch(tmp_path, "a.jpg", "b.txt")
    assert uris(tmp_path / "a.jpg") == [str(tmp_path / "a.jpg")]
    (failure,) = found(tmp_path / "b.txt")
    assert failure == Failure(f"{tmp_path}/b.txt", f"{tmp_path}/b.txt: not one of the kinds .jpg, .png")


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths and ~ give absolute uris; links in the path stay, so that a moved target keeps its uri."""
    touch(tmp_path, "real/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert uris("real/../link") == uris("~/link") == uris("~/link/*.jpg") == [str(tmp_path / "link" / "a.jpg")]


def test_patterns_agree_with_glob(tmp_path: Path) -> None:
    """A pattern finds what Python's glob finds, sorted, and of the kinds asked for."""
    import glob

    touch(
        tmp_path, "a.jpg", "b.png", "c.txt", "x/a.jpg", "x/y/a.jpg", "x/y/b1.jpg", "x/y/b2.png", ".h/a.jpg", "[q].jpg"
    )
    for pattern in ("*.jpg", "**/*.jpg", "**/b[12].*", "x/**/a.jpg", "*/y/*", "**", "**/y/**", "?.*", "x/*/b?.jpg"):
        expected = {f for f in glob.glob(f"{tmp_path}/{pattern}", recursive=True) if f.endswith((".jpg", ".png"))}
        assert expected
        assert sorted(set(uris(f"{tmp_path}/{pattern}"))) == sorted(expected), pattern


def test_pattern_of_folders_searches_them(tmp_path: Path) -> None:
    """Folders that a pattern matches are searched like named ones."""
    touch(tmp_path, "2023/a.jpg", "2024/deep/b.jpg", "other/c.jpg")
    assert uris(f"{tmp_path}/20*") == [str(tmp_path / "2023/a.jpg"), str(tmp_path / "2024/deep/b.jpg")]


def test_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    """A folder whose name looks like a pattern is that folder."""
    touch(tmp_path, "party [2024]/a.jpg")
    assert uris(tmp_path / "party [2024]") == [str(tmp_path / "party [2024]/a.jpg")]


@pytest.mark.parametrize("root", ["*.gif", "nowhere/*.jpg", "**/*.txt"])
def test_pattern_that_matches_nothing_is_an_error(root: str, tmp_path: Path) -> None:
    """A pattern without a match is an error, not an empty index."""
    touch(tmp_path, "a.jpg", "b.txt")
    with pytest.raises(UnreadableSource, match=r"matches no file of the kinds \.jpg, \.png"):
        found(f"{tmp_path}/{root}")


def test_roots_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    """A root that is not there raises from scan() itself, before the roots in front of it are walked."""
    touch(tmp_path, "a.jpg")
    with pytest.raises(UnreadableSource, match="nowhere: no such file or folder"):
        scan([tmp_path, tmp_path / "nowhere"], modality="image", suffixes=IMAGES)
    with pytest.raises(UnreadableSource, match="an empty path was given"):
        scan([""], modality="image", suffixes=IMAGES)


def test_addresses_on_the_web_fail(tmp_path: Path) -> None:
    """A root or a manifest's uri on the web is a Failure that says to download it."""
    (tmp_path / "m.jsonl").write_text('{"uri": "https://example.org/b.jpg"}\n')
    for failure in found("http://example.org/a.jpg", tmp_path / "m.jsonl"):
        assert isinstance(failure, Failure)
        assert failure.uri.startswith("http")
        assert failure.error.endswith("download it first")


def test_jsonl_manifest_keeps_types(tmp_path: Path) -> None:
    """Captions and payload come from the columns, numbers as numbers; the nested payload is merged."""
    touch(tmp_path, "pictures/a.jpg", "b.jpg", "é 1.jpg")
    lines = [
        {"uri": "pictures/a.jpg", "caption": "A cat", "stars": 5, "price": 1.5, "tags": ["x"], "none": None},
        {"uri": str(tmp_path / "b.jpg"), "payload": {"shop": "Köln", "stars": 1}, "stars": 2},
        {"uri": f"file://{tmp_path}/%C3%A9%201.jpg", "caption": ""},
    ]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\ufeff" + "\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    one, two, three = found(manifest)
    assert one == Item(
        uri=str(tmp_path / "pictures/a.jpg"),
        modality="image",
        path=tmp_path / "pictures/a.jpg",
        caption="A cat",
        payload={"stars": 5, "price": 1.5, "tags": ["x"]},
        source=str(manifest),
    )
    assert (two.uri, two.caption, two.payload) == (str(tmp_path / "b.jpg"), None, {"shop": "Köln", "stars": 2})
    assert (three.uri, three.caption) == (str(tmp_path / "é 1.jpg"), None)


def test_csv_manifest_holds_strings(tmp_path: Path) -> None:
    """CSV values are strings, quoting and line breaks in cells included; an empty cell is no value."""
    touch(tmp_path, "a.jpg", "b.jpg")
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows(
            [
                ["uri", "caption", "stars", "payload"],
                ["a.jpg", 'two\nlines, "quoted"', "5", '{"n": 1}'],
                ["b.jpg", "", "", ""],
            ]
        )
    one, two = found(tmp_path / "list.csv")
    assert (one.uri, one.caption, one.payload) == (
        str(tmp_path / "a.jpg"),
        'two\nlines, "quoted"',
        {"stars": "5", "n": 1},
    )
    assert (two.caption, two.payload, two.source) == (None, {}, str(tmp_path / "list.csv"))


def test_bad_lines_of_a_jsonl_manifest_are_named(tmp_path: Path) -> None:
    """Each bad line is a Failure with its number; the good lines around it are items."""
    touch(tmp_path, "a.jpg", "b.txt")
    lines: list[tuple[bytes, str]] = [
        (b'{"uri": "a.jpg"}', ""),
        (b'{"uri": "a.jpg"', "Expecting"),
        (b'["a.jpg"]', "not a JSON object"),
        (b'{"caption": "x"}', "has no uri"),
        (b'{"uri": 7}', "has no uri"),
        (b'{"uri": "a.jpg", "caption": 7}', "a caption is a string"),
        (b'{"uri": "a.jpg", "payload": [1]}', "a payload a JSON object"),
        (b'{"uri": "a.jpg", "x": NaN}', "NaN is not a JSON number"),
        (b'{"uri": "caf\xe9.jpg"}', "not valid UTF-8"),
        (b'{"uri": "a.jpg", "x": "\\ud800"}', "not valid UTF-8"),
        (b'{"uri": "gone.jpg"}', "not a regular file, or a link to nothing"),
        (b'{"uri": "b.txt"}', "not one of the kinds"),
        (b'{"uri": "a.jpg", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"uri": "a.jpg"}', ""),
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_bytes(b"\n".join(line for line, _ in lines))
    results = found(manifest)
    assert len(results) == len(lines)
    for number, (result, (_, error)) in enumerate(zip(results, lines, strict=True), start=1):
        if error:
            assert isinstance(result, Failure)
            assert f"m.jsonl: line {number}: " in result.error
            assert error in result.error
        else:
            assert isinstance(result, Item)


def test_bad_lines_of_a_csv_manifest_are_named(tmp_path: Path) -> None:
    """Too many or too few cells, a broken payload or broken quotes cost their line and no other."""
    touch(tmp_path, "a.jpg")
    lines = ["uri,payload", "a.jpg,", "a.jpg,1,2", "a.jpg", 'a.jpg,{"x":', '"a.jpg"x,', "", "a.jpg,"]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    good, *failures, last = found(tmp_path / "m.csv")
    assert isinstance(good, Item)
    assert isinstance(last, Item)
    numbers = [failure.uri.rsplit(" ", 1)[1] for failure in failures]
    assert numbers == ["3", "4", "5", "6"]
    assert "3 cells under 2 columns" in failures[0].error


SPREADSHEETS: dict[str, tuple[bytes, str | None]] = {
    "semicolons": (b"uri;caption\na.jpg;a cake, cut\n", "a cake, cut"),
    "tabs": (b"uri\tcaption\r\na.jpg\ta cake\r\n", "a cake"),
    "its own separator": (b"sep=;\nuri;caption\na.jpg;x\n", "x"),
    "a blank behind the comma": (b'uri, caption\na.jpg, "x, y"\n', "x, y"),
    "blanks around": (b"uri , caption\n a.jpg ,x\n", "x"),
    "capitals": (b"URI,Caption\na.jpg,x\n", "x"),
    "UTF-16": ("uri,caption\na.jpg,Käse\n".encode("utf-16"), "Käse"),
    "UTF-16 BE": (b"\xfe\xff" + "uri\tcaption\na.jpg\tKäse\n".encode("utf-16-be"), "Käse"),
    "a mark": ("uri;caption\na.jpg;Käse\n".encode("utf-8-sig"), "Käse"),
    "a mark and a separator": ("sep=;\nuri;caption\na.jpg;x\n".encode("utf-8-sig"), "x"),
    "empty rows": (b"uri,caption\na.jpg,x\n,\n,\n", "x"),
    "an empty column": (b"uri,caption,\na.jpg,x,\n", "x"),
    "Windows paths": (b"uri,caption\r\n.\\sub\\..\\a.jpg,x\r\n", "x"),
    "returns alone": (b"uri,caption\ra.jpg,x\r", "x"),
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_manifests_as_spreadsheets_write_them(kind: str, tmp_path: Path) -> None:
    """Delimiters, marks, encodings and blanks of spreadsheets change nothing of what a row says."""
    content, caption = SPREADSHEETS[kind]
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    (tmp_path / "list.csv").write_bytes(content)
    (item,) = found(tmp_path / "list.csv")
    assert isinstance(item, Item)
    assert (item.uri, item.caption, item.payload) == (str(tmp_path / "a.jpg"), caption, {})


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"uri,caption\na.jpg,K\xe4se\n", r"line 2: not valid UTF-8 \(seen: K\\udce4se; .* would be Käse\)"),
        (b"uri,caption,\na.jpg,x,y\n", "line 2: 'y' stands under a column without a name"),
    ],
)
def test_rows_that_cannot_be_told(content: bytes, error: str, tmp_path: Path) -> None:
    """A row in an unknown encoding, or with a value of no column, is a Failure that shows what was seen."""
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_bytes(content)
    (failure,) = found(tmp_path / "list.csv")
    assert isinstance(failure, Failure)
    assert re.search(error, failure.error)


@pytest.mark.parametrize("prefix", ["file://", "file://localhost", "FILE://LocalHost", "file:"])
def test_addresses_of_files(prefix: str, tmp_path: Path) -> None:
    """Each form of RFC 8089 for a file on this machine names it; one on another machine fails."""
    touch(tmp_path, "a b.jpg")
    (tmp_path / "m.csv").write_text(f"uri\n{prefix}{tmp_path}/a%20b.jpg\nfile:////server/share/a.jpg\n")
    item, failure = found(tmp_path / "m.csv")
    assert item.uri == str(tmp_path / "a b.jpg")
    assert isinstance(failure, Failure)
    assert "a file on another machine" in failure.error


def test_jsonl_in_utf16_and_capitals(tmp_path: Path) -> None:
    """Lines of JSON may be UTF-16, as a Windows shell writes them, and call the uri URI."""
    touch(tmp_path, "a.jpg")
    (tmp_path / "m.jsonl").write_bytes('{"URI": "a.jpg", "Caption": "Käse", "Album": 1}\n'.encode("utf-16"))
    (item,) = found(tmp_path / "m.jsonl")
    assert isinstance(item, Item)
    assert (item.uri, item.caption, item.payload) == (str(tmp_path / "a.jpg"), "Käse", {"Album": 1})


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("m.csv", "path,caption\na.jpg,x\n", r"no column 'uri' \(its columns are path, caption\)"),
        ("m.csv", "path;caption\na.jpg;x\n", r"its columns are path, caption\): call 'path' so if it names the files"),
        ("m.csv", "uri,caption,caption\na.jpg,x,y\n", "two columns 'caption'"),
        ("m.csv", "u\0r\0i\0\n\0", "bytes of zero, as UTF-16 without its mark"),
        ("m.jsonl", '{"file": "a.jpg"}\n', r"no column 'uri' \(its columns are file\)"),
        ("m.jsonl", "", "names nothing"),
        ("m.csv", "", "names nothing"),
        ("m.csv", "uri,caption\n", "names nothing"),
    ],
)
def test_manifest_without_uris_is_an_error(name: str, content: str, error: str, tmp_path: Path) -> None:
    """A manifest that cannot name a file is refused whole."""
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableSource, match=error):
        found(tmp_path / name)


def test_scan_is_lazy(tmp_path: Path) -> None:
    """A folder is listed when its turn comes, not before: a file that appears there meanwhile is found."""
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    results = scan([tmp_path], modality="image", suffixes=IMAGES)
    assert next(results).uri.endswith("1.jpg")
    touch(tmp_path, "b/3.jpg")
    assert [item.uri[-5:] for item in results] == ["2.jpg"[-5:], "3.jpg"[-5:]]


def test_hash_and_state(tmp_path: Path) -> None:
    """The hash is BLAKE2b of the content, the state its size and time; a file that is gone is an error for both."""
    file = tmp_path / "a.bin"
    file.write_bytes(b"x" * 3_000_000)
    os.utime(file, ns=(5, 7))
    assert content_hash(file) == hashlib.blake2b(b"x" * 3_000_000, digest_size=16).hexdigest()
    assert file_state(file) == FileState(size=3_000_000, mtime_ns=7)
    for function in (content_hash, file_state):
        with pytest.raises(UnreadableSource, match="No such file"):
            function(tmp_path / "gone")


def test_real_folder(data: Path) -> None:
    """All photos of a real collection are found, as find(1) would."""
    expected = sorted(str(path) for path in (data / "clothing").rglob("*.jpg"))
    assert sorted(uris(data / "clothing")) == expected
    assert len(expected) == 372
