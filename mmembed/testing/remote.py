"""Tests of a plugin for an embeddings API: a vendor that stands on loopback, and what holds for every such encoder.

    def answer(request: ReceivedRequest) -> Reply: ...            # as the vendor's documentation says

    server = vendor(mmembed_some, answer, key="sk-test")

    class TestSome(RemoteTests):
        name, dim, variables = "some:model", 1024, ("SOME_API_KEY",)

        @staticmethod
        def refuse(message: str, status: int = 400) -> Reply:
            return Reply({"message": message}, status=status)

The rest of the file holds what is the vendor's own: its requests, its tasks, its limits.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mmembed.encoders.registry import load_encoder
from mmembed.encoders.remote import Patience, calls
from mmembed.errors import EncoderRefused, EncoderUnavailable, InvalidEmbedding, SettingsError
from mmembed.testing.checks import check_encoder
from mmembed.testing.http import ReceivedRequest, Reply, StandIn

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}
"""What the vectors below know of texts and images alike."""


def vendor(
    plugin: ModuleType, answer: Callable[[ReceivedRequest], object], *, key: str
) -> Callable[..., Iterator[StandIn]]:
    """A fixture: the vendor's own address, `plugin.HOME`, is a server on loopback, and its key is set."""

    @pytest.fixture
    def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
        monkeypatch.setenv(plugin.KEYS[0], key)
        with StandIn(answer) as standin:
            monkeypatch.setattr(plugin, "HOME", standin.url + urlsplit(plugin.HOME).path)
            yield standin

    return server


def text_vector(text: str, dim: int, *, words: int) -> npt.NDArray[np.float64]:
    """A text by its first `words` words, in the first 32 of `dim` coordinates; the first three are for colours."""
    row = np.zeros(dim)
    row[3] = 1
    for word in re.findall(r"\w+", text.lower())[:words]:
        row[list(COLOURS).index(word) if word in COLOURS else 4 + zlib.crc32(word.encode()) % 28] += 1
    return row


def image_vector(content: str, dim: int) -> npt.NDArray[np.float64]:
    """An image by its colours, in the same coordinates, and by its grey thumbnail."""
    image = decoded_image(content)
    row = np.zeros(dim)
    row[:3] = np.asarray(image, dtype=float).reshape(-1, 3).mean(axis=0) / 255
    row[3] = 1
    row[4:20] = np.asarray(image.convert("L").resize((4, 4)), dtype=float).ravel() / 1000
    return row


def decoded_image(content: str) -> Image.Image:
    """The RGB image of a data URI, or of base64 alone."""
    head, comma, encoded = content.rpartition(",")
    assert not comma or re.fullmatch("data:image/(png|jpeg|webp|gif);base64", head)
    image = Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))
    assert image.mode == "RGB"
    return image


def embedding_list(rows: Sequence[npt.NDArray[np.float64]]) -> Reply:
    """n vectors as OpenAI and those who follow it send them: base64 of float32, numbered, in no particular order."""
    data = [_row(i, row.astype("<f4").tobytes()) for i, row in enumerate(rows)]
    return Reply({"object": "list", "data": data[::-1], "usage": {"total_tokens": 1}})


def _row(index: int, content: bytes) -> dict[str, object]:
    return {"object": "embedding", "index": index, "embedding": base64.b64encode(content).decode()}


