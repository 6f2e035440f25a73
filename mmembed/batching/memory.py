"""Memory of large images: how much may be taken at a time, and how it goes back to the system."""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_PIXELS = 4_000_000
_REST_SECONDS = 1.0  # a trim after every image would take from the encoders what they use again at once

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
    timer.name, timer.daemon = "mmembed-trim", True
    timer.start()


def _give_back() -> None:
    global _coming
    with _lock:
        _coming = False
    assert _libc is not None
    _libc.malloc_trim(0)


# --- how many pixels may lie decoded at a time ---


class PixelBudget:
    """`most` pixels; whoever needs more than is left waits, and whoever needs more than `most` gets it alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Take so many pixels, and give them back at the end; for threads, since it waits."""
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
