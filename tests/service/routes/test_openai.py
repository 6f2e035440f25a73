"""OpenAI's embeddings API, spoken by OpenAI's own client to a real server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from checkpoints_text import TEXTS, build_bert
from places import ROOT
from plugin_sites import install_plugin
from pydantic import ValidationError
from service_app import running

from mmembed import load_encoder
from mmembed.encoders.families import sentence
from mmembed.encoders.presets import PRESETS
from mmembed.images import load_image
from mmembed.service.routes.openai import EmbeddingsRequest
from mmembed.service.server import Server
from mmembed.types import Encoder
from mmembed.vectors import truncate

PICTOGRAMS = sorted((ROOT / "mmembed" / "demo" / "pictograms").glob("*.png"))[:3]
KEY = "sesame"

SLOW = '''
"""An encoder that waits until it is let go."""
import threading
from mmembed.encoders.families.fake import FakeEncoder

GATE = threading.Event()


class Slow(FakeEncoder):
    def encode_text(self, texts, *, role, task=None):
        if texts:
            GATE.wait(30)
        return super().encode_text(texts, role=role, task=task)


def load(name, run):
    return Slow(name, run, dim=8)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small text encoder that leads queries and documents as its row says, and may be cut to 16 dimensions."""
    row = replace(PRESETS["gemma-text"], matryoshka_dims=(16, 32), query_prompt="query: ", document_prompt="passage: ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentence, "preset_of_model", lambda _: row)
        yield build_bert(tmp_path_factory.mktemp("text") / "m", pooling="mean")


@pytest.fixture(scope="module")
def text_encoder(folder: Path) -> Encoder:
    return load_encoder(f"sentence:{folder}", device="cpu")


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    encoders = (f"sentence:{folder}", "fake", "fake?kind=sparse", "fake?kind=multi")
    with running(tmp_path_factory.mktemp("service"), encoder=encoders, key=(f"{KEY}:infer", "other:search")) as served:
        yield served


@pytest.fixture(scope="module")
def client(service: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


@contextlib.contextmanager
def image_host() -> Iterator[tuple[str, list[str]]]:
    """The pictograms at an address of loopback, and the paths that were asked for."""
    asked: list[str] = []

    class Files(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=PICTOGRAMS[0].parent)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def post(service: Server, body: object) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/embeddings", json=body, headers={"Authorization": f"Bearer {KEY}"})


# --- vectors -------------------------------------------------------------------------------------


def test_the_clients_own_format_and_floats_are_the_encoders_vectors(
    client: openai.OpenAI, text_encoder: Encoder
) -> None:
    """Base64, which the client asks for by itself, and floats hold what the encoder called directly gives, in order."""
    texts = TEXTS[:3]
    expected = text_encoder.encode_text(texts, role="document")
    by_itself = client.embeddings.create(model=text_encoder.spec.name, input=texts)
    floats = client.embeddings.create(model=text_encoder.spec.name, input=texts, encoding_format="float")
    for answer in (by_itself, floats):
        assert [one.index for one in answer.data] == [0, 1, 2]
        assert np.allclose([one.embedding for one in answer.data], expected, atol=1e-5)
    assert (by_itself.object, by_itself.data[0].object, by_itself.model) == (
        "list",
        "embedding",
        text_encoder.spec.name,
    )


def test_base64_is_of_little_endian_float32(service: Server, text_encoder: Encoder) -> None:
    """On the wire base64 is a string of four bytes a dimension."""
    answer = post(service, {"model": text_encoder.spec.name, "input": "a", "encoding_format": "base64"})
    sent = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), dtype="<f4")
    assert np.allclose(sent, text_encoder.encode_text(["a"], role="document")[0], atol=1e-5)


def test_dimensions_are_the_first_ones_of_norm_1(client: openai.OpenAI, text_encoder: Encoder) -> None:
    """`dimensions` cuts a Matryoshka vector as the encoder would, and the whole size changes nothing."""
    whole = np.asarray(text_encoder.encode_text(TEXTS[:2], role="document"))
    for dim in (16, 32):
        answer = client.embeddings.create(model=text_encoder.spec.name, input=TEXTS[:2], dimensions=dim)
        assert np.allclose([one.embedding for one in answer.data], truncate(whole, dim), atol=1e-5)


