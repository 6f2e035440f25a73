"""Queries from a chat model: a real HTTP server on loopback that answers as OpenAI's, and one that misbehaves."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from mmembed.encoders.remote import ApiKey, Patience
from mmembed.errors import EncoderRefused, EncoderUnavailable, SettingsError
from mmembed.evaluation.testsets.chat import PARTIAL, Answers, Chat, read_answer, server_of
from mmembed.evaluation.testsets.making import ask_about
from mmembed.evaluation.testsets.sampling import QuerySource, SourcePassage
from mmembed.testing.http import ReceivedRequest, Reply, StandIn
from mmembed.types import Failure

SECRET = "sk-secret-1234567890"
FERRY = QuerySource(
    "/docs/ferry.md", "Ferries", (SourcePassage("A ferry gives way to nobody.", ("Travel", "On the water")),)
)


def completion(content: str | None, **choice: object) -> dict[str, object]:
    """What OpenAI's server sends for one answer."""
    message: dict[str, object] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "some-model",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    }


def answers(*queries: str) -> dict[str, object]:
    return completion(json.dumps(queries))


def sources(number: int) -> list[QuerySource]:
    return [
        QuerySource(f"/docs/{i:02}.md", f"Title {i}", (SourcePassage(f"passage number {i}", ()),))
        for i in range(number)
    ]


def asked_about(asked: ReceivedRequest) -> int:
    """The number of the source in a question made of `sources`."""
    return int(asked.body["messages"][0]["content"].rpartition("passage number ")[2])


def chat(server: StandIn, **options: Any) -> Chat:
    patience = options.pop("patience", Patience(sleep=lambda _: None))
    return Chat(f"{server.url}/v1", "some-model", patience=patience, **options)


def ask(
    chat: Chat, drawn: list[QuerySource], folder: Path, **options: Any
) -> list[tuple[QuerySource, list[str] | Failure]]:
    return list(ask_about(drawn, chat, 2, **{"seed": 0, "folder": folder, "images": {}, **options}))


def failures(got: list[tuple[QuerySource, list[str] | Failure]]) -> list[Failure]:
    return [made for _, made in got if isinstance(made, Failure)]


def test_it_asks_as_the_official_client_does(tmp_path: Path) -> None:
    """Path, key and body are those that OpenAI's own client sends for the same question, which reads the answer too."""
    with StandIn(lambda _: answers("who gives way", "right of way ferry")) as server:
        mine = chat(server, key=ApiKey("SOME_KEY", SECRET))
        assert ask(mine, [FERRY], tmp_path) == [(FERRY, ["who gives way", "right of way ferry"])]
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=SECRET) as client:
            question = mine.question(FERRY, 2, seed=0)
            theirs = client.chat.completions.create(
                model="some-model", messages=[{"role": "user", "content": question}]
            )
        assert theirs.choices[0].message.content == '["who gives way", "right of way ferry"]'
        first, second = server.requests
        assert (first.path, first.body) == (second.path, second.body)
        assert first.path == "/v1/chat/completions"
        assert first.headers["authorization"] == second.headers["authorization"] == f"Bearer {SECRET}"


def test_the_question_holds_the_passage_and_where_it_stands() -> None:
    """A text is sent as text, with its title and headings and the number of queries that are wanted."""
    question = Chat("http://localhost/v1", "m").question(FERRY, 3, seed=0)
    for part in ("Ferries", "Travel > On the water", "A ferry gives way to nobody.", "JSON list of 3 strings"):
        assert part in question


def test_a_long_document_is_asked_about_by_one_of_its_longer_passages() -> None:
    """Scraps are never asked about; the seed says which of the others is."""
    passages = (SourcePassage("scrap", ()), *(SourcePassage(f"passage {i} " + "word " * 40, ()) for i in range(5)))
    document = QuerySource("/d.md", "", passages)
    questions = {Chat("http://localhost/v1", "m").question(document, 2, seed=seed) for seed in range(40)}
    assert len(questions) == 5
    assert not any("Passage:\nscrap" in question for question in questions)


def test_a_image_is_sent_small_and_as_a_data_uri(tmp_path: Path) -> None:
    """Beside the question, in the part that OpenAI calls image_url, with at most 512 pixels a side."""
    Image.effect_noise((1600, 900), 60).convert("RGB").save(tmp_path / "noise.png")
    source = QuerySource(str(tmp_path / "noise.png"), content_hash="1")
    with StandIn(lambda _: answers("grey noise")) as server:
        got = ask(chat(server), [source], tmp_path, images={source.uri: tmp_path / "noise.png"})
        assert got == [(source, ["grey noise"])]
        text, image = server.requests[0].body["messages"][0]["content"]
    assert text["type"] == "text"
    assert "JSON list of 2 strings" in text["text"]
    assert image["type"] == "image_url"
    kind, _, content = image["image_url"]["url"].partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    with Image.open(io.BytesIO(base64.b64decode(content))) as sent:
        assert sent.size == (512, 288)


