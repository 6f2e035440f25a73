"""Memory goes back to the system once large pictures are done with."""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LARGE_PIXELS", "Room", "give_back_soon"]

LARGE_PIXELS = 4_000_000
_REST_SECONDS = 1.0  # a pass after every picture would take from the encoders what they use again at once

_libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
_lock = threading.Lock()
_coming = False


def give_back_soon() -> None:
    """In a second, have glibc give back what lies unused; what was asked for meanwhile is done with it.

    Left alone it keeps half a gigabyte for each thread that ever decoded a picture of 50 megapixels. Other C libraries
    have ways of their own, and are left to them.
    """
    global _coming
    if _libc is None:
        return
    with _lock:
        if _coming:
            return
        _coming = True
    timer = threading.Timer(_REST_SECONDS, _give_back)
    timer.daemon = True
    timer.start()


def _give_back() -> None:
    global _coming
    with _lock:
        _coming = False
    assert _libc is not None
    _libc.malloc_trim(0)


# --- How many pixels may lie decoded in memory at a time, over all searches: a small file may hold very many ---


class Room:
    """Room for `most` pixels; who wants more than is left waits, and who wants more than there is has it alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Take room for so many pixels; for threads, since it waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()
            if pixels > LARGE_PIXELS:
                give_back_soon()
