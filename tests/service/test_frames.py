"""How deep the service is: its own functions between a route and the call into Qdrant, or into the model."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import httpx
import pytest
from PIL import Image
from plugin_sites import install_plugin
from service_app import running

import mmembed
from mmembed.service.server import Server

OURS = str(Path(mmembed.__file__).parent)
TEXT = "a red kite"  # of the query; other texts are not recorded

TO_QDRANT = 6
TO_MODEL = {"post_search": 9, "post_embeddings": 6}

ENCODER = '''
"""An encoder that says when it is called, in the thread that calls it."""
from mmembed.encoders.families.fake import FakeEncoder


class Recorder(FakeEncoder):
    def encode_text(self, texts, *, role, task=None):
        called(texts)
        return super().encode_text(texts, role=role, task=task)


def called(texts):
    """Replaced by the test."""


def load(name, run):
    return Recorder(name, run, dim=8)
'''


def own_frames(loop: asyncio.AbstractEventLoop) -> list[str]:
    """The package's own functions that a call is in, from the route on, over all threads that handed it on.

    Three stacks, one below the other: what the request's task awaits, the thread that works for the request, and the
    thread of this call, where that is another. Frames of libraries between them are not counted.
    """
    here = threading.get_ident()
    workers = [t.ident for t in threading.enumerate() if t.name.startswith("mmembed-work") and t.ident != here]
    frames = sys._current_frames()
    stacks = [awaited_by_routes(loop), *(stack_of(frames[ident]) for ident in workers if ident in frames)]
    return [code.co_name for codes in [*stacks, stack_of(sys._getframe(1))] for code in codes if is_ours(code)]


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(OURS)


def stack_of(frame: FrameType | None) -> list[CodeType]:
    codes = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    return codes[::-1]


def awaited_by_routes(loop: asyncio.AbstractEventLoop) -> list[CodeType]:
    """What tasks of the loop await, from the function of a route on."""
    codes: list[CodeType] = []
    for task in asyncio.all_tasks(loop):
        chain, waits = [], task.get_coro()
        while hasattr(waits, "cr_code"):
            chain.append(waits.cr_code)
            waits = waits.cr_await
        routes = [place for place, code in enumerate(chain) if f"{OURS}/service/routes/" in code.co_filename]
        codes += chain[routes[0] :] if routes else []
    return codes


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Over a collection of one image, whose encoder is the recorder."""
    folder = tmp_path_factory.mktemp("frames")
    install_plugin(folder, "recorder-plugin", "recorder", ENCODER)
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        with running(folder, store=":memory:", encoder=("recorder",), cache_mb=0) as service:
            url = f"{service.url}/v1/index/images?encoder=recorder"
            httpx.post(url, files={"file": ("a.png", file.getvalue())}, timeout=60).raise_for_status()
            httpx.get(f"{service.url}/ready").raise_for_status()
            yield service


def loop_of(service: Server) -> asyncio.AbstractEventLoop:
    probe = service.app.state.service.probe._answer
    loop: asyncio.AbstractEventLoop = probe.get_loop()
    return loop


def test_a_search_is_few_frames_from_qdrant(service: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the route of a search to the method of Qdrant's client there are few functions of ours."""
    client = service.app.state.service.store._client
    query_points, seen = client.query_points, list[list[str]]()

    def recording(*args: Any, **arguments: Any) -> Any:
        seen.append(own_frames(loop_of(service)))
        return query_points(*args, **arguments)

    monkeypatch.setattr(client, "query_points", recording)
    httpx.post(f"{service.url}/v1/search/images", json={"text": TEXT}, timeout=60).raise_for_status()
    assert seen[0][0] == "post_search"
    assert len(seen[0]) <= TO_QDRANT, seen[0]


@pytest.mark.parametrize(
    ("path", "body", "route"),
    [
        ("/v1/search/images", {"text": TEXT}, "post_search"),
        ("/v1/embeddings", {"input": TEXT, "model": "recorder"}, "post_embeddings"),
    ],
)
def test_a_text_is_few_frames_from_its_model(
    service: Server, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], route: str
) -> None:
    """From a route to the encoder's own method there are few functions of ours, the batcher's thread included."""
    seen: list[list[str]] = []

    def recording(texts: list[str]) -> None:
        if TEXT in texts:
            seen.append(own_frames(loop_of(service)))

    monkeypatch.setattr(__import__("recorder_plugin"), "called", recording)
    httpx.post(service.url + path, json=body, timeout=60).raise_for_status()
    assert seen[0][0] == route
    assert len(seen[0]) <= TO_MODEL[route], seen[0]
