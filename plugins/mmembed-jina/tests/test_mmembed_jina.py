"""`jina` against a server on loopback that answers, and refuses, as Jina's documentation says."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import mmembed_jina
import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.encoders.remote import Patience, calls
from mmembed.errors import (
    EncoderRefused,
    EncoderUnavailable,
    InputError,
    InvalidEmbedding,
    SettingsError,
    UnsupportedModality,
)
from mmembed.testing import check_encoder
from mmembed.testing.http import Asked, Reply, StandIn
from mmembed.types import Role

KEY = "jina_test0123456789"
SIZES = {
    "jina-embeddings-v4": 2048,
    "jina-embeddings-v3": 1024,
    "jina-clip-v2": 1024,
    "jina-embeddings-v2-base-en": 768,
}
V4, V3 = "jina:jina-embeddings-v4", "jina:jina-embeddings-v3"
COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


def text_vector(text: str, dim: int, *, words: int) -> np.ndarray:
    """A text by the words in it, in the first 32 of `dim` coordinates; the first three are for colours."""
    row = np.zeros(dim)
    row[3] = 1
    for word in re.findall(r"\w+", text.lower())[:words]:
        row[list(COLOURS).index(word) if word in COLOURS else 4 + zlib.crc32(word.encode()) % 28] += 1
    return row


def image_vector(content: str, dim: int) -> np.ndarray:
    """A picture by its colours, in the same coordinates, and by its grey thumbnail."""
    image = decoded(content)
    row = np.zeros(dim)
    row[:3] = np.asarray(image, dtype=float).reshape(-1, 3).mean(axis=0) / 255
    row[3] = 1
    row[4:20] = np.asarray(image.convert("L").resize((4, 4)), dtype=float).ravel() / 1000
    return row


def decoded(content: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert image.mode == "RGB"
    return image


def refuse(message: str, status: int = 400) -> Reply:
    return Reply({"detail": message}, status=status)


def jina(asked: Asked) -> Reply:
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
    dim = body.get("dimensions", full)
    encoded = [base64.b64encode(row[:dim].astype("<f4").tobytes()).decode() for row in rows]
    out = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(encoded)]
    return Reply({"object": "list", "data": out[::-1], "usage": {"total_tokens": 1}})  # in no particular order


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Jina's own address for the length of a test."""
    monkeypatch.setenv("JINA_API_KEY", KEY)
    with StandIn(jina) as standin:
        monkeypatch.setattr(mmembed_jina, "HOME", f"{standin.url}/v1")
        yield standin


def test_the_request_is_that_of_the_documentation(server: StandIn) -> None:
    """One POST with the task of the role, the size, truncation, base64 and norm 1."""
    encoder = load_encoder(f"{V3}?dim=256")
    assert server.asked == []  # what is known needs no call
    rows = encoder.encode_text(["a red wall", ""], role="document")
    (asked,) = server.asked
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


def test_a_multimodal_model_takes_texts_and_pictures_as_objects(server: StandIn) -> None:
    """Pictures are base64 of lossless PNG, and a word finds the picture of its colour."""
    encoder = load_encoder(V4)
    pictures = [Image.new("RGB", (40, 30), colour) for colour in COLOURS.values()]
    rows = encoder.encode_image(pictures)
    query = encoder.encode_text(["a lime wall"], role="query")[0]
    images, texts = server.asked
    assert (texts.body["input"], texts.body["task"]) == ([{"text": "a lime wall"}], "retrieval.query")
    assert (len(images.body["input"]), images.body["task"]) == (3, "retrieval.passage")
    assert set(images.body["input"][1]) == {"image"}
    np.testing.assert_array_equal(np.asarray(decoded(images.body["input"][1]["image"])), np.asarray(pictures[1]))
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
    assert server.asked[0].body.get("task") == sent


def test_a_task_that_the_model_does_not_know_is_refused(server: StandIn) -> None:
    """v4 was not trained to classify, so that is an error and not another task."""
    with pytest.raises(
        SettingsError, match=r"jina-embeddings-v4 knows no task 'classification': it has code, code.pass"
    ):
        load_encoder(V4).encode_text(["x"], role="query", task="classification")
    assert server.asked == []


def test_late_chunking_reads_a_call_as_one_document(server: StandIn) -> None:
    """The passages of a call go in one request, in order and uncut, and know each other; queries do not."""
    encoder = load_encoder(f"{V3}?late_chunking=true")
    passages = [f"part {i}" for i in range(300)]
    rows = encoder.encode_text(passages, role="document")
    (asked,) = server.asked
    assert (asked.body["input"], asked.body["late_chunking"], asked.body["truncate"]) == (passages, True, False)
    alone = encoder.encode_text(passages[:1], role="document")
    assert (rows[:1] @ alone.T).item() < 0.99
    encoder.encode_text(["one", "two"], role="query")
    assert "late_chunking" not in server.asked[-1].body
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
    assert server.asked == []


