"""A real HTTP server on loopback that stands in for an API: for the tests of encoders that call one.

def answer(request):
    return {"data": [{"index": i, "embedding": [1.0, 0.0]} for i, _ in enumerate(request.body["input"])]}

with StandIn(answer) as server:
    server.first(Reply(status=429, headers={"retry-after-ms": "20"}))
    ...                                    # call server.url
    assert [request.path for request in server.requests] == ["/v1/embeddings", "/v1/embeddings"]
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: Any  # from JSON; None where there was none


@dataclass(frozen=True)
class Reply:
    """What is sent back."""

    body: object = None  # bytes as they are, anything else as JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_seconds: float = 0.0  # before anything is sent
    broken_off: bool = False  # the connection is closed half-way through the body


class StandIn:
    """Answers each request by `answer(request)`: a `Reply`, or the JSON of a good one.

    What `answer` raises, such as an AssertionError about the request, is sent as status 400 and raised again
    when the block ends.
    """

    def __init__(self, answer: Callable[[ReceivedRequest], object]) -> None:
        self.requests: list[ReceivedRequest] = []
        self._answer = answer
        self._first: deque[Reply] = deque()
        self._faults: list[Exception] = []
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = False  # so that closing waits for every connection
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def first(self, *replies: Reply) -> None:
        """What the next requests get, one each, before `answer` is asked again."""
        self._first.extend(replies)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._faults:
            raise self._faults[0] from error

    def reply(self, request: ReceivedRequest) -> Reply:
        """What this request gets; called by the server's threads."""
        self.requests.append(request)
        if self._first:
            return self._first.popleft()
        try:
            answer = self._answer(request)
        except Exception as exc:  # a fault of the test or of what it tests: shown to both
            self._faults.append(exc)
            answer = Reply({"error": {"message": f"{type(exc).__name__}: {exc}"}}, status=400)
        return answer if isinstance(answer, Reply) else Reply(answer)

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than the server lives."""
        self._closing.wait(seconds)


def _handler_of(standin: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {key.lower(): value for key, value in self.headers.items()}
            body = json.loads(content) if content else None
            reply = standin.reply(ReceivedRequest(self.command, self.path, headers, body))
            standin.wait(reply.pause_seconds)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for key, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if reply.broken_off else content)
            except ConnectionError:
                self.close_connection = True  # whoever asked has given up waiting, which is what the pause is for

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: what was asked stands in `StandIn.requests`."""

    return Handler
