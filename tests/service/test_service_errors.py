"""Every error of mmembed has its status, its sentence and the shape that its client reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import APIRouter, HTTPException
from fastapi.routing import APIRoute
from service_app import running

from mmembed import errors
from mmembed.service.error_responses import STATUS, as_fields, error_response, json_bytes, status_of
from mmembed.service.routes.cohere import CohereRoute
from mmembed.service.routes.openai import OpenAIRoute
from mmembed.service.routes.qdrant_inference import QdrantRoute
from mmembed.service.server import Server

# written out once more: the service's own table is shorter, by ancestors
EXPECTED = {
    "CollectionMismatch": 409,
    "CollectionNotFound": 404,
    "CollectionNotOurs": 403,
    "DuplicateEncoder": 500,
    "EncoderError": 500,
    "EncoderLoadError": 503,
    "EncoderRefused": 502,
    "EncoderUnavailable": 503,
    "Forbidden": 403,
    "ForbiddenUrl": 400,
    "ImageTooLarge": 400,
    "InputError": 400,
    "InvalidEmbedding": 500,
    "InvalidLabels": 400,
    "InvalidQuery": 400,
    "InvalidRequest": 400,
    "InvalidSample": 400,
    "InvalidTestSet": 400,
    "MissingDependency": 503,
    "MmembedError": 500,
    "NotAList": 400,
    "Overloaded": 429,
    "PointNotFound": 404,
    "RequestTimeout": 408,
    "RequestTooLarge": 413,
    "ServiceError": 400,
    "SettingsError": 400,
    "StoreError": 400,
    "StoreFull": 507,
    "StoreUnavailable": 503,
    "Unauthorized": 401,
    "UnknownEncoder": 400,
    "UnreadableDocument": 400,
    "UnreadableImage": 400,
    "UnreadableSource": 400,
    "UnsupportedModality": 400,
}
ARGUMENTS: dict[str, Any] = {
    "UnknownEncoder": lambda c: c("tini", ["tiny"]),
    "DuplicateEncoder": lambda c: c("clip", ["a", "b"]),
    "MissingDependency": lambda c: c("adapters", "peft", "mmembed[lora]"),
    "UnsupportedModality": lambda c: c("minilm", "pictures", ["text"]),
    "EncoderRefused": lambda c: c("the key is wrong", status=401),
    "ImageTooLarge": lambda c: c("the picture", 9, 9, 10),
    "CollectionNotFound": lambda c: c("imags", ["images"], "the store"),
    "PointNotFound": lambda c: c("images", "7"),
    "CollectionNotOurs": lambda c: c("theirs"),
    "CollectionMismatch": lambda c: c("images", "image", stored="tiny", given="clip"),
    "Overloaded": lambda c: c("too much is waiting", retry_after_seconds=2.5),
}


def an(name: str) -> errors.MmembedError:
    """One error of that class."""
    made: errors.MmembedError = ARGUMENTS.get(name, lambda c: c(f"a sentence of {name}"))(getattr(errors, name))
    return made


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("errors"), wait=False) as service:

        async def fail(name: str) -> None:
            if name == "fault":
                raise ZeroDivisionError("secret of the house")
            if name == "teapot":
                raise HTTPException(418, "no coffee here")
            store = service.app.state.service.store
            if name == "place":
                raise errors.StoreUnavailable(
                    f"the store {store.url} is gone, see {store.folder}/lock and /etc/x/y.txt"
                )
            raise an(name)

        for prefix, route_class in (("/v1", APIRoute), ("/cohere", CohereRoute), ("/openai", OpenAIRoute)):
            router = APIRouter(route_class=route_class)
            router.add_api_route(prefix + "/raise/{name}", fail, methods=["GET"])
            service.app.router.routes += router.routes

        async def typed(limit: int, body: dict[str, int]) -> None: ...

        service.app.add_api_route("/v1/typed", typed, methods=["POST"])
        routes = service.app.router.routes
        routes.sort(key=lambda route: "raise" not in getattr(route, "path", ""))
        yield service


def test_the_table_is_whole() -> None:
    """Every class of the tree has one status, which is that of its nearest ancestor in the service's table."""
    assert set(errors.__all__) == set(EXPECTED)
    assert {name: status_of(an(name)) for name in errors.__all__} == EXPECTED
    assert set(STATUS) <= {getattr(errors, name) for name in errors.__all__}


