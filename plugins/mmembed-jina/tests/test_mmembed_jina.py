"""`jina` against a server on loopback that answers, and refuses, as Jina's documentation says."""

from __future__ import annotations

import mmembed_jina
import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.errors import (
    EncoderRefused,
    InputError,
    SettingsError,
    UnsupportedModality,
)
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
from mmembed.types import Role

KEY = "jina_test0123456789"
SIZES = {
    "jina-embeddings-v4": 2048,
    "jina-embeddings-v3": 1024,
    "jina-clip-v2": 1024,
    "jina-embeddings-v2-base-en": 768,
}
V4, V3 = "jina:jina-embeddings-v4", "jina:jina-embeddings-v3"


def refuse(message: str, status: int = 400) -> Reply:
    return Reply({"detail": message}, status=status)


def jina(asked: ReceivedRequest) -> Reply:
    """Jina itself, with a token for each word."""
    body = asked.body
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return refuse("Invalid API key", 401)
    if body["model"] not in SIZES:
        return refuse(f"Model '{body['model']}' not found")
    full = SIZES[body["model"]]
    options = {"model", "input", "task", "dimensions", "late_chunking", "truncate", "embedding_type", "normalized"}
    assert set(body) <= options
    assert (body["embedding_type"], body["normalized"], bool(body["input"])) == ("base64", True, True)
    if body["model"].startswith("jina-embeddings-v2") and {"task", "dimensions"} & set(body):
        return refuse("not supported")
    mark = body.get("task", "") + " "
    texts = [item.get("text") if isinstance(item, dict) else item for item in body["input"]]
    if "" in texts:
        return refuse("empty input")
    if body.get("late_chunking"):  # every text knows its neighbours
        assert body["truncate"] is False
        texts = [f"{text} {' '.join(texts)}" for text in texts]
    rows = [
        text_vector(mark + text, full, words=8192) if text is not None else image_vector(item["image"], full)
        for text, item in zip(texts, body["input"], strict=True)
    ]
    return embedding_list([row[: body.get("dimensions", full)] for row in rows])


server = vendor(mmembed_jina, jina, key=KEY)


class TestJina(RemoteTests):
    """Jina as any vendor."""

    name, dim, variables = V3, 1024, ("JINA_API_KEY",)
    sound = (f"{V3}?dim=256", "jina:jina-clip-v2")
    refuse = staticmethod(refuse)


def test_the_request_is_that_of_the_documentation(server: StandIn) -> None:
    """One POST with the task of the role, the size, truncation, base64 and norm 1."""
    encoder = load_encoder(f"{V3}?dim=256")
    assert server.requests == []  # what is known needs no call
    rows = encoder.encode_text(["a red wall", ""], role="document")
    (asked,) = server.requests
    assert asked.path == "/v1/embeddings"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "jina-embeddings-v3",
        "input": ["a red wall", " "],
        "task": "retrieval.passage",
        "dimensions": 256,
        "truncate": True,
        "embedding_type": "base64",
        "normalized": True,
    }
    expected = np.stack([text_vector(f"retrieval.passage {text}", 256, words=9) for text in ("a red wall", "")])
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(UnsupportedModality, match="cannot encode images, only text"):
        encoder.encode_image([Image.new("RGB", (8, 8))])


def test_a_multimodal_model_takes_texts_and_images_as_objects(server: StandIn) -> None:
    """Pictures are base64 of lossless PNG, and a word finds the picture of its colour."""
    encoder = load_encoder(V4)
    photos = [Image.new("RGB", (40, 30), colour) for colour in COLOURS.values()]
    rows = encoder.encode_image(photos)
    query = encoder.encode_text(["a lime wall"], role="query")[0]
    images, texts = server.requests
    assert (texts.body["input"], texts.body["task"]) == ([{"text": "a lime wall"}], "retrieval.query")
    assert (len(images.body["input"]), images.body["task"]) == (3, "retrieval.passage")
    assert set(images.body["input"][1]) == {"image"}
    np.testing.assert_array_equal(np.asarray(decoded_image(images.body["input"][1]["image"])), np.asarray(photos[1]))
    assert (rows @ query).argmax() == 1


