"""`voyage` against a server on loopback that answers, and refuses, as Voyage's documentation says."""

from __future__ import annotations

import mmembed_voyage
import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.errors import EncoderRefused, SettingsError, UnsupportedModality
from mmembed.testing.http import ReceivedRequest, Reply, StandIn
from mmembed.testing.remote import (
    COLOURS,
    RemoteTests,
    decoded_image,
    embedding_list,
    image_vector,
    text_vector,
    vendor,
)

KEY = "pa-test-0123456789"
SIZES = {"voyage-multimodal-3.5": 1024, "voyage-multimodal-3": 1024, "voyage-4-lite": 1024, "voyage-law-2": 1024}
BOTH, TEXT = "voyage:voyage-multimodal-3.5", "voyage:voyage-4-lite"


def refuse(message: str, status: int = 400) -> Reply:
    return Reply({"detail": message}, status=status)


def voyage(asked: ReceivedRequest) -> Reply:
    """Voyage itself, with a token for each word and for every 560 pixels."""
    body = asked.body
    multimodal = "multimodal" in body["model"]
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return refuse("Provided API key is invalid.", 401)
    if body["model"] not in SIZES or (asked.path == "/v1/multimodalembeddings") != multimodal:
        return refuse(f"Model {body['model']} is not supported.")
    options = {"model", "truncation", "encoding_format", "input_type", "output_dimension"}
    assert set(body) <= options | {"inputs" if multimodal else "input"}
    assert body["truncation"] is True
    assert body.get("input_type", "query") in ("query", "document")
    full = SIZES[body["model"]]
    dim = body.get("output_dimension", full)
    if dim != full and body["model"] in ("voyage-multimodal-3", "voyage-law-2"):
        return refuse("output_dimension is not supported")
    inputs = body["inputs" if multimodal else "input"]
    parts = [part for item in inputs for part in item["content"]] if multimodal else inputs
    mark = f"{body.get('input_type', '')} "
    rows, tokens = [], 0
    for part in parts:
        text = part.get("text") if multimodal else part
        if text is not None:
            if text == "" or (multimodal and set(part) != {"type", "text"}):
                return refuse("Input cannot be empty")
            rows.append(text_vector(mark.replace("document ", "") + text, full, words=32_000))
            tokens += len(text.split())
        else:
            assert (part["type"], len(part)) == ("image_base64", 2)
            rows.append(image_vector(part["image_base64"], full))
            tokens += np.asarray(decoded_image(part["image_base64"])).size // 3 // 560
    if len(inputs) > 1000 or tokens > 320_000:
        return refuse("too many inputs")
    return embedding_list([row[:dim] for row in rows])


server = vendor(mmembed_voyage, voyage, key=KEY)


class TestVoyage(RemoteTests):
    """Voyage as any vendor."""

    name, dim, variables = TEXT, 1024, ("VOYAGE_API_KEY",)
    sound = (f"{BOTH}?dim=256", "voyage:voyage-law-2")
    refuse = staticmethod(refuse)


def test_the_request_for_texts_is_that_of_the_documentation(server: StandIn) -> None:
    """One POST with the role as input type, the size, truncation and base64."""
    encoder = load_encoder(f"{TEXT}?dim=256")
    assert server.requests == []  # what is known needs no call
    rows = encoder.encode_text(["a red wall", ""], role="document")
    (asked,) = server.requests
    assert asked.path == "/v1/embeddings"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "input": ["a red wall", " "],
        "model": "voyage-4-lite",
        "truncation": True,
        "encoding_format": "base64",
        "input_type": "document",
        "output_dimension": 256,
    }
    expected = np.stack([text_vector(text, 256, words=9) for text in ("a red wall", "")])
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(UnsupportedModality, match="cannot encode images, only text"):
        encoder.encode_image([Image.new("RGB", (8, 8))])