@pytest.mark.parametrize("name", errors.__all__)
def test_each_error_through_a_route(name: str, service: Server) -> None:
    """What a route raises reaches the client as its status, its sentence and the name of its class."""
    answer = httpx.get(f"{service.url}/v1/raise/{name}")
    assert answer.status_code == EXPECTED[name]
    assert answer.json() == {"error": as_fields(an(name)), "type": name}
    assert answer.headers["x-content-type-options"] == "nosniff"
    wanted = {503: "5", 429: "3"}.get(EXPECTED[name])
    assert answer.headers.get("retry-after") == wanted


def test_shapes_of_others(service: Server) -> None:
    """OpenAI's and Cohere's clients get errors in the shape that they read."""
    openai = httpx.get(f"{service.url}/openai/raise/UnknownEncoder")
    assert openai.json()["error"] == {
        "message": str(an("UnknownEncoder")),
        "type": "invalid_request_error",
        "param": None,
        "code": "UnknownEncoder",
    }
    assert httpx.get(f"{service.url}/openai/raise/Overloaded").json()["error"]["type"] == "rate_limit_error"
    cohere = httpx.get(f"{service.url}/cohere/raise/StoreUnavailable")
    assert (cohere.status_code, cohere.json()) == (503, {"message": "a sentence of StoreUnavailable"})


@pytest.mark.parametrize("name", errors.__all__)
def test_qdrant_keeps_the_sentence(name: str) -> None:
    """Qdrant passes on the sentence of a 400 or 429 alone, so every fault of the client's is one of the two."""
    answer = error_response(an(name), shape=QdrantRoute.error_shape)
    status = EXPECTED[name]
    assert answer.status_code == (status if status >= 500 or status == 429 else 400)
    assert bytes(answer.body) == json_bytes({"error": as_fields(an(name))})


def test_a_fault_of_our_own_tells_nothing(service: Server, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is 500 without a word of it, and stands in the log with its traceback."""
    answer = httpx.get(f"{service.url}/v1/raise/fault")
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error: the log of the service says more", "type": "InternalError"}
    (record,) = [record for record in caplog.records if record.name == "mmembed.service.middleware.errors"]
    assert record.exc_info is not None
    assert httpx.get(f"{service.url}/v1/raise/InputError").status_code == 400  # the next is unharmed


def test_no_place_of_ours_is_told(service: Server) -> None:
    """A sentence that names the store's folder or another path reaches the client without it."""
    said = httpx.get(f"{service.url}/v1/raise/place").json()["error"]
    assert said == "the store is gone, see the store/lock and y.txt"


def test_what_the_router_says(service: Server) -> None:
    """An unknown path, a wrong method and another's HTTPException have the same shape, and 405 says what is allowed."""
    unknown = httpx.get(f"{service.url}/v1/nothing")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "NotFound")
    assert "/v1/nothing" in unknown.json()["error"]
    wrong = httpx.delete(f"{service.url}/v1/typed")
    assert (wrong.status_code, wrong.json()["type"], wrong.headers["allow"]) == (405, "MethodNotAllowed", "POST")
    other = httpx.get(f"{service.url}/v1/raise/teapot")
    assert (other.status_code, other.json()["error"]) == (418, "no coffee here")


@pytest.mark.parametrize(
    ("query", "body", "said"),
    [
        ("limit=3", b'{"a": ', "the body is not JSON: Expecting value at character 6"),
        ("limit=3", b'{"a": "x"}', "'a' of the body: input should be a valid integer"),
        ("limit=many", b"{}", "'limit' of the query: input should be a valid integer"),
        ("", b"{}", "'limit' of the query: field required"),
        ("limit=3", b"", "the body: field required"),
        (
            "limit=3",
            b"[" * 100_000,
            "the body cannot be read: it is not UTF-8, is nested too deeply, or has a number with too many digits",
        ),
    ],
)
def test_what_is_malformed_is_named(query: str, body: bytes, said: str, service: Server) -> None:
    """A request of the wrong form is 400 with one sentence that names the field, and what was sent is not said back."""
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{service.url}/v1/typed?{query}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "InvalidRequest")
    assert answer.json()["error"].startswith(said)


def test_json_of_numpy_and_of_half_characters() -> None:
    """Arrays are written as numbers, whatever their layout, and half a character of a client's text as its escape."""
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert json_bytes({"a": rows, "b": rows.T, "c": np.float32("nan")}) == (
        b'{"a":[[0.0,1.0,2.0],[3.0,4.0,5.0]],"b":[[0.0,3.0],[1.0,4.0],[2.0,5.0]],"c":null}'
    )
    assert json_bytes({"text": "\ud800", "a": rows[0]}) == b'{"text": "\\ud800", "a": [0.0, 1.0, 2.0]}'
