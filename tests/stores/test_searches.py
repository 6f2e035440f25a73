"""Examples, diversity and groups on every store, held against plain numpy over the vectors that were stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import qdrant_edge
from filled import CONTRACT, INDEXES, clustered, fill, ids, sparse, uid
from qdrant_client import QdrantClient
from qdrant_client import models as m

from mmembed import PointId, search
from mmembed.errors import InvalidQuery
from mmembed.types import DenseArray, Examples, Hit, Leg, Point, Store, StoreQuery

STRATEGIES = ["average_vector", "best_score", "sum_scores"]


def squashed(x: float) -> float:
    """Qdrant's fast sigmoid, 0 to 1."""
    return 0.5 * (x / (1 + abs(x)) + 1)


def recommended(scores: np.ndarray, liked: int, strategy: str) -> np.ndarray:
    """`(examples, points)` scores, the `liked` first -> `(points,)`, one point at a time."""
    found = []
    for column in scores.T:
        positive, negative = column[:liked], column[liked:]
        if strategy == "sum_scores":
            found.append(positive.sum() - negative.sum())
        else:
            best, worst = max(positive, default=-np.inf), max(negative, default=-np.inf)
            found.append(squashed(best) if best > worst else -squashed(worst))
    return np.array(found)


def averaged(positive: DenseArray, negative: DenseArray) -> DenseArray:
    return 2 * positive.mean(axis=0) - negative.mean(axis=0) if len(negative) else positive.mean(axis=0)


# --- examples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["best_score", "sum_scores"])
@pytest.mark.parametrize(("liked", "disliked"), [([2, 9], [5]), ([2], []), ([], [5, 11])])
def test_examples_are_compared_one_by_one(
    store: Store, name: str, strategy: Any, liked: list[int], disliked: list[int]
) -> None:
    """Each point is scored against every example, by dense vectors and by MaxSim, as Qdrant defines it."""
    vectors = fill(store, name, 60)
    windows = [clustered(1 + i % 3, 4, seed=i) for i in range(60)]
    store.update_vectors(name, [Point(uid(i), {"cross": windows[i]}) for i in range(60)])
    every = [*liked, *disliked]
    dense = np.stack([vectors @ vectors[i] for i in every])
    multi = np.stack([[(windows[i] @ w.T).max(axis=1).sum() for w in windows] for i in every])
    for vector, scores, rows in (("image", dense, list(vectors)), ("cross", multi, windows)):
        expected = recommended(scores, len(liked), strategy)
        examples = Examples(tuple(rows[i] for i in liked), tuple(rows[i] for i in disliked), strategy)
        hits = store.query(name, StoreQuery([Leg(vector, examples)], limit=60))
        found = {hit.id: hit.score for hit in hits}
        assert found == pytest.approx({uid(i): expected[i] for i in range(60)}, abs=1e-4)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-4)
        assert {hit.vector_name for hit in hits} == {vector}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stored_points_are_examples_and_no_hits(store: Store, name: str, strategy: Any) -> None:
    """What is like some points and unlike others, by each strategy, in pages, without the examples themselves."""
    vectors = fill(store, name, 60)
    liked, disliked = [3, 17, 40], [8, 21]
    if strategy == "average_vector":
        query = averaged(vectors[liked], vectors[disliked])
        expected = vectors @ (query / np.linalg.norm(query))
    else:
        expected = recommended(vectors[liked + disliked] @ vectors.T, 3, strategy)
    order = [int(i) for i in np.argsort(-expected) if i not in liked + disliked]
    how: dict[str, Any] = {
        "positive": [PointId(uid(i)) for i in liked],
        "negative": [PointId(uid(i)) for i in disliked],
        "strategy": strategy,
    }
    hits = search(store, name, limit=60, **how)
    assert ids(hits) == [uid(i) for i in order]
    np.testing.assert_allclose([hit.score for hit in hits], expected[order], atol=1e-4)
    assert ids([hit for n in range(0, 60, 7) for hit in search(store, name, limit=7, offset=n, **how)]) == ids(hits)
    floor = float(expected[order[4]] + expected[order[5]]) / 2
    assert ids(search(store, name, limit=60, score_threshold=floor, **how)) == [uid(i) for i in order[:5]]
    only = m.Filter(must=m.FieldCondition(key="tag", match=m.MatchValue(value="t1")))
    assert ids(search(store, name, limit=60, filter=only, **how)) == [uid(i) for i in order if i % 4 == 1]