def test_a_multimodal_model_has_an_address_of_its_own(server: StandIn) -> None:
    """Its texts and pictures are contents, pictures as lossless PNG, and a word finds the picture of its colour."""
    encoder = load_encoder(BOTH)
    photos = [Image.new("RGB", (40, 30), colour) for colour in COLOURS.values()]
    rows = encoder.encode_image(photos)
    query = encoder.encode_text(["a lime wall"], role="query")[0]
    images, texts = server.requests
    assert images.path == texts.path == "/v1/multimodalembeddings"
    assert texts.body == {
        "inputs": [{"content": [{"type": "text", "text": "a lime wall"}]}],
        "model": "voyage-multimodal-3.5",
        "truncation": True,
        "encoding_format": "base64",
        "input_type": "query",
        "output_dimension": 1024,
    }
    assert (images.body["input_type"], len(images.body["inputs"])) == ("document", 3)
    ((part,),) = [item["content"] for item in images.body["inputs"][1:2]]
    assert part["type"] == "image_base64"
    np.testing.assert_array_equal(np.asarray(decoded_image(part["image_base64"])), np.asarray(photos[1]))
    assert (rows @ query).argmax() == 1


def test_input_types_follow_from_role_and_task(server: StandIn) -> None:
    """Search is by role; other tasks are without a prompt; what is no task is refused."""
    encoder = load_encoder(TEXT)
    for role, task in [("query", None), ("document", "retrieval"), ("query", "similarity"), ("document", "clustering")]:
        encoder.encode_text(["x"], role=role, task=task)
    assert [asked.body.get("input_type") for asked in server.requests] == ["query", "document", None, None]
    with pytest.raises(SettingsError, match="Voyage knows no task 'SciFact': it has retrieval, classification"):
        encoder.encode_text(["x"], role="query", task="SciFact")


def test_requests_keep_the_limits(server: StandIn) -> None:
    """No request has more than 1000 inputs or, at a byte or 560 pixels a token, more tokens than its model takes."""
    load_encoder(TEXT).encode_text(["x"] * 1001, role="document")
    assert sorted(len(asked.body["input"]) for asked in server.requests) == [1, 1000]
    server.requests.clear()
    load_encoder("voyage:voyage-law-2").encode_text(["word " * 6000] * 5, role="document")  # 30 kB each, cut to 16,000
    assert [len(asked.body["input"]) for asked in server.requests] == [5]
    server.requests.clear()
    load_encoder(BOTH).encode_image([Image.new("RGB", (5000, 4000), "red")] + [Image.new("RGB", (8, 8))] * 2)
    (asked,) = server.requests
    first = decoded_image(asked.body["inputs"][0]["content"][0]["image_base64"])
    assert 15_900_000 < first.width * first.height <= 16_000_000


def test_one_space_one_fingerprint(server: StandIn) -> None:
    """What voyage-4-large indexes, voyage-4-lite can search; no other two models or sizes can."""
    names = ["voyage-4-large", "voyage-4", "voyage-4-lite", "voyage-4?dim=256", "voyage-3.5", "voyage-3.5-lite"]
    prints = [load_encoder(f"voyage:{name}").spec.fingerprint for name in names]
    assert len(set(prints[:3])) == 1
    assert len(set(prints)) == 4
    assert server.requests == []


def test_a_model_of_tomorrow(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is asked for its size once, or gets the size that `?dim=` says; a wrong name is refused."""
    monkeypatch.setitem(SIZES, "voyage-multimodal-9", 96)
    encoder = load_encoder("voyage:voyage-multimodal-9")
    assert (encoder.spec.dim, encoder.spec.modalities, len(server.requests)) == (96, {"image", "text"}, 1)
    assert load_encoder("voyage:voyage-multimodal-9?dim=64").encode_text(["a"], role="query").shape == (1, 64)
    with pytest.raises(EncoderRefused, match=r"400 Bad Request \(Model gone is not supported.\)"):
        load_encoder("voyage:gone")
    with pytest.raises(SettingsError, match="voyage-law-2 has 1024"):
        load_encoder("voyage:voyage-law-2?dim=256")