@pytest.mark.parametrize(
    ("model", "role", "task", "sent"),
    [
        ("jina-embeddings-v3", "query", None, "retrieval.query"),
        ("jina-embeddings-v3", "document", "retrieval", "retrieval.passage"),
        ("jina-embeddings-v3", "query", "similarity", "text-matching"),
        ("jina-embeddings-v3", "query", "classification", "classification"),
        ("jina-embeddings-v3", "document", "clustering", "separation"),
        ("jina-embeddings-v3", "document", "separation", "separation"),
        ("jina-embeddings-v3", "query", "", None),
        ("jina-embeddings-v4", "query", "code", "code.query"),
        ("jina-clip-v2", "query", None, "retrieval.query"),
        ("jina-clip-v2", "document", None, None),
        ("jina-embeddings-v2-base-en", "query", None, None),
    ],
)
def test_tasks_are_those_of_the_model(
    server: StandIn, model: str, role: Role, task: str | None, sent: str | None
) -> None:
    """mmembed's words and the role become Jina's words; a model without tasks is sent none."""
    load_encoder(f"jina:{model}").encode_text(["x"], role=role, task=task)
    assert server.requests[0].body.get("task") == sent


def test_a_task_that_the_model_does_not_know_is_refused(server: StandIn) -> None:
    """v4 was not trained to classify, so that is an error and not another task."""
    with pytest.raises(
        SettingsError, match=r"jina-embeddings-v4 knows no task 'classification': it has code, code.pass"
    ):
        load_encoder(V4).encode_text(["x"], role="query", task="classification")
    assert server.requests == []


def test_late_chunking_reads_a_call_as_one_document(server: StandIn) -> None:
    """The passages of a call go in one request, in order and uncut, and know each other; queries do not."""
    encoder = load_encoder(f"{V3}?late_chunking=true")
    passages = [f"part {i}" for i in range(300)]
    rows = encoder.encode_text(passages, role="document")
    (asked,) = server.requests
    assert (asked.body["input"], asked.body["late_chunking"], asked.body["truncate"]) == (passages, True, False)
    alone = encoder.encode_text(passages[:1], role="document")
    assert (rows[:1] @ alone.T).item() < 0.99
    encoder.encode_text(["one", "two"], role="query")
    assert "late_chunking" not in server.requests[-1].body
    with pytest.raises(InputError, match=r"1025 texts do not fit into one request .* as one document"):
        encoder.encode_text(["x"] * 1025, role="document")


def test_late_chunking_is_for_models_that_have_it(server: StandIn) -> None:
    """Another model, and another word than true or false, are refused; it makes another fingerprint."""
    with pytest.raises(SettingsError, match="jina-clip-v2 has no late chunking: use jina-embeddings-v3 or jina-emb"):
        load_encoder("jina:jina-clip-v2?late_chunking=true")
    with pytest.raises(SettingsError, match="late_chunking is true or false, not 'yes'"):
        load_encoder(f"{V3}?late_chunking=yes")
    prints = [load_encoder(V3 + end).spec.fingerprint for end in ("", "?late_chunking=false", "?late_chunking=true")]
    assert prints[0] == prints[1] != prints[2]
    assert server.requests == []


def test_requests_are_of_moderate_size(server: StandIn) -> None:
    """128 texts or 16 pictures go into one request."""
    load_encoder(V3).encode_text(["x"] * 130, role="document")
    load_encoder("jina:jina-clip-v2").encode_image([Image.new("RGB", (8, 8))] * 17)
    assert sorted(len(asked.body["input"]) for asked in server.requests) == [1, 2, 16, 128]


def test_a_model_of_tomorrow(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is asked for its size once, or gets the size that `?dim=` says; a wrong name is refused."""
    monkeypatch.setitem(SIZES, "jina-embeddings-v9", 96)
    encoder = load_encoder("jina:jina-embeddings-v9")
    assert (encoder.spec.dim, server.requests[0].body["task"], len(server.requests)) == (96, "retrieval.passage", 1)
    assert load_encoder("jina:jina-embeddings-v9?dim=64").encode_text(["a"], role="query").shape == (1, 64)
    with pytest.raises(EncoderRefused, match=r"400 Bad Request \(Model 'gone' not found\)"):
        load_encoder("jina:gone")
    with pytest.raises(SettingsError, match="jina-embeddings-v2-base-en has 768"):
        load_encoder("jina:jina-embeddings-v2-base-en?dim=256")
