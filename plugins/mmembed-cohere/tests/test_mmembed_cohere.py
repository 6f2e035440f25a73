"""`cohere` against a server on loopback that answers, and refuses, as Cohere's documentation says."""

from __future__ import annotations

import mmembed_cohere
import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.errors import EncoderLoadError, EncoderRefused, SettingsError
from mmembed.testing.http import ReceivedRequest, Reply, StandIn
from mmembed.testing.remote import COLOURS, RemoteTests, decoded_image, image_vector, text_vector, vendor

KEY = "co-test-0123456789"
SIZES = {"embed-v5.0-pro": 2048, "embed-v5.0-fast": 2048, "embed-v4.0": 1536, "embed-english-v3.0": 1024}
V4 = "cohere:embed-v4.0"


def refuse(message: str, status: int = 400) -> Reply:
    return Reply({"id": "1", "message": message}, status=status)


def cohere(asked: ReceivedRequest) -> Reply:
    """Cohere itself, with a token for each word."""
    body = asked.body
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return refuse("invalid api token", 401)
    if body["model"] not in SIZES:
        return refuse(f"model '{body['model']}' not found", 404)
    old = body["model"].endswith("-v3.0")
    full = SIZES[body["model"]]
    dim = body.get("output_dimension", full)
    texts, images = body.get("texts", []), body.get("images", [])
    assert body["embedding_types"] == ["float"]
    kinds = {"image"} if images else {"search_query", "search_document", "classification", "clustering"}
    assert body["input_type"] in kinds
    if bool(texts) == bool(images) or len(texts) > 96 or "" in texts or (old and "output_dimension" in body):
        return refuse("invalid request")
    if len(images) > (1 if old else 96) or sum(map(len, images)) > (5_000_000 if old else 20_000_000):
        return refuse("too many images", 413)
    assert not texts or body["truncate"] == "END"
    words = 512 if old else 128_000
    marks = {"search_query": "query ", "search_document": ""}
    led = [marks.get(body["input_type"], body["input_type"] + " ") + text for text in texts]
    rows = [text_vector(text, full, words=words) for text in led] + [image_vector(uri, full) for uri in images]
    return Reply({"id": "1", "embeddings": {"float": [row[:dim].tolist() for row in rows]}, "texts": texts})


server = vendor(mmembed_cohere, cohere, key=KEY)


class TestCohere(RemoteTests):
    """Cohere as any vendor."""

    name, dim, variables = V4, 1536, ("CO_API_KEY", "COHERE_API_KEY")
    sound = (f"{V4}?dim=256", "cohere:embed-english-v3.0")
    refuse = staticmethod(refuse)

    def wrong_answers(self) -> list[tuple[object, str]]:
        """Floats below two keys, where others have a list."""
        one, other = [1.0] * 1536, 'no list under "embeddings" and "float"'
        return [
            ({"embeddings": {"float": [one]}}, "returned 1 vectors for 2 inputs"),
            ({"embeddings": {"float": [[1.0] * 1024] * 2}}, "1024 dimensions where 1536 were expected"),
            ({"embeddings": {"float": [one, [float("nan")] * 1536]}}, "NaN"),
            ({"embeddings": {"float": [one, "%%%"]}}, "not base64"),
            ({"embeddings": {"int8": [[1] * 1536] * 2}}, other),
            ({"embeddings": [one] * 2}, other),
            ({"data": []}, other),
        ]


def test_the_request_is_that_of_the_documentation(server: StandIn) -> None:
    """One POST with the input type of the role, the size, truncation at the end and floats."""
    encoder = load_encoder(f"{V4}?dim=512")
    assert server.requests == []  # what is known needs no call
    rows = encoder.encode_text(["a red wall", ""], role="document")
    (asked,) = server.requests
    assert asked.path == "/v2/embed"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "embed-v4.0",
        "input_type": "search_document",
        "texts": ["a red wall", " "],
        "output_dimension": 512,
        "truncate": "END",
        "embedding_types": ["float"],
    }
    expected = np.stack([text_vector(text, 512, words=9) for text in ("a red wall", "")])
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_input_types_follow_from_role_and_task(server: StandIn) -> None:
    """Search is by role; classification and clustering are alike for both; no other task is known."""
    encoder = load_encoder(V4)
    for role, task in [
        ("query", None),
        ("document", "retrieval"),
        ("query", "classification"),
        ("document", "clustering"),
        ("query", "search_document"),
    ]:
        encoder.encode_text(["x"], role=role, task=task)
    assert [asked.body["input_type"] for asked in server.requests] == [
        "search_query",
        "search_document",
        "classification",
        "clustering",
        "search_document",
    ]
    for task in ("similarity", ""):
        with pytest.raises(SettingsError, match=f"Cohere knows no task '{task}': it has retrieval, classification"):
            encoder.encode_text(["x"], role="query", task=task)


