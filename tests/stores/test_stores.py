"""Every store passes the same tests: the embedded one, local memory, and a server where there is one."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import qdrant_edge
from filled import CONTRACT, INDEXES, SERVER, clustered, fill, grpc_store, ids, sparse, uid
from grpc_server import serve
from qdrant_client import QdrantClient
from qdrant_client import models as m

from mmembed.errors import (
    CollectionMismatch,
    CollectionNotFound,
    CollectionNotOurs,
    InvalidQuery,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from mmembed.stores import open_store
from mmembed.stores.qdrant.store import QdrantStore
from mmembed.types import Leg, Point, SparseVector, Store, StoreQuery, VectorContract

# --- collections --------------------------------------------------------------------------------


def test_create_and_contract(store: Store, name: str) -> None:
    """A collection remembers its contract word for word, and is listed."""
    store.create(name, CONTRACT, indexes=INDEXES)  # type: ignore[arg-type]
    assert store.contract(name) == CONTRACT
    assert name in store.collections()
    assert store.count(name) == 0
    with pytest.raises(StoreError, match=f"{name!r} already exists"):
        store.create(name, CONTRACT, indexes={})


def test_drop(store: Store, name: str) -> None:
    """A dropped collection is gone, and its name is free again."""
    fill(store, name)
    store.drop(name)
    assert name not in store.collections()
    with pytest.raises(CollectionNotFound, match=name):
        store.count(name)
    store.create(name, CONTRACT, indexes={})
    assert store.count(name) == 0


def test_unknown_collection(store: Store, name: str) -> None:
    """Every method names a collection that is not there, and the nearest one that is."""
    fill(store, name, 2)
    wrong = name + "s"
    calls: list[Callable[[], object]] = [
        lambda: store.contract(wrong),
        lambda: store.query(wrong, StoreQuery([Leg("image", clustered(1, 8)[0])], limit=1)),
        lambda: store.retrieve(wrong, [uid(0)]),
        lambda: store.scroll(wrong),
        lambda: store.count(wrong),
        lambda: store.upsert(wrong, []),
        lambda: store.update_vectors(wrong, []),
        lambda: store.set_payload(wrong, [uid(0)], {}),
        lambda: store.set_payloads(wrong, {}),
        lambda: store.set_note(wrong, "a", 1),
        lambda: store.delete(wrong, []),
        lambda: store.delete_where(wrong, m.Filter()),
        lambda: store.drop(wrong),
        lambda: store.optimize(wrong),
        lambda: store.add_indexes(wrong, {}),
        lambda: store.add_vector(wrong, "x", CONTRACT.vectors["image"]),
    ]
    for call in calls:
        with pytest.raises(CollectionNotFound, match=rf"no collection '{wrong}'.*did you mean '{name}'"):
            call()


def make_foreign(store: Store, name: str, dim: int) -> Callable[[], None]:
    """A collection with one unnamed vector that mmembed did not make; returns what removes it."""
    rows = np.eye(dim).tolist()
    if isinstance(store, QdrantStore):
        client = QdrantClient(url=store.url) if store.url == SERVER else store._client
        client.create_collection(name, vectors_config=m.VectorParams(size=dim, distance=m.Distance.DOT))
        client.upsert(name, [m.PointStruct(id=i, vector=rows[i], payload={"n": i}) for i in range(dim)], wait=True)
        return lambda: client.delete_collection(name) and None
    assert store.folder is not None
    params = qdrant_edge.EdgeVectorParams(size=dim, distance=qdrant_edge.Distance.Dot)
    shard = qdrant_edge.EdgeShard.create(
        str(store.folder / "collections" / name / "shard"), qdrant_edge.EdgeConfig(vectors=params)
    )
    points = [qdrant_edge.Point(i, rows[i], {"n": i}) for i in range(dim)]
    shard.update(qdrant_edge.UpdateOperation.upsert_points(points))
    shard.close()
    return lambda: None


def test_foreign_collection_is_read_never_written(store: Store, name: str) -> None:
    """A collection without a contract can be searched and read; every write is refused and changes nothing."""
    remove = make_foreign(store, name, 3)
    try:
        assert store.contract(name) is None
        assert store.count(name) == 3
        query = np.array([0.1, 0.9, 0.2], dtype=np.float32)
        hits = store.query(name, StoreQuery([Leg("", query)], limit=2))
        assert ids(hits) == ["1", "2"]
        assert hits[0].payload == {"n": 1}
        assert hits[0].vector_name == ""
        (point,) = store.retrieve(name, ["2"], vectors=True)
        np.testing.assert_array_equal(point.vectors[""], [0, 0, 1])
        assert ids(list(store.scroll(name))) == ["0", "1", "2"]
        writes: list[Callable[[], object]] = [
            lambda: store.upsert(name, [Point(uid(0))]),
            lambda: store.update_vectors(name, [Point(uid(0))]),
            lambda: store.set_payload(name, ["1"], {"a": 1}),
            lambda: store.set_payloads(name, {"1": {"a": 1}}),
            lambda: store.set_note(name, "a", 1),
            lambda: store.delete(name, ["1"]),
            lambda: store.delete_where(name, m.Filter()),
            lambda: store.add_vector(name, "x", CONTRACT.vectors["image"]),
            lambda: store.add_indexes(name, {"n": "integer"}),
            lambda: store.drop(name),
        ]
        for write in writes:
            with pytest.raises(CollectionNotOurs, match=name):
                write()
        with pytest.raises(StoreError, match="already exists"):
            store.create(name, CONTRACT, indexes={})
        assert [p.payload for p in store.scroll(name)] == [{"n": 0}, {"n": 1}, {"n": 2}]
    finally:
        remove()


def test_add_vector(store: Store, name: str) -> None:
    """A vector of each kind is added, remembered, filled and searched; another encoder under its name is refused."""
    vectors = fill(store, name)
    caption = VectorContract("minilm", "g1", "text", "dense", 2)
    store.add_vector(name, "caption", caption)
    store.add_vector(name, "words", VectorContract("bm25", "g2", "text", "sparse", None, "dot"))
    store.add_vector(name, "windows", VectorContract("clip", "g3", "text", "multi", 2))
    contract = store.contract(name)
    assert contract is not None
    assert contract.vectors.keys() == {*CONTRACT.vectors, "caption", "words", "windows"}  # a server keeps no order
    east, north = np.array([1, 0], dtype=np.float32), np.array([0, 1], dtype=np.float32)
    store.update_vectors(name, [Point(uid(3), {"caption": north, "words": sparse({7: 1.0}), "windows": east[None]})])
    assert ids(store.query(name, StoreQuery([Leg("caption", north)], limit=5))) == [uid(3)]
    assert ids(store.query(name, StoreQuery([Leg("words", sparse({7: 1.0}))], limit=5))) == [uid(3)]
    assert ids(store.query(name, StoreQuery([Leg("windows", east[None])], limit=5))) == [uid(3)]
    assert ids(store.query(name, StoreQuery([Leg("image", vectors[5])], limit=1))) == [uid(5)]
    store.add_vector(name, "caption", caption)
    with pytest.raises(CollectionMismatch, match=r"minilm.*tiny"):
        store.add_vector(name, "caption", CONTRACT.vectors["image"])


# --- points -------------------------------------------------------------------------------------


def test_upsert_and_retrieve(store: Store, name: str) -> None:
    """What is written comes back in the order asked, vectors of every kind included; unknown ids are left out."""
    store.create(name, CONTRACT, indexes={})
    image = clustered(1, 8)[0]
    cross = clustered(3, 4)
    payload = {"uri": "/a/ü.jpg", "size": [1, 2], "gps": {"lat": 1.5, "lon": -2.25}, "none": None, "yes": True}
    words = sparse({9: 1.5, 2: 0.5})
    store.upsert(name, [Point(uid(1), {"image": image, "bm25": words, "cross": cross}, payload), Point(uid(2))])
    second, first = store.retrieve(name, [uid(2), uid(99), uid(1)], vectors=True)
    assert second == Point(uid(2))
    assert (first.id, first.payload) == (uid(1), payload)
    np.testing.assert_allclose(first.vectors["image"], image, atol=1e-6)
    np.testing.assert_allclose(first.vectors["cross"], cross, atol=1e-6)
    stored = first.vectors["bm25"]
    assert isinstance(stored, SparseVector)
    assert dict(zip(stored.indices.tolist(), stored.values.tolist(), strict=True)) == {2: 0.5, 9: 1.5}
    assert stored.indices.dtype == np.uint32
    assert first.vectors["image"].dtype == np.float32
    (only,) = store.retrieve(name, [uid(1)], vectors=["image"], payload=False)
    assert list(only.vectors) == ["image"]
    assert only.payload == {}
    assert store.retrieve(name, []) == []


def test_payload_keeps_types(store: Store, name: str) -> None:
    """Whole numbers stay whole, also beyond what a float holds; null and lists in lists come back; null unsets."""
    store.create(name, CONTRACT, indexes={})
    payload = {
        "mtime_ns": 1_790_000_000_123_456_789,
        "one": 1.0,
        "deep": [[1, None], {"a": []}],
        "no": False,
        "x": None,
    }
    store.upsert(name, [Point(uid(1), {}, {**payload, "moved_from": "y"})])
    store.set_payload(name, [uid(1)], {"moved_from": None})
    (point,) = store.retrieve(name, [uid(1)])
    assert point.payload == payload
    assert isinstance(point.payload["mtime_ns"], int)
    assert isinstance(point.payload["one"], float)


def test_upsert_replaces(store: Store, name: str) -> None:
    """Writing an id again replaces the whole point: old vectors and payload keys are gone."""
    fill(store, name, 3)
    store.upsert(name, [Point(uid(1), {"bm25": sparse({1: 1.0})}, {"new": 1})])
    (point,) = store.retrieve(name, [uid(1)], vectors=True)
    assert list(point.vectors) == ["bm25"]
    assert point.payload == {"new": 1}
    assert store.count(name) == 3


def test_wrong_size_names_both_numbers(store: Store, name: str) -> None:
    """A vector or query of another size is refused, and none of its batch is written."""
    fill(store, name, 3)
    bad = [Point(uid(7), {"image": clustered(1, 8)[0]}), Point(uid(8), {"image": clustered(1, 6)[0]})]
    for write in (store.upsert, store.update_vectors):
        with pytest.raises(StoreError, match=r"6 dimensions.*not 8"):
            write(name, bad)
    with pytest.raises(StoreError, match=r"6 dimensions.*not 8"):
        store.query(name, StoreQuery([Leg("image", clustered(1, 6)[0])], limit=1))
    assert store.count(name) == 3


def test_scroll(store: Store, name: str) -> None:
    """Every point comes once, in the order of ids, in pages, with the vectors and keys asked for."""
    vectors = fill(store, name, 23)
    points = list(store.scroll(name, batch_size=5, vectors=["image"], payload=["n"]))
    assert ids(points) == [uid(i) for i in range(23)]
    assert [p.payload for p in points] == [{"n": i} for i in range(23)]
    np.testing.assert_allclose(np.stack([p.vectors["image"] for p in points]), vectors, atol=1e-6)
    some = m.Filter(must=m.FieldCondition(key="tag", match=m.MatchValue(value="t1")))
    bare = list(store.scroll(name, batch_size=2, filter=some, payload=False))
    assert ids(bare) == [uid(i) for i in range(1, 23, 4)]
    assert all(p.payload == {} and p.vectors == {} for p in bare)


def test_update_vectors(store: Store, name: str) -> None:
    """Only the vectors that are given change; other vectors and the payload stay."""
    fill(store, name, 3)
    store.update_vectors(name, [Point(uid(1), {"splade": sparse({4: 1.0})})])
    replaced = clustered(1, 8, seed=9)[0]
    store.update_vectors(name, [Point(uid(1), {"image": replaced}, {"ignored": 1})])
    (point,) = store.retrieve(name, [uid(1)], vectors=True)
    assert sorted(point.vectors) == ["image", "splade"]
    np.testing.assert_allclose(point.vectors["image"], replaced, atol=1e-6)
    assert point.payload == {"n": 1, "tag": "t1"}


def test_set_payload(store: Store, name: str) -> None:
    """Keys are merged; others stay; points that are not named stay."""
    fill(store, name, 3)
    store.set_payload(name, [uid(0), uid(2)], {"tag": "new", "at": "2024-01-01T00:00:00Z"})
    assert [p.payload for p in store.scroll(name)] == [
        {"n": 0, "tag": "new", "at": "2024-01-01T00:00:00Z"},
        {"n": 1, "tag": "t1"},
        {"n": 2, "tag": "new", "at": "2024-01-01T00:00:00Z"},
    ]


def test_set_payloads(store: Store, name: str) -> None:
    """Each point gets keys of its own, more points than one request takes; None removes a key, other keys stay."""
    n = 300
    fill(store, name, n)
    changed = {uid(i): {"tag": f"new{i}", "extra": {"a": [i, None]}, "n": None} for i in range(0, n, 2)}
    store.set_payloads(name, {})
    store.set_payloads(name, changed | {uid(1).upper(): {"tag": ["x", "y"]}})
    rows = {point.id: point.payload for point in store.scroll(name)}
    assert rows[uid(0)] == {"tag": "new0", "extra": {"a": [0, None]}}
    assert rows[uid(298)] == {"tag": "new298", "extra": {"a": [298, None]}}
    assert rows[uid(1)] == {"n": 1, "tag": ["x", "y"]}
    assert rows[uid(3)] == {"n": 3, "tag": "t3"}
    with pytest.raises(StoreError, match="two spellings"):
        store.set_payloads(name, {uid(10): {"n": 1}, uid(10).upper(): {"n": 2}})
    with pytest.raises(StoreError, match="not JSON"):
        store.set_payloads(name, {uid(3): {"n": 1}, uid(5): {"n": float("nan")}})
    assert {point.id: point.payload for point in store.scroll(name)} == rows


def test_notes(store: Store, name: str) -> None:
    """Notes are kept beside the contract, each by itself; a further vector leaves them, and None removes one."""
    vectors = fill(store, name, 3)
    calibration = {"temperature": 1.5, "names": ("cat", "dög"), "pictures": 12, "rule": None}
    store.set_note(name, "calibration:a", calibration)
    store.set_note(name, "few-shot", [1, 2])
    store.add_vector(name, "caption", VectorContract("minilm", "g1", "text", "dense", 2))
    contract = store.contract(name)
    assert contract is not None
    assert contract.notes == {"calibration:a": {**calibration, "names": ["cat", "dög"]}, "few-shot": [1, 2]}
    assert contract.vectors.keys() == {*CONTRACT.vectors, "caption"}
    store.set_note(name, "few-shot", None)
    store.set_note(name, "never there", None)
    contract = store.contract(name)
    assert contract is not None
    assert contract.notes.keys() == {"calibration:a"}
    with pytest.raises(StoreError, match=r"'big'.*262,146 bytes, more than 262,144"):
        store.set_note(name, "big", "x" * (256 * 1024))
    assert ids(store.query(name, StoreQuery([Leg("image", vectors[2])], limit=1))) == [uid(2)]


def test_notes_of_many_threads(store: Store, name: str) -> None:
    """Notes written at once through one store are all there afterwards."""
    store.create(name, CONTRACT, indexes={})
    threads = [threading.Thread(target=store.set_note, args=(name, f"note{i}", i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contract = store.contract(name)
    assert contract is not None
    assert contract.notes == {f"note{i}": i for i in range(8)}


def test_changing_a_point_that_is_not_there(store: Store, name: str) -> None:
    """Updating an unknown id is an error that names it, and changes none of the others."""
    fill(store, name, 3)
    with pytest.raises(StoreError, match=rf"no point {uid(50)} \(1 of 2"):
        store.set_payload(name, [uid(1), uid(50)], {"tag": "new"})
    with pytest.raises(StoreError, match=rf"no point {uid(50)} \(1 of 2"):
        store.set_payloads(name, {uid(1): {"tag": "new"}, uid(50): {"tag": "new"}})
    with pytest.raises(StoreError, match=rf"no point {uid(50)}"):
        store.update_vectors(name, [Point(uid(1), {"cross": clustered(1, 4)}), Point(uid(50))])
    (point,) = store.retrieve(name, [uid(1)], vectors=True)
    assert point.payload == {"n": 1, "tag": "t1"}
    assert list(point.vectors) == ["image"]


def test_delete(store: Store, name: str) -> None:
    """Points go by id or by filter; unknown ids are no error."""
    fill(store, name, 12)
    store.delete(name, [uid(0), uid(77)])
    assert store.count(name) == 11
    store.delete_where(name, m.Filter(must=[m.FieldCondition(key="tag", match=m.MatchValue(value="t1"))]))
    assert [p.payload["n"] for p in store.scroll(name)] == [2, 3, 4, 6, 7, 8, 10, 11]


# --- queries ------------------------------------------------------------------------------------


def test_dense_query(store: Store, name: str) -> None:
    """Hits are the nearest by cosine, best first, with scores, payloads and where they came from."""
    vectors = fill(store, name, 120)
    query = clustered(1, 8, seed=3)[0]
    expected = vectors @ query
    order = np.argsort(-expected, kind="stable")
    hits = store.query(name, StoreQuery([Leg("image", query)], limit=7))
    assert ids(hits) == [uid(int(i)) for i in order[:7]]
    np.testing.assert_allclose([h.score for h in hits], expected[order[:7]], atol=1e-5)
    assert hits[0].payload == {"n": order[0], "tag": f"t{order[0] % 4}"}
    assert {(h.vector_name, h.collection) for h in hits} == {("image", name)}
    assert ids(store.query(name, StoreQuery([Leg("image", query)], limit=3, offset=4))) == [
        uid(int(i)) for i in order[4:7]
    ]
    threshold = float(expected[order[3]] + expected[order[4]]) / 2
    assert len(store.query(name, StoreQuery([Leg("image", query)], limit=50, score_threshold=threshold))) == 4


def test_multivector_query(store: Store, name: str) -> None:
    """MaxSim: for each row of the query its best row of the point, summed."""
    store.create(name, CONTRACT, indexes={})
    windows = [clustered(1 + i % 3, 4, seed=i) for i in range(15)]
    store.upsert(name, [Point(uid(i), {"cross": w}) for i, w in enumerate(windows)])
    query = clustered(2, 4, seed=99)
    expected = np.array([(query @ w.T).max(axis=1).sum() for w in windows])
    hits = store.query(name, StoreQuery([Leg("cross", query)], limit=15))
    assert ids(hits) == [uid(int(i)) for i in np.argsort(-expected)]
    np.testing.assert_allclose([h.score for h in hits], np.sort(expected)[::-1], atol=1e-5)


def test_sparse_query_with_and_without_idf(store: Store, name: str) -> None:
    """BM25 terms are weighed by ln(1 + (N - n + 0.5) / (n + 0.5)); learned weights are taken as they are."""
    store.create(name, CONTRACT, indexes={})
    documents = [{1: 1.0, 2: 2.0}, {1: 1.0}, {1: 3.0, 3: 1.0}, {2: 0.5}]
    store.upsert(name, [Point(uid(i), {"bm25": sparse(d), "splade": sparse(d)}) for i, d in enumerate(documents)])
    query = {1: 1.0, 3: 2.0}

    def expected(idf: Callable[[int], float]) -> dict[str, float]:
        scores = {uid(i): sum(d[t] * w * idf(t) for t, w in query.items() if t in d) for i, d in enumerate(documents)}
        return {id_: score for id_, score in scores.items() if score}

    def rarity(term: int) -> float:
        n = sum(term in d for d in documents)
        return float(np.log(1 + (len(documents) - n + 0.5) / (n + 0.5)))

    for vector, idf in (("bm25", rarity), ("splade", lambda _: 1.0)):
        hits = store.query(name, StoreQuery([Leg(vector, sparse(query))], limit=10))
        assert {h.id: h.score for h in hits} == pytest.approx(expected(idf), rel=1e-4)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert store.query(name, StoreQuery([Leg("bm25", sparse({}))], limit=10)) == []


def rrf(rankings: Sequence[Sequence[str]], weights: Sequence[float], k: int) -> dict[str, float]:
    """Qdrant's weighted reciprocal rank fusion, ranks from 0: the sum of 1 / ((rank + 1) / weight + k - 1)."""
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, id_ in enumerate(ranking):
            scores[id_] = scores.get(id_, 0.0) + 1 / ((rank + 1) / weight + k - 1)
    return scores


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0)])
@pytest.mark.parametrize("k", [60, 5])
def test_fusion(store: Store, name: str, weights: tuple[float, float], k: int) -> None:
    """Two legs are fused by RRF over `depth` candidates each, with the k and weights that are given."""
    vectors = fill(store, name, 40)
    store.update_vectors(name, [Point(uid(i), {"splade": sparse({1: 1 + (i * 7) % 40})}) for i in range(0, 40, 2)])
    legs = [Leg("image", vectors[6], weights[0]), Leg("splade", sparse({1: 1.0}), weights[1])]
    lists = [ids(store.query(name, StoreQuery([leg], limit=12))) for leg in legs]
    expected = rrf(lists, weights, k)
    hits = store.query(name, StoreQuery(legs, limit=12, depth=12, rrf_k=k))
    assert {h.id: h.score for h in hits} == pytest.approx({h.id: expected[h.id] for h in hits}, rel=1e-5)
    assert [h.score for h in hits] == pytest.approx(sorted(expected.values(), reverse=True)[:12], rel=1e-5)
    assert {h.vector_name for h in hits} == {None}
    with pytest.raises(InvalidQuery, match="score threshold"):
        store.query(name, StoreQuery(legs, limit=3, score_threshold=0.1))


