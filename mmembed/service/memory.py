"""Memory goes back to the system once large pictures are done with."""

from __future__ import annotations

import ctypes
import platform
import threading

__all__ = ["LARGE_PIXELS", "give_back_soon"]

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