def test_dimensions_that_there_are_not(client: openai.OpenAI, text_encoder: Encoder) -> None:
    """A size that the encoder was not trained for is refused with those it was."""
    with pytest.raises(openai.BadRequestError, match="16"):
        client.embeddings.create(model=text_encoder.spec.name, input="a", dimensions=20)


def test_roles_and_tasks_are_told_apart(client: openai.OpenAI, text_encoder: Encoder) -> None:
    """`role` and `task` lead a text as they do when the encoder is called; a document is what there is without."""
    text = TEXTS[0]
    for extra, expected in (
        ({}, text_encoder.encode_text([text], role="document")),
        ({"role": "document"}, text_encoder.encode_text([text], role="document")),
        ({"role": "query"}, text_encoder.encode_text([text], role="query")),
        ({"role": "query", "task": "clustering"}, text_encoder.encode_text([text], role="query", task="clustering")),
    ):
        answer = client.embeddings.create(model=text_encoder.spec.name, input=text, extra_body=extra)
        assert np.allclose(answer.data[0].embedding, expected[0], atol=1e-5), extra
    sides = [np.asarray(text_encoder.encode_text([text], role=role)[0]) for role in ("query", "document")]
    assert np.abs(sides[0] - sides[1]).max() > 0.01


def test_tokens_are_counted_as_the_encoder_reads_them(client: openai.OpenAI, text_encoder: Encoder) -> None:
    """`usage` adds up the tokens of all texts, those of a long one up to the context length, and none of a picture."""
    long = "a " * 500
    answer = client.embeddings.create(model=text_encoder.spec.name, input=[TEXTS[0], long])
    expected = text_encoder.count_tokens(TEXTS[0]) + (text_encoder.spec.context_length or 0)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == expected
    image = client.embeddings.create(model="tiny", input=[data_uri(PICTOGRAMS[0])])
    assert image.usage.total_tokens == 0


def test_images_among_texts(service: Server) -> None:
    """A data URI among the texts is a picture, and so is a part of type image_url; texts keep their places."""
    encoder = load_encoder("tiny")
    images = encoder.encode_image([load_image(file, uri=file.name) for file in PICTOGRAMS])
    text = encoder.encode_text(["a red heart"], role="document")[0]
    inputs = [
        data_uri(PICTOGRAMS[0]),
        "a red heart",
        {"type": "image_url", "image_url": {"url": data_uri(PICTOGRAMS[1])}},
        {"type": "text", "text": "a red heart"},
        data_uri(PICTOGRAMS[2]),
        data_uri(PICTOGRAMS[0]),
    ]
    answer = post(service, {"model": "tiny", "input": inputs}).json()
    expected = [images[0], text, images[1], text, images[2], images[0]]
    assert np.allclose([one["embedding"] for one in answer["data"]], expected, atol=1e-5)


def test_images_at_addresses(tmp_path: Path) -> None:
    """A part with an address is fetched, once where it comes twice; together they are bounded like a body."""
    expected = load_encoder("tiny").encode_image([load_image(file, uri=file.name) for file in PICTOGRAMS])
    size = max(file.stat().st_size for file in PICTOGRAMS)
    with (
        image_host() as (address, asked),
        running(tmp_path, allow_image_host=("127.0.0.1",), max_body_mb=1.5 * size / 2**20) as service,
    ):
        parts = [{"type": "image_url", "image_url": {"url": f"{address}/{file.name}"}} for file in PICTOGRAMS]
        answer = post(service, {"model": "tiny", "input": [parts[0], parts[0]]}).json()
        assert np.allclose([one["embedding"] for one in answer["data"]], expected[[0, 0]], atol=1e-5)
        assert asked == [f"/{PICTOGRAMS[0].name}"]
        refused = post(service, {"model": "tiny", "input": parts})
        assert (refused.status_code, "together" in refused.json()["error"]["message"]) == (413, True)
        missing = {"type": "image_url", "image_url": {"url": f"{address}/none.png"}}
        assert "input[1]: " in post(service, {"model": "tiny", "input": [parts[0], missing]}).json()["error"]["message"]