def test_fusion_of_fusions(store: Store, name: str) -> None:
    """Legs in a tuple become one ranking first, which then counts as much as any other."""
    vectors = fill(store, name, 40)
    store.update_vectors(name, [Point(uid(i), {"splade": sparse({1: 1 + (i * 7) % 40})}) for i in range(40)])
    near, other, words = Leg("image", vectors[6]), Leg("image", vectors[9], 2.0), Leg("splade", sparse({1: 1.0}))
    inner = store.query(name, StoreQuery([other, words], limit=40))
    expected = rrf([ids(store.query(name, StoreQuery([near], limit=40))), ids(inner)], (1.0, 1.0), 60)
    hits = store.query(name, StoreQuery([near, (other, words)], limit=40))
    # Equal inner scores may be ranked either way, which moves the outer score by one rank.
    assert {h.id: h.score for h in hits} == pytest.approx(expected, rel=0.02)
    assert ids(store.query(name, StoreQuery([(near,)], limit=3))) == ids(store.query(name, StoreQuery([near], limit=3)))


def test_rerank(store: Store, name: str) -> None:
    """The candidates of all rankings, `depth` of each, are ordered by MaxSim alone; points without it are none."""
    vectors, windows = fill(store, name, 60), [clustered(1 + i % 3, 4, seed=i) for i in range(60)]
    words = {uid(i): 1 + (i * 7) % 60 for i in range(0, 60, 2)}
    store.update_vectors(name, [Point(uid(i), {"cross": windows[i]}) for i in range(60) if i % 3])
    store.update_vectors(name, [Point(id_, {"splade": sparse({1: weight})}) for id_, weight in words.items()])
    near, other, ranked = Leg("image", vectors[6]), Leg("splade", sparse({1: 1.0}), 2.0), clustered(2, 4, seed=99)
    last = Leg("cross", ranked)
    nearest = [uid(int(i)) for i in np.argsort(-(vectors @ vectors[6]), kind="stable")[:8]]
    wordy = sorted(words, key=lambda id_: -words[id_])[:8]
    scores = {uid(i): float((ranked @ windows[i].T).max(axis=1).sum()) for i in range(60) if i % 3}

    def expected(candidates: Sequence[str]) -> list[str]:
        return sorted({id_ for id_ in candidates if id_ in scores}, key=lambda id_: -scores[id_])

    assert set(nearest) - set(wordy)
    assert set(nearest) - set(scores), "a candidate should lack the vector"
    for rankings, found in (([near], nearest), ([near, other], nearest + wordy), ([(other, near)], nearest + wordy)):
        hits = store.query(name, StoreQuery(rankings, limit=50, depth=8, rerank=last))
        assert ids(hits) == expected(found)
        assert [h.score for h in hits] == pytest.approx([scores[h.id] for h in hits], abs=1e-5)
        assert {h.vector_name for h in hits} == {"cross"}
        pages = [
            store.query(name, StoreQuery(rankings, limit=3, offset=n, depth=8, rerank=last)) for n in range(0, 24, 3)
        ]
        assert [h for page in pages for h in page] == hits
    whole = expected([uid(i) for i in range(60)])
    assert ids(store.query(name, StoreQuery([near], limit=4, depth=60, rerank=last))) == whole[:4]
    floor = (scores[whole[3]] + scores[whole[4]]) / 2
    assert (
        ids(store.query(name, StoreQuery([near, other], limit=50, depth=60, rerank=last, score_threshold=floor)))
        == whole[:4]
    )
    only = m.Filter(must=m.FieldCondition(key="n", range=m.Range(gte=30)))
    kept = expected([uid(i) for i in range(30, 60)])
    assert ids(store.query(name, StoreQuery([near, other], limit=50, depth=60, rerank=last, filter=only))) == kept