def test_images_are_data_uris_in_the_space_of_texts(server: StandIn) -> None:
    """Pictures go as lossless PNG, several a request, and a word finds the picture of its colour."""
    encoder = load_encoder(V4)
    images = [Image.new("RGB", (40, 30), colour) for colour in COLOURS.values()]
    rows = encoder.encode_image(images)
    (asked,) = server.requests
    assert set(asked.body) == {"model", "input_type", "images", "output_dimension", "embedding_types"}
    assert asked.body["input_type"] == "image"
    np.testing.assert_array_equal(np.asarray(decoded_image(asked.body["images"][1])), np.asarray(images[1]))
    query = encoder.encode_text(["a lime wall"], role="query")[0]
    assert (rows @ query).argmax() == 1
    assert encoder.spec.modalities == {"image", "text"}


def test_an_older_model_takes_one_image_a_request(server: StandIn) -> None:
    """v3 has one size and is not asked for another; its pictures go one by one, and its texts 96 at a time."""
    encoder = load_encoder("cohere:embed-english-v3.0")
    assert encoder.encode_image([Image.new("RGB", (9, 9), c) for c in COLOURS.values()]).shape == (3, 1024)
    assert [len(asked.body["images"]) for asked in server.requests] == [1, 1, 1]
    server.requests.clear()
    encoder.encode_text(["x"] * 100, role="document")
    assert sorted(len(asked.body["texts"]) for asked in server.requests) == [4, 96]
    assert "output_dimension" not in server.requests[0].body
    with pytest.raises(SettingsError, match=r"embed-english-v3.0 has 1024"):
        load_encoder("cohere:embed-english-v3.0?dim=256")


def test_a_large_image_is_shrunk_as_cohere_would(server: StandIn) -> None:
    """More than 2,458,624 pixels are shrunk before they are sent, since Cohere reads no more of them."""
    load_encoder(V4).encode_image([Image.new("RGB", (4000, 1000), "red")])
    width, height = decoded_image(server.requests[0].body["images"][0]).size
    assert 2_440_000 < width * height <= 2_458_624
    assert width / height == pytest.approx(4, rel=0.01)


def test_one_space_one_fingerprint(server: StandIn) -> None:
    """What Embed 5 Pro indexes, Embed 5 Fast can search; no other two models or sizes can."""
    names = ["embed-v5.0-pro", "embed-v5.0-fast", "embed-v5.0-pro?dim=512", "embed-v4.0", "embed-v4.0?dim=512"]
    prints = [load_encoder(f"cohere:{name}").spec.fingerprint for name in names]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    assert server.requests == []


def test_a_model_of_tomorrow(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is asked for its size once, or gets the size that `?dim=` says; a wrong name is refused."""
    monkeypatch.setitem(SIZES, "embed-v6.0", 96)
    encoder = load_encoder("cohere:embed-v6.0")
    assert (encoder.spec.dim, len(server.requests)) == (96, 1)
    assert load_encoder("cohere:embed-v6.0?dim=64").encode_text(["a"], role="query").shape == (1, 64)
    with pytest.raises(EncoderRefused, match=r"404 Not Found \(model 'gone' not found\)"):
        load_encoder("cohere:gone")
    with pytest.raises(EncoderLoadError, match=r"names no model: write cohere:MODEL, such as cohere:embed-v5.0-pro"):
        load_encoder("cohere:")


def test_another_server_gets_no_key_of_coheres(server: StandIn) -> None:
    """A server at ?base_url= is asked without a key, and its vectors are another encoder's."""
    own = load_encoder(V4).spec.fingerprint
    with StandIn(
        lambda asked: cohere(ReceivedRequest(asked.method, asked.path, {"authorization": f"Bearer {KEY}"}, asked.body))
    ) as mine:
        encoder = load_encoder(f"{V4}?base_url={mine.url}/v2")
        assert encoder.encode_text(["a"], role="query").shape == (1, 1536)
        assert "authorization" not in mine.requests[0].headers
    assert encoder.spec.fingerprint != own
    assert server.requests == []
