"""Qdrant Edge only: the process that owns the shards, its lock, its death, and a disk that runs full."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import qdrant_edge
from places import SUPPORT
from qdrant_client import models as m

from mmembed.errors import CollectionNotFound, InvalidQuery, StoreError, StoreFull, StoreUnavailable
from mmembed.stores import open_store
from mmembed.stores.edge.models import edge_filter
from mmembed.stores.edge.store import EdgeStore
from mmembed.stores.filters import dump_filter
from mmembed.types import Contract, Leg, Point, StoreQuery, VectorContract

CONTRACT = Contract("images", {"image": VectorContract("tiny", "f1", "image", "dense", 64)})


def uid(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def points(start: int, n: int, dim: int = 64) -> list[Point]:
    random = np.random.default_rng(start)
    rows = random.normal(size=(1, dim)) + 0.3 * random.normal(size=(n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [Point(uid(start + i), {"image": rows[i].astype(np.float32)}, {"n": start + i}) for i in range(n)]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process of a user."""
    line = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def running(pid: int) -> bool:
    """Whether a process is at work; one that has ended may stay listed until somebody waits for it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


HOLD = """
    import sys
    from mmembed.stores import open_store
    store = open_store("edge:" + sys.argv[1])
    print("open", flush=True)
    sys.stdin.read()
"""


def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    """Closing flushes, and the next process finds contract, points, indexes and search graph."""
    store = EdgeStore(f"edge:{tmp_path}")
    store.create("photos", CONTRACT, indexes={"n": "integer"})
    store.upsert("photos", points(0, 100))
    store.optimize("photos")
    store.close()
    file = json.loads((tmp_path / "collections/photos/contract.json").read_text())
    assert file["indexes"] == {"n": "integer"}
    assert file["mmembed"]["vectors"]["image"]["encoder"] == "tiny"
    again = EdgeStore(f"edge:{tmp_path}")
    assert again.contract("photos") == CONTRACT
    assert again.count("photos", filter=m.Filter(must=m.FieldCondition(key="n", range=m.Range(lt=10)))) == 10
    assert again.query("photos", StoreQuery([Leg("image", points(0, 100)[7].vectors["image"])], limit=1))[0].id == uid(
        7
    )
    again.close()


def test_folder_is_expanded_and_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`edge:~/a/b` is made under the user's home, and `folder` says where."""
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store("edge:~/a/b")
    assert store.folder == tmp_path / "a" / "b"
    assert store.folder.is_dir()
    assert store.url == "edge:~/a/b"
    store.close()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """A path that cannot be a folder is one sentence."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be made"):
        EdgeStore(f"edge:{tmp_path / 'file'}")


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "..", ".hidden", "a/b", "Ünïcode 日本", "%2e%2e", "a b"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    """Whatever a collection is called, its files lie in one directory below FOLDER/collections."""
    store = EdgeStore(f"edge:{tmp_path / 'store'}")
    store.create(name, CONTRACT, indexes={})
    assert store.collections() == [name]
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
    assert len(list((tmp_path / "store" / "collections").iterdir())) == 1
    store.drop(name)
    assert list((tmp_path / "store" / "collections").iterdir()) == []
    with pytest.raises(CollectionNotFound):
        store.count("../..")
    store.close()


def test_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    """Another process waits, then names the holder's pid and command; when the holder ends, it is let in."""
    holder = python(HOLD, tmp_path)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(StoreUnavailable, match=rf"process {holder.pid} \(.*python.*after 0\.5 seconds") as caught:
        EdgeStore(f"edge:{tmp_path}", wait_seconds=0.5)
    assert shlex.quote(str(tmp_path)) in str(caught.value)
    holder.stdin.close()
    EdgeStore(f"edge:{tmp_path}", wait_seconds=20).close()
    holder.wait(20)
    holder.stdout.close()


def test_same_process_twice(tmp_path: Path) -> None:
    """Opening a folder that this process has open is refused at once; after closing it works."""
    store = EdgeStore(f"edge:{tmp_path}")
    with pytest.raises(StoreUnavailable, match=f"this very process {os.getpid()}"):
        EdgeStore(f"edge:{tmp_path}/../{tmp_path.name}")
    store.close()
    store.close()
    EdgeStore(f"edge:{tmp_path}").close()
    with pytest.raises(StoreUnavailable, match="was closed: open it again"):
        store.collections()