class RemoteTests:
    """What holds for every encoder behind an API; a subclass says which, and the fixture `server` is its vendor.

    Its file lies in a folder beside README.md, whose example is run with barn.jpg, which is red, and meadow.jpg.
    """

    name: ClassVar[str]  # of an encoder of texts
    dim: ClassVar[int]
    variables: ClassVar[tuple[str, ...]]  # that may hold the vendor's key
    sound: ClassVar[tuple[str, ...]]  # names of encoders that are checked from outside

    @staticmethod
    def refuse(message: str, status: int = 400) -> Reply:
        """How the vendor says no."""
        raise NotImplementedError

    def wrong_answers(self) -> list[tuple[object, str]]:
        """Bodies of answers to two texts -> what is said of each."""
        one = b"\0\0\x80?"
        good = _row(0, one * self.dim)
        wrong = [
            ([good], "returned 1 vectors for 2 inputs"),
            ([good, good], "numbers its 2 vectors"),
            ([good, {"index": 1, "embedding": "%%%"}], "not base64"),
            ([good, _row(1, b"12345")], "not a row of float32"),
            ([_row(0, one * 8), _row(1, one * 8)], f"8 dimensions where {self.dim} were expected"),
            ([good, _row(1, b"\0\0\xc0\x7f" * self.dim)], "NaN"),
        ]
        return [({"data": data}, message) for data, message in wrong]

    def test_a_busy_server_is_asked_again(self, server: StandIn) -> None:
        """After a connection that broke and after 429 with a Retry-After, the rows are those of an untroubled call."""
        encoder = load_encoder(self.name)
        untroubled = encoder.encode_text(["a", "b"], role="document")
        server.first(Reply({"data": []}, broken_off=True), Reply(status=429, headers={"Retry-After": "0"}))
        again = encoder.encode_text(["a", "b"], role="document")
        np.testing.assert_array_equal(np.asarray(again), np.asarray(untroubled))
        assert len(server.requests) == 4

    def test_an_answer_that_is_wrong_is_refused(self, server: StandIn) -> None:
        """Too few rows, another size, NaN, broken base64 and another shape are errors, asked once."""
        encoder = load_encoder(self.name)
        for times, (body, message) in enumerate(self.wrong_answers(), start=1):
            server.first(Reply(body))
            with pytest.raises(InvalidEmbedding, match=message):
                encoder.encode_text(["a", "b"], role="document")
            assert len(server.requests) == times

    @pytest.mark.parametrize("status", [400, 413])
    def test_a_refusal_is_not_repeated(self, server: StandIn, status: int) -> None:
        """A request that is refused is asked once, and the vendor's words are passed on."""
        server.first(self.refuse("too much", status))
        with pytest.raises(EncoderRefused, match=rf"answered {status} .* \(too much\)"):
            load_encoder(self.name).encode_text(["a"], role="document")
        assert len(server.requests) == 1

    def test_a_slow_server_is_given_up(self, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer that does not come in time is an error that says so."""
        monkeypatch.setattr(calls, "PATIENCE", Patience(read_seconds=0.1, tries=1))
        server.first(Reply(pause_seconds=5))
        with pytest.raises(EncoderUnavailable, match="ReadTimeout"):
            load_encoder(self.name).encode_text(["a"], role="document")

    def test_keys(self, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each variable may hold the key; a wrong one is named and not repeated, a missing one is an error on loading.

        The same server under another address than the vendor's own gets no key.
        """
        for variable in self.variables:
            monkeypatch.setenv(variable, "sk-wrong")
            server.first(self.refuse("Invalid API key sk-wrong", 401))
            with pytest.raises(EncoderRefused, match=rf"\(Invalid API key \[key\]\): .* {variable} is right") as caught:
                load_encoder(self.name).encode_text(["a"], role="query")
            assert "sk-wrong" not in str(caught.value)
            monkeypatch.delenv(variable)
        with pytest.raises(SettingsError, match=f"set the environment variable {' or '.join(self.variables)}"):
            load_encoder(self.name)
        with pytest.raises(EncoderRefused, match="MMEMBED_API_KEYS"):
            load_encoder(f"{self.name}?base_url={server.url}").encode_text(["a"], role="query")
        assert "authorization" not in server.requests[-1].headers

    @pytest.mark.usefixtures("server")
    def test_it_keeps_the_promises_of_an_encoder(self) -> None:
        """Shape, order, odd texts and images, truncation, batches: everything that can be tried from outside."""
        for name in self.sound:
            report = check_encoder(load_encoder(name), load=load_encoder)
            assert report.ok, report.faults

    def test_the_example_of_the_readme(self, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It runs as it stands, and prints what it says."""
        readme = (Path(inspect.getfile(type(self))).parent.parent / "README.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        monkeypatch.chdir(tmp_path)
        Image.new("RGB", (80, 60), COLOURS["red"]).save("barn.jpg")
        Image.new("RGB", (80, 60), COLOURS["lime"]).save("meadow.jpg")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), {})
        assert printed.getvalue() == "".join(re.findall(r"^# (.*\n)", code, re.MULTILINE))
        assert len(server.requests) == 2
