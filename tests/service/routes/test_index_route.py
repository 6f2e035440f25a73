"""Indexing over HTTP: uploads in, points out, and what is left on the disk."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from files import encoded, huge_png, pdf, photo, word
from qdrant_client import models
from service_app import running

from mmembed.collection import Collection
from mmembed.collection.prepare import PayloadIndexes
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.demo import DOCUMENTS
from mmembed.errors import StoreFull
from mmembed.retrieval.api import search
from mmembed.service.indexing import writes
from mmembed.service.indexing.uploads import clean_name, forget_uploads, keep_upload, uploads_folder
from mmembed.service.server import Server
from mmembed.stores import open_store
from mmembed.types import Contract, Payload, Point, VectorContract

File = tuple[str, bytes]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service with `tiny`, `bm25` and `fake`; each test has its own collections."""
    with running(tmp_path_factory.mktemp("service"), encoder=("fake",)) as served:
        yield served


def post(service: Server, collection: str, files: Sequence[File], items: Any = None, **query: str) -> httpx.Response:
    return httpx.post(
        f"{service.url}/v1/index/{collection}",
        params=query,
        files=[("file", file) for file in files],
        data=None if items is None else {"items": items if isinstance(items, str) else json.dumps(items)},
        timeout=60,
    )


def indexed(service: Server, collection: str, files: Sequence[File], items: Any = None, **query: str) -> Payload:
    answer = post(service, collection, files, items, **query)
    assert answer.status_code == 200, answer.text
    report: Payload = answer.json()
    return report


def image(seed: int) -> bytes:
    return encoded(photo(seed=seed))


def payload_of(service: Server, collection: str, id: str) -> Payload:
    return service.app.state.service.store.retrieve(collection, [id])[0].payload


def on_disk(service: Server, collection: str) -> list[str]:
    """Names of the uploads of a collection, and of whatever else lies in their folder."""
    folder = uploads_folder(service.app.state.service.folder, collection)
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_images_with_captions_are_found_again(service: Server) -> None:
    """An uploaded picture is found by its own pixels and by its caption, and carries what was said of it."""
    report = indexed(
        service,
        "kites",
        [("kite.png", image(1)), ("wall.png", image(2))],
        [{"caption": "a red kite", "payload": {"album": "summer"}}, {"caption": "a grey wall"}],
    )
    assert (report["embedded"], report["failures"]) == (2, [])
    store = service.app.state.service.store
    kite, wall = report["ids"]
    assert search(store, "kites", image=image(2), limit=1)[0].id == wall
    assert search(store, "kites", text="kite", vector_name="caption_bm25", limit=1)[0].id == kite
    payload = payload_of(service, "kites", kite)
    assert (payload["caption"], payload["album"]) == ("a red kite", "summer")
    assert store.indexes("kites")["album"] == "keyword"


def test_sending_twice_changes_nothing(service: Server) -> None:
    """The same files again are unchanged, with the same ids; other words for a picture replace the old ones."""
    files = [("a.png", image(3))]
    first = indexed(service, "twice", files, [{"caption": "one", "payload": {"old": 1}}])
    again = indexed(service, "twice", files, [{"caption": "one", "payload": {"old": 1}}])
    assert (again["unchanged"], again["ids"]) == (1, first["ids"])
    bare = indexed(service, "twice", files)
    assert bare["unchanged"] == 1, "nothing said of a file leaves what was said before"
    assert payload_of(service, "twice", first["ids"][0])["caption"] == "one"
    indexed(service, "twice", files, [{"caption": "two"}])
    payload = payload_of(service, "twice", first["ids"][0])
    assert payload["caption"] == "two"
    assert "old" not in payload
    assert on_disk(service, "twice") == ["a.png"]
    copy = indexed(service, "twice", [("b.png", image(3))])
    assert copy["copied"] == 1, "the same pixels under another name keep the vector"


