"""Bodies of JSON: how large, how many elements, null for what is left out, and that none of them holds others up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_app import running

from mmembed.errors import RequestTooLarge
from mmembed.service import json_bodies
from mmembed.service.json_bodies import check_elements

JSON = {"content-type": "application/json"}
MANY = 3_000_000
IMAGE = (Path(__file__).parents[2] / "mmembed/demo/pictograms/1f426.png").read_bytes()
SEARCHED = b'{"vector": %b, "limit": 3}'


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("json"), encoder=("tiny",)) as service:
        assert httpx.post(f"{service.url}/v1/index/images", files={"file": ("a.png", IMAGE)}).status_code == 200
        yield service.url


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        *(("/qdrant/infer", unit) for unit in (b"[]", b"{}", b"1", b'"a"', b"[[", b'{"a":1}')),
        *((path, b"[]") for path in ("/v1/embeddings", "/v2/embed", "/v1/search/x", "/v1/classify")),
    ],
)
def test_millions_of_elements_are_refused_unread(path: str, unit: bytes, url: str) -> None:
    """JSON of millions of elements is refused from its bytes: a parser would hold everybody up while it makes them."""
    body = b'{"inputs": [' + b",".join([unit] * MANY) + b"]}"
    answer = httpx.post(url + path, content=body, headers=JSON, timeout=60)
    assert answer.status_code == (400 if path == "/qdrant/infer" else 413)
    assert "more than 200,000 elements" in answer.text


def test_a_large_body_is_parsed_beside_the_loop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one client's large body is being read, another is answered."""
    reading, answered = threading.Event(), threading.Event()

    def slowly(_: bytes) -> None:
        reading.set()
        assert answered.wait(30)

    monkeypatch.setattr(json_bodies, "check_elements", slowly)
    body = {"model": "tiny", "input": "a " * 50_000}
    sending = threading.Thread(target=httpx.post, args=(f"{url}/v1/embeddings",), kwargs={"json": body, "timeout": 60})
    sending.start()
    assert reading.wait(30)
    assert httpx.get(f"{url}/health", timeout=20).status_code == 200
    answered.set()
    sending.join()


def test_a_large_body_within_the_bound_is_read_beside_the_loop(url: str) -> None:
    """A large body that is no JSON, or of the wrong shape, is told like a small one."""
    numbers = b"[" + b"1.5," * 100_000 + b"1]"
    for body, sentence in [
        (b'{"text": "' + b"a" * 99_000 + b'", "limit": 0}', "'limit' of the body: "),
        (b'{"text": "' + b"a" * 99_000 + b'",}', "the body is not JSON: "),
        (b'{"colour": ' + numbers + b"}", "'colour' of the body: there is no such field here"),
        (b"[" + b"[" * 90_000 + b"]" * 90_000 + b"]", "the body is not JSON: "),
        (b'{"weights": {' + b",".join(b'"%d":1' % n for n in range(30_000)) + b"}}", "30,000 fields"),
    ]:
        answer = httpx.post(f"{url}/v1/search/x", content=body, headers=JSON)
        assert sentence in answer.json()["error"], answer.text
    known = httpx.post(f"{url}/v1/search/x", content=SEARCHED % numbers, headers=JSON)
    assert (known.status_code, known.json()["type"]) == (404, "CollectionNotFound")


def test_commas_of_texts_are_no_elements(url: str) -> None:
    """A long text full of commas, brackets and escaped quotes is one element; a mark at its beginning is no fault."""
    text = ',[{"\\' * 60_000
    check_elements(json.dumps({"input": text}).encode())
    body = json.dumps({"model": "tiny", "input": text}).encode()
    assert httpx.post(f"{url}/v1/embeddings", content=b"\xef\xbb\xbf" + body, headers=JSON).status_code == 200


@pytest.mark.parametrize("body", [b'"",' * 900_000, b'"\\"",[],' * 250_000, b'"a\\\\",[],' * 250_000])
def test_strings_hide_no_elements(body: bytes) -> None:
    """Strings are elements too, and quotes that are escaped in them hide nothing that follows."""
    with pytest.raises(RequestTooLarge, match="200,000 elements"):
        check_elements(b"[" + body + b"1]")


def test_items_of_a_form_are_bounded(url: str) -> None:
    """The JSON beside files has the same bound."""
    form = {"items": "[" + "[]," * MANY + "1]"}
    answer = httpx.post(f"{url}/v1/index/x", data=form, files={"file": ("a.png", b"x")}, timeout=60)
    assert (answer.status_code, "200,000 elements" in answer.text) == (413, True), answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "tiny", "input": ["a"], "encoding_format": None, "role": None, "task": None}),
        ("/v1/embeddings", {"model": "tiny", "input": [{"type": "text", "text": "a"}], "dimensions": None}),
        ("/v2/embed", {"model": "tiny", "input_type": "search_query", "texts": ["a"], "embedding_types": None}),
        ("/v2/embed", {"model": "tiny", "input_type": "search_query", "texts": ["a"], "truncate": None}),
        ("/v1/classify", {"image": None, "labels": ["a", "b"], "templates": None, "background": None}),
        ("/v1/classify", {"labels": ["a", {"label": "b", "texts": None, "parents": None}], "top_k": None}),
        ("/v1/search", {"text": "a", "limit": None, "minus": None, "strategy": None, "weights": {"text": None}}),
        ("/v1/search", {"text": "a", "late": None, "filter": {"must": None, "should": None}, "candidates": None}),
        (
            "/qdrant/infer",
            {
                "inputs": [{"data": {"text": "a", "image": None}, "data_type": "object", "model": "tiny"}],
                "inference": "update",
                "token": None,
            },
        ),
    ],
)
def test_null_is_what_is_left_out(path: str, body: dict[str, Any], url: str) -> None:
    """A field that is null is answered like one that is not there, in JSON and in the query of a form."""
    is_label = path == "/v1/classify"
    sent: dict[str, Any] = {"files": {"image": IMAGE}, "data": {"query": json.dumps(body)}} if is_label else {}
    answer = httpx.post(url + path, **(sent or {"json": body}))
    assert answer.status_code == 200, answer.text


def test_what_is_needed_may_not_be_null(url: str) -> None:
    """A null for a required field, or within a list, is 400."""
    for body in ({"model": "tiny", "input": None}, {"model": "tiny", "input": ["a", None]}, {"model": None}):
        assert httpx.post(f"{url}/v1/embeddings", json=body).status_code == 400