def test_a_text_that_speaks_of_data_uris_is_a_text(client: openai.OpenAI) -> None:
    """Only a whole data URI of a picture in base64 is a picture."""
    encoder = load_encoder("fake")
    for text in ("data:image/png is how it starts", "see data:image/png;base64,AAAA", "data:text/plain;base64,AAAA"):
        answer = client.embeddings.create(model="fake", input=text)
        assert np.allclose(answer.data[0].embedding, encoder.encode_text([text], role="document")[0], atol=1e-5)


def test_a_large_batch_from_the_async_client(service: Server, text_encoder: Encoder) -> None:
    """Requests of many texts at the same time come back each in its own order."""
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS if text]

    async def ask() -> list[openai.types.CreateEmbeddingResponse]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(
                *(client.embeddings.create(model=text_encoder.spec.name, input=texts[i:] + texts[:i]) for i in range(4))
            )

    expected = np.asarray(text_encoder.encode_text(texts, role="document"))
    for i, answer in enumerate(asyncio.run(ask())):
        assert np.allclose([one.embedding for one in answer.data], np.roll(expected, -i, axis=0), atol=1e-5)


# --- what is refused -----------------------------------------------------------------------------


def test_keys(service: Server) -> None:
    """A wrong key is an AuthenticationError, a key without the scope `infer` a PermissionDeniedError."""
    for key, error in (("wrong", openai.AuthenticationError), ("other", openai.PermissionDeniedError)):
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(error):
                client.embeddings.create(model="tiny", input="a")
            with pytest.raises(error):
                client.models.list()


def test_an_unknown_model_is_told_what_there_is(client: openai.OpenAI) -> None:
    """A model that is not served is a BadRequestError in OpenAI's shape that names those that are."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    body = caught.value.body
    assert isinstance(body, dict)
    assert {"message", "type", "param", "code"} <= set(body)
    assert "text-embedding-3-small" in body["message"]
    assert "tiny" in body["message"]


@pytest.mark.parametrize("model", ["fake?kind=sparse", "fake?kind=multi", "bm25"])
def test_other_kinds_of_vectors_are_refused(model: str, client: openai.OpenAI) -> None:
    """Sparse vectors and multivectors have no place in this API, and the answer says where they have one."""
    with pytest.raises(openai.BadRequestError, match=r"/qdrant/infer"):
        client.embeddings.create(model=model, input="a")


REFUSED = {
    "input is an empty list": [],
    "input is an empty text": "",
    r"input\[1\] is an empty text": ["a", ""],
    r"input\[0\] holds tokens.*send the text": [1, 2, 3],
    r"input\[0\] holds tokens.*send the text itself": [[1, 2], [3]],
    "element 1 .* is none of a text": ["a", {"type": "audio"}],
    "element 2 .* is none of a text": ["a", "b", 3.5],
    "it is none of a text": 7,
    r"input\[1\]: .*picture": ["a", "data:image/png;base64,bm8gcGljdHVyZQ=="],
    r"input\[0\]: .*base64": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}],
    r"input\[0\]: ": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/secret.png"}}],
}


@pytest.mark.parametrize("element", [{}, [1, "a"], True])
def test_a_million_bad_elements_are_one_fault(element: object) -> None:
    """Of a list that is bad throughout only the first fault is kept: all of them would fill the memory."""
    with pytest.raises(ValidationError) as caught:
        EmbeddingsRequest.model_validate({"model": "fake", "input": [element] * 1_000_000})
    cause = caught.value.errors()[0]["ctx"]["error"].__cause__
    assert cause.error_count() < 20


@pytest.mark.parametrize(("sentence", "given"), REFUSED.items())
def test_bad_inputs_are_named_by_their_place(sentence: str, given: object, service: Server) -> None:
    """One sentence says which input is bad and what to send; the server's own files and neighbours are not read."""
    answer = post(service, {"model": "fake", "input": given})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert re.search(sentence, error["message"]), error["message"]