def test_killed_owner_loses_nothing(tmp_path: Path) -> None:
    """The store opens the shards of a killed owner again, with everything acknowledged, for reads and for writes."""
    store = EdgeStore(f"edge:{tmp_path}")
    store.create("photos", CONTRACT, indexes={})
    for start in range(0, 1000, 100):
        store.upsert("photos", points(start, 100))
    asks: list[Callable[[], object]] = [lambda: store.count("photos"), lambda: store.upsert("photos", points(1000, 1))]
    for ask in asks:
        before = store.pid
        os.kill(before, signal.SIGKILL)
        _wait_until_gone(before)
        ask()
        assert store.pid != before
    assert [p.payload["n"] for p in store.scroll("photos")] == list(range(1001))
    store.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        store.count("photos")


def _wait_until_gone(pid: int) -> None:
    """Until it is a zombie: dead, and not yet waited for."""
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


@pytest.mark.parametrize("reads", [True, False])
def test_a_request_that_was_on_the_way(tmp_path: Path, reads: bool) -> None:
    """The owner dies in the midst of a request: one that reads is asked again, one that writes says do it once more."""
    store = EdgeStore(f"edge:{tmp_path}")
    store.create("photos", CONTRACT, indexes={})
    store.upsert("photos", points(0, 100))
    os.kill(store.pid, signal.SIGSTOP)  # so that the request is on the way for sure
    with ThreadPoolExecutor(4) as threads:
        asked: list[Future[Any]] = [
            threads.submit(store.count, "photos") if reads else threads.submit(store.upsert, "photos", points(0, 1))
            for _ in range(4)
        ]
        time.sleep(0.3)
        os.kill(store.pid, signal.SIGKILL)
        for answer in asked:
            if reads:
                assert answer.result(60) == 100
            else:
                with contextlib.suppress(StoreUnavailable):
                    answer.result(60)
        if not reads:
            errors = [answer.exception() for answer in asked]
            assert any(error is not None for error in errors)
            assert all("do this once more" in str(error) for error in errors if error is not None)
    assert store.count("photos") == 100
    store.close()


def test_a_store_that_cannot_be_opened_again_says_so(tmp_path: Path) -> None:
    """Where the folder is no longer one, every call is StoreUnavailable with the reason, which is told once."""
    store = EdgeStore(f"edge:{tmp_path / 'store'}", wait_seconds=0.2)
    told: list[StoreError] = []
    store.on_lost = told.append
    os.kill(store.pid, signal.SIGKILL)
    _wait_until_gone(store.pid)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("a file")
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"ended, and .*cannot be opened as a store"):
            store.collections()
    assert told == [store.lost]
    store.close()


def test_killed_user_loses_nothing(tmp_path: Path) -> None:
    """When the user's process is killed, the owner flushes and ends, and the folder is free."""
    code = """
        import sys
        from test_edge import CONTRACT, points
        from mmembed.stores.edge.store import EdgeStore
        store = EdgeStore("edge:" + sys.argv[1])
        store.create("photos", CONTRACT, indexes={})
        store.upsert("photos", points(0, 300))
        print(store.pid, flush=True)
        sys.stdin.read()
    """
    user = python(
        f"import sys; sys.path[:0] = [{str(SUPPORT)!r}, {str(Path(__file__).parent)!r}]\n{textwrap.dedent(code)}",
        tmp_path,
    )
    assert user.stdin is not None
    assert user.stdout is not None
    owner = int(user.stdout.readline())
    user.kill()
    user.wait()
    user.stdin.close()
    user.stdout.close()
    store = EdgeStore(f"edge:{tmp_path}")
    assert store.count("photos") == 300
    assert not running(owner)
    store.close()


def test_ctrl_c_does_not_reach_the_owner(tmp_path: Path) -> None:
    """The owner ignores SIGINT: the user's process decides when to close."""
    store = EdgeStore(f"edge:{tmp_path}")
    os.kill(store.pid, signal.SIGINT)
    time.sleep(0.1)
    assert store.collections() == []
    store.close()


def test_unclosed_store_is_closed_with_the_process(tmp_path: Path) -> None:
    """Forgetting to close warns of nothing, leaves no process behind and loses nothing."""
    code = """
        import sys
        from mmembed.stores.edge.store import EdgeStore
        store = EdgeStore("edge:" + sys.argv[1])
        print(store.pid)
    """
    line = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert not running(int(done.stdout))