def test_documents_bring_their_images(service: Server, tmp_path: Path) -> None:
    """A DOCX, a PDF and a page of HTML become passages, and the pictures they hold go to the collection of pictures."""
    data_uri = "data:image/png;base64," + base64.b64encode(image(12)).decode()
    files = [
        (
            "report.docx",
            word(tmp_path / "a.docx", ["A note on herons.", (photo(90, 90, seed=10), "a heron")]).read_bytes(),
        ),
        ("paper.pdf", pdf(tmp_path / "a.pdf", [("Owls hunt at night.", photo(90, 90, seed=11))]).read_bytes()),
        ("page.html", f"<h1>Storks</h1><p>Storks clatter.</p><img alt='a stork' src='{data_uri}'>".encode()),
    ]
    report = indexed(service, "papers", files, kind="documents", encoder="fake", images_into="of-papers")
    assert (report["embedded"], report["failures"], report["images"]["embedded"]) == (3, [], 3)
    store = service.app.state.service.store
    hit = search(store, "papers", text="herons", vector_name="bm25", limit=1)[0]
    assert hit.payload["text"] == "A note on herons."
    captions = {point.payload.get("caption") for point in store.scroll("of-papers")}
    assert captions == {"a heron", "a stork", None}
    later = indexed(service, "papers", [("more.txt", b"Kestrels hover.")], images_into="")
    assert later["embedded"] == 1, "the collection says itself that it holds documents, and by which encoder"
    assert "images" not in later


def test_demo_documents_are_searchable(service: Server) -> None:
    """The documents that come with mmembed, uploaded as they are, are found by their words."""
    files = [(path.name, path.read_bytes()) for path in sorted(Path(str(DOCUMENTS)).glob("*.md"))]
    report = indexed(service, "demo", files, kind="documents", encoder="tiny", images_into="")
    assert report["embedded"] == len(files)
    assert service.app.state.service.store.count("demo") >= len(files)


def test_a_document_shows_nobody_the_files_of_the_server(service: Server, tmp_path: Path) -> None:
    """A document that links to a picture on the server gets neither the picture nor a word on whether it is there."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(image(20))
    page = f"# Notes\n\nLook.\n\n![there]({secret})\n\n![gone]({secret}.gone)\n\n![link](file://{secret})\n"
    for name in ("notes.md", "notes.html"):
        report = indexed(
            service, "linking", [(name, page.encode())], kind="documents", encoder="fake", images_into="linked"
        )
        assert report["images"]["embedded"] == 0
        assert report["failures"] == report["images"]["failures"] == []
    assert "linked" not in service.app.state.service.store.collections()


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../x.png", "x.png"),
        ("/etc/passwd.png", "passwd.png"),
        ("C:\\temp\\y.png", "y.png"),
        ("CON.png", "CON.png"),
        ("n\0ul\n.png", "nul.png"),
        ("a" * 500 + ".png", "a" * 120 + ".png"),
        ("ü" * 100 + ".png", "ü" * 60 + ".png"),
        ("😀.png", "😀.png"),
        ("a#page=1*?.png", "a_page=1__.png"),
        (" . .hidden.png ", "hidden.png"),
        ("", "unnamed"),
        ("..", "unnamed"),
        (".png", "png"),
        ("x.p\udcffng", "x.png"),
        ("x." + "y" * 40, "x." + "y" * 40),
    ],
)
def test_names_are_cleaned(sent: str, kept: str) -> None:
    """Of a name only the last part stays, printable and short, with its suffix."""
    assert clean_name(sent) == kept


def test_hostile_names_stay_in_the_folder(service: Server) -> None:
    """Names that lead elsewhere, are empty or endless are stored under a harmless one; no kind of file is a failure."""
    names = ["../../../x.png", "CON.png", "n\0ul.png", "y" * 500 + ".png", "😀.png", "no-suffix", "evil.svg"]
    report = indexed(service, "hostile", [(name, image(30 + n)) for n, name in enumerate(names)])
    assert report["embedded"] == 5
    assert [failure["uri"] for failure in report["failures"]] == ["no-suffix", "evil.svg"]
    assert [id is None for id in report["ids"]] == [False] * 5 + [True] * 2
    folder = uploads_folder(service.app.state.service.folder, "hostile")
    for id in report["ids"][:5]:
        path = Path(payload_of(service, "hostile", id)["uri"])
        assert path.parent.parent == folder
        assert path.is_file()
    assert len(on_disk(service, "hostile")) == 5


def test_one_bad_file_fails_alone(service: Server) -> None:
    """What is no picture, or too large to decode, is a failure in the client's words, and is not kept."""
    files = [
        ("good.png", image(40)),
        ("cut.png", image(41)[:60]),
        ("bomb.png", huge_png(60_000, 60_000)),
        ("text.png", b"not a picture"),
        ("empty.png", b""),
        ("also-good.png", image(42)),
    ]
    report = indexed(service, "mixed", files)
    assert report["embedded"] == 2
    assert [failure["uri"] for failure in report["failures"]] == ["cut.png", "bomb.png", "text.png", "empty.png"]
    assert str(service.app.state.service.folder) not in json.dumps(report)
    assert "60000 x 60000" in report["failures"][1]["error"]
    assert on_disk(service, "mixed") == ["also-good.png", "good.png"]