def test_rerank_that_makes_no_sense(store: Store, name: str) -> None:
    """A vector that is not there or of another size is refused, a sparse one too; no candidates, no hits."""
    vectors = fill(store, name, 3)
    near, last = Leg("image", vectors[0]), Leg("cross", clustered(2, 4))
    assert store.query(name, StoreQuery([Leg("splade", sparse({}))], limit=3, rerank=last)) == []
    assert store.query(name, StoreQuery([near], limit=3, rerank=last)) == []
    assert ids(store.query(name, StoreQuery([near], limit=1, rerank=Leg("image", vectors[2])))) == [uid(2)]
    with pytest.raises(InvalidQuery, match="rerank by a multivector"):
        store.query(name, StoreQuery([near], limit=3, rerank=Leg("splade", sparse({1: 1.0}))))
    with pytest.raises(InvalidQuery, match="no vector 'late'"):
        store.query(name, StoreQuery([near], limit=3, rerank=Leg("late", clustered(2, 4))))
    with pytest.raises(StoreError, match=r"5 dimensions.*not 4"):
        store.query(name, StoreQuery([near], limit=3, rerank=Leg("cross", clustered(2, 5))))


def test_filter_on_a_field_without_index_loses_nothing(store: Store, name: str) -> None:
    """A filtered search is as good as an exact one, with or without a payload index, also after optimising."""
    n = 3000
    vectors = clustered(n, 8)
    store.create(name, CONTRACT, indexes={"indexed": "keyword"})
    payloads = [{"indexed": f"t{i % 20}", "bare": f"t{i % 20}", "late": f"t{i % 20}"} for i in range(n)]
    store.upsert(name, [Point(uid(i), {"image": vectors[i]}, payloads[i]) for i in range(n)])
    store.optimize(name)
    store.add_indexes(name, {"late": "keyword", "indexed": "keyword"})
    query = clustered(1, 8, seed=5)[0]
    rows = np.arange(3, n, 20)
    best = rows[np.argsort(-(vectors[rows] @ query))][:10]
    for field in ("indexed", "bare", "late"):
        only = m.Filter(must=m.FieldCondition(key=field, match=m.MatchValue(value="t3")))
        assert ids(store.query(name, StoreQuery([Leg("image", query)], limit=10, filter=only))) == [
            uid(int(i)) for i in best
        ]
        assert store.count(name, filter=only) == n // 20


