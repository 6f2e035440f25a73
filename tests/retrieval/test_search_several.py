"""One query over several collections, held against the searches of each and a fusion written out by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

import mmembed
from mmembed import Search, ingest_documents, ingest_images, load_encoder, open_store, search, search_several
from mmembed.collection.prepare import vector_contract
from mmembed.errors import CollectionNotFound, InvalidQuery, UnknownEncoder, UnsupportedModality
from mmembed.types import Contract, Encoder, Hit, Store

DEMO = Path(mmembed.__file__).parent / "demo"
BIRD = DEMO / "pictograms" / "1f426.png"
NAMES = ["drawings", "more", "texts"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Pictures by tiny in `drawings` and in `more`; `texts` by fake and tiny; `plain` knows no pictures."""
    root = tmp_path_factory.mktemp("several")
    opened = open_store(f"edge:{root / 'store.mm'}")
    tiny, fake = load_encoder("tiny"), load_encoder("fake")
    for name, above in (("drawings", "1f430"), ("more", "1f420")):
        folder = root / name
        shutil.copytree(
            DEMO / "pictograms", folder, ignore=lambda _, found, above=above: [f for f in found if f > above]
        )
        ingest_images(opened, name, [folder], encoder=tiny)
    ingest_documents(opened, "texts", [DEMO / "documents"], encoder=fake, cross_encoder=tiny, images_into=None)
    opened.create("plain", Contract("documents", {"text": vector_contract(fake, "text")}), indexes={})
    yield opened
    opened.close()


def fused_by_hand(rankings: dict[str, list[Hit]], weights: dict[str, int]) -> list[tuple[str, str]]:
    """(collection, id), best first, by exact fractions: a hit of rank r and weight w has 1 / (r / w + 59)."""
    scores = {
        (name, hit.id): (-1 / (Fraction(rank, weights.get(name, 1)) + 59), list(rankings).index(name))
        for name, hits in rankings.items()
        for rank, hit in enumerate(hits, 1)
    }
    return sorted(scores, key=scores.__getitem__)


def keys(hits: list[Hit]) -> list[tuple[str, str]]:
    return [(hit.collection, hit.id) for hit in hits]


QUERIES: list[dict[str, Any]] = [
    {"text": "a bird in a tree"},
    {"image": BIRD},
    {"text": "a bird", "minus": ["a hat"], "weights": {"minus": 0.3}},
]


@pytest.mark.parametrize("how", QUERIES)
@pytest.mark.parametrize("weights", [{}, {"texts": 2}, {"more": 3, "texts": 2}])
def test_hits_are_fused_by_rank(store: Store, how: dict[str, Any], weights: dict[str, int]) -> None:
    """The order is that of weighted reciprocal ranks, ties in the order of the collections; each is there once."""
    rankings = {name: search(store, name, limit=30, **how) for name in NAMES}
    several = search_several(store, NAMES, Search(limit=30, **how), collection_weights=weights)
    assert keys(several.hits) == fused_by_hand(rankings, weights)[:30]
    assert several.skipped == {}
    assert {hit.collection for hit in several.hits} == set(NAMES)


def test_a_weight_of_two_gives_two_hits_for_each_of_another(store: Store) -> None:
    """Equal weights alternate in the order of names; two to one is what a weight of two means."""
    names = ["texts", "drawings"]
    alike = search_several(store, names, Search(text="a bird", limit=6)).hits
    assert [hit.collection for hit in alike] == ["texts", "drawings"] * 3
    double = search_several(store, names, Search(text="a bird", limit=6), collection_weights={"drawings": 2}).hits
    assert [hit.collection for hit in double] == ["drawings", "texts", "drawings"] * 2


def test_each_hit_keeps_its_own_probability(store: Store) -> None:
    """Scores are fused and fall; probabilities are those of the collection's own search, where it has any."""
    several = search_several(store, NAMES, Search(text="a bird", limit=20)).hits
    own = {key: hit for name in NAMES for hit in search(store, name, text="a bird", limit=20) for key in keys([hit])}
    assert [hit.probability for hit in several] == [own[key].probability for key in keys(several)]
    assert [hit.payload for hit in several] == [own[key].payload for key in keys(several)]
    assert {hit.collection for hit in several if hit.probability is not None} == {"drawings", "more"}
    assert several[0].score == pytest.approx(1 / 60)
    assert [hit.score for hit in several] == sorted((hit.score for hit in several), reverse=True)


@pytest.mark.parametrize("size", [1, 7])
def test_pages_neither_overlap_nor_leave_gaps(store: Store, size: int) -> None:
    """Pages put together are the one long page."""
    whole = keys(search_several(store, NAMES, Search(text="a bird", limit=28)).hits)
    pages = [
        search_several(store, NAMES, Search(text="a bird", limit=size, offset=start)).hits
        for start in range(0, 28, size)
    ]
    assert [key for page in pages for key in keys(page)] == whole
    assert len(set(whole)) == 28