def test_the_average_is_qdrants_own(store: Store, name: str) -> None:
    """Dense, sparse and multivectors are averaged as the average_vector of Qdrant's client does it."""
    vectors = fill(store, name, 30)
    windows = [clustered(1 + i % 3, 4, seed=i) for i in range(30)]
    words = [sparse({i % 5: 1.0 + i, 7: 2.0, 9 + i % 3: 0.5}) for i in range(30)]
    store.update_vectors(name, [Point(uid(i), {"cross": windows[i], "splade": words[i]}) for i in range(30)])
    client = QdrantClient(":memory:")
    client.create_collection(
        "same",
        vectors_config={
            "image": m.VectorParams(size=8, distance=m.Distance.COSINE),
            "cross": m.VectorParams(
                size=4,
                distance=m.Distance.COSINE,
                multivector_config=m.MultiVectorConfig(comparator=m.MultiVectorComparator.MAX_SIM),
            ),
        },
        sparse_vectors_config={"splade": m.SparseVectorParams()},
    )
    rows = [
        m.PointStruct(
            id=uid(i),
            vector={
                "image": vectors[i].tolist(),
                "cross": windows[i].tolist(),
                "splade": m.SparseVector(indices=words[i].indices.tolist(), values=words[i].values.tolist()),
            },
        )
        for i in range(30)
    ]
    client.upsert("same", rows)
    for vector in ("image", "cross", "splade"):
        given = m.RecommendInput(positive=[uid(3), uid(7)], negative=[uid(5), uid(11)])
        theirs = client.query_points("same", query=m.RecommendQuery(recommend=given), using=vector, limit=30).points
        ours = search(
            store,
            name,
            positive=[PointId(uid(3)), PointId(uid(7))],
            negative=[PointId(uid(5)), PointId(uid(11))],
            vector_name=vector,
            limit=30,
        )
        scores = np.array([hit.score for hit in theirs])
        norm = scores[0] / ours[0].score if vector == "image" else 1.0
        np.testing.assert_allclose([hit.score * norm for hit in ours], scores, atol=1e-4)
    client.close()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"positive": [PointId(uid(99))]}, f"has no point '{uid(99)}'"),
        ({"positive": [PointId(uid(1))], "vector": [1.0] * 8}, "a way to ask of their own"),
        ({"positive": [PointId(uid(1))], "id": uid(2)}, "a way to ask of their own"),
        ({"positive": [PointId(uid(1))], "text": "a cat"}, "a way to ask of their own"),
        ({"positive": "a cat"}, "positive is a list of examples"),
        ({"positive": [" "]}, "is empty"),
        ({"positive": [7]}, "a picture is a pathlib.Path"),
        ({"negative": [PointId(uid(1))]}, "have no average to start from"),
        (
            {"positive": [PointId(uid(1))], "negative": [PointId(uid(1))], "vector_name": "cross"},
            "has no vector 'cross'",
        ),
        ({"positive": [PointId(uid(1))], "strategy": "worst"}, "no strategy 'worst': choose one of average_vector"),
        ({"vector": [1.0] * 8, "strategy": "best_score"}, "weighs examples, and there are none"),
        ({"positive": [PointId(uid(1))], "weights": {"text": 1.0}}, "weights are for mixed"),
    ],
)
def test_examples_that_make_no_sense(store: Store, name: str, how: dict[str, Any], says: str) -> None:
    """Contradictions are refused, and points that are not there, in one sentence."""
    fill(store, name, 5)
    with pytest.raises(InvalidQuery, match=says):
        search(store, name, **how)


# --- diversity ----------------------------------------------------------------------------------


def naive_mmr(query: DenseArray, vectors: DenseArray, candidates: Sequence[int], diversity: float) -> list[int]:
    """The definition, one pair at a time."""
    left, chosen = list(candidates), list[int]()
    while left:

        def value(i: int) -> float:
            near = max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            return (1 - diversity) * float(vectors[i] @ query) - (diversity * near if chosen else 0.0)

        best = max(left, key=value) if chosen else max(left, key=lambda i: float(vectors[i] @ query))
        chosen.append(best)
        left.remove(best)
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.8, 1.0])
def test_diverse_hits(store: Store, name: str, diversity: float) -> None:
    """The best candidates are put in the order of marginal relevance, the others follow, and pages are stable."""
    vectors = fill(store, name, 120)
    query = clustered(1, 8, seed=3)[0]
    order = [int(i) for i in np.argsort(-(vectors @ query), kind="stable")]
    expected = [*naive_mmr(query, vectors, order[:25], diversity), *order[25:]]
    how: dict[str, Any] = {"vector": query * 3, "diversity": diversity, "candidates": 25}
    hits = search(store, name, limit=120, **how)
    assert ids(hits) == [uid(i) for i in expected]
    np.testing.assert_allclose([hit.score for hit in hits], (vectors @ query)[expected], atol=1e-5)
    assert ids([hit for n in range(0, 120, 11) for hit in search(store, name, limit=11, offset=n, **how)]) == ids(hits)