# --- filters ------------------------------------------------------------------------------------

BERLIN, PARIS, TOKYO = {"lat": 52.52, "lon": 13.4}, {"lat": 48.86, "lon": 2.35}, {"lat": 35.68, "lon": 139.69}
ROWS: list[dict[str, Any]] = [
    {"tag": "cat", "n": 1, "score": 0.5, "seen": True, "at": "2024-01-01T00:00:00Z", "place": BERLIN},
    {"tag": "dog", "n": 2, "score": 1.5, "seen": False, "at": "2024-06-01T12:00:00Z", "place": PARIS},
    {"tag": ["cat", "bird"], "n": 3, "score": 2.5, "at": "2025-01-01T00:00:00+02:00", "place": TOKYO},
    {"tag": [], "n": 4, "text": "a red car on the road"},
    {"tag": None, "n": 5, "text": "red road"},
    {"n": 6, "faces": [{"name": "ann", "age": 3}, {"name": "bob", "age": 30}]},
    {"n": 7, "faces": [{"name": "ann", "age": 30}, {"name": "bob", "age": 3}], "text": "the car is blue"},
]


def key(key: str, **condition: Any) -> m.FieldCondition:
    return m.FieldCondition(key=key, **condition)


def ring(*corners: tuple[float, float]) -> m.GeoLineString:
    return m.GeoLineString(points=[m.GeoPoint(lat=lat, lon=lon) for lat, lon in corners])


