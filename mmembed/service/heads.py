"""uvicorn's HTTP protocol with a clock: a request's head must come whole and in time, an answer must be taken."""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mmembed.errors import MmembedError, RequestTimeout, RequestTooLarge
from mmembed.service.errors import error_response

__all__ = ["PunctualProtocol"]

_LARGEST_HEAD = 64 << 10
_LINGER_SECONDS = 1.0  # closed at once with bytes unread, the socket would take the answer back


class PunctualProtocol(HttpToolsProtocol):
    """A connection. `head_seconds` bounds a head's arrival, and how long a client may leave its answer untaken."""

    head_seconds: float = 30

    _clock: TimerHandle | None = None
    _write_clock: TimerHandle | None = None
    _in_head = False  # a part of one is here
    _began_now = False
    _head_bytes = 0
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
        self._began_now = False
        super().data_received(data)
        if self._in_head and not self._began_now:
            self._head_bytes += len(data)
            if self._head_bytes > _LARGEST_HEAD:
                kib = _LARGEST_HEAD >> 10
                self._refuse(RequestTooLarge(f"the request's head is larger than {kib} KiB: send smaller headers"))

    def on_message_begin(self) -> None:
        self._in_head, self._began_now, self._head_bytes = True, True, 0
        self._start_clock()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_clock()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._stop_clock()
        super().send_400_response(msg)

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
        """Answer before there is a request, and close; after its answer, where an earlier one is being answered."""
        self._stop_clock()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        answer = error_response("", error)
        head = [b"HTTP/1.1 %d \r\n" % answer.status_code]
        head += [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", bytes(answer.body)]))
        self.transport.write_eof()
        self._refused = True
        self._clock = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