def test_nothing_stored_is_400_and_leaves_nothing(service: Server) -> None:
    """Where every file is bad the answer is the first failure, and no collection is made."""
    answer = post(service, "unborn", [("a.png", b"junk"), ("b.png", b"junk")])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("a.png: ")
    assert "unborn" not in service.app.state.service.store.collections()
    assert on_disk(service, "unborn") == []
    assert post(service, "unborn", [("a.exe", b"junk")]).status_code == 400


def test_reserved_keys_give_way(service: Server) -> None:
    """A payload cannot say what mmembed says itself, and says all else."""
    said = {"uri": "/etc/passwd", "content_hash": "x", "width": 1, "document": "y", "caption": 5, "mine": [1, 2]}
    report = indexed(service, "reserved", [("a.png", image(50))], [{"payload": said}])
    payload = payload_of(service, "reserved", report["ids"][0])
    assert payload["uri"].endswith("/a.png")
    assert len(payload["content_hash"]) == 32
    assert payload["width"] == 48
    assert payload["mine"] == [1, 2]
    assert "document" not in payload
    assert "caption" not in payload


@pytest.mark.parametrize(
    "items",
    [
        "not json",
        "{}",
        "[]",
        "[{}, {}]",
        '[{"caption": 3}]',
        '[{"title": "x"}]',
        '[{"payload": {"a": NaN}}]',
        '[{"payload": {"a": 1e999}}]',
        '[{"payload": {"a": "\\ud800"}}]',
        '[{"payload": {"a": ' + "[" * 5000 + "]" * 5000 + "}}]",
    ],
)
def test_items_that_make_no_sense(service: Server, items: str) -> None:
    """What is said of the files is JSON, one entry a file; anything else is 400 and nothing is stored."""
    answer = post(service, "senseless", [("a.png", image(60))], items)
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"] == "InvalidRequest"
    assert "senseless" not in service.app.state.service.store.collections()
    assert on_disk(service, "senseless") == []


@pytest.mark.parametrize(
    "payload",
    [{"a[": 1}, {"a.b": 1}, {"": "x"}, {'q"': "x"}, {"\0": "\0"}, {"k" * 5000: "v"}, {"s": [1, "a", None]}],
)
def test_odd_payload_keys_are_stored(service: Server, payload: Payload) -> None:
    """Any key that JSON allows is kept as it is, though not each can be filtered by."""
    name = f"{abs(hash(str(payload)))}.png"
    report = indexed(service, "odd", [(name, image(70))], [{"payload": payload}])
    stored = payload_of(service, "odd", report["ids"][0])
    assert {key: stored.get(key) for key in payload} == payload


@pytest.mark.parametrize("collection", ["%2e%2e", "%2e", "x%00", "x" * 201, "%0a"])
def test_names_that_no_collection_can_have(service: Server, collection: str) -> None:
    """A collection is called by printable letters, or by dots that lead nowhere."""
    answer = post(service, collection, [("a.png", image(80))])
    if collection in ("%2e%2e", "%2e"):
        assert answer.status_code == 200
        path = Path(payload_of(service, collection.replace("%2e", "."), answer.json()["ids"][0])["uri"])
        assert path.is_relative_to(service.app.state.service.folder / "uploads")
        assert httpx.delete(f"{service.url}/v1/collections/{collection}").json() == {"removed": True}
        assert service.app.state.service.folder.is_dir()
        assert httpx.get(f"{service.url}/ready").status_code == 200
    else:
        assert answer.status_code == 400
        assert answer.json()["type"] == "InvalidRequest"