def age(low: int) -> m.Filter:
    return m.Filter(must=[key("name", match=m.MatchValue(value="ann")), key("age", range=m.Range(gte=low))])


def parsed(row: dict[str, Any]) -> datetime | None:
    return datetime.fromisoformat(row["at"].replace("Z", "+00:00")) if "at" in row else None


def tags(row: dict[str, Any]) -> list[str]:
    tag = row.get("tag")
    return tag if isinstance(tag, list) else [] if tag is None else [tag]


CAT, DOG = key("tag", match=m.MatchValue(value="cat")), key("tag", match=m.MatchValue(value="dog"))
BOX = m.GeoBoundingBox(top_left=m.GeoPoint(lat=53, lon=0), bottom_right=m.GeoPoint(lat=48, lon=14))
EUROPE = ring((40, -5), (40, 20), (60, 20), (60, -5), (40, -5))
AROUND_PARIS = ring((48, 2), (48, 3), (50, 3), (50, 2), (48, 2))
SUMMER = datetime.fromisoformat("2024-06-01T12:00:00+00:00")

FILTERS: dict[str, tuple[m.Filter, Callable[[dict[str, Any]], bool]]] = {
    "must value": (m.Filter(must=[CAT]), lambda r: "cat" in tags(r)),
    "one condition without a list": (m.Filter(must=CAT), lambda r: "cat" in tags(r)),
    "must not": (m.Filter(must_not=[CAT]), lambda r: "cat" not in tags(r)),
    "should": (m.Filter(should=[CAT, DOG]), lambda r: bool({"cat", "dog"} & set(tags(r)))),
    "must and should": (
        m.Filter(must=[key("n", range=m.Range(gte=2))], should=[CAT, DOG]),
        lambda r: r["n"] >= 2 and bool({"cat", "dog"} & set(tags(r))),
    ),
    "min should": (
        m.Filter(min_should=m.MinShould(conditions=[CAT, key("n", range=m.Range(gt=2)), DOG], min_count=2)),
        lambda r: ("cat" in tags(r)) + (r["n"] > 2) + ("dog" in tags(r)) >= 2,
    ),
    "filter in a filter": (
        m.Filter(must=[m.Filter(should=[CAT, DOG]), m.Filter(must_not=[DOG])]),
        lambda r: "cat" in tags(r) and "dog" not in tags(r),
    ),
    "empty": (m.Filter(), lambda _: True),
    "integer": (m.Filter(must=[key("n", match=m.MatchValue(value=3))]), lambda r: r["n"] == 3),
    "bool": (m.Filter(must=[key("seen", match=m.MatchValue(value=True))]), lambda r: r.get("seen") is True),
    "any": (
        m.Filter(must=[key("tag", match=m.MatchAny(any=["dog", "bird"]))]),
        lambda r: bool({"dog", "bird"} & set(tags(r))),
    ),
    "any integer": (m.Filter(must=[key("n", match=m.MatchAny(any=[1, 5]))]), lambda r: r["n"] in (1, 5)),
    "except": (
        m.Filter(must=[key("tag", match=m.MatchExcept(**{"except": ["cat"]}))]),
        lambda r: any(tag != "cat" for tag in tags(r)),
    ),
    "text": (m.Filter(must=[key("text", match=m.MatchText(text="red"))]), lambda r: "red" in r.get("text", "")),
    "range": (m.Filter(must=[key("n", range=m.Range(gt=1, lte=3))]), lambda r: 1 < r["n"] <= 3),
    "range of floats": (
        m.Filter(must=[key("score", range=m.Range(gte=0.5, lt=2.5))]),
        lambda r: 0.5 <= r.get("score", 9) < 2.5,
    ),
    "range of times": (
        m.Filter(must=[key("at", range=m.DatetimeRange(gte=SUMMER))]),
        lambda r: (at := parsed(r)) is not None and at >= SUMMER,
    ),
    "range of times, zones": (
        m.Filter(must=[key("at", range=m.DatetimeRange(lt=datetime.fromisoformat("2024-12-31T23:00:00+00:00")))]),
        lambda r: "at" in r,
    ),
    "is empty": (m.Filter(must=[m.IsEmptyCondition(is_empty=m.PayloadField(key="tag"))]), lambda r: not tags(r)),
    "is null": (
        m.Filter(must=[m.IsNullCondition(is_null=m.PayloadField(key="tag"))]),
        lambda r: "tag" in r and r["tag"] is None,
    ),
    "has id": (m.Filter(must=[m.HasIdCondition(has_id=[uid(2), uid(4), uid(50)])]), lambda r: r["n"] in (3, 5)),
    "has vector": (m.Filter(must=[m.HasVectorCondition(has_vector="splade")]), lambda r: r["n"] % 2 == 0),
    "nested": (
        m.Filter(must=[m.NestedCondition(nested=m.Nested(key="faces", filter=age(10)))]),
        lambda r: any(f["name"] == "ann" and f["age"] >= 10 for f in r.get("faces", [])),
    ),
    "values count": (
        m.Filter(must=[key("faces", values_count=m.ValuesCount(gte=2))]),
        lambda r: len(r.get("faces", [])) >= 2,
    ),
    "geo radius": (
        m.Filter(must=[key("place", geo_radius=m.GeoRadius(center=m.GeoPoint(**PARIS), radius=10_000))]),
        lambda r: r.get("place") == PARIS,
    ),
    "geo box": (m.Filter(must=[key("place", geo_bounding_box=BOX)]), lambda r: r.get("place") in (PARIS, BERLIN)),
    "geo polygon": (
        m.Filter(must=[key("place", geo_polygon=m.GeoPolygon(exterior=EUROPE))]),
        lambda r: r.get("place") in (PARIS, BERLIN),
    ),
    "geo polygon with a hole": (
        m.Filter(must=[key("place", geo_polygon=m.GeoPolygon(exterior=EUROPE, interiors=[AROUND_PARIS]))]),
        lambda r: r.get("place") == BERLIN,
    ),
}