def test_diversity_is_qdrants_own(store: Store, name: str) -> None:
    """The order is that of Mmr in Qdrant's client and in Qdrant Edge."""
    vectors = fill(store, name, 60)
    query = clustered(1, 8, seed=3)[0]
    ours = ids(search(store, name, vector=query, diversity=0.6, candidates=20, limit=20))
    client = QdrantClient(":memory:")
    client.create_collection("same", vectors_config=m.VectorParams(size=8, distance=m.Distance.COSINE))
    client.upsert("same", [m.PointStruct(id=uid(i), vector=row.tolist()) for i, row in enumerate(vectors)])
    mmr = m.NearestQuery(nearest=query.tolist(), mmr=m.Mmr(diversity=0.6, candidates_limit=20))
    assert [str(hit.id) for hit in client.query_points("same", query=mmr, limit=20).points] == ours
    client.close()


def test_diversity_of_edge(tmp_path: Any) -> None:
    """Qdrant Edge, asked by itself, gives the same order."""
    vectors, query = clustered(60, 8), clustered(1, 8, seed=3)[0]
    params = qdrant_edge.EdgeVectorParams(size=8, distance=qdrant_edge.Distance.Cosine)
    shard = qdrant_edge.EdgeShard.create(str(tmp_path), qdrant_edge.EdgeConfig(vectors={"image": params}))
    rows = [qdrant_edge.Point(uid(i), {"image": row.tolist()}, {}) for i, row in enumerate(vectors)]
    shard.update(qdrant_edge.UpdateOperation.upsert_points(rows))
    mmr = qdrant_edge.Mmr(query.tolist(), 0.4, 20, using="image")
    found = [str(hit.id) for hit in shard.query(qdrant_edge.QueryRequest(limit=20, query=mmr))]
    order = [int(i) for i in np.argsort(-(vectors @ query), kind="stable")[:20]]
    assert found == [uid(i) for i in naive_mmr(query, vectors, order, 0.6)]
    shard.close()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"diversity": 1.5}, "diversity is 1.5: give a number between 0"),
        ({"diversity": "much"}, "diversity is 'much'"),
        ({"diversity": 0.5, "group_by": "tag"}, "in the order of their best hits"),
        ({"diversity": 0.5, "vector": [[1.0] * 4], "vector_name": "cross"}, "this search is by 'cross': leave it out"),
    ],
)
def test_diversity_that_makes_no_sense(store: Store, name: str, how: dict[str, Any], says: str) -> None:
    """A number out of range, groups, and a search without a dense vector are refused."""
    fill(store, name, 5)
    with pytest.raises(InvalidQuery, match=says):
        search(store, name, **{"vector": [1.0] * 8, **how})
    examples: dict[str, Any] = {"positive": [PointId(uid(1))], "strategy": "best_score"}
    with pytest.raises(InvalidQuery, match="'best_score' has none: choose another"):
        search(store, name, diversity=0.5, **examples)


# --- groups -------------------------------------------------------------------------------------


def naive_groups(rows: Sequence[tuple[str, Any]], size: int) -> list[tuple[Any, str]]:
    """(id, its values), best first -> (group, id): every group in the order of its best hit, cut to `size`."""
    groups: dict[Any, list[str]] = {}
    for id_, values in rows:
        for value in dict.fromkeys(values) if isinstance(values, list) else [values]:
            if isinstance(value, str | int) and not isinstance(value, bool):
                groups.setdefault(value, []).append(id_)
    return [(value, id_) for value, members in groups.items() for id_ in members[:size]]


def grouped(hits: Sequence[Hit]) -> list[tuple[Any, str]]:
    return [(hit.group, hit.id) for hit in hits]