def test_requests_that_ask_for_what_there_is_not(service: Server) -> None:
    """No file, an unknown field, encoder, kind or suffix, or documents without their encoder: 400 in one sentence."""
    file = [("a.png", image(90))]
    url = f"{service.url}/v1/index/asked"
    assert httpx.post(url).status_code == 400
    assert httpx.post(url, json={"file": "x"}).status_code == 400
    assert httpx.post(url, data={"file": "x"}).status_code == 400
    assert httpx.post(url, files=[("picture", file[0])]).status_code == 400
    unknown = post(service, "asked", file, encoder="siglip2-b32")
    assert (unknown.status_code, unknown.json()["type"]) == (400, "UnknownEncoder")
    assert post(service, "asked", file, kind="videos").status_code == 400
    without = post(service, "asked", [("a.txt", b"words")], kind="documents")
    assert (without.status_code, "fake" in without.json()["error"]) == (400, True)
    both = post(service, "asked", [("a.txt", b"words")], kind="documents", encoder="fake", images_into="asked")
    assert both.status_code == 400
    assert "asked" not in service.app.state.service.store.collections()
    assert on_disk(service, "asked") == []


def test_too_many_files(tmp_path: Path) -> None:
    """More files than are taken at once are refused, and as many as are taken are stored."""
    with running(tmp_path, max_inputs=3, max_queue=3) as small:
        files = [(f"{n}.png", image(n)) for n in range(5)]
        assert post(small, "many", files[:4]).status_code == 413
        assert post(small, "many", files[:3]).json()["embedded"] == 3


def test_a_collection_keeps_its_encoder_and_kind(service: Server) -> None:
    """Another encoder, or documents among pictures, are refused, and their uploads are not kept."""
    indexed(service, "kept", [("a.png", image(100))])
    other = post(service, "kept", [("b.png", image(101))], encoder="fake")
    assert (other.status_code, other.json()["type"]) == (409, "CollectionMismatch")
    assert post(service, "kept", [("b.txt", b"words")], kind="documents", encoder="fake").status_code == 400
    assert on_disk(service, "kept") == ["a.png"]


def test_a_write_that_was_cut_short_is_finished_by_sending_it_again(service: Server) -> None:
    """A file that was kept but never stored, as after a kill, is indexed by the next request with it."""
    folder = uploads_folder(service.app.state.service.folder, "killed")
    content = image(110)
    with (folder.parent / "sent").open("w+b") as stream:
        stream.write(content)
        path = keep_upload(folder, "a.png", stream, size=len(content))
    (folder.parent / "sent").unlink()
    report = indexed(service, "killed", [("a.png", content)])
    assert (report["embedded"], report["failures"]) == (1, [])
    assert Path(payload_of(service, "killed", report["ids"][0])["uri"]) == path
    path.write_bytes(b"")  # a power cut after the rename
    assert indexed(service, "killed", [("a.png", content)])["unchanged"] == 1
    assert path.read_bytes() == content


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    """Without room on the disk nothing is written."""
    with (tmp_path / "sent").open("w+b") as stream, pytest.raises(StoreFull, match="make room"):
        keep_upload(tmp_path / "uploads", "a.png", stream, size=1, free_margin_bytes=2**60)
    assert list((tmp_path / "uploads").iterdir()) == []


def test_requests_for_one_collection_take_turns(service: Server) -> None:
    """Eight clients that index into one collection at the same time all succeed, and searches go on meanwhile."""
    indexed(service, "turns", [("first.png", image(0))])
    with ThreadPoolExecutor(9) as pool:
        sent = [pool.submit(indexed, service, "turns", [(f"{n}.png", image(200 + n))]) for n in range(8)]
        found = pool.submit(search, service.app.state.service.store, "turns", image=image(0), limit=1)
        assert sum(each.result()["embedded"] for each in sent) == 8
        assert found.result()[0].score == pytest.approx(1, abs=1e-4)
    assert service.app.state.service.store.count("turns") == 9