def test_filters_equal_a_naive_oracle(store: Store, name: str) -> None:
    """Each kind of condition keeps the rows that plain Python keeps, in count, scroll and query."""
    store.create(name, CONTRACT, indexes=INDEXES)  # type: ignore[arg-type]
    vectors = clustered(len(ROWS), 8)
    points = []
    for i, row in enumerate(ROWS):
        extra = {"splade": sparse({1: 1.0})} if row["n"] % 2 == 0 else {}
        points.append(Point(uid(i), {"image": vectors[i], **extra}, row))
    store.upsert(name, points)
    for what, (chosen, passes) in FILTERS.items():
        expected = [uid(i) for i, row in enumerate(ROWS) if passes(row)]
        assert ids(list(store.scroll(name, filter=chosen))) == expected, what
        assert store.count(name, filter=chosen) == len(expected), what
        hits = store.query(name, StoreQuery([Leg("image", vectors[0])], limit=20, filter=chosen))
        assert sorted(ids(hits)) == expected, what
        fused = [Leg("image", vectors[0]), Leg("splade", sparse({1: 1.0}))]
        assert sorted(ids(store.query(name, StoreQuery(fused, limit=20, filter=chosen)))) == expected, what


# --- threads ------------------------------------------------------------------------------------


def test_threads(store: Store, name: str) -> None:
    """Writers and readers in several threads lose nothing and see no half-written state."""
    store.create(name, CONTRACT, indexes={})
    vectors = clustered(400, 8)
    errors: list[Exception] = []

    def write(start: int) -> None:
        try:
            for i in range(start, start + 100, 10):
                store.upsert(name, [Point(uid(j), {"image": vectors[j]}, {"n": j}) for j in range(i, i + 10)])
        except Exception as exc:
            errors.append(exc)

    def read() -> None:
        try:
            for _ in range(20):
                store.query(name, StoreQuery([Leg("image", vectors[0])], limit=5))
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 100, 200, 300)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [p.payload["n"] for p in store.scroll(name)] == list(range(400))