def test_requests_are_of_moderate_size(server: StandIn) -> None:
    """128 texts or 16 pictures go into one request."""
    load_encoder(V3).encode_text(["x"] * 130, role="document")
    load_encoder("jina:jina-clip-v2").encode_image([Image.new("RGB", (8, 8))] * 17)
    assert sorted(len(asked.body["input"]) for asked in server.asked) == [1, 2, 16, 128]


def test_a_model_of_tomorrow(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is asked for its size once, or gets the size that `?dim=` says; a wrong name is refused."""
    monkeypatch.setitem(SIZES, "jina-embeddings-v9", 96)
    encoder = load_encoder("jina:jina-embeddings-v9")
    assert (encoder.spec.dim, server.asked[0].body["task"], len(server.asked)) == (96, "retrieval.passage", 1)
    assert load_encoder("jina:jina-embeddings-v9?dim=64").encode_text(["a"], role="query").shape == (1, 64)
    with pytest.raises(EncoderRefused, match=r"400 Bad Request \(Model 'gone' not found\)"):
        load_encoder("jina:gone")
    with pytest.raises(SettingsError, match="jina-embeddings-v2-base-en has 768"):
        load_encoder("jina:jina-embeddings-v2-base-en?dim=256")


def test_a_busy_server_is_asked_again(server: StandIn) -> None:
    """After a connection that broke and after 429 with a Retry-After, the rows are those of an untroubled call."""
    encoder = load_encoder(V3)
    untroubled = encoder.encode_text(["a", "b"], role="document")
    server.first(Reply({"data": []}, broken_off=True), Reply(status=429, headers={"Retry-After": "0"}))
    np.testing.assert_array_equal(encoder.encode_text(["a", "b"], role="document"), untroubled)
    assert len(server.asked) == 4


def row(index: int, content: bytes = b"\0\0\x80?" * 1024) -> dict:
    return {"index": index, "embedding": base64.b64encode(content).decode()}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([row(0)], "returned 1 vectors for 2 inputs"),
        ([row(0), row(0)], "numbers its 2 vectors"),
        ([row(0), {"index": 1, "embedding": "%%%"}], "no base64"),
        ([row(0), row(1, b"12345")], "no row of float32"),
        ([row(0, b"\0\0\x80?" * 8), row(1, b"\0\0\x80?" * 8)], "8 dimensions where 1024 were expected"),
        ([row(0), row(1, b"\0\0\xc0\x7f" * 1024)], "NaN"),
    ],
)
def test_an_answer_that_is_wrong_is_refused(server: StandIn, data: list, message: str) -> None:
    """Too few rows, rows that cannot be told apart, broken base64, another size and NaN are errors, asked once."""
    server.first(Reply({"data": data}))
    with pytest.raises(InvalidEmbedding, match=message):
        load_encoder(V3).encode_text(["a", "b"], role="document")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413])
def test_a_refusal_is_not_repeated(server: StandIn, status: int) -> None:
    """A request that is refused is asked once, and Jina's words are passed on."""
    server.first(refuse("too much", status))
    with pytest.raises(EncoderRefused, match=rf"answered {status} .* \(too much\)"):
        load_encoder(V3).encode_text(["a"], role="document")
    assert len(server.asked) == 1


def test_a_slow_server_is_given_up(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come in time is an error that says so."""
    monkeypatch.setattr(calls, "PATIENCE", Patience(read_seconds=0.1, tries=1))
    server.first(Reply(pause_seconds=5))
    with pytest.raises(EncoderUnavailable, match="ReadTimeout"):
        load_encoder(V3).encode_text(["a"], role="document")


def test_keys(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key names its variable and is not repeated, a missing one is an error when the encoder is loaded."""
    monkeypatch.setenv("JINA_API_KEY", "jina_wrong")
    server.first(refuse("Invalid API key jina_wrong", 401))
    with pytest.raises(EncoderRefused, match=r"\(Invalid API key \[key\]\): .* JINA_API_KEY is right"):
        load_encoder(V3).encode_text(["a"], role="query")
    monkeypatch.delenv("JINA_API_KEY")
    with pytest.raises(SettingsError, match="set the environment variable JINA_API_KEY"):
        load_encoder(V3)
    with pytest.raises(EncoderRefused, match="MMEMBED_API_KEYS"):  # the same server, but not as Jina's own address
        load_encoder(f"{V3}?base_url={server.url}").encode_text(["a"], role="query")
    assert "authorization" not in server.asked[-1].headers


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", [f"{V3}?dim=256", "jina:jina-clip-v2"])
def test_it_keeps_the_promises_of_an_encoder(name: str) -> None:
    """Shape, order, odd texts and pictures, truncation, batches: everything that can be tried from outside."""
    report = check_encoder(load_encoder(name), load=load_encoder)
    assert report.ok, report.faults


def test_the_example_of_the_readme(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as it stands, and prints what it says."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (80, 60), "red").save("barn.jpg")
    Image.new("RGB", (80, 60), "lime").save("meadow.jpg")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == "".join(re.findall(r"^# (.*\n)", code, re.MULTILINE))
    assert len(server.asked) == 2
