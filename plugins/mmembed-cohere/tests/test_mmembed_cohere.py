"""`cohere` against a server on loopback that answers, and refuses, as Cohere's documentation says."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import mmembed_cohere
import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.encoders.remote import Patience, calls
from mmembed.errors import EncoderLoadError, EncoderRefused, EncoderUnavailable, InvalidEmbedding, SettingsError
from mmembed.testing import check_encoder
from mmembed.testing.http import Asked, Reply, StandIn

KEY = "co-test-0123456789"
SIZES = {"embed-v5.0-pro": 2048, "embed-v5.0-fast": 2048, "embed-v4.0": 1536, "embed-english-v3.0": 1024}
V4 = "cohere:embed-v4.0"
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
    return Reply({"id": "1", "message": message}, status=status)


def cohere(asked: Asked) -> Reply:
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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Cohere's own address for the length of a test."""
    monkeypatch.setenv("CO_API_KEY", KEY)
    with StandIn(cohere) as standin:
        monkeypatch.setattr(mmembed_cohere, "HOME", f"{standin.url}/v2")
        yield standin


def test_the_request_is_that_of_the_documentation(server: StandIn) -> None:
    """One POST with the input type of the role, the size, truncation at the end and floats."""
    encoder = load_encoder(f"{V4}?dim=512")
    assert server.asked == []  # what is known needs no call
    rows = encoder.encode_text(["a red wall", ""], role="document")
    (asked,) = server.asked
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
    assert [asked.body["input_type"] for asked in server.asked] == [
        "search_query",
        "search_document",
        "classification",
        "clustering",
        "search_document",
    ]
    for task in ("similarity", ""):
        with pytest.raises(SettingsError, match=f"Cohere knows no task '{task}': it has retrieval, classification"):
            encoder.encode_text(["x"], role="query", task=task)


def test_pictures_are_data_uris_in_the_space_of_texts(server: StandIn) -> None:
    """Pictures go as lossless PNG, several a request, and a word finds the picture of its colour."""
    encoder = load_encoder(V4)
    pictures = [Image.new("RGB", (40, 30), colour) for colour in COLOURS.values()]
    rows = encoder.encode_image(pictures)
    (asked,) = server.asked
    assert set(asked.body) == {"model", "input_type", "images", "output_dimension", "embedding_types"}
    assert asked.body["input_type"] == "image"
    np.testing.assert_array_equal(np.asarray(decoded(asked.body["images"][1])), np.asarray(pictures[1]))
    query = encoder.encode_text(["a lime wall"], role="query")[0]
    assert (rows @ query).argmax() == 1
    assert encoder.spec.modalities == {"image", "text"}


def test_an_older_model_takes_one_picture_a_request(server: StandIn) -> None:
    """v3 has one size and is not asked for another; its pictures go one by one, and its texts 96 at a time."""
    encoder = load_encoder("cohere:embed-english-v3.0")
    assert encoder.encode_image([Image.new("RGB", (9, 9), c) for c in COLOURS.values()]).shape == (3, 1024)
    assert [len(asked.body["images"]) for asked in server.asked] == [1, 1, 1]
    server.asked.clear()
    encoder.encode_text(["x"] * 100, role="document")
    assert sorted(len(asked.body["texts"]) for asked in server.asked) == [4, 96]
    assert "output_dimension" not in server.asked[0].body
    with pytest.raises(SettingsError, match=r"embed-english-v3.0 has 1024"):
        load_encoder("cohere:embed-english-v3.0?dim=256")


def test_a_large_picture_is_shrunk_as_cohere_would(server: StandIn) -> None:
    """More than 2,458,624 pixels are shrunk before they are sent, since Cohere reads no more of them."""
    load_encoder(V4).encode_image([Image.new("RGB", (4000, 1000), "red")])
    width, height = decoded(server.asked[0].body["images"][0]).size
    assert 2_440_000 < width * height <= 2_458_624
    assert width / height == pytest.approx(4, rel=0.01)


def test_one_space_one_fingerprint(server: StandIn) -> None:
    """What Embed 5 Pro indexes, Embed 5 Fast can search; no other two models or sizes can."""
    names = ["embed-v5.0-pro", "embed-v5.0-fast", "embed-v5.0-pro?dim=512", "embed-v4.0", "embed-v4.0?dim=512"]
    prints = [load_encoder(f"cohere:{name}").spec.fingerprint for name in names]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    assert server.asked == []


