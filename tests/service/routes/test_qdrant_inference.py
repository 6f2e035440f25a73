"""Qdrant's inference back end, sent exactly what Qdrant sends, and held against the encoders called directly."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from checkpoints_text import build_bert, build_qwen3
from PIL import Image
from service_app import running

from mmembed import load_encoder
from mmembed.demo import PICTOGRAMS
from mmembed.images import load_image
from mmembed.service.schemas.qdrant_inference import EXAMPLE, InferenceRequest
from mmembed.testing.http import ReceivedRequest, Reply, StandIn
from mmembed.types import Encoder, Role, Vector
from mmembed.vectors import l2_normalize

FILES = sorted(PICTOGRAMS.glob("*.png"))
SPARSE, MULTI, WIDE = "fake?kind=sparse", "fake?kind=multi", "fake:wide?dim=70000&kind=multi"


@dataclass(frozen=True)
class Ask:
    """What a user of Qdrant writes: Document, Image or InferenceObject."""

    data: Any
    model: str = "tiny"
    data_type: str = "text"
    options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Peer:
    """The service, and the folders of the checkpoints that it serves."""

    url: str
    e5: str
    qwen: str

    def post(self, body: Any, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names["content-type"] = "application/json"
        return httpx.post(f"{self.url}/qdrant/infer", content=json.dumps(body), headers=names, timeout=60)

    def passed(self, model: str) -> float:
        """How many inputs of a model have been through it."""
        name = loaded(model).spec.name
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        counts = [line for line in lines if line.startswith("mmembed_batch_size_sum{") and f'"{name}"' in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in counts)

    def refused(self, *asks: Ask, inference: str = "search") -> str:
        """The sentence of the 400 that these get: all that Qdrant passes on."""
        answer = self.post({"inputs": [written(ask) for ask in asks], "inference": inference, "token": None})
        assert answer.status_code == 400, answer.text
        assert set(answer.json()) == {"error"}
        assert "\n" not in answer.json()["error"]
        return str(answer.json()["error"])

    def vectors(self, asks: Sequence[Ask], inference: str = "search", *, grpc: bool = False) -> list[Any]:
        """Each ask's embedding, through a request as Qdrant makes it."""
        inputs = qdrant_inputs(asks, grpc=grpc)
        answer = self.post({"inputs": inputs, "inference": inference, "token": None}, user_agent="Qdrant/1.19.0")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        embeddings = answer.json()["embeddings"]
        assert len(embeddings) == len(inputs)
        return [embeddings[inputs.index(written(ask, grpc=grpc))] for ask in asks]


def written(ask: Ask, *, grpc: bool = False) -> dict[str, Any]:
    """One input as Qdrant forwards it: absent options are null over REST and {} over gRPC."""
    options = ask.options if ask.options is not None or not grpc else {}
    return {"data": ask.data, "data_type": ask.data_type, "model": ask.model, "options": options}


def qdrant_inputs(asks: Sequence[Ask], *, grpc: bool = False) -> list[dict[str, Any]]:
    """Those that differ, in the order of a hash set, which is any."""
    different = {json.dumps(written(ask, grpc=grpc), sort_keys=True): written(ask, grpc=grpc) for ask in asks}
    inputs = list(different.values())
    random.Random(len(inputs)).shuffle(inputs)
    return inputs


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@cache
def loaded(model: str) -> Encoder:
    return load_encoder(model, device="cpu")


def embedded(model: str, text: str, role: Role = "query", task: str | None = None) -> Vector:
    vector: Vector = loaded(model).encode_text([text], role=role, task=task)[0]
    return vector


def seen(model: str, content: bytes) -> Vector:
    vector: Vector = loaded(model).encode_image([load_image(content, uri="")])[0]
    return vector


