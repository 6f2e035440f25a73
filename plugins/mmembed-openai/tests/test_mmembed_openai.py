"""`openai` against a server on loopback that answers, and refuses, as OpenAI's documentation says."""

from __future__ import annotations

from collections.abc import Iterator

import mmembed_openai
import numpy as np
import pytest
from PIL import Image

from mmembed import load_encoder
from mmembed.encoders.registry import parse_name
from mmembed.errors import (
    EncoderLoadError,
    EncoderRefused,
    SettingsError,
    UnsupportedModality,
)
from mmembed.testing import check_encoder
from mmembed.testing.http import ReceivedRequest, Reply, StandIn
from mmembed.testing.remote import RemoteTests, embedding_list, text_vector, vendor

KEY = "sk-test-0123456789"
SIZES = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
SERVED = {"intfloat/e5-mistral-7b-instruct": 4096, "Qwen/Qwen3-Embedding-0.6B": 1024, "mine": 48}
SMALL = "openai:text-embedding-3-small"


def refuse(message: str, status: int = 400) -> Reply:
    return Reply({"error": {"message": message, "type": "invalid_request_error"}}, status=status)


def openai(asked: ReceivedRequest) -> Reply:
    """OpenAI itself, with a token for each word."""
    body = asked.body
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return refuse("Incorrect API key provided", 401)
    if body["model"] not in SIZES:
        return refuse(f"The model `{body['model']}` does not exist", 404)
    return embed(body, SIZES[body["model"]], may_shorten="-3-" in body["model"], context=8192)


def vllm(asked: ReceivedRequest) -> Reply:
    """A server of models of the hub, which wants no key and knows no `dimensions`."""
    assert "authorization" not in asked.headers
    return embed(asked.body, SERVED[asked.body["model"]], may_shorten=False, context=32768)


def embed(body: dict, full: int, *, may_shorten: bool, context: int) -> Reply:
    assert set(body) <= {"model", "input", "dimensions", "encoding_format", "user"}
    texts, dim = body["input"], body.get("dimensions", full)
    words = [len(text.split()) for text in texts]
    if not 1 <= len(texts) <= 2048 or "" in texts or (dim != full and not may_shorten) or dim > full:
        return refuse("'$.input' is invalid")
    if max(words) > context:
        return refuse(f"This model's maximum context length is {context} tokens")
    if sum(words) > 300_000:
        return refuse("max 300000 tokens per request")
    return embedding_list([text_vector(text, full, words=8192)[:dim] for text in texts])


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server of one's own, beside which OpenAI's key is set."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StandIn(vllm) as standin:
        yield standin


server = vendor(mmembed_openai, openai, key=KEY)


class TestOpenAI(RemoteTests):
    """OpenAI as any vendor."""

    name, dim, variables = SMALL, 1536, ("OPENAI_API_KEY",)
    sound = (f"{SMALL}?dim=256", "openai:text-embedding-ada-002")
    refuse = staticmethod(refuse)


def test_the_request_is_that_of_the_documentation(server: StandIn) -> None:
    """One POST with model, input, dimensions and base64, and the key as a bearer token."""
    encoder = load_encoder(f"{SMALL}?dim=256")
    assert server.requests == []  # what is known needs no call
    rows = encoder.encode_text(["two parrots", ""], role="query")
    (asked,) = server.requests
    assert asked.path == "/v1/embeddings"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "model": "text-embedding-3-small",
        "input": ["two parrots", " "],  # OpenAI refuses an empty string
        "dimensions": 256,
        "encoding_format": "base64",
    }
    expected = np.stack([text_vector(text, 256, words=8192) for text in ("two parrots", "")])
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_what_is_known_of_a_model(server: StandIn) -> None:
    """Size, context and shorter sizes stand in the table, and nothing of it shows the key."""
    spec = load_encoder("openai:text-embedding-3-large").spec
    assert (spec.dim, spec.context_length, spec.modalities) == (3072, 8192, {"text"})
    assert (spec.name, 256 in spec.matryoshka_dims) == ("openai:text-embedding-3-large", True)
    assert KEY not in repr(spec)
    prints = {
        load_encoder(name).spec.fingerprint for name in (SMALL, f"{SMALL}?dim=256", "openai:text-embedding-ada-002")
    }
    assert len(prints) == 3
    assert load_encoder(f"{SMALL}?dim=1536").spec.fingerprint in prints
    assert server.requests == []


def test_a_model_without_sizes_is_not_asked_for_one(server: StandIn) -> None:
    """`dimensions` is sent to text-embedding-3 alone; another size of another model is refused at once."""
    load_encoder("openai:text-embedding-ada-002").encode_text(["a"], role="query")
    assert "dimensions" not in server.requests[0].body
    with pytest.raises(SettingsError, match="was asked for 256 dimensions, but text-embedding-ada-002 has 1536"):
        load_encoder("openai:text-embedding-ada-002?dim=256")
    with pytest.raises(EncoderLoadError, match="names no model: write openai:MODEL"):
        load_encoder("openai:")


