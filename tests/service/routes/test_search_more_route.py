"""What a search over HTTP can ask beyond words and a picture, held against `search` over the same store."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from plugin_sites import BY_LENGTH, install_plugin
from qdrant_client import models
from service_app import running

import mmembed
from mmembed import (
    PointId,
    Search,
    ingest_documents,
    ingest_images,
    load_encoder,
    load_reranker,
    search,
    search_several,
)
from mmembed.images import load_image
from mmembed.service.schemas.search import SearchFields, SearchRequest, SeveralRequest
from mmembed.service.server import Server
from mmembed.types import Store

PICTOGRAMS = Path(mmembed.__file__).parent / "demo" / "pictograms"
BIRD, APPLE = ((PICTOGRAMS / f"{code}.png").read_bytes() for code in ("1f426", "1f34e"))
TEXTS = {
    "texts": ("salt", "salt and water", "salt, water and flour"),
    "notes": ("water", "a pinch of salt in water"),
}

NEEDY = '''
"""An encoder that is never loaded."""
from mmembed.errors import EncoderLoadError


def load(name, run):
    raise EncoderLoadError("needy runs code of its own: read it, then pass `trust_remote_code=True`")
'''


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`drawings`, each with its parity; `texts` and `notes` in words; `theirs`, which is not of mmembed."""
    root = tmp_path_factory.mktemp("more")
    install_plugin(root, "length-reranker", "by-length", BY_LENGTH, group="mmembed.rerankers")
    install_plugin(root, "needy-encoder", "needy", NEEDY)
    drawings = root / "drawings"
    shutil.copytree(
        PICTOGRAMS, drawings, ignore=lambda _, names: [name for name in names if not "1f42" < name < "1f43"]
    )
    rows = [{"uri": path.name, "parity": ("even", "odd")[n % 2]} for n, path in enumerate(sorted(drawings.iterdir()))]
    (drawings / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, texts in TEXTS.items():
        (root / name).mkdir()
        for number, text in enumerate(texts):
            (root / name / f"{number}.md").write_text(text)
    tiny = load_encoder("tiny")
    options = {"reranker": ("by-length",), "encoder": ("needy",), "max_pixels": 90_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        with running(root, store=":memory:", **options) as service:
            store = service.app.state.service.store
            ingest_images(store, "drawings", [drawings / "list.jsonl"], encoder=tiny)
            for name in TEXTS:
                ingest_documents(store, name, [root / name], encoder=tiny, images_into=None)
            params = models.VectorParams(size=8, distance=models.Distance.COSINE)
            store._client.create_collection("theirs", vectors_config={"clip": params})
            yield service


@pytest.fixture(scope="module")
def store(service: Server) -> Store:
    store: Store = service.app.state.service.store
    return store


def answered(service: Server, path: str, **query: Any) -> dict[str, Any]:
    answer = httpx.post(f"{service.url}/v1/search{path}", json=query, timeout=60)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def ids(service: Server, path: str, **query: Any) -> list[str]:
    return [hit["id"] for hit in answered(service, path, **query)["hits"]]


def refusal(service: Server, path: str, **query: Any) -> str:
    """The sentence of a search that is refused."""
    answer = httpx.post(f"{service.url}/v1/search{path}", json=query, timeout=60)
    assert answer.status_code == 400, answer.text
    sentence: str = answer.json()["error"]
    return sentence


def image(content: bytes) -> dict[str, Any]:
    """As an example in JSON."""
    return {"image": {"base64": base64.b64encode(content).decode()}}


# --- examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", [{}, {"strategy": "best_score"}, {"strategy": "sum_scores"}], ids=["default", "best", "sum"]
)
@pytest.mark.parametrize("kinds", ["texts", "images", "ids", "mixed"])
def test_examples_are_those_of_python(service: Server, store: Store, kinds: str, strategy: dict[str, Any]) -> None:
    """Texts, images and stored points, liked or not, find over HTTP what they find in Python, by each strategy."""
    first, second = (hit.id for hit in search(store, "drawings", text="a bird", limit=2))
    bird, apple = (load_image(content, uri="x") for content in (BIRD, APPLE))
    liked, not_liked, positive, negative = {
        "texts": ([{"text": "a bird"}], [{"text": "a dog"}], ["a bird"], ["a dog"]),
        "images": ([image(BIRD)], [image(APPLE)], [bird], [apple]),
        "ids": ([{"id": first}], [{"id": second}], [PointId(first)], [PointId(second)]),
        "mixed": ([{"text": "a cat"}, image(BIRD)], [{"id": second}], ["a cat", bird], [PointId(second)]),
    }[kinds]
    expected = search(store, "drawings", positive=positive, negative=negative, limit=7, **strategy)  # type: ignore[arg-type]
    assert len(expected) == 7
    query = {"positive": liked, "negative": not_liked, "limit": 7, **strategy}
    assert ids(service, "/drawings", **query) == [hit.id for hit in expected]


@pytest.mark.parametrize("side", ["positive", "negative"])
@pytest.mark.parametrize("example", [{}, {"text": "a", "id": "1"}, {"text": "a", "image": "x"}], ids=str)
def test_an_example_is_one_thing(service: Server, side: str, example: dict[str, str]) -> None:
    """None or two of text, image and id are refused, on either side, alone and in several collections."""
    for path in ("/drawings", ""):
        assert "one text or one image or one id" in refusal(service, path, **{side: [example]})


def test_an_unknown_strategy_is_refused(service: Server) -> None:
    """A strategy that Qdrant does not have is named."""
    assert "strategy" in refusal(service, "/drawings", positive=[{"text": "a"}], strategy="best")


# --- diversity, groups, rerankers -------------------------------------------------------------------


def test_diversity_is_that_of_python(service: Server, store: Store) -> None:
    """Hits that are unlike one another come over HTTP as in Python, and are others than without it."""
    expected = search(store, "drawings", text="a bird", limit=5, diversity=0.9, candidates=12)
    diverse = ids(service, "/drawings", text="a bird", limit=5, diversity=0.9, candidates=12)
    assert diverse == [hit.id for hit in expected]
    assert diverse != ids(service, "/drawings", text="a bird", limit=5)
    assert "diversity" in refusal(service, "/drawings", text="a bird", diversity=1.5)


def test_groups_are_those_of_python(service: Server, store: Store) -> None:
    """`limit` counts groups, each hit names its own, and without groups none is named."""
    query: dict[str, Any] = {"text": "a bird", "group_by": "parity", "group_size": 2, "limit": 2}
    expected = search(store, "drawings", **query)
    hits = answered(service, "/drawings", **query)["hits"]
    assert [(hit["id"], hit["group"]) for hit in hits] == [(hit.id, hit.group) for hit in expected]
    assert [hit["group"] for hit in hits] == [hit["payload"]["parity"] for hit in hits]
    assert sorted(hit["group"] for hit in hits) == ["even", "even", "odd", "odd"]
    assert {hit["group"] for hit in answered(service, "/drawings", text="a bird")["hits"]} == {None}


@pytest.mark.parametrize("field", [{"group_by": "parity"}, {"group_size": 2}], ids=str)
def test_groups_are_of_one_collection(service: Server, field: dict[str, Any]) -> None:
    """Over several collections they are refused in a sentence that names the field."""
    assert next(iter(field)) in refusal(service, "", text="a bird", **field)


@pytest.mark.parametrize("candidates", [1, 3, 100])
def test_a_reranker_reads_the_candidates_of_several(service: Server, store: Store, candidates: int) -> None:
    """The best of all collections are ordered as `search_several` orders them, and the others follow."""
    expected = search_several(
        store, list(TEXTS), Search(text="salt", rerank=load_reranker("by-length"), candidates=candidates)
    )
    answer = answered(service, "", text="salt", collections=list(TEXTS), rerank="by-length", candidates=candidates)
    assert [(hit["collection"], hit["id"]) for hit in answer["hits"]] == [
        (hit.collection, hit.id) for hit in expected.hits
    ]
    assert len(answer["hits"]) == 5
    assert (answer["hits"][0]["text"] == "a pinch of salt in water") == (candidates > 1)


# --- fields and sentences ---------------------------------------------------------------------------


def test_http_has_every_field_of_a_search() -> None:
    """One collection takes the fields of `mmembed.Search`, several all but groups, and both a few more."""
    python = {field.name for field in fields(Search)}
    more = {"with_payload", "with_probability", "encoder"}
    assert set(SearchRequest.model_fields) == python | more
    groups = {"group_by", "group_size"}
    assert set(SeveralRequest.model_fields) == python - groups | more | {"collections", "collection_weights"}
    assert set(SearchFields.model_fields) == python - groups | more


def test_parameters_are_fields_wherever_a_sentence_is_shown(service: Server) -> None:
    """Why a collection was skipped, a file was not indexed and an encoder is not there name no parameter of Python."""
    skipped = answered(service, "", text="a bird", collections=["drawings", "theirs"])["skipped"]
    assert 'name it with "encoder"' in skipped["theirs"]
    large = BytesIO()
    Image.fromarray(np.zeros((400, 400, 3), np.uint8)).save(large, "PNG")
    files = [("file", ("bird.png", BIRD)), ("file", ("large.png", large.getvalue()))]
    report = httpx.post(f"{service.url}/v1/index/uploads", files=files, timeout=60).json()
    assert 'raise "max_pixels"' in report["failures"][0]["error"]
    encoders = httpx.get(f"{service.url}/v1/encoders", timeout=60).json()["encoders"]
    (needy,) = [encoder for encoder in encoders if encoder["name"].startswith("needy")]
    assert 'pass "trust_remote_code"' in needy["error"]