def test_one_bad_image_leaves_the_next_request_unharmed(service: Server) -> None:
    """After a broken picture among good ones the good ones alone are embedded."""
    good = data_uri(PICTOGRAMS[0])
    broken = f"data:image/png;base64,{base64.b64encode(PICTOGRAMS[0].read_bytes()[:200]).decode()}"
    assert "input[1]" in post(service, {"model": "tiny", "input": [good, broken, good]}).json()["error"]["message"]
    assert post(service, {"model": "tiny", "input": [good, good]}).status_code == 200


def test_a_image_for_a_text_encoder(service: Server, text_encoder: Encoder) -> None:
    """An encoder without an image tower refuses the picture by its place."""
    answer = post(service, {"model": text_encoder.spec.name, "input": ["a", data_uri(PICTOGRAMS[0])]})
    assert answer.status_code == 400
    assert "input[1]: encoder" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "extra",
    [
        {"dimensions": 0},
        {"dimensions": "16"},
        {"encoding_format": "hex"},
        {"user": 3},
        {"role": "passage"},
        {"task": "no such task"},
        {"rolle": "query"},
        {"model": ""},
    ],
    ids=str,
)
def test_options_that_make_no_sense(extra: dict[str, object], service: Server, text_encoder: Encoder) -> None:
    """An option that there is not, or of a wrong type, is refused by its name."""
    answer = post(service, {"model": text_encoder.spec.name, "input": "a"} | extra)
    assert answer.status_code == 400
    assert next(iter(extra)) in answer.json()["error"]["message"]


def test_too_many_inputs(tmp_path: Path) -> None:
    """More inputs than `max_inputs` are refused with 413 before any is read."""
    with running(tmp_path, encoder=("fake",), max_inputs=4) as service:
        assert post(service, {"model": "fake", "input": ["a"] * 4}).status_code == 200
        answer = post(service, {"model": "fake", "input": ["a"] * 5})
        assert (answer.status_code, "5 inputs" in answer.json()["error"]["message"]) == (413, True)


def test_a_full_queue_is_a_rate_limit_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the queue is a RateLimitError that says when to come back; what was taken is answered."""
    site = tmp_path / "site"
    site.mkdir()
    install_plugin(site, "slow-encoder", "slow", SLOW)
    monkeypatch.syspath_prepend(site)
    with (
        running(tmp_path, encoder=("slow",), max_inputs=2, max_queue=2, batch_size=2) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [pool.submit(client.embeddings.create, model="slow", input=[f"a{i}", f"b{i}"]) for i in range(8)]
        until = time.monotonic() + 20
        while sum(one.done() for one in asked) < 6 and time.monotonic() < until:
            time.sleep(0.01)
        refused = [one.exception() for one in asked if one.done()]
        sys.modules["slow_encoder"].GATE.set()
        answered = [len(one.result(20).data) for one in asked if one.exception(20) is None]
        assert len(refused) + len(answered) == 8
        assert 6 <= len(refused) <= 7  # two inputs in the pass and two in the queue, if the pass began in time
        assert set(answered) == {2}
        for error in refused:
            assert isinstance(error, openai.RateLimitError)
            assert int(error.response.headers["Retry-After"]) >= 1
        assert len(client.embeddings.create(model="slow", input=["c", "d"]).data) == 2


# --- models --------------------------------------------------------------------------------------


def test_models_are_the_dense_encoders_that_are_served(client: openai.OpenAI, text_encoder: Encoder) -> None:
    """The client lists the encoders that it can ask for, and each can be asked for."""
    names = {model.id for model in client.models.list()}
    assert names == {text_encoder.spec.name, "fake", load_encoder("tiny").spec.name}
    for name in names:
        assert len(client.embeddings.create(model=name, input="a").data) == 1


def test_a_model_by_its_name(client: openai.OpenAI, text_encoder: Encoder) -> None:
    """A name with slashes, colons and options is found; one that is not served is a NotFoundError."""
    assert client.models.retrieve(text_encoder.spec.name).id == text_encoder.spec.name
    assert client.models.retrieve("fake?kind=sparse").id == "fake?kind=sparse"
    with pytest.raises(openai.NotFoundError, match="no encoder"):
        client.models.retrieve("gpt-4o")