def test_a_client_that_goes_away_does_not_stop_a_write(service: Server) -> None:
    """What has begun is finished although its client has gone."""
    files = [("file", (f"{n}.png", image(300 + n))) for n in range(60)]
    with httpx.Client(timeout=httpx.Timeout(5, read=0.02)) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{service.url}/v1/index/gone", files=files)
    store = service.app.state.service.store
    until = time.monotonic() + 20
    while not ("gone" in store.collections() and store.count("gone") == 60):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_deletes(service: Server) -> None:
    """Points go by id, by list and by filter, each with its thumbnail and upload."""
    items = [{"payload": {"album": str(n % 2)}} for n in range(6)]
    report = indexed(service, "deletes", [(f"{n}.png", image(400 + n)) for n in range(6)], items)
    ids, url = report["ids"], f"{service.url}/v1/points/deletes"
    store = service.app.state.service.store
    thumbnail = thumbnail_path(Collection(store, "deletes"), ids[0])
    assert thumbnail is not None
    assert thumbnail.exists()
    assert httpx.delete(f"{url}/{ids[0]}").json() == {"removed": 1}
    assert not thumbnail.exists()
    assert httpx.delete(f"{url}/{ids[0]}").status_code == 404
    assert httpx.delete(f"{url}/not-a-uuid").status_code == 404
    assert httpx.request("DELETE", url, json={"ids": [ids[2], ids[0]]}).json() == {"removed": 1}
    odd = {"must": [{"key": "album", "match": {"value": "1"}}]}
    assert httpx.request("DELETE", url, json={"filter": odd}).json() == {"removed": 3}
    assert [point.id for point in store.scroll("deletes")] == [ids[4]]
    assert on_disk(service, "deletes") == ["4.png"]
    body: dict[str, Any]
    for body in ({}, {"filter": {}}, {"filter": {"must": []}}, {"ids": ["x"]}, {"ids": [], "filter": odd}, {"all": 1}):
        assert httpx.request("DELETE", url, json=body).status_code == 400, body
    assert store.count("deletes") == 1
    assert httpx.delete(f"{service.url}/v1/collections/deletes").json() == {"removed": True}
    assert "deletes" not in store.collections()
    assert on_disk(service, "deletes") == []
    assert httpx.delete(f"{service.url}/v1/collections/deletes").status_code == 404


def test_a_document_goes_with_its_last_passage(service: Server) -> None:
    """One passage alone may go; the upload and the pictures inside go when no passage is left."""
    text = "\n\n".join(f"# Chapter {n}\n\n" + f"word{n} and more of chapter {n}. " * 40 for n in range(3))
    inside = "data:image/png;base64," + base64.b64encode(image(500)).decode()
    page = f"{text}\n\n![a stork]({inside})\n".encode()
    report = indexed(service, "books", [("book.md", page)], kind="documents", encoder="fake", images_into="of-books")
    store = service.app.state.service.store
    count = store.count("books")
    assert count > 1
    assert store.count("of-books") == 1
    assert httpx.delete(f"{service.url}/v1/points/books/{report['ids'][0]}").json() == {"removed": 1}
    assert store.count("books") == count - 1
    assert on_disk(service, "books") == ["book.md"]
    uri = next(store.scroll("books")).payload["uri"]
    whole = {"must": [{"key": "uri", "match": {"value": uri}}]}
    answer = httpx.request("DELETE", f"{service.url}/v1/points/books", json={"filter": whole})
    assert answer.json() == {"removed": count - 1}
    assert store.count("of-books") == 0
    assert on_disk(service, "books") == []


def test_dropping_documents_drops_the_images_inside(service: Server) -> None:
    """With a collection of documents go the pictures that stood in them, and no other."""
    inside = "data:image/png;base64," + base64.b64encode(image(510)).decode()
    indexed(service, "shared", [("own.png", image(511))])
    page = ("page.html", f"<p>Storks clatter.</p><img src='{inside}'>".encode())
    indexed(service, "pages", [page], kind="documents", encoder="fake", images_into="shared")
    store = service.app.state.service.store
    assert store.count("shared") == 2
    assert httpx.delete(f"{service.url}/v1/collections/pages").status_code == 200
    assert [Path(point.payload["uri"]).name for point in store.scroll("shared")] == ["own.png"]