def test_a_image_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    """Nothing is sent for it, and the next source is asked about."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = QuerySource(str(tmp_path / "broken.png"))
    with StandIn(lambda _: answers("ferry")) as server:
        got = ask(chat(server), [broken, FERRY], tmp_path, images={broken.uri: tmp_path / "broken.png"})
        assert len(server.requests) == 1
    assert got[1] == (FERRY, ["ferry"])
    assert "broken.png" in failures(got)[0].error


@pytest.mark.parametrize(
    "said",
    [
        '["a cat", "a dog"]',
        ' [ "a  cat" ,\n"a dog"]\n',
        '```json\n["a cat", "a dog"]\n```',
        '```\n["a cat","a dog"]\n```',
    ],
)
def test_answers_that_are_read(said: str) -> None:
    """A JSON list of strings, alone or in one fenced block, each on one line."""
    assert read_answer(completion(said), 2) == ["a cat", "a dog"]


def test_no_more_queries_than_asked_for() -> None:
    """A model that is carried away is cut to the number."""
    assert read_answer(answers("a", "b", "c"), 2) == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (completion("Here are some queries: a cat, a dog"), "not a JSON list"),
        (completion('Sure!\n```json\n["a cat"]\n```'), "not a JSON list"),
        (completion('{"queries": ["a cat"]}'), "not a list of strings"),
        (completion('["a cat", 3]'), "not a list of strings"),
        (completion("[]"), "not a list of strings"),
        (completion('["a c', finish_reason="length"), "cut off"),
        (completion("[" * 100_000), "not a JSON list"),
        (completion(None), "no message of a chat"),
        ({"choices": [{"message": {"content": None, "refusal": "I cannot\nhelp"}}]}, "refused (I cannot help)"),
        ({"choices": []}, "no message of a chat"),
        ({"choices": [{"text": "[]"}]}, "no message of a chat"),
        ({"data": [{"embedding": [1.0]}]}, "no message of a chat"),
        ({"choices": [7]}, "no message of a chat"),
    ],
)
def test_answers_that_are_not(body: dict[str, object], found: str) -> None:
    """Anything else is refused in one sentence that says what came instead."""
    with pytest.raises(ValueError, match=re.escape(found)) as refused:
        read_answer(body, 2)

    assert "\n" not in str(refused.value)


def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path) -> None:
    """429 is retried after the seconds of Retry-After, 500 and 503 after growing pauses."""
    pauses: list[float] = []
    with StandIn(lambda _: answers("ferry")) as server:
        server.first(Reply(status=429, headers={"Retry-After": "7"}), Reply(status=500), Reply(status=503))
        patient = chat(server, patience=Patience(sleep=pauses.append))
        assert ask(patient, [FERRY], tmp_path) == [(FERRY, ["ferry"])]
        assert len(server.requests) == 4
    assert pauses[0] == 7
    assert 0 < pauses[1] < pauses[2] <= 2


def test_what_goes_wrong_with_one_source_stops_no_other(tmp_path: Path) -> None:
    """Errors, silence, cut connections, garbage and refusals become failures that name their source, in order."""
    wrong = {
        1: Reply({"error": {"message": "overloaded"}}, status=503),
        3: Reply(answers("late"), pause_seconds=2),
        4: Reply(answers("broken off"), broken_off=True),
        6: Reply(b"<html>"),
        7: Reply(completion("I would rather not")),
        9: Reply({"error": {"message": "content policy"}}, status=400),
    }
    with StandIn(lambda asked: wrong.get(asked_about(asked)) or answers(f"query {asked_about(asked)}")) as server:
        quick = Patience(read_seconds=0.3, tries=2, sleep=lambda _: None)
        got = ask(chat(server, patience=quick), sources(11), tmp_path)
    assert [source.uri for source, _ in got] == [source.uri for source in sources(11)]
    for number, (source, made) in enumerate(got):
        if number in wrong:
            assert isinstance(made, Failure)
            assert (made.uri, source.uri in made.error, "\n" in made.error) == (source.uri, True, False)
        else:
            assert made == [f"query {number}"]


def test_a_second_run_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    """Answers are kept as they come; failures, and the line that a stop cut short, are asked again."""
    with StandIn(
        lambda asked: Reply(b"no") if asked_about(asked) == 2 else answers(f"query {asked_about(asked)}")
    ) as server:
        assert len(failures(ask(chat(server), sources(5), tmp_path))) == 1
    kept = (tmp_path / PARTIAL).read_text()
    assert [json.loads(line)["uri"] for line in kept.splitlines()] == [f"/docs/{i:02}.md" for i in (0, 1, 3, 4)]
    (tmp_path / PARTIAL).write_text(kept[:-20])
    for expected in ([2, 4], []):
        with StandIn(lambda asked: answers(f"query {asked_about(asked)}")) as server:
            got = ask(chat(server), sources(5), tmp_path)
            assert [made for _, made in got] == [[f"query {i}"] for i in range(5)]
            assert sorted(map(asked_about, server.requests)) == expected


def test_another_model_or_question_is_asked_anew(tmp_path: Path) -> None:
    """What is kept belongs to a model, to the text that it was asked about, and to the number of queries."""
    with StandIn(lambda _: answers("ferry")) as server:
        ask(chat(server), [FERRY], tmp_path)
        ask(chat(server), [QuerySource(FERRY.uri, FERRY.title, (SourcePassage("Another text.", ()),))], tmp_path)
        ask(Chat(f"{server.url}/v1", "another"), [FERRY], tmp_path)
        list(ask_about([FERRY], chat(server), 3, seed=0, folder=tmp_path, images={}))
        assert len(server.requests) == 4
        ask(chat(server), [FERRY], tmp_path)
        assert len(server.requests) == 4


def test_kept_answers_survive_lines_that_are_none(tmp_path: Path) -> None:
    """Torn and foreign lines are passed over, and what is added after them is on a line of its own."""
    (tmp_path / PARTIAL).write_text(
        '{"key": "a", "queries": ["x"]}\n[1]\n{"key": "b", "queries": [1]}\n{"key": "c", "qu'
    )
    kept = Answers(tmp_path)
    assert [kept.get(key) for key in "abc"] == [["x"], None, None]
    kept.add("c", "/c", ["y\u2028z"])
    assert [Answers(tmp_path).get(key) for key in "abc"] == [["x"], None, ["y\u2028z"]]


def test_a_wrong_key_ends_it_at_once(tmp_path: Path) -> None:
    """401 would be the answer to all: one sentence names the variable, never the key; what came before is kept."""
    replies = {2: Reply({"error": {"message": f"Incorrect API key: {SECRET}"}}, status=401)}
    with StandIn(lambda asked: replies.get(asked_about(asked)) or answers("a query")) as server:
        one_by_one = chat(server, key=ApiKey("SOME_KEY", SECRET), at_once=1)
        with pytest.raises(EncoderRefused) as refused:
            ask(one_by_one, sources(50), tmp_path)
        assert len(server.requests) < 10
    assert "SOME_KEY" in str(refused.value)
    assert SECRET not in str(refused.value)
    assert len((tmp_path / PARTIAL).read_text().splitlines()) == 2


def test_an_unknown_model_and_a_redirect_name_the_option(tmp_path: Path) -> None:
    """404 and 307 end it too, and say what to look at: the model's name and the URL."""
    for reply in (Reply({"error": "model not found"}, status=404), Reply(status=307, headers={"Location": "/v2"})):
        with StandIn(lambda _: answers("x")) as server:
            server.first(reply)
            with pytest.raises(EncoderRefused, match="the chat URL"):
                ask(chat(server), [FERRY], tmp_path)


