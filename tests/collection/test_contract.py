"""What a collection remembers, what may be written to it and asked of it, without any Qdrant."""

from __future__ import annotations

import json
import uuid
from datetime import datetime

import numpy as np
import pytest
from qdrant_client import models as m

from mmembed.collection.contract import (
    MAX_NOTE_BYTES,
    contract_from_json,
    contract_to_json,
    uses_idf,
    with_note,
    with_vector,
)
from mmembed.errors import CollectionMismatch, InvalidQuery, StoreError
from mmembed.stores.checks import check_payload, check_points, check_query, point_batches, weighted
from mmembed.stores.filters import dump_filter, is_compound, unindexed_fields
from mmembed.types import Contract, Leg, Point, SparseVector, StoreQuery, Vector, VectorContract

IMAGE = VectorContract("tiny?dim=4", "a1", "image", "dense", 4)
CONTRACT = Contract(
    "images",
    {
        "image": IMAGE,
        "bm25": VectorContract("bm25", "b2", "text", "sparse", None, "dot"),
        "cross": VectorContract("clip", "c3", "text", "multi", 2, dtype="float16"),
    },
)
SOME_ID = str(uuid.UUID(int=7))


def sparse(*pairs: tuple[int, float]) -> SparseVector:
    return SparseVector(
        np.array([i for i, _ in pairs], dtype=np.uint32), np.array([v for _, v in pairs], dtype=np.float32)
    )


def test_json_round_trip() -> None:
    """A contract survives JSON text, and its form is the one that other clients read."""
    value = json.loads(json.dumps(contract_to_json(CONTRACT)))
    assert contract_from_json(value, "photos") == CONTRACT
    assert value["version"] == 1
    assert value["kind"] == "images"
    assert value["vectors"]["image"] == {
        "encoder": "tiny?dim=4",
        "fingerprint": "a1",
        "modality": "image",
        "kind": "dense",
        "dim": 4,
        "distance": "cosine",
        "dtype": "float32",
    }


def test_unknown_keys_are_left_alone() -> None:
    """Keys that a later version of the same format adds do not stop this one."""
    value = contract_to_json(CONTRACT) | {"colour": "red"}
    value["vectors"]["image"]["note"] = "x"
    assert contract_from_json(value, "photos") == CONTRACT


def test_notes_are_written_where_there_are_any() -> None:
    """Without notes the JSON is what it always was; notes of any meaning come back as they were."""
    assert contract_to_json(CONTRACT).keys() == {"version", "kind", "vectors"}
    noted = with_note("photos", with_note("photos", CONTRACT, "a", {"b": (1, 2.5)}), "later: unknown", "x")
    assert noted.notes == {"a": {"b": [1, 2.5]}, "later: unknown": "x"}
    value = json.loads(json.dumps(contract_to_json(noted)))
    assert contract_from_json(value, "photos") == noted
    assert with_vector("photos", noted, "caption", IMAGE).notes == noted.notes
    assert contract_to_json(with_note("photos", with_note("photos", noted, "a", None), "later: unknown", None)) == (
        contract_to_json(CONTRACT)
    )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("", 1, "no key"),
        ("a", {1, 2}, r"'a'.*not JSON"),
        ("a", float("nan"), r"'a'.*not JSON"),
        ("a", "x" * (MAX_NOTE_BYTES - 1), r"'a'.*262,145 bytes, more than 262,144"),
    ],
)
def test_notes_that_cannot_be_kept(key: str, value: object, says: str) -> None:
    """A note needs a key, a form that JSON has, and at most 256 KiB."""
    with pytest.raises(StoreError, match=says):
        with_note("photos", CONTRACT, key, value)


def test_newer_version_says_upgrade() -> None:
    """A contract of version 2 is refused with the command that helps."""
    with pytest.raises(StoreError, match=r"'photos'.*version 2.*pip install --upgrade mmembed"):
        contract_from_json(contract_to_json(CONTRACT) | {"version": 2}, "photos")


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"version": 1},
        {"version": 1, "kind": "songs", "vectors": {}},
        {"version": 1, "kind": "images", "vectors": {"a": {"encoder": "x"}}},
        {"version": 1, "kind": "images", "vectors": [1]},
        {"version": 1, "kind": "images", "vectors": {"a": {**contract_to_json(CONTRACT)["vectors"]["bm25"], "dim": 3}}},
        {"version": "1", "kind": "images", "vectors": {}},
        {"version": 1, "kind": "images", "vectors": {}, "notes": [1]},
    ],
)
def test_damaged_contract_is_a_store_error(broken: object) -> None:
    """Metadata that somebody changed by hand is one sentence, not a KeyError."""
    with pytest.raises(StoreError, match="'photos'"):
        contract_from_json(broken, "photos")