def test_forked_process_neither_uses_nor_holds_the_store(tmp_path: Path) -> None:
    """A fork cannot use the store, and does not keep the owner alive when the parent closes it."""
    store = EdgeStore(f"edge:{tmp_path}")
    reading, writing = os.pipe()
    # A fork beside threads is what this is about: newer Pythons warn of any.
    child = os.fork()
    if child == 0:
        try:
            store.collections()
        except StoreUnavailable as exc:
            os.write(writing, str(exc).encode())
        finally:
            time.sleep(2)
            os._exit(0)
    assert b"before this process was forked: open it again" in os.read(reading, 1000)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 2
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_the_callers_threads_go_on(tmp_path: Path) -> None:
    """While the owner works, the caller's interpreter is free: the reason why it is another process."""
    import threading

    store = EdgeStore(f"edge:{tmp_path}")
    store.create("photos", CONTRACT, indexes={})
    store.upsert("photos", points(0, 3000))
    stalls: list[float] = []
    done = threading.Event()

    def tick() -> None:
        before = time.monotonic()
        while not done.is_set():
            time.sleep(0.002)
            stalls.append(time.monotonic() - before)
            before = time.monotonic()

    ticker = threading.Thread(target=tick)
    ticker.start()
    began = time.monotonic()
    store.optimize("photos")
    took = time.monotonic() - began
    done.set()
    ticker.join()
    assert max(stalls) < max(0.5, took / 2)
    store.close()


def test_interrupted_create_does_not_brick_the_name(tmp_path: Path) -> None:
    """Leftovers of a creation or removal that was killed vanish on opening, as does a contract without a shard."""
    folder = tmp_path / "collections"
    for leftover in (".new-photos/shard/x", ".dropped-photos/shard/x", "photos"):
        (folder / leftover).mkdir(parents=True)
    (folder / "photos" / "contract.json").write_text("{}")
    store = EdgeStore(f"edge:{tmp_path}")
    assert store.collections() == []
    with pytest.raises(CollectionNotFound):
        store.contract("photos")
    store.create("photos", CONTRACT, indexes={})
    assert sorted(p.name for p in folder.iterdir()) == ["photos"]
    assert store.contract("photos") == CONTRACT
    store.close()


def test_newer_contract_is_refused(tmp_path: Path) -> None:
    """A folder that a newer mmembed wrote says so instead of guessing."""
    store = EdgeStore(f"edge:{tmp_path}")
    store.create("photos", CONTRACT, indexes={})
    store.close()
    file = tmp_path / "collections/photos/contract.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "mmembed": {"version": 9}}))
    again = EdgeStore(f"edge:{tmp_path}")
    with pytest.raises(StoreError, match="upgrade mmembed"):
        again.upsert("photos", points(0, 1))
    again.close()


def test_conditions_that_edge_lacks_are_named() -> None:
    """A filter that cannot be translated is an InvalidQuery, never a filter that is silently weaker."""
    with pytest.raises(InvalidQuery, match="'slice'"):
        edge_filter({"must": [{"slice": {"index": 0, "total": 2}}]})
    with pytest.raises(InvalidQuery, match="'match colour'"):
        edge_filter({"must": {"key": "a", "match": {"colour": 1}}})
    with pytest.raises(InvalidQuery, match="'range_of_colours'"):
        edge_filter({"must": {"key": "a", "range_of_colours": 1}})


@pytest.mark.parametrize("match", [m.MatchText, m.MatchTextAny, m.MatchPhrase, m.MatchPrefix, m.MatchSubstring])
def test_every_kind_of_text_match_is_translated(match: type) -> None:
    """Text matches whose meaning depends on a text index reach Edge as what they are."""
    (field,) = match.model_fields  # type: ignore[attr-defined]
    made = edge_filter(dump_filter(m.Filter(must=m.FieldCondition(key="a", match=match(**{field: "x"})))) or {})
    assert made.must is not None
    condition = made.must[0]
    assert isinstance(condition, qdrant_edge.FieldCondition)
    assert type(condition.match).__name__ == match.__name__


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=160m", "tmpfs", disk], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(small_disk: Path) -> None:
    """Before the disk is full a write is refused; nothing is lost; when there is room again, it goes on."""
    url = f"edge:{small_disk / 'store'}"
    wide = Contract("images", {"image": VectorContract("tiny", "f1", "image", "dense", 1024)})
    store = EdgeStore(url, free_margin_bytes=16 * 2**20)
    store.create("photos", wide, indexes={})
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * max(0, shutil.disk_usage(small_disk).free - 40 * 2**20))

    def fill() -> None:
        for start in range(0, 100_000, 250):
            store.upsert("photos", points(start, 250, 1024))

    with pytest.raises(StoreFull, match=r"MiB of free disk.*everything before it is stored"):
        fill()
    written = store.count("photos")
    assert 0 < written < 100_000
    store.close()
    ballast.unlink()
    again = EdgeStore(url, free_margin_bytes=16 * 2**20)
    assert [p.payload["n"] for p in again.scroll("photos")] == list(range(written))
    again.upsert("photos", points(written, 10, 1024))
    assert again.count("photos") == written + 10
    again.close()