def test_a_model_of_tomorrow(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown model is asked for its size once, or `?dim=` says it; one that OpenAI does not know is refused."""
    monkeypatch.setitem(SIZES, "text-embedding-4", 640)
    encoder = load_encoder("openai:text-embedding-4")
    assert (encoder.spec.dim, len(server.requests)) == (640, 1)
    assert load_encoder("openai:text-embedding-4?dim=640").spec.fingerprint == encoder.spec.fingerprint
    with pytest.raises(
        EncoderRefused, match=r"404 Not Found \(The model `gone` does not exist\): see that the model's"
    ):
        load_encoder("openai:gone")


def test_roles_are_alike_and_tasks_are_refused(server: StandIn) -> None:
    """OpenAI's models have no prompts: a role changes nothing, and a task is not quietly ignored."""
    encoder = load_encoder(SMALL)
    np.testing.assert_array_equal(
        *[encoder.encode_text(["a dog"], role=role, task="") for role in ("query", "document")]
    )
    assert [asked.body["input"] for asked in server.requests] == [["a dog"], ["a dog"]]
    with pytest.raises(SettingsError, match="text-embedding-3-small knows no task 'similarity'"):
        encoder.encode_text(["a dog"], role="query", task="similarity")
    with pytest.raises(UnsupportedModality, match="cannot encode images, only text"):
        encoder.encode_image([Image.new("RGB", (8, 8))])


def test_requests_keep_the_limits(server: StandIn) -> None:
    """No request has more than 2048 texts or, at a byte a token, 300,000 tokens; rows stay in order."""
    encoder = load_encoder(f"{SMALL}?dim=256")
    texts = [f"number {i}" for i in range(2100)]
    rows = encoder.encode_text(texts, role="document")
    assert sorted(len(asked.body["input"]) for asked in server.requests) == [52, 2048]
    np.testing.assert_array_equal(rows[2090:2091], encoder.encode_text([texts[2090]], role="document"))
    server.requests.clear()
    encoder.encode_text(["word " * 1600] * 80, role="document")
    assert sorted(len(asked.body["input"]) for asked in server.requests) == [6, 37, 37]


def test_a_text_that_is_too_long_is_cut(server: StandIn) -> None:
    """OpenAI refuses what is longer than the context instead of truncating it, so it is cut before it is sent."""
    rows = load_encoder(SMALL).encode_text(["short", "word " * 9000, "text"], role="document")
    assert rows.shape == (3, 1536)
    assert [[len(text.split()) for text in asked.body["input"]] for asked in server.requests] == [[1, 8190, 1]]


def test_a_server_of_ones_own_gets_its_models_prompts(own: StandIn) -> None:
    """E5-Mistral behind vLLM gets its instruction on queries, byte for byte, and never OpenAI's key."""
    encoder = load_encoder(f"openai:intfloat/e5-mistral-7b-instruct?base_url={own.url}/v1/")
    encoder.encode_text(["two parrots"], role="query")
    encoder.encode_text(["two parrots"], role="query", task="SciFact")
    encoder.encode_text(["two parrots"], role="query", task="")
    encoder.encode_text(["two parrots"], role="document")
    web = "Given a web search query, retrieve relevant passages that answer the query"
    claim = "Given a scientific claim, retrieve documents that support or refute the claim"
    assert [asked.body["input"] for asked in own.requests] == [
        [f"Instruct: {web}\nQuery: two parrots"],
        [f"Instruct: {claim}\nQuery: two parrots"],
        ["two parrots"],
        ["two parrots"],
    ]
    assert own.requests[0].path == "/v1/embeddings"
    assert (encoder.spec.dim, encoder.spec.context_length, encoder.spec.licence) == (4096, 4096, "MIT")


def test_a_server_of_ones_own_need_not_shorten(own: StandIn) -> None:
    """A Matryoshka model's vectors are cut and renormalised here; a model without shorter sizes keeps its own."""
    name = f"openai:Qwen/Qwen3-Embedding-0.6B?base_url={own.url}"
    short, whole = (load_encoder(n).encode_text(["a b c"], role="document") for n in (f"{name}&dim=64", name))
    assert all("dimensions" not in asked.body for asked in own.requests)
    np.testing.assert_allclose(short, whole[:, :64] / np.linalg.norm(whole[:, :64]), atol=1e-6)
    with pytest.raises(SettingsError, match="has 4096"):
        load_encoder(f"openai:intfloat/e5-mistral-7b-instruct?base_url={own.url}&dim=256")


def test_prompts_of_a_model_that_nobody_knows(own: StandIn) -> None:
    """?query_prompt= and ?document_prompt= lead its texts, are part of the name and of the fingerprint."""
    plain = load_encoder(f"openai:mine?base_url={own.url}")
    name = f"openai:mine?base_url={own.url}&document_prompt=passage: &query_prompt=Instruct: {{task}}%0AQuery: "
    led = load_encoder(name.replace("passage: ", "passage:%20").replace("Query: ", "Query:%20"))
    own.requests.clear()
    led.encode_text(["x"], role="query", task="Find it")
    led.encode_text(["x"], role="document", task="Find it")
    plain.encode_text(["x"], role="query")
    assert [asked.body["input"] for asked in own.requests] == [["Instruct: Find it\nQuery: x"], ["passage: x"], ["x"]]
    assert led.spec.fingerprint != plain.spec.fingerprint
    assert load_encoder(led.spec.name).spec == led.spec
    assert parse_name(led.spec.name).options["query_prompt"] == "Instruct: {task}\nQuery: "


def test_a_key_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEMBED_API_KEYS holds the key of a server by its host; it stands in no name."""
    seen: list[str | None] = []

    def secured(asked: ReceivedRequest) -> Reply:
        seen.append(asked.headers.get("authorization"))
        return embed(asked.body, 48, may_shorten=False, context=512)

    with StandIn(secured) as server:
        monkeypatch.setenv("MMEMBED_API_KEYS", f"mine-123@{server.url.removeprefix('http://')}")
        encoder = load_encoder(f"openai:mine?base_url={server.url}")
    assert seen == ["Bearer mine-123"]
    assert "mine-123" not in repr(encoder.spec)


def test_prompts_are_checked_too(own: StandIn) -> None:
    """An instructed model behind a server leads its queries by exactly what its card says."""
    report = check_encoder(
        load_encoder(f"openai:mine?base_url={own.url}&query_prompt=query:%20"), prompts=("query: ", "")
    )
    assert report.ok, report.faults
