"""The real service on a free port of loopback, in a thread: what every test of the service talks to."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmembed.service.server import Serving
from mmembed.service.settings import Settings

__all__ = ["running"]


@contextlib.contextmanager
def running(tmp_path: Path, *, wait: bool = True, **settings: Any) -> Iterator[Serving]:
    """Serve with these settings, on port 0 and an Edge store below `tmp_path` unless they say otherwise.

    Gives `.url`, `.app` and `.settings`; with `wait` the encoders are loaded. It is stopped gracefully.
    """
    asked = {"port": 0, "store": f"edge:{tmp_path / 'store.mm'}", **settings}
    service = Serving(Settings(**asked))
    failures: list[BaseException] = []
    thread = threading.Thread(target=_run, args=(service, failures), daemon=True)
    thread.start()
    try:
        _wait(service, thread, failures, encoders=wait)
        yield service
    finally:
        service.stop()
        thread.join(60)
        assert not thread.is_alive(), "the service did not stop"
    if failures:
        raise failures[0]


def _run(service: Serving, failures: list[BaseException]) -> None:
    try:
        service.run()
    except BaseException as exc:
        failures.append(exc)


def _wait(service: Serving, thread: threading.Thread, failures: list[BaseException], *, encoders: bool) -> None:
    until = time.monotonic() + 60
    while not (service.started and (not encoders or service.app.state.service.served.ready)):
        if not thread.is_alive():
            raise failures[0] if failures else RuntimeError("the service ended before it started")
        assert time.monotonic() < until, "the service did not start within 60 s"
        time.sleep(0.01)
