"""`voyage` against a server on loopback that answers, and refuses, as Voyage's documentation says."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import mmembed_voyage
import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.encoders.remote import Patience, calls
from mmembed.errors import EncoderRefused, EncoderUnavailable, InvalidEmbedding, SettingsError, UnsupportedModality
from mmembed.testing import check_encoder
from mmembed.testing.http import Asked, Reply, StandIn

KEY = "pa-test-0123456789"
SIZES = {"voyage-multimodal-3.5": 1024, "voyage-multimodal-3": 1024, "voyage-4-lite": 1024, "voyage-law-2": 1024}
BOTH, TEXT = "voyage:voyage-multimodal-3.5", "voyage:voyage-4-lite"
COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


def text_vector(text: str, dim: int, *, words: int) -> np.ndarray:
    """A text by the words in it, in the first 32 of `dim` coordinates; the first three are for colours."""
    row = np.zeros(dim)
    row[3] = 1
    for word in re.findall(r"\w+", text.lower())[:words]:
        row[list(COLOURS).index(word) if word in COLOURS else 4 + zlib.crc32(word.encode()) % 28] += 1
    return row


def image_vector(uri: str, dim: int) -> np.ndarray:
    """A picture by its colours, in the same coordinates, and by its grey thumbnail."""
    image = decoded(uri)
    row = np.zeros(dim)
    row[:3] = np.asarray(image, dtype=float).reshape(-1, 3).mean(axis=0) / 255
    row[3] = 1
    row[4:20] = np.asarray(image.convert("L").resize((4, 4)), dtype=float).ravel() / 1000
    return row


def decoded(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert re.fullmatch("data:image/(png|jpeg|webp|gif);base64", head)
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert image.mode == "RGB"
    return image


def refuse(message: str, status: int = 400) -> Reply:
    return Reply({"detail": message}, status=status)


def voyage(asked: Asked) -> Reply:
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
            tokens += np.asarray(decoded(part["image_base64"])).size // 3 // 560
    if len(inputs) > 1000 or tokens > 320_000:
        return refuse("too many inputs")
    encoded = [base64.b64encode(row[:dim].astype("<f4").tobytes()).decode() for row in rows]
    out = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(encoded)]
    return Reply({"object": "list", "data": out[::-1], "usage": {"total_tokens": tokens}})  # in no particular order


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Voyage's own address for the length of a test."""
    monkeypatch.setenv("VOYAGE_API_KEY", KEY)
    with StandIn(voyage) as standin:
        monkeypatch.setattr(mmembed_voyage, "HOME", f"{standin.url}/v1")
        yield standin


def test_the_request_for_texts_is_that_of_the_documentation(server: StandIn) -> None:
    """One POST with the role as input type, the size, truncation and base64."""
    encoder = load_encoder(f"{TEXT}?dim=256")
    assert server.asked == []  # what is known needs no call
    rows = encoder.encode_text(["a red wall", ""], role="document")
    (asked,) = server.asked
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
    pictures = [Image.new("RGB", (40, 30), colour) for colour in COLOURS.values()]
    rows = encoder.encode_image(pictures)
    query = encoder.encode_text(["a lime wall"], role="query")[0]
    images, texts = server.asked
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
    np.testing.assert_array_equal(np.asarray(decoded(part["image_base64"])), np.asarray(pictures[1]))
    assert (rows @ query).argmax() == 1


def test_input_types_follow_from_role_and_task(server: StandIn) -> None:
    """Search is by role; other tasks are without a prompt; what is no task is refused."""
    encoder = load_encoder(TEXT)
    for role, task in [("query", None), ("document", "retrieval"), ("query", "similarity"), ("document", "clustering")]:
        encoder.encode_text(["x"], role=role, task=task)
    assert [asked.body.get("input_type") for asked in server.asked] == ["query", "document", None, None]
    with pytest.raises(SettingsError, match="Voyage knows no task 'SciFact': it has retrieval, classification"):
        encoder.encode_text(["x"], role="query", task="SciFact")


