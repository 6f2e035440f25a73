"""uvicorn's HTTP protocol with a clock: a request's head must come whole and in time, an answer must be taken."""

from __future__ import annotations

import asyncio
import re
from asyncio import TimerHandle
from collections.abc import Sequence

import httptools
from fastapi import FastAPI
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mmembed.errors import InvalidRequest, MmembedError, RequestTimeout, RequestTooLarge
from mmembed.service.error_responses import error_response, shape_of

_LARGEST_HEAD = 64 << 10
_LINGER_SECONDS = 1.0  # closed at once with bytes unread, the socket would take the answer back


_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?\]|[\w.~%!$&'()*+,;=-]*)(?::\d*)?", re.ASCII)


def _too_large_a_head() -> RequestTooLarge:
    return RequestTooLarge(f"the request's head is larger than {_LARGEST_HEAD >> 10} KiB: send smaller headers")


def _names_one_host(hosts: Sequence[bytes], parser: httptools.HttpRequestParser) -> bool:
    """RFC 9112, 3.2: one Host, which is a name or an address, and a port or none; HTTP/1.0 may have none."""
    if not hosts:
        return bool(parser.get_http_version() == "1.0")
    return len(hosts) == 1 and _HOST.fullmatch(hosts[0].strip()) is not None


class PunctualProtocol(HttpToolsProtocol):
    """A connection. `head_seconds` bounds a head's arrival, and how long a client may leave its answer untaken."""

    head_seconds: float = 30
    fastapi: FastAPI  # whose routes say how an error looks

    _clock: TimerHandle | None = None
    _write_clock: TimerHandle | None = None
    _in_head = False  # a part of one is here
    _in_request = False  # its head or its body
    _went_on = False  # a request began, or a part of its body came
    _head_bytes = 0
    _fault: MmembedError | None = None  # of a head that was read
    _idle_bytes = 0  # of a head, of trailers, or between two chunks
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self.cycle is None or self.cycle.response_complete:
            self._start_clock()  # empty lines between requests stop uvicorn's own
        self._went_on = False
        super().data_received(data)
        if self._in_request and not self._went_on:
            self._idle_bytes += len(data)
            if self._idle_bytes > _LARGEST_HEAD:
                self._refuse(_too_large_a_head())

    def on_message_begin(self) -> None:
        self._in_head, self._in_request = True, True
        self._went_on, self._idle_bytes, self._head_bytes = True, 0, 0
        self._start_clock()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are left out: what comes after the body was checked by nobody
            self._head_bytes += len(name) + len(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_clock()
        if self._head_bytes > _LARGEST_HEAD:
            self._fault = _too_large_a_head()
        elif not _names_one_host([value for name, value in self.headers if name == b"host"], self.parser):
            self._fault = InvalidRequest("an HTTP/1.1 request has one header Host, the name of this service: send one")
        if self._fault is not None:
            raise ValueError(self._fault)  # the parser then stops, and `send_400_response` says why
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._went_on, self._idle_bytes = True, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_request = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP: a head that cannot be read, or a body whose chunks cannot."""
        self._refuse(
            self._fault or InvalidRequest("this is not an HTTP/1.1 request: its head or its chunks cannot be read")
        )

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_clock is None:
            self._write_clock = self.loop.call_later(self.head_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self.head_seconds, self._late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        self._clock = None
        if self._in_head:
            self._refuse(
                RequestTimeout(f"the request's head did not arrive within {self.head_seconds:g} s: send it at once")
            )
        else:
            self.transport.close()

    def _refuse(self, error: MmembedError) -> None:
        """Answer in place of a route, and close; after its answer, where an earlier request is being answered."""
        self._stop_clock()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._answer(error_response(error))
        elif not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        elif self.cycle.response_started or self.pipeline:
            self.transport.close()
        else:  # the body that its route waits for will never end
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._answer(error_response(error, shape=shape_of({**self.cycle.scope, "app": self.fastapi})))

    def _answer(self, answer: Response) -> None:
        head = [b"HTTP/1.1 %d \r\n" % answer.status_code]
        head += [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", bytes(answer.body)]))
        self.transport.write_eof()
        self._refused = True
        self._clock = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