def png(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """The service with encoders of every kind; pictures may be fetched from 127.0.0.1."""
    folder = tmp_path_factory.mktemp("infer")
    e5 = build_bert(
        folder / "e5", pooling="mean", prompts={"query": "query: ", "passage": "passage: ", "STS": "same: "}
    )
    qwen = build_qwen3(folder / "qwen")
    encoders = ("fake", SPARSE, MULTI, WIDE, "minilm", f"sentence:{e5}", f"qwen3:{qwen}")
    with running(folder, encoder=encoders, allow_image_host=("127.0.0.1",), max_inputs=100, device="cpu") as service:
        yield Peer(service.url, f"sentence:{e5}", f"qwen3:{qwen}")


@pytest.fixture(scope="module")
def pages() -> Iterator[StandIn]:
    """A web server of pictures: /COLOUR.png, and /missing.png that is not there."""

    def answer(asked: ReceivedRequest) -> Reply:
        if asked.path == "/missing.png":
            return Reply(b"", status=404)
        if asked.path == "/broken.png":
            return Reply(FILES[0].read_bytes()[:200])
        return Reply(png((int(asked.path[1:-4]), 90, 200)), headers={"Content-Type": "image/png"})

    with StandIn(answer) as server:
        yield server


def test_texts_come_out_as_the_encoder_makes_them(peer: Peer) -> None:
    """REST's null options and gRPC's empty ones are the same, and equal the encoder called directly."""
    asks = [
        Ask(text, model)
        for model in ("tiny", "minilm")
        for text in ("a red car", "two parrots", "", "half \ud83d a smile")
    ]
    expected = [embedded(ask.model, ask.data) for ask in asks]
    assert np.allclose(np.concatenate(peer.vectors(asks)), np.concatenate(expected), atol=1e-5)
    assert peer.vectors(asks) == peer.vectors(asks, grpc=True)


def test_updates_are_documents_and_searches_queries(peer: Peer) -> None:
    """The prompt follows what Qdrant does with the vector, unless options.role says otherwise."""
    text = "the tortoise and the hare"
    query, document = (embedded(peer.e5, text, role) for role in ("query", "document"))
    assert not np.allclose(query, document, atol=0.01)
    plain, as_query, as_document = (
        Ask(text, peer.e5, options=o) for o in (None, {"role": "query"}, {"role": "document"})
    )
    for inference, expected in {"search": (query, query, document), "update": (document, query, document)}.items():
        assert np.allclose(peer.vectors([plain, as_query, as_document], inference), expected, atol=1e-5)


def test_a_task_chooses_its_prompt(peer: Peer) -> None:
    """options.task is the encoder's task."""
    given = peer.vectors([Ask("a fox", peer.e5, options={"task": "STS"})])[0]
    assert np.allclose(given, embedded(peer.e5, "a fox", task="STS"), atol=1e-5)
    assert not np.allclose(given, embedded(peer.e5, "a fox"), atol=0.01)


def test_every_way_to_send_a_image(peer: Peer, pages: StandIn) -> None:
    """Base64, data URI, address and objects of them give the vector of the same picture."""
    content = png((7, 90, 200))
    plain, uri, url = base64_of(content), f"data:image/png;base64,{base64_of(content)}", f"{pages.url}/7.png"
    sources = [plain, uri, url, {"url": url}, {"url": uri}, {"base64": plain}]
    asks = [Ask(source, "tiny", "image") for source in sources]
    asks += [Ask(source, "tiny", "object") for source in ({"image": url}, {"image": {"url": uri}}, {"url": url})]
    asks += [Ask({"base64": plain}, "tiny", "object")]
    vectors = peer.vectors(asks, "update")
    assert np.allclose(vectors, [seen("tiny", content)] * 10, atol=1e-5)


def test_sparse_and_multivectors(peer: Peer) -> None:
    """A sparse vector is indices with values, a multivector a list of rows."""
    sparse, multi, imaged = peer.vectors(
        [Ask("a b a", SPARSE), Ask("red car", MULTI), Ask(base64_of(FILES[0].read_bytes()), MULTI, "image")]
    )
    expected = embedded(SPARSE, "a b a")
    assert sparse["indices"] == expected.indices.tolist()
    assert np.allclose(sparse["values"], expected.values)
    assert np.allclose(multi, embedded(MULTI, "red car"), atol=1e-5)
    assert np.allclose(imaged, seen(MULTI, FILES[0].read_bytes()), atol=1e-5)
    assert len(multi) == 2
    assert len(imaged) == 4


def test_everything_mixed_keeps_its_place(peer: Peer, pages: StandIn) -> None:
    """Models, modalities and options in any order in one call: each input gets its own vector."""
    texts = [Ask(f"text {i}", model) for i in range(8) for model in ("tiny", "minilm", "fake", peer.e5)]
    images = [Ask(f"{pages.url}/{i}.png", model, "image") for i in range(40) for model in ("tiny",)]
    found = peer.vectors([*texts, *images], "update")
    for ask, vector in zip(texts, found, strict=False):
        assert np.allclose(vector, embedded(ask.model, ask.data, "document"), atol=1e-5), ask
    colours = [seen("tiny", png((i, 90, 200))) for i in range(40)]
    assert np.allclose(found[len(texts) :], colours, atol=1e-5)


def test_a_image_is_fetched_once_a_call(peer: Peer, pages: StandIn) -> None:
    """An address that several inputs name, for other models or sizes, is asked for once."""
    before = len(pages.requests)
    url = f"{pages.url}/99.png"
    asks = [Ask(url, "tiny", "image"), Ask(url, "fake", "image"), Ask({"image": url}, "tiny", "object")]
    peer.vectors([*asks, Ask(url, "tiny", "image", {"dim": 256}), Ask({"text": "a", "image": url}, "tiny", "object")])
    assert len(pages.requests) - before == 1


def test_sizes_of_one_text_are_cut_from_one_vector(peer: Peer) -> None:
    """dim and mrl give Matryoshka sizes, renormalised; 32.0 is 32, as a gRPC client may send it."""
    text = "the fox and the grapes"
    full = embedded(peer.qwen, text)
    before = peer.passed(peer.qwen)
    short = l2_normalize(np.asarray(full)[:32])
    asks = [Ask(text, peer.qwen, options=o) for o in ({"dim": 32}, {"mrl": 32}, {"dim": 32, "mrl": 32}, {"mrl": 32.0})]
    assert np.allclose(peer.vectors(asks), [short] * 4, atol=1e-5)
    assert np.allclose(peer.vectors([Ask(text, peer.qwen, options={"dim": 64})])[0], full, atol=1e-5)
    assert peer.passed(peer.qwen) - before == 1


def test_text_and_image_together(peer: Peer) -> None:
    """An object of both is their normalised weighted sum; a weight that is not given is 1."""
    photo = FILES[0].read_bytes()
    both = {"text": "a red car", "image": base64_of(photo)}
    text, image = np.asarray(embedded("tiny", "a red car")), np.asarray(seen("tiny", photo))
    weighings = {None: (1, 1), "text": (0.25, 1), "image": (1, -2), "both": (1e308, 5e307)}
    asks = []
    for name, (of_text, of_image) in weighings.items():
        weights = {"text": of_text, "image": of_image}
        given = {} if name is None else {"weights": weights if name == "both" else {name: weights[name]}}
        asks.append(Ask({**both, **given}, "tiny", "object"))
    ratios = [of_image / of_text for of_text, of_image in weighings.values()]
    expected = [l2_normalize(text + ratio * image) for ratio in ratios]
    assert np.allclose(peer.vectors(asks), expected, atol=1e-5)
    assert peer.vectors([Ask("a red car", "tiny", "object")]) == peer.vectors(
        [Ask({"text": "a red car"}, "tiny", "object")]
    )


def test_tokens_are_counted_by_model_as_asked(peer: Peer) -> None:
    """The usage has every model by the name that the request gave, with the tokens that were read."""
    inputs = [
        Ask("a b c", "fake"),
        Ask("d e", "fake"),
        Ask("f", "FAKE"),
        Ask(base64_of(png((1, 2, 3))), "tiny", "image"),
    ]
    inputs.append(Ask(" ".join("abcdefghij" * 10), "fake"))  # of 100 words 64 are read
    usage = peer.post({"inputs": [written(ask) for ask in inputs], "inference": "update", "token": None}).json()[
        "usage"
    ]
    assert usage == {"models": {"fake": {"tokens": 69}, "FAKE": {"tokens": 1}, "tiny": {"tokens": 0}}}


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (Ask("a", "nope"), "text 'a' for model 'nope': no encoder 'nope'"),
        (Ask("a", "minilm", options={"dimm": 3}), "there is no option 'dimm': known are dim, mrl, task, role"),
        (Ask("a", options={"dim": 0}), "option dim is a positive whole number of dimensions, not 0"),
        (Ask("a", options={"dim": 1.5}), "not 1.5"),
        (Ask("a", options={"mrl": "64"}), "option mrl is a positive whole number of dimensions, not '64'"),
        (Ask("a", options={"dim": True}), "not true"),
        (Ask("a", options={"dim": 64, "mrl": 32}), "options dim (64) and mrl (32) are two names of the same size"),
        (Ask("a", "minilm", options={"dim": 100}), "100"),
        (Ask("a", SPARSE, options={"dim": 100}), "dim"),
        (Ask("a", options={"role": "passage"}), "option role is 'query' or 'document', not 'passage'"),
        (Ask("a", options={"role": ["query"]}), "not a list of 1"),
        (Ask("a", "minilm", options={"task": "STS"}), "STS"),
        (Ask("a", options={"task": 5}), "option task is the name of a task, not 5"),
        (Ask(5), "text 5 for model 'tiny': a text is a string, not 5"),
        (Ask(None), "a text is a string, not null"),
        (Ask({"text": "a"}), "a text is a string, not an object with 'text'"),
        (Ask("x" * 100, options={"dim": 0}), "text '" + "x" * 57 + "...' for model"),
        (Ask("/etc/passwd", "tiny", "image"), "files of the server are not read: send an http(s) address"),
        (Ask("file:///etc/passwd", "tiny", "image"), "files of the server are not read"),
        (Ask(base64_of(b"no picture"), "tiny", "image"), "not a picture in any of the formats"),
        (Ask(base64_of(FILES[0].read_bytes()[:200]), "tiny", "image"), "broken PNG picture"),
        (Ask("http://localhost:1/a.png", "tiny", "image"), "image 'http://localhost:1/a.png' for model 'tiny'"),
        (Ask("http://localhost:1/a.png", "tiny", "image"), "no public address"),
        (Ask("http://169.254.169.254/latest/", "tiny", "image"), "no public address"),
        (Ask(7, "tiny", "image"), "a picture is a string or an object, not int"),
        (Ask({"path": "/a"}, "tiny", "image"), "a picture as an object has one key, 'url' or 'base64', not 'path'"),
        (Ask(base64_of(png((1, 2, 3))), "minilm", "image"), "cannot encode"),
        (Ask(7, "tiny", "object"), "an object is a string or has the key text or image, not 7"),
        (Ask({}, "tiny", "object"), "an object has text, image or both"),
        (Ask({"words": "a"}, "tiny", "object"), "an object has the keys text, weights and one of"),
        (Ask({"image": "a", "url": "b"}, "tiny", "object"), "one of image, url, base64, not 'image', 'url'"),
        (Ask({"text": 5}, "tiny", "object"), "text of an object is a string, not 5"),
        (Ask({"text": "a", "weights": {"text": 1}}, "tiny", "object"), "weights are for both"),
        (Ask({"text": "a", "image": "b", "weights": {"txt": 1}}, "tiny", "object"), "weights are {'text': number"),
        (Ask({"text": "a", "image": "b", "weights": {"text": "1"}}, "tiny", "object"), "the weight of text is"),
        (Ask({"text": "a", "image": "b", "weights": {"text": 10**400}}, "tiny", "object"), "is a finite number, not 1"),
        (Ask({"text": "a", "image": base64_of(png((1, 2, 3))), "weights": {"text": 0, "image": 0}}, "tiny", "object"),
         "its text and its image cancel out"),
        (Ask({"text": "a", "image": base64_of(png((1, 2, 3)))}, MULTI, "object"), "gives multi vectors"),
        (Ask("a b c d e f g h i j k l m n o", WIDE), "multivector has 1,050,000 numbers, and Qdrant stores 1,048,575"),
    ],
)  # fmt: skip
def test_a_bad_input_is_described(peer: Peer, ask: Ask, sentence: str) -> None:
    """Its place, kind, content and model are told with what is wrong with it, in one short sentence."""
    for asks, place in (([ask], "input 0 of 1"), ([Ask("good"), ask, Ask("also good")], "input 1 of 3")):
        said = peer.refused(*asks)
        assert said.startswith(f"{place} (counted from 0), {ask.data_type} ")
        assert sentence in said
        assert len(said) < 700