def test_with_vector() -> None:
    """Adding the same vector again changes nothing; another encoder under its name is refused."""
    assert with_vector("photos", CONTRACT, "image", IMAGE) == CONTRACT
    more = with_vector("photos", CONTRACT, "caption", VectorContract("minilm", "d4", "text", "dense", 3))
    assert list(more.vectors) == ["image", "bm25", "cross", "caption"]
    with pytest.raises(CollectionMismatch, match=r"tiny.*a1.*minilm"):
        with_vector("photos", CONTRACT, "image", VectorContract("minilm", "d4", "text", "dense", 3))


def test_idf_is_for_bm25_only() -> None:
    """Term frequencies need the collection's rarity; learned weights have it already."""
    assert uses_idf("bm25")
    assert uses_idf("bm25?language=german")
    assert not uses_idf("splade:x")


def unit(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "vector", "says"),
    [
        ("image", unit(1, 0, 0), r"has 3 dimensions.*not 4"),
        ("image", unit(1, 0, 0, 0)[None], r"shape \(1, 4\)"),
        ("image", np.array([1, 0, 0, 0], dtype=np.float64), "float64, not float32"),
        ("image", unit(1, 0, 0, float("nan")), "NaN"),
        ("image", sparse((1, 1.0)), "is sparse, not dense"),
        ("bm25", unit(1, 0, 0, 0), "is dense, not sparse"),
        ("bm25", sparse((1, 1.0), (1, 2.0)), "names an index twice"),
        ("bm25", sparse((1, float("inf"))), "infinity"),
        ("bm25", SparseVector(np.array([1], dtype=np.uint32), unit(1, 2)), "one value for each"),
        ("cross", unit(1, 0), r"\(windows, 2\)"),
        ("cross", np.zeros((0, 2), dtype=np.float32), r"shape \(0, 2\)"),
        ("caption", unit(1), "has only bm25, cross, image"),
    ],
)
def test_bad_vectors_stop_at_the_door(name: str, vector: Vector, says: str) -> None:
    """A vector of another size, type or kind than the contract's is refused with both numbers."""
    with pytest.raises(StoreError, match=says):
        check_points("photos", CONTRACT, [Point(SOME_ID, {name: vector})])


@pytest.mark.parametrize(
    "payload", [{"t": datetime(2024, 1, 1)}, {"x": float("nan")}, {"x": [float("inf")]}, {"x": "\udc80"}, {"x": {1}}]
)
def test_payload_must_be_json(payload: dict[str, object]) -> None:
    """Dates, NaN and broken text are refused with what to write instead."""
    with pytest.raises(StoreError, match=r"point 1 is not JSON.*ISO 8601"):
        check_payload(payload, "point 1")


def test_points_become_canonical() -> None:
    """Ids are written as Qdrant prints them and tuples become lists; a name is no id."""
    (point,) = check_points("photos", CONTRACT, [Point(SOME_ID.upper().replace("-", ""), {}, {"size": (1, 2)})])
    assert point == Point(SOME_ID, {}, {"size": [1, 2]})
    with pytest.raises(StoreError, match=r"'cat\.jpg' is not the id"):
        check_points("photos", CONTRACT, [Point("cat.jpg")])


def test_batches_are_bounded_by_points_and_bytes() -> None:
    """256 points or 8 MB of JSON, whichever comes first, in order, nothing lost."""
    small = [Point(str(i), {}, {}) for i in range(600)]
    assert [len(b) for b in point_batches(small)] == [256, 256, 88]
    wide = [Point(str(i), {"image": np.zeros(2**17, dtype=np.float32)}) for i in range(7)]  # 2.6 MB of JSON each
    assert [[p.id for p in b] for b in point_batches(wide)] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [len(b) for b in point_batches([Point("0", {"image": np.zeros(2**20, dtype=np.float32)})])] == [1]
    assert list(point_batches([])) == []


