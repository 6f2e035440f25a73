"""The service on a port: uvicorn, with a stop that is no failure and a clock for clients that do not finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mmembed.errors import SettingsError
from mmembed.service.app import create_app
from mmembed.service.http_protocol import PunctualProtocol
from mmembed.service.settings import Settings

_BACKLOG = 2048
_CLOSING_SECONDS = 3.0  # after the time for requests is over
_KEEP_ALIVE_SECONDS = 75  # longer than the 60 s after which proxies reuse a connection

logger = logging.getLogger(__name__)


class Server:
    """A service that listens; requests are answered while `run` runs, in whatever thread."""

    def __init__(self, settings: Settings, *, say: Callable[[str], None] = logger.info) -> None:
        """Raises SettingsError where the address cannot be listened on, or for keys that cannot be read."""
        self._failures: list[Exception] = []  # what kept it from starting
        self.app: FastAPI = create_app(settings, on_failure=self._fail)
        self.settings = settings
        self._socket = listen(settings.host, settings.port)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        config = uvicorn.Config(
            self.app,
            http=type("Protocol", (PunctualProtocol,), {"head_seconds": settings.request_seconds, "fastapi": self.app}),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
        )
        self._server = _QuietServer(config, lambda: self._listening(say))

    @property
    def started(self) -> bool:
        return self._server.started

    def run(self, *, ends_process: bool = False) -> None:
        """Serve until `stop`, SIGINT or SIGTERM.

        Raises what kept it from starting, or from going on: StoreUnavailable, say.

        `ends_process`: after a signal this process ends in time, whatever is still at work in it.
        """
        self._server.last_seconds = self.settings.shutdown_seconds + _CLOSING_SECONDS if ends_process else None
        try:
            with contextlib.suppress(SystemExit):  # uvicorn's way to say that it did not start
                self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
        if self._failures:
            raise self._failures[0]

    def _fail(self, failure: Exception) -> None:
        """What keeps it from starting or from going on: `run` stops, and raises it."""
        self._failures.append(failure)
        if self.started:
            self.stop()

    def stop(self) -> None:
        """Accept no more, finish what was accepted, close; `run` then returns. From any thread."""
        self._server.should_exit = True

    async def _listening(self, say: Callable[[str], None]) -> None:
        names = await asyncio.to_thread(self.app.state.service.served.names)
        say(f"mmembed serves {self.url} (store {self.settings.store}, encoders {', '.join(names)})")


def serve(settings: Settings, *, say: Callable[[str], None] = logger.info) -> None:
    """Serve until SIGINT or SIGTERM; `say` is told one line when the port is listened on.

    Raises:
        SettingsError: the address cannot be listened on, or the keys cannot be read.
        StoreUnavailable: nothing answers at the store's address, or another process holds its folder.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it says what we say, with tracebacks
    Server(settings, say=say).run(ends_process=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything is loaded. Raises SettingsError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as exc:
        message = (exc.strerror or "").partition(" (while")[0]  # Python adds the address once more
        reason = {
            errno.EADDRINUSE: f"port {port} is in use: stop what listens there or choose another --port",
            errno.EACCES: f"port {port} is kept for the system: choose another --port, above 1023",
        }.get(exc.errno or 0, f"it is not an address of this computer ({message}): choose another --host")
        raise SettingsError(f"{host}:{port} cannot be listened on, {reason}") from exc


class _QuietServer(uvicorn.Server):
    """uvicorn's server, which after a signal does not kill itself with that signal."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._listening = listening
        self.last_seconds: float | None = None  # after a signal, until this process ends; None: it is not ours to end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.last_seconds is not None and not self.should_exit:
            ending = threading.Timer(self.last_seconds, _end_process)
            ending.daemon = True
            ending.start()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            await self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()  # or they would be raised again: a stop that was asked for is no failure


def _end_process() -> None:
    """What is not acknowledged by now is not promised, and the store's process flushes what is when this one ends."""
    logger.warning("something is still at work after the time for stopping: it is left undone")
    logging.shutdown()
    os._exit(0)


def log_to_stderr() -> None:
    """What the service has to say goes to stderr, one line a fault; of others, warnings."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("mmembed").setLevel(logging.INFO)