def test_only_uploads_of_the_collection_are_removed(tmp_path: Path) -> None:
    """A point that names a file elsewhere, in another collection or behind a link never takes the file with it."""
    folder = uploads_folder(tmp_path, "mine")
    own = folder / "0" / "own.png"
    others = [tmp_path / "precious.png", folder.parent / "other" / "0" / "x.png", folder / "deep" / "er" / "x.png"]
    for path in (own, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (folder / "link").symlink_to(tmp_path)
    behind = [str(folder / "link" / "precious.png"), f"{folder}/0/../../../precious.png"]
    forget_uploads(folder, [str(own), *map(str, others), *behind, "relative.png", ""])
    assert not own.exists()
    assert not own.parent.exists()
    assert all(path.exists() for path in others)


def test_foreign_collections_are_left_alone(tmp_path: Path) -> None:
    """A collection without a contract takes no uploads, and loses no points."""
    home = tmp_path / "store.mm" / "collections" / "theirs"
    with running(tmp_path) as first:
        indexed(first, "theirs", [("a.png", image(600))])
    contract = home / "contract.json"
    contract.write_text(json.dumps({**json.loads(contract.read_text()), "mmembed": None}))
    with running(tmp_path) as second:
        store = second.app.state.service.store
        assert store.contract("theirs") is None
        answers = [
            post(second, "theirs", [("b.png", image(601))]),
            httpx.delete(f"{second.url}/v1/collections/theirs"),
            httpx.request("DELETE", f"{second.url}/v1/points/theirs", json={"ids": []}),
        ]
        assert [answer.status_code for answer in answers] == [403, 403, 403]
        assert store.count("theirs") == 1


def test_scopes(tmp_path: Path) -> None:
    """A key to search indexes and deletes nothing, one to index drops no collection."""
    keys = ("s" * 20 + ":search", "i" * 20 + ":index", "a" * 20 + ":admin")
    with running(tmp_path, key=keys) as locked:

        def ask(method: str, path: str, key: str, **more: Any) -> int:
            headers = {"authorization": f"Bearer {key * 20}"}
            return httpx.request(method, locked.url + path, headers=headers, **more).status_code

        files = [("file", ("a.png", image(700)))]
        assert ask("POST", "/v1/index/pics", "s", files=files) == 403
        assert ask("POST", "/v1/index/pics", "i", files=files) == 200
        assert ask("DELETE", "/v1/points/pics", "s", json={"ids": []}) == 403
        assert ask("DELETE", "/v1/points/pics", "i", json={"ids": []}) == 200
        assert ask("GET", "/v1/collections", "i") == 403
        assert ask("GET", "/v1/collections", "s") == 200
        assert ask("GET", "/metrics", "s") == 403
        assert ask("GET", "/metrics", "a") == 200
        assert ask("DELETE", "/v1/collections/pics", "i") == 403
        assert ask("DELETE", "/v1/collections/pics", "a") == 200


def test_the_search_graph_is_built_when_writes_have_come_to_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that was written to is optimised once, some time after the last of several writes."""
    monkeypatch.setattr(writes, "QUIET_SECONDS", 0.3)
    with running(tmp_path) as service:
        store = service.app.state.service.store
        done: list[str] = []
        optimize = store.optimize
        finished = threading.Event()

        def counted(collection: str) -> None:
            optimize(collection)
            done.append(collection)
            finished.set()

        monkeypatch.setattr(store, "optimize", counted)
        for n in range(3):
            indexed(service, "resting", [(f"{n}.png", image(800 + n))])
            assert done == []
        assert finished.wait(10)
        time.sleep(0.5)
        assert done == ["resting"]
        assert search(store, "resting", image=image(801), limit=1)[0].score == pytest.approx(1, abs=1e-4)


def test_payload_indexes_are_bounded_over_all_requests() -> None:
    """However many keys clients think of, request by request, a collection has no more than 64 indexes of them."""
    store = open_store(":memory:")
    vector = VectorContract("tiny", "ff", "image", "dense", 4)
    store.create("keys", Contract("images", {"image": vector}), indexes={})
    for n in range(3):
        PayloadIndexes(Collection(store, "keys")).cover([{f"key{n}-{m}": m for m in range(40)}, {"no path [": 1}])
    assert 40 < len(store.indexes("keys")) <= 64
    assert "no path [" not in store.indexes("keys")
    store.close()


def test_contracts_are_made_of_served_encoders(service: Server) -> None:
    """A collection whose encoder is not served is refused by name, not loaded."""
    store = service.app.state.service.store
    vector = VectorContract("open_clip:ViT-Never/none", "ff", "image", "dense", 4)
    store.create("alien", Contract("images", {"image": vector}), indexes={})
    store.upsert("alien", [Point("0b0f9ad6-9c1c-5d5c-8f0e-2f1f5b6a7c11", {}, {"uri": "x"})])
    try:
        answer = post(service, "alien", [("a.png", image(950))])
        assert answer.status_code in (400, 503)
        assert store.count("alien", filter=models.Filter(must=[])) == 1
        assert on_disk(service, "alien") == []
    finally:
        store.drop("alien")