def test_no_room_for_a_new_collection(tmp_path: Path) -> None:
    """Creating needs room too: with a margin larger than the disk it is refused and leaves nothing behind."""
    store = EdgeStore(f"edge:{tmp_path}", free_margin_bytes=2**60)
    with pytest.raises(StoreFull, match="make room"):
        store.create("photos", CONTRACT, indexes={})
    assert list((tmp_path / "collections").iterdir()) == []
    store.close()


def test_opening_imports_neither_client_nor_torch(tmp_path: Path) -> None:
    """Both processes of an embedded store start without qdrant_client and torch."""
    code = """
        import sys
        from mmembed.stores import open_store
        import mmembed.stores.edge.pipe
        open_store("edge:" + sys.argv[1]).close()
        import mmembed.stores.edge.process
        print(sorted({"torch", "qdrant_client", "transformers"} & set(sys.modules)))
    """
    line = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout == "[]\n"


def test_filters_where_the_graph_is_no_help(tmp_path: Path) -> None:
    """Filters that no edges of the search graph are made for lose no hit.

    Held against plain numpy, and against Qdrant's own approximate search beside it, which misses most of them.
    """
    n = 8000
    store = EdgeStore(f"edge:{tmp_path}")
    store.create("photos", CONTRACT, indexes={"indexed": "keyword"})
    store.close()
    small = qdrant_edge.EdgeConfig(  # so that 8,000 points are enough for a graph to be walked
        vectors={"image": qdrant_edge.EdgeVectorParams(size=64, distance=qdrant_edge.Distance.Cosine)},
        hnsw_config=qdrant_edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=150),
        optimizers=qdrant_edge.EdgeOptimizersConfig(indexing_threshold=10),
    )
    shard = str(tmp_path / "collections/photos/shard")
    qdrant_edge.EdgeShard.load(shard, small).close()

    store = EdgeStore(f"edge:{tmp_path}")
    random = np.random.default_rng(0)
    rows = random.normal(size=(400, 64))[random.integers(400, size=n + 20)] + 0.4 * random.normal(size=(n + 20, 64))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    vectors, queries = vectors[:n], vectors[n:]
    tags = [f"t{i % 20}" for i in range(n)]
    payloads = [{"bare": tag, "late": tag, "indexed": tag} for tag in tags]
    store.upsert("photos", [Point(uid(i), {"image": vectors[i]}, payloads[i]) for i in range(n)])
    store.optimize("photos")
    store.add_indexes("photos", {"late": "keyword"})
    kept = np.array([i for i in range(n) if tags[i] in ("t3", "t4")])
    best = [{uid(int(i)) for i in kept[np.argsort(-(vectors[kept] @ query))[:10]]} for query in queries]
    filters = [
        m.Filter(must=m.FieldCondition(key=field, match=m.MatchAny(any=["t3", "t4"])))
        for field in ("bare", "late", "indexed")
    ]
    for only in filters:
        found = [
            {h.id for h in store.query("photos", StoreQuery([Leg("image", q)], limit=10, filter=only))} for q in queries
        ]
        assert found == best, only
    store.close()

    raw = qdrant_edge.EdgeShard.load(shard)
    for only in filters:
        condition = edge_filter(dump_filter(only) or {})
        requests = [
            qdrant_edge.QueryRequest(
                limit=10, filter=condition, query=qdrant_edge.Query.Nearest(q.tolist(), using="image")
            )
            for q in queries
        ]
        found = [{str(hit.id) for hit in raw.query(request)} for request in requests]
        assert np.mean([len(a & b) / 10 for a, b in zip(found, best, strict=True)]) < 0.9, "the graph is enough"
    raw.close()


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    """A mistyped folder, of pictures say, is not made into a store."""
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(StoreError, match="is not a store and holds other things"):
        open_store(f"edge:{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