def test_a_server_that_is_gone_is_given_up(tmp_path: Path) -> None:
    """After eight sources in a row without an answer the others are not asked about."""
    with StandIn(lambda asked: answers("x") if asked_about(asked) == 3 else Reply(status=502)) as server:
        with pytest.raises(EncoderUnavailable, match="502"):
            ask(chat(server, at_once=1, patience=Patience(tries=1)), sources(50), tmp_path)
        assert 12 <= len(server.requests) <= 14
    with pytest.raises(EncoderUnavailable, match="no answer"):
        ask(chat(server, patience=Patience(tries=1)), [FERRY], tmp_path)


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_requests_at_once_than_allowed(at_once: int, tmp_path: Path) -> None:
    """As many as allowed are under way together, and never more."""
    lock, under_way, most = threading.Lock(), 0, 0

    def slowly(_: ReceivedRequest) -> object:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        return answers("a query")

    with StandIn(slowly) as server:
        assert failures(ask(chat(server, at_once=at_once), sources(9), tmp_path)) == []
    assert most == at_once


@pytest.mark.parametrize(
    ("given", "server"),
    [
        ("http://localhost:11434/v1", "http://localhost:11434/v1"),
        ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1"),
    ],
)
def test_the_address_with_or_without_its_end(given: str, server: str) -> None:
    """The part up to /v1 is what is meant, also where the whole address of the chat is given."""
    assert server_of(given) == server


@pytest.mark.parametrize(
    "given", ["localhost:11434", "http://me:secret@host/v1", "ftp://host", "", "http://host/v1?key=1"]
)
def test_what_is_no_address(given: str) -> None:
    """The sentence names the option and repeats nothing of what may be a secret."""
    with pytest.raises(SettingsError, match="the chat URL is not the address of a server") as refused:
        server_of(given)
    assert "secret" not in str(refused.value)