def test_several_bad_inputs(peer: Peer, pages: StandIn) -> None:
    """The first is described and the others are counted, also where they are bad in other ways."""
    bad = base64_of(b"no picture")
    asks = [
        Ask("good"),
        Ask(bad, "tiny", "image"),
        Ask(f"{pages.url}/missing.png", "tiny", "image"),
        Ask("a", "minilm"),
    ]
    said = peer.refused(*asks, Ask(f"{pages.url}/broken.png", "fake", "image"))
    assert said.startswith("input 1 of 5 (counted from 0), image ")
    assert said.endswith("(2 more of them are bad)")
    assert "status 404" in peer.refused(*asks[2:])


def test_the_next_request_is_unharmed(peer: Peer) -> None:
    """Good inputs beside a broken picture are answered when they come again."""
    good = [Ask("a red car"), Ask(base64_of(png((3, 3, 3))), "tiny", "image")]
    broken = Ask(base64_of(FILES[0].read_bytes()[:300]), "tiny", "image")
    for _ in range(3):
        assert "broken PNG picture" in peer.refused(*good, broken)
        assert np.allclose(peer.vectors(good), [embedded("tiny", "a red car"), seen("tiny", png((3, 3, 3)))], atol=1e-5)


def test_an_unknown_model_is_told_those_that_are_served(peer: Peer) -> None:
    """The names that would work are in the sentence, and nothing is fetched first."""
    said = peer.refused(Ask("a", "openai:text-embedding-3-large"), Ask("http://127.0.0.1:1/", "no-model", "image"))
    assert "tiny" in said
    assert "all-MiniLM-L6-v2" in said
    assert said.endswith("(1 more of them are bad)")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        {},
        {"inputs": [], "inference": "update", "token": None},
        {"inputs": {}, "inference": "update"},
        {"inputs": [5], "inference": "update"},
        {"inputs": [written(Ask("a"))], "token": None},
        {"inputs": [written(Ask("a"))], "inference": "Search"},
        {"inputs": [written(Ask("a"))], "inference": "update", "token": 5},
        {"inputs": [{"data_type": "text", "model": "tiny"}], "inference": "update"},
        {"inputs": [{"data": "a", "model": "tiny"}], "inference": "update"},
        {"inputs": [{"data": "a", "data_type": "video", "model": "tiny"}], "inference": "update"},
        {"inputs": [{"data": "a", "data_type": "text", "model": ""}], "inference": "update"},
        {"inputs": [{"data": "a", "data_type": "text", "model": None}], "inference": "update"},
        {"inputs": [{"data": "a", "data_type": "text", "model": "\ud83d"}], "inference": "update"},
        {"inputs": [{"data": "a", "data_type": "text", "model": "tiny", "options": []}], "inference": "update"},
    ],
)
def test_what_is_no_inference_request(peer: Peer, body: Any) -> None:
    """Anything that is not Qdrant's request is a 400 with one sentence."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{peer.url}/qdrant/infer", content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert 10 < len(answer.json()["error"]) < 300


def test_fields_of_a_newer_qdrant_are_no_error(peer: Peer) -> None:
    """Fields that this version does not know are ignored, and options and token may be absent."""
    body = {"inputs": [{"data": "a", "data_type": "text", "model": "tiny", "new": 1}], "inference": "search", "new": {}}
    assert np.allclose(peer.post(body).json()["embeddings"], [embedded("tiny", "a")], atol=1e-5)


def test_too_many_inputs(peer: Peer) -> None:
    """More than max_inputs, where a text with a picture counts twice, are refused with the limit."""
    assert "101 texts and pictures came" in sentence_of(peer, [Ask(str(i)) for i in range(101)])
    both = [Ask({"text": str(i), "image": "a"}, "tiny", "object") for i in range(51)]
    assert "102 texts and pictures came in one request, and 100 are taken at once" in sentence_of(peer, both)
    assert len(peer.vectors([Ask(str(i), "fake") for i in range(100)])) == 100


def sentence_of(peer: Peer, asks: Sequence[Ask]) -> str:
    answer = peer.post({"inputs": [written(ask) for ask in asks], "inference": "update", "token": None})
    assert answer.status_code == 400
    return str(answer.json()["error"])


def test_many_at_once_each_get_their_own(peer: Peer) -> None:
    """Requests side by side are not mixed up."""

    def call(number: int) -> bool:
        asks = [Ask(f"words {number} {i}", model) for i in range(3) for model in ("fake", MULTI)]
        asks.append(Ask(base64_of(png((number, 0, 255 - number))), "fake", "image"))
        found = peer.vectors(asks)
        expected = [embedded(ask.model, ask.data) for ask in asks[:-1]] + [seen("fake", png((number, 0, 255 - number)))]
        return all(np.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(call, range(64)))


def test_a_browser_is_told_what_it_is(peer: Peer) -> None:
    """GET of the same address says in a sentence what comes there."""
    answer = httpx.get(f"{peer.url}/qdrant/infer")
    assert answer.status_code == 200
    assert "QDRANT__INFERENCE__ADDRESS" in answer.json()["about"]


def test_the_example_of_the_documentation_is_valid() -> None:
    """The request in the OpenAPI is one that the service takes."""
    assert len(InferenceRequest.model_validate(EXAMPLE).inputs) == 2


def test_keys(tmp_path: Path) -> None:
    """The scope infer is proven by a header that Qdrant passes on or by the token; a refusal keeps its sentence."""
    body = {"inputs": [written(Ask("a"))], "inference": "update", "token": None}
    with running(tmp_path, key=("good:infer", "other:search", "all:admin")) as service:
        peer = Peer(service.url, "", "")
        for headers in ({"mmembed_api_key": "good"}, {"authorization": "Bearer good"}, {"mmembed_api_key": "all"}):
            assert peer.post(body, **headers).status_code == 200
        assert peer.post({**body, "token": "good"}).status_code == 200
        assert peer.post({**body, "token": "someone"}, mmembed_api_key="good").status_code == 200  # a JWT's sub
        for wrong, sentence in (
            (peer.post(body), "no key came with the request"),
            (peer.post({**body, "token": "someone"}), "the key is not known"),
            (peer.post(body, mmembed_api_key="bad"), "the key is not known"),
            (peer.post({**body, "token": "good"}, mmembed_api_key="other"), "this needs infer"),
        ):
            assert wrong.status_code == 400
            assert sentence in wrong.json()["error"]


def test_load_is_told_as_429(tmp_path: Path) -> None:
    """Where more is waiting than the queue holds, the answer is 429 with Retry-After, and later all is well."""
    long = " ".join(f"word{i}" for i in range(250))

    peer: Peer

    def call(number: int) -> httpx.Response:
        asks = [Ask(f"{number} {i} {long}", "minilm") for i in range(4)]
        return peer.post({"inputs": [written(ask) for ask in asks], "inference": "update", "token": None})

    with running(tmp_path, encoder=("minilm",), max_queue=4, max_inputs=4, device="cpu", cache_mb=0) as service:
        peer = Peer(service.url, "", "")
        assert call(0).status_code == 200
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(call, range(12)))
        assert {answer.status_code for answer in answers} == {200, 429}
        turned_away = next(answer for answer in answers if answer.status_code == 429)
        assert int(turned_away.headers["retry-after"]) >= 1
        assert list(turned_away.json()) == ["error"]
        assert call(13).status_code == 200