# --- opening, and a server that fails -----------------------------------------------------------


@pytest.mark.parametrize("url", ["", "edge:", "localhost:6333", "ftp://x", "http://", "http://x:port", "/tmp/x"])
def test_other_addresses(url: str) -> None:
    """An address of no known form is refused with the three that are."""
    with pytest.raises(SettingsError, match=r"http://host:port.*edge:FOLDER.*:memory:"):
        open_store(url)


def test_no_server_there() -> None:
    """Where nobody listens, opening says so in one sentence."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StoreUnavailable, match=rf"{re.escape(url)} was asked and did not serve.*refused"):
            open_store(url)


def test_closed_store_says_so(store: Store) -> None:
    """After close every call is StoreUnavailable, which says what to do; closing twice is no error."""
    store.close()
    store.close()
    for call in (store.collections, lambda: store.count("photos"), lambda: store.contract("photos")):
        with pytest.raises(StoreUnavailable, match="was closed: open it again"):
            call()


@pytest.mark.parametrize(
    "body", ["<html>hello</html>", '{"version": {"number": "8.1"}}', '{"title": "x", "version": "nightly"}', ""]
)
def test_something_else_answers(body: str) -> None:
    """A web server, another database or a version that is no number is not taken for Qdrant."""
    handler = type("Handler", (Scripted,), {"do_GET": lambda self: self.reply(200, body)})
    with listening(handler) as url, pytest.raises(StoreError, match=rf"what answers at {url} is not Qdrant"):
        open_store(url)


def test_key_over_http_is_warned_of_once(store_json: str) -> None:
    """A key that travels in the open is the user's to know: one warning for each store that is opened."""
    handler = type("Handler", (Scripted,), {"failures": [], "asked": [], "collection": store_json})
    with listening(handler) as url:
        with pytest.warns(UserWarning, match="insecure connection") as warned:
            opened = open_store(url, api_key="secret")
        opened.close()
    assert len(warned) == 1


def test_grpc_keeps_contracts_and_indexes() -> None:
    """Over gRPC the contract and the payload indexes arrive, as do contracts for a server without metadata."""
    with grpc_store() as (store, service):
        store.create("photos", CONTRACT, indexes=INDEXES)  # type: ignore[arg-type]
        assert {field: kind.value for field, kind in service.indexes["photos"].items()} == INDEXES
        assert store.look("photos").indexes == INDEXES
        store.version = (1, 15)
        service.keeps_metadata = False
        store.create("old", CONTRACT, indexes={})
        assert store.contract("old") == CONTRACT
        assert store.collections() == ["old", "photos"]


