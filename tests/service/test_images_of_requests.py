"""A picture in a request is an address, a data URI or base64, and never a path."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from mmembed.demo import PICTOGRAMS
from mmembed.errors import ForbiddenUrl, InvalidRequest, MmembedError, RequestTooLarge, UnreadableImage
from mmembed.service.fetching import Fetcher
from mmembed.service.images import image_bytes
from mmembed.service.settings import Settings
from mmembed.testing.http import ReceivedRequest, Reply, StandIn

IMAGE = sorted(PICTOGRAMS.glob("*.*"))[0].read_bytes()
BASE64 = base64.b64encode(IMAGE).decode()


def read(source: Any, *, max_bytes: int = 2**20, urls: bool = True, **settings: Any) -> bytes:
    async def call() -> bytes:
        fetcher = Fetcher(Settings(**settings))
        try:
            return await image_bytes(source, fetcher=fetcher, max_bytes=max_bytes, urls=urls)
        finally:
            await fetcher.close()

    return asyncio.run(call())


@pytest.mark.parametrize(
    "source",
    [
        BASE64,
        "\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76)),
        f"  {BASE64}\r\n",
        f"data:image/png;base64,{BASE64}",
        f"DATA:image/svg+xml;charset=utf-8;BASE64,{BASE64}",
        {"url": f"data:image/png;base64,{BASE64}"},
        {"base64": BASE64},
    ],
)
def test_bytes_in_the_request(source: Any) -> None:
    """Base64 with or without line breaks, a data URI, and objects of either give the bytes of the file."""
    assert read(source) == IMAGE


def test_an_address_is_fetched() -> None:
    """An address, plain or as an object, in whatever case its scheme is, is fetched where its host is allowed."""

    def answer(asked: ReceivedRequest) -> Reply:
        assert asked.path == "/a.png"
        return Reply(IMAGE, headers={"Content-Type": "text/plain"})  # what it claims to be is not believed

    with StandIn(answer) as server:
        for source in (f"{server.url}/a.png", {"url": f"{server.url}/a.png"}, f"HTTP{server.url[4:]}/a.png"):
            assert read(source, allow_image_host=("127.0.0.1",)) == IMAGE
        with pytest.raises(ForbiddenUrl, match="no public address"):
            read(f"{server.url}/a.png")
        with pytest.raises(InvalidRequest, match="not fetched from addresses here"):
            read(f"{server.url}/a.png", urls=False, allow_image_host=("127.0.0.1",))
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ("/etc/passwd", UnreadableImage, "files of the server are not read: send an http"),
        ("cat.jpg", UnreadableImage, "files of the server are not read"),
        ("../../cat.png", UnreadableImage, "files of the server are not read"),
        ("file:///etc/passwd", UnreadableImage, "files of the server are not read"),
        ({"url": "file:///etc/passwd"}, UnreadableImage, "neither an http"),
        ({"url": BASE64}, UnreadableImage, "neither an http"),
        ({"url": "ftp://user:hunter2@host/a.png"}, UnreadableImage, "neither an http"),
        ({"base64": "http://127.0.0.1/"}, UnreadableImage, "nor base64"),
        ("", UnreadableImage, "empty"),
        (" \n", UnreadableImage, "empty"),
        ("data:image/png;base64,", UnreadableImage, "empty"),
        ("data:text/html;base64,PGI+", UnreadableImage, "holds no picture"),
        ("data:image/png,%89PNG", UnreadableImage, "holds no picture"),
        ("data:,", UnreadableImage, "holds no picture"),
        ("aGVsbG8", UnreadableImage, "nor base64"),  # no padding
        ("aGVsbG8=aGVsbG8=", UnreadableImage, "nor base64"),
        ("katzenfräulein", UnreadableImage, "nor base64"),
        (BASE64.replace("+", "-").replace("/", "_"), UnreadableImage, "nor base64"),
        (None, InvalidRequest, "string or an object, not NoneType"),
        (7, InvalidRequest, "not int"),
        ([BASE64], InvalidRequest, "not list"),
        ({}, InvalidRequest, "not nothing"),
        ({"path": "/etc/passwd"}, InvalidRequest, "one key, 'url' or 'base64', not 'path'"),
        ({"url": "http://a/", "base64": BASE64}, InvalidRequest, "one key"),
        ({"url": None}, InvalidRequest, "'url' of a picture is a string, not NoneType"),
        ({"base64": ["a"]}, InvalidRequest, "a string, not list"),
    ],
)
def test_anything_else_is_refused(source: Any, error: type[MmembedError], sentence: str) -> None:
    """Paths, other schemes, broken base64 and other types are refused with a sentence that says what to send."""
    with pytest.raises(error) as caught:
        read(source, allow_image_host=("127.0.0.1",))
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_path_that_exists_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is valid base64 and also a file in the working folder gives the base64, not the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats").write_bytes(IMAGE)
    assert read("cats") == base64.b64decode("cats")


def test_size_is_bounded() -> None:
    """A picture of just the limit is taken, and one that is larger is refused before it is decoded."""
    for size in range(1, 8):
        source = base64.b64encode(b"x" * size).decode()
        assert read(source, max_bytes=size) == b"x" * size
        with pytest.raises(RequestTooLarge, match="shrink it"):
            read(source, max_bytes=size - 1)