@pytest.mark.parametrize(
    ("legs", "options", "says"),
    [
        ([], {}, "asks for nothing"),
        ([Leg("image", unit(1, 0, 0, 0))], {"limit": 0}, "limit 0"),
        ([Leg("image", unit(1, 0, 0, 0))], {"offset": -1}, "offset -1"),
        ([Leg("nose", unit(1, 0, 0, 0))], {}, "has no vector 'nose': it has bm25, cross, image"),
        ([Leg("image", unit(1, 0, 0, 0), weight=0.0)], {}, "weight 0.0"),
        ([Leg("image", unit(1, 0, 0, 0)), Leg("bm25", sparse((1, 1.0)))], {"score_threshold": 0.5}, "fused"),
    ],
)
def test_senseless_searches(legs: list[Leg], options: dict[str, float], says: str) -> None:
    """A search that asks for nothing, or for what the collection cannot answer, is an InvalidQuery."""
    with pytest.raises(InvalidQuery, match=says):
        check_query("photos", CONTRACT, StoreQuery(legs, **options))  # type: ignore[arg-type]


def test_search_is_normalised() -> None:
    """Depth covers the page, empty sparse legs fall away, and a fusion of one counts like a plain ranking."""
    image, words, none = Leg("image", unit(1, 0, 0, 0), 2.0), Leg("bm25", sparse((1, 1.0))), Leg("bm25", sparse())
    search = check_query("photos", CONTRACT, StoreQuery([words, (image, none)], limit=20, offset=5, depth=10))
    assert search.depth == 25
    assert [leg.weight for leg in search.legs] == [1.0, 1.0]
    assert not weighted(search)
    assert weighted(check_query("photos", CONTRACT, StoreQuery([(image, words)], limit=1, depth=10)))
    assert check_query("photos", CONTRACT, StoreQuery([none], limit=1, depth=10)).legs == []


def test_unindexed_fields() -> None:
    """Fields without an index, or with one that cannot serve the condition, are found wherever they stand."""
    indexes = {"tag": "keyword", "n": "integer", "at": "datetime", "faces[].age": "integer"}
    served = m.Filter(
        must=[
            m.FieldCondition(key="tag", match=m.MatchValue(value="a")),
            m.FieldCondition(key="n", range=m.Range(gte=1)),
            m.FieldCondition(key="at", range=m.DatetimeRange(gte=datetime(2024, 1, 1))),
            m.NestedCondition(
                nested=m.Nested(
                    key="faces", filter=m.Filter(must=m.FieldCondition(key="age", match=m.MatchAny(any=[1])))
                )
            ),
            m.HasIdCondition(has_id=[SOME_ID]),
        ],
        must_not=m.IsNullCondition(is_null=m.PayloadField(key="tag")),
    )
    assert unindexed_fields(dump_filter(served), indexes) == []
    unserved = m.Filter(
        should=[m.FieldCondition(key="tag", match=m.MatchText(text="a")), m.IsEmptyCondition(is_empty={"key": "x"})],
        must=m.Filter(must_not=m.FieldCondition(key="n", match=m.MatchValue(value="a"))),
        min_should=m.MinShould(conditions=[m.FieldCondition(key="at", range=m.Range(gte=1))], min_count=1),
    )
    assert unindexed_fields(dump_filter(unserved), indexes) == ["at", "n", "tag", "x"]
    assert unindexed_fields(dump_filter(None), indexes) == []


def test_compound_filters() -> None:
    """One value or one range of one field is simple; anything joined, negated or alternative is compound."""
    value = m.FieldCondition(key="tag", match=m.MatchValue(value="a"))
    number = m.FieldCondition(key="n", range=m.Range(gte=1))
    several = m.FieldCondition(key="tag", match=m.MatchAny(any=["a", "b"]))
    one = m.FieldCondition(key="tag", match=m.MatchAny(any=["a"]))
    simple = [None, m.Filter(), m.Filter(must=value), m.Filter(should=[number]), m.Filter(must=[one])]
    compound = [
        m.Filter(must=[value, number]),
        m.Filter(must=[several]),
        m.Filter(must_not=[value]),
        m.Filter(must=value, must_not=[number]),
        m.Filter(should=[value, value]),
        m.Filter(must=[m.Filter(must=[value])]),
        m.Filter(min_should=m.MinShould(conditions=[value], min_count=1)),
        m.Filter(must=[m.HasIdCondition(has_id=[SOME_ID])]),
    ]
    assert [is_compound(dump_filter(f)) for f in simple] == [False] * len(simple)
    assert [is_compound(dump_filter(f)) for f in compound] == [True] * len(compound)