def test_requests_keep_the_limits(server: StandIn) -> None:
    """No request has more than 1000 inputs or, at a byte or 560 pixels a token, more tokens than its model takes."""
    load_encoder(TEXT).encode_text(["x"] * 1001, role="document")
    assert sorted(len(asked.body["input"]) for asked in server.asked) == [1, 1000]
    server.asked.clear()
    load_encoder("voyage:voyage-law-2").encode_text(["word " * 6000] * 5, role="document")  # 30 kB each, cut to 16,000
    assert [len(asked.body["input"]) for asked in server.asked] == [5]
    server.asked.clear()
    load_encoder(BOTH).encode_image([Image.new("RGB", (5000, 4000), "red")] + [Image.new("RGB", (8, 8))] * 2)
    (asked,) = server.asked
    first = decoded(asked.body["inputs"][0]["content"][0]["image_base64"])
    assert 15_900_000 < first.width * first.height <= 16_000_000


def test_one_space_one_fingerprint(server: StandIn) -> None:
    """What voyage-4-large indexes, voyage-4-lite can search; no other two models or sizes can."""
    names = ["voyage-4-large", "voyage-4", "voyage-4-lite", "voyage-4?dim=256", "voyage-3.5", "voyage-3.5-lite"]
    prints = [load_encoder(f"voyage:{name}").spec.fingerprint for name in names]
    assert len(set(prints[:3])) == 1
    assert len(set(prints)) == 4
    assert server.asked == []


def test_a_model_of_tomorrow(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is asked for its size once, or gets the size that `?dim=` says; a wrong name is refused."""
    monkeypatch.setitem(SIZES, "voyage-multimodal-9", 96)
    encoder = load_encoder("voyage:voyage-multimodal-9")
    assert (encoder.spec.dim, encoder.spec.modalities, len(server.asked)) == (96, {"image", "text"}, 1)
    assert load_encoder("voyage:voyage-multimodal-9?dim=64").encode_text(["a"], role="query").shape == (1, 64)
    with pytest.raises(EncoderRefused, match=r"400 Bad Request \(Model gone is not supported.\)"):
        load_encoder("voyage:gone")
    with pytest.raises(SettingsError, match="voyage-law-2 has 1024"):
        load_encoder("voyage:voyage-law-2?dim=256")


def test_a_busy_server_is_asked_again(server: StandIn) -> None:
    """After a connection that broke and after 429 with a Retry-After, the rows are those of an untroubled call."""
    encoder = load_encoder(TEXT)
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
        load_encoder(TEXT).encode_text(["a", "b"], role="document")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413])
def test_a_refusal_is_not_repeated(server: StandIn, status: int) -> None:
    """A request that is refused is asked once, and Voyage's words are passed on."""
    server.first(refuse("too much", status))
    with pytest.raises(EncoderRefused, match=rf"answered {status} .* \(too much\)"):
        load_encoder(TEXT).encode_text(["a"], role="document")
    assert len(server.asked) == 1


def test_a_slow_server_is_given_up(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come in time is an error that says so."""
    monkeypatch.setattr(calls, "PATIENCE", Patience(read_seconds=0.1, tries=1))
    server.first(Reply(pause_seconds=5))
    with pytest.raises(EncoderUnavailable, match="ReadTimeout"):
        load_encoder(TEXT).encode_text(["a"], role="document")


def test_keys(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key names its variable and is not repeated, a missing one is an error when the encoder is loaded."""
    monkeypatch.setenv("VOYAGE_API_KEY", "pa-wrong")
    server.first(refuse("Provided API key pa-wrong is invalid.", 401))
    with pytest.raises(EncoderRefused, match=r"\(Provided API key \[key\] is invalid.\): .* VOYAGE_API_KEY is right"):
        load_encoder(TEXT).encode_text(["a"], role="query")
    monkeypatch.delenv("VOYAGE_API_KEY")
    with pytest.raises(SettingsError, match="set the environment variable VOYAGE_API_KEY"):
        load_encoder(TEXT)
    with pytest.raises(EncoderRefused, match="MMEMBED_API_KEYS"):  # the same server, but not as Voyage's own address
        load_encoder(f"{TEXT}?base_url={server.url}").encode_text(["a"], role="query")
    assert "authorization" not in server.asked[-1].headers


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", [f"{BOTH}?dim=256", "voyage:voyage-law-2"])
def test_it_keeps_the_promises_of_an_encoder(name: str) -> None:
    """Shape, order, odd texts and pictures, batches: everything that can be tried from outside."""
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