def test_the_last_page_is_short(store: Store) -> None:
    """Beyond the last hit there is nothing, and all there are can be had at once."""
    every = search_several(store, ["drawings", "more"], Search(text="a bird", limit=1000)).hits
    assert len(every) == store.count("drawings") + store.count("more")
    assert search_several(store, ["drawings", "more"], Search(text="a bird", limit=5, offset=len(every))).hits == []


def test_a_collection_that_cannot_answer_is_skipped(store: Store) -> None:
    """The others answer as if it were not there, and its sentence says why."""
    several = search_several(store, ["plain", "drawings"], Search(image=BIRD))
    assert keys(several.hits) == keys(search(store, "drawings", image=BIRD))
    assert list(several.skipped) == ["plain"]
    assert "has no vector 'cross'" in several.skipped["plain"]


def test_an_encoder_that_is_not_served_skips_its_collections(store: Store) -> None:
    """With encoders given, a collection of another encoder is skipped with what the mapping raised."""

    class Served(dict[str, Encoder]):
        def __missing__(self, name: str) -> Encoder:
            raise UnknownEncoder(name, self)

    several = search_several(store, NAMES, Search(text="a bird"), encoders=Served(tiny=load_encoder("tiny")))
    assert {hit.collection for hit in several.hits} == {"drawings", "more"}
    assert several.skipped == {"texts": "no encoder 'fake': known are tiny"}


def test_a_stored_point_is_known_to_its_own_collection(store: Store) -> None:
    """The others have no such point and are skipped."""
    id = search(store, "texts", text="a bird", limit=1)[0].id
    several = search_several(store, NAMES, Search(id=id))
    assert {hit.collection for hit in several.hits} == {"texts"}
    assert several.skipped.keys() == {"drawings", "more"}


def test_where_none_can_answer_the_first_says_why(store: Store) -> None:
    """The error of the first collection is raised, as if it had been asked alone."""
    with pytest.raises(InvalidQuery, match="'plain' has no vector 'cross'"):
        search_several(store, ["plain"], Search(image=BIRD))
    with pytest.raises(InvalidQuery, match="nothing to search for"):
        search_several(store, NAMES, Search())
    with pytest.raises(UnsupportedModality):
        search_several(store, ["texts", "plain"], Search(image=BIRD, vector_name="bm25"))


def test_a_filter_and_a_threshold_hold_in_each_collection(store: Store) -> None:
    """The payload is filtered everywhere; the threshold is of the hit's score in its own collection."""
    uri = search(store, "drawings", text="a bird", limit=1)[0].payload["uri"]
    keep = models.Filter(must=[models.FieldCondition(key="uri", match=models.MatchValue(value=uri))])
    assert [hit.payload["uri"] for hit in search_several(store, NAMES, Search(text="a bird", filter=keep)).hits] == [
        uri
    ]
    lowest = float(np.median([hit.score for hit in search(store, "drawings", text="a bird")]))
    several = search_several(store, ["drawings", "more"], Search(text="a bird", score_threshold=lowest, limit=50))
    own = [search(store, name, text="a bird", score_threshold=lowest, limit=50) for name in ("drawings", "more")]
    assert sorted(keys(several.hits)) == sorted(key for hits in own for key in keys(hits))


def test_a_collection_named_twice_counts_once(store: Store) -> None:
    """Its hits come once each."""
    assert search_several(store, ["more", "more"], Search(text="a")) == search_several(
        store, ["more"], Search(text="a")
    )


@pytest.mark.parametrize(
    ("names", "how", "says"),
    [
        ([], {}, "there is no collection to search in"),
        (["texts"], {"collection_weights": {"more": 1}}, "a weight was given to collection 'more'"),
        (["texts"], {"collection_weights": {"texts": 0}}, "give a number above 0"),
        (["texts"], {"collection_weights": {"texts": float("nan")}}, "give a number above 0"),
        (["texts"], {"limit": 0}, "limit must be at least 1"),
        (["texts"], {"limit": 3, "offset": -1}, "offset at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(store: Store, names: list[str], how: dict[str, Any], says: str) -> None:
    """No collection, a weight of nothing, and pages that do not exist."""
    fields = {name: value for name, value in how.items() if name != "collection_weights"}
    with pytest.raises(InvalidQuery, match=says):
        search_several(store, names, Search(text="a", **fields), collection_weights=how.get("collection_weights"))


def test_an_unknown_collection_is_no_reason_to_skip(store: Store) -> None:
    """A name that is misspelt is an error, not an answer without it."""
    with pytest.raises(CollectionNotFound, match="did you mean 'drawings'"):
        search_several(store, ["texts", "drawing"], Search(text="a"))


def test_a_collection_that_was_removed_meanwhile_may_be_skipped(store: Store) -> None:
    """Who lists the collections and searches in all of them asks for that, and learns which were gone."""
    several = search_several(store, ["texts", "drawing"], Search(text="a"), missing_ok=True)
    assert several.hits == search_several(store, ["texts"], Search(text="a")).hits
    assert several.skipped.keys() == {"drawing"}
    with pytest.raises(CollectionNotFound):
        search_several(store, ["drawing"], Search(text="a"), missing_ok=True)
