"""Memory goes back to the system once a large picture is done with."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["give_back_large_blocks"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGE_BYTES = 15 << 20  # Pillow keeps pictures in blocks of 16 MiB
_TRIM_BYTES = 32 << 20


def give_back_large_blocks() -> None:
    """Have glibc take large blocks from the system one by one. Elsewhere, nothing is done.

    Left alone it learns to keep them: half a gigabyte for each thread that ever decoded a picture of 50 megapixels.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