def test_a_model_of_tomorrow(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is asked for its size once, or gets the size that `?dim=` says; a wrong name is refused."""
    monkeypatch.setitem(SIZES, "embed-v6.0", 96)
    encoder = load_encoder("cohere:embed-v6.0")
    assert (encoder.spec.dim, len(server.asked)) == (96, 1)
    assert load_encoder("cohere:embed-v6.0?dim=64").encode_text(["a"], role="query").shape == (1, 64)
    with pytest.raises(EncoderRefused, match=r"404 Not Found \(model 'gone' not found\)"):
        load_encoder("cohere:gone")
    with pytest.raises(EncoderLoadError, match=r"names no model: write cohere:MODEL, such as cohere:embed-v5.0-pro"):
        load_encoder("cohere:")


def test_a_busy_server_is_asked_again(server: StandIn) -> None:
    """After a connection that broke and after 429 with a Retry-After, the rows are those of an untroubled call."""
    encoder = load_encoder(V4)
    untroubled = encoder.encode_text(["a", "b"], role="document")
    server.first(Reply({"embeddings": {}}, broken_off=True), Reply(status=429, headers={"Retry-After": "0"}))
    np.testing.assert_array_equal(encoder.encode_text(["a", "b"], role="document"), untroubled)
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"embeddings": {"float": [[1.0] * 1536]}}, "returned 1 vectors for 2 inputs"),
        ({"embeddings": {"float": [[1.0] * 1024] * 2}}, "1024 dimensions where 1536 were expected"),
        ({"embeddings": {"float": [[1.0] * 1536, [float("nan")] * 1536]}}, "NaN"),
        ({"embeddings": {"float": [[1.0] * 1536, "%%%"]}}, "no base64"),
        ({"embeddings": {"int8": [[1] * 1536] * 2}}, 'no list under "embeddings" and "float"'),
        ({"embeddings": [[1.0] * 1536] * 2}, 'no list under "embeddings" and "float"'),
        ({"data": []}, 'no list under "embeddings" and "float"'),
    ],
)
def test_an_answer_that_is_wrong_is_refused(server: StandIn, body: dict, message: str) -> None:
    """Too few rows, another size, NaN, broken base64 and another shape are errors, asked once."""
    server.first(Reply(body))
    with pytest.raises(InvalidEmbedding, match=message):
        load_encoder(V4).encode_text(["a", "b"], role="document")
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413])
def test_a_refusal_is_not_repeated(server: StandIn, status: int) -> None:
    """A request that is refused is asked once, and Cohere's words are passed on."""
    server.first(refuse("too much", status))
    with pytest.raises(EncoderRefused, match=rf"answered {status} .* \(too much\)"):
        load_encoder(V4).encode_text(["a"], role="document")
    assert len(server.asked) == 1


def test_a_slow_server_is_given_up(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come in time is an error that says so."""
    monkeypatch.setattr(calls, "PATIENCE", Patience(read_seconds=0.1, tries=1))
    server.first(Reply(pause_seconds=5))
    with pytest.raises(EncoderUnavailable, match="ReadTimeout"):
        load_encoder(V4).encode_text(["a"], role="document")


def test_keys(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either variable holds the key; a wrong key is not repeated, and a missing one names both variables."""
    monkeypatch.delenv("CO_API_KEY")
    monkeypatch.setenv("COHERE_API_KEY", "co-wrong")
    server.first(refuse("invalid api token: co-wrong", 401))
    with pytest.raises(EncoderRefused, match=r"\(invalid api token: \[key\]\): .* COHERE_API_KEY is right") as caught:
        load_encoder(V4).encode_text(["a"], role="query")
    assert "co-wrong" not in str(caught.value)
    monkeypatch.delenv("COHERE_API_KEY")
    with pytest.raises(SettingsError, match="set the environment variable CO_API_KEY or COHERE_API_KEY"):
        load_encoder(V4)


def test_another_server_gets_no_key_of_coheres(server: StandIn) -> None:
    """A server at ?base_url= is asked without a key, and its vectors are another encoder's."""
    own = load_encoder(V4).spec.fingerprint
    with StandIn(
        lambda asked: cohere(Asked(asked.method, asked.path, {"authorization": f"Bearer {KEY}"}, asked.body))
    ) as mine:
        encoder = load_encoder(f"{V4}?base_url={mine.url}/v2")
        assert encoder.encode_text(["a"], role="query").shape == (1, 1536)
        assert "authorization" not in mine.asked[0].headers
    assert encoder.spec.fingerprint != own
    assert server.asked == []


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", [f"{V4}?dim=256", "cohere:embed-english-v3.0"])
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