def test_grpc_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gRPC server that stopped is StoreUnavailable after the tries of a read or a write."""
    monkeypatch.setattr("mmembed.stores.qdrant.calls._LONGEST_PAUSE_SECONDS", 0.01)
    with serve() as (_, port):
        client = QdrantClient(
            url="http://127.0.0.1", grpc_port=port, prefer_grpc=True, timeout=5, check_compatibility=False
        )
        store = QdrantStore(client, url="http://127.0.0.1", folder=None, version=(1, 20), local=False)
        fill(store, "photos", 3)
    with pytest.raises(StoreUnavailable, match="asked 2 times and did not serve"):
        store.count("photos")
    with pytest.raises(StoreUnavailable, match="asked 5 times and did not serve"):
        store.delete("photos", [uid(1)])
    store.close()


def test_alias_is_read_and_written_but_not_dropped() -> None:
    """What has an alias answers to it; dropping the alias would delete nothing, so it is refused."""
    store = open_store(":memory:")
    assert isinstance(store, QdrantStore)
    fill(store, "photos", 3)
    alias = m.CreateAlias(collection_name="photos", alias_name="current")
    store._client.update_collection_aliases([m.CreateAliasOperation(create_alias=alias)])
    assert store.contract("current") == CONTRACT
    store.delete("current", [uid(1)])
    assert store.count("photos") == 2
    with pytest.raises(StoreError, match="'current' is an alias"):
        store.drop("current")
    assert store.collections() == ["photos"]
    store.close()


def test_server_too_old_for_another_vector() -> None:
    """A server before 1.18 cannot add a vector; the error says so and nothing is changed."""
    store = open_store(":memory:")
    assert isinstance(store, QdrantStore)
    fill(store, "photos", 3)
    store.version = (1, 17)
    with pytest.raises(StoreError, match=r"is version 1\.17, which cannot: upgrade it to 1\.18"):
        store.add_vector("photos", "caption", VectorContract("minilm", "g1", "text", "dense", 2))
    assert store.contract("photos") == CONTRACT
    store.close()


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers as a server of version 1.19 with one collection of ours; `failures` come first."""

    failures: list[tuple[int, dict[str, str]]]
    asked: list[str]
    metadata: dict[str, Any]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/points" in self.path:
            self.asked.append(self.path)
            if self.failures:
                status, headers = self.failures.pop(0)
                self.reply(status, '{"status": {"error": "busy"}}', headers)
            else:
                self.reply(200, '{"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0.0}')
        elif self.path == "/":
            self.reply(200, '{"title": "qdrant - vector search engine", "version": "1.19.0"}')
        else:
            self.reply(200, self.collection)

    collection = ""
    do_GET = do_PUT = do_POST = answer  # noqa: N815

    def reply(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of an HTTP server on loopback that `handler` answers for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def scripted(store_json: str) -> Iterator[tuple[Store, type[Scripted]]]:
    handler = type("Handler", (Scripted,), {"failures": [], "asked": [], "collection": store_json})
    with listening(handler) as url:
        opened = open_store(url)
        yield opened, handler
        opened.close()


@pytest.fixture
def store_json() -> str:
    """What a server says of a collection of ours, as local mode describes it."""
    local = open_store(":memory:")
    assert isinstance(local, QdrantStore)
    local.create("photos", CONTRACT, indexes={})
    info = local._client.get_collection("photos").model_dump_json(exclude_none=True)
    local.close()
    return f'{{"result": {info}, "status": "ok", "time": 0.0}}'


def test_failed_writes_are_tried_again(scripted: tuple[Store, type[Scripted]]) -> None:
    """Two answers of 503 and a 429 with Retry-After pass by; the write is then done, once."""
    store, handler = scripted
    handler.failures += [(503, {}), (503, {}), (429, {"Retry-After": "1"})]
    store.upsert("photos", [Point(uid(1), {"image": clustered(1, 8)[0]})])
    assert len(handler.asked) == 4
    assert handler.failures == []


def test_failing_writes_are_raised(scripted: tuple[Store, type[Scripted]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stays broken is StoreUnavailable after five tries; a refusal is not tried again."""
    store, handler = scripted
    monkeypatch.setattr("mmembed.stores.qdrant.calls._LONGEST_PAUSE_SECONDS", 0.01)
    handler.failures += [(500, {})] * 5
    with pytest.raises(StoreUnavailable, match=r"asked 5 times.*busy"):
        store.delete("photos", [uid(1)])
    assert len(handler.asked) == 5
    handler.failures += [(400, {})]
    with pytest.raises(StoreError, match=r"refused a request for collection 'photos': busy"):
        store.delete("photos", [uid(1)])
    assert len(handler.asked) == 6
    handler.failures += [(507, {})]
    with pytest.raises(StoreError, match="no room"):
        store.delete("photos", [uid(1)])


def test_server_folder(scripted: tuple[Store, type[Scripted]]) -> None:
    """Thumbnails of a server lie in the user's folder, one for each host, port and path behind a proxy."""
    store, _ = scripted
    assert store.folder is not None
    assert store.folder.parent.name == "servers"
    assert store.folder.name == store.url.removeprefix("http://").replace(":", "%3A")


def test_contract_on_a_server_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where metadata is dropped without a word, contracts are kept in a hidden collection, and forgotten on drop."""
    store = open_store(":memory:")
    assert isinstance(store, QdrantStore)
    client = store._client
    create = client.create_collection

    def create_without_metadata(name: str, **options: Any) -> bool:
        return create(name, **{option: value for option, value in options.items() if option != "metadata"})

    monkeypatch.setattr(client, "create_collection", create_without_metadata)
    monkeypatch.setattr(client, "update_collection", lambda *_, **__: True)
    store.create("photos", CONTRACT, indexes={})
    assert store.contract("photos") == CONTRACT
    assert store.collections() == ["photos"]
    store.add_vector("photos", "caption", VectorContract("minilm", "g1", "text", "dense", 2))
    contract = store.contract("photos")
    assert contract is not None
    assert "caption" in contract.vectors
    store.set_note("photos", "a", {"b": 1})
    contract = store.contract("photos")
    assert contract is not None
    assert contract.notes == {"a": {"b": 1}}
    assert "caption" in contract.vectors
    store.drop("photos")
    create("photos", vectors_config=m.VectorParams(size=3, distance=m.Distance.DOT))
    assert store.contract("photos") is None
    store.close()


# --- facets -------------------------------------------------------------------------------------


def shelved(store: Store, name: str) -> None:
    """Seven points: three of kind a, two of b and of c, one of which has both; the one without tags is not counted."""
    store.create(name, CONTRACT, indexes=INDEXES)  # type: ignore[arg-type]
    tags: list[Any] = ["b", "a", ["c", "b"], "a", "c", "a", None]
    rows = [
        Point(uid(n), {}, {"tag": tag, "n": n % 2, "seen": n < 2, "score": n / 2, "loose": "x"})
        for n, tag in enumerate(tags)
    ]
    store.upsert(name, rows)


def test_indexes_are_listed(store: Store, name: str) -> None:
    """A collection tells its payload indexes and their types, those that were added later too."""
    store.create(name, CONTRACT, indexes=INDEXES)  # type: ignore[arg-type]
    assert store.indexes(name) == INDEXES
    store.add_indexes(name, {"colour": "keyword", "tag": "keyword"})
    assert store.indexes(name) == {**INDEXES, "colour": "keyword"}
    store.drop(name)
    with pytest.raises(CollectionNotFound, match=name):
        store.indexes(name)
    store.create(name, CONTRACT, indexes={"n": "integer"})
    assert store.indexes(name) == {"n": "integer"}


def test_facet(store: Store, name: str) -> None:
    """Values are counted once a point, most frequent first, ties in their order, as many as asked for."""
    shelved(store, name)
    assert store.facet(name, "tag") == [("a", 3), ("b", 2), ("c", 2)]
    assert store.facet(name, "tag", limit=2) == [("a", 3), ("b", 2)]
    assert store.facet(name, "n") == [(0, 4), (1, 3)]
    assert [(type(value), value, n) for value, n in store.facet(name, "seen")] == [(bool, False, 5), (bool, True, 2)]


def test_facet_under_a_filter(store: Store, name: str) -> None:
    """Only points that pass the filter are counted; where none does there are no values."""
    shelved(store, name)
    even = m.Filter(must=[m.FieldCondition(key="n", match=m.MatchValue(value=0))])
    assert store.facet(name, "tag", filter=even) == [("b", 2), ("c", 2)]
    none = m.Filter(must=[m.FieldCondition(key="n", match=m.MatchValue(value=9))])
    assert store.facet(name, "tag", filter=none) == []


@pytest.mark.parametrize(("key", "sentence"), [("loose", "has no index"), ("score", "an index of type float")])
def test_facet_needs_an_index(store: Store, name: str, key: str, sentence: str) -> None:
    """A key without an index of countable values is refused, and those that have one are named."""
    shelved(store, name)
    with pytest.raises(StoreError, match=f"{key!r}.*{sentence}.*n, seen, tag"):
        store.facet(name, key)


def test_facet_of_nothing(store: Store, name: str) -> None:
    """A limit below one and a collection that is not there are refused."""
    shelved(store, name)
    with pytest.raises(InvalidQuery, match="at least 1"):
        store.facet(name, "tag", limit=0)
    with pytest.raises(CollectionNotFound):
        store.facet(f"{name}-other", "tag")