def label(i: int) -> Any:
    """Texts, lists of them, and values that make no group; by far the most are `common`."""
    if i % 10 == 0:
        return [None, True, 1.5, []][i // 10 % 4]
    return [f"rare{i % 7}", f"rare{i % 9}"] if i % 10 == 1 else "common"


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("index", [True, False])
def test_groups(store: Store, name: str, size: int, index: bool) -> None:
    """Groups come best first, each with its best hits; lists are in several, points without the key in none."""
    vectors, n = clustered(200, 8), 200
    store.create(name, CONTRACT, indexes=INDEXES if index else {})  # type: ignore[arg-type]
    payloads = [{"tag": label(i), "n": i % 6, "deep": {"at": [{"n": f"d{i % 4}"}]}} for i in range(n)]
    payloads = [row if i % 3 else {k: v for k, v in row.items() if k != "n"} for i, row in enumerate(payloads)]
    if index:  # a keyword index takes no numbers
        payloads = [{**row, "tag": row["tag"] if isinstance(row["tag"], str | list) else None} for row in payloads]
    store.upsert(name, [Point(uid(i), {"image": vectors[i]}, payloads[i]) for i in range(n)])
    query = vectors[4]
    order = np.argsort(-(vectors @ query), kind="stable")
    for key, value in (("tag", "tag"), ("n", "n"), ("deep.at[].n", "deep")):
        rows = [
            (uid(int(i)), payloads[i]["deep"]["at"][0]["n"] if value == "deep" else payloads[i].get(value))
            for i in order
        ]
        expected = naive_groups(rows, size)
        hits = search(store, name, vector=query, group_by=key, group_size=size, limit=100)
        assert grouped(hits) == expected
        names = list(dict.fromkeys(group for group, _ in expected))
        for limit in (1, 3):
            pages = [
                search(store, name, vector=query, group_by=key, group_size=size, limit=limit, offset=n)
                for n in range(0, len(names) + 1, limit)
            ]
            assert [row for page in pages for row in grouped(page)] == expected
            assert {hit.group for hit in pages[0]} == set(names[:limit])


def test_a_group_that_holds_most_points_hides_none(store: Store, name: str) -> None:
    """Where thousands of points of one group are nearer than all others, the others are found all the same."""
    n, random = 4500, np.random.default_rng(3)
    centre, away = clustered(1, 8)[0], clustered(4, 8, seed=8)
    near = centre + 0.02 * random.normal(size=(n - 4, 8))
    vectors = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), away]).astype(np.float32)
    tags = ["common" if i < n - 4 else f"rare{i % 2}" for i in range(n)]
    store.create(name, CONTRACT, indexes={"tag": "keyword"})
    store.upsert(name, [Point(uid(i), {"image": vectors[i]}, {"tag": tags[i]}) for i in range(n)])
    hits = search(store, name, vector=centre, group_by="tag", group_size=2, limit=5)
    order = np.argsort(-(vectors.astype(np.float64) @ centre))
    assert tags[order[-1]] != "common"
    assert grouped(hits) == naive_groups([(uid(int(i)), tags[i]) for i in order], 2)


def test_groups_with_a_filter_and_a_threshold(store: Store, name: str) -> None:
    """What does not pass them is in no group."""
    vectors = fill(store, name, 40)
    scores = vectors @ vectors[0]
    floor = float(np.sort(scores)[20] + np.sort(scores)[19]) / 2
    only = m.Filter(must=m.FieldCondition(key="n", range=m.Range(gte=10)))
    kept = [int(i) for i in np.argsort(-scores, kind="stable") if i >= 10 and scores[i] > floor]
    hits = search(
        store, name, vector=vectors[0], group_by="tag", group_size=4, filter=only, score_threshold=floor, limit=9
    )
    assert grouped(hits) == naive_groups([(uid(i), f"t{i % 4}") for i in kept], 4)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"group_by": " "}, "group_by is ' '"),
        ({"group_by": "tag", "group_size": 0}, "group_size must be at least 1"),
        ({"group_size": 5}, "5 hits were asked for of each group, and no group_by"),
    ],
)
def test_groups_that_make_no_sense(store: Store, name: str, how: dict[str, Any], says: str) -> None:
    """No key, no hits of each, and a size of no groups are refused."""
    fill(store, name, 3)
    with pytest.raises(InvalidQuery, match=says):
        search(store, name, vector=[1.0] * 8, **how)
