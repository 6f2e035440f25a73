"""How many pixels may lie decoded in memory at a time, over all searches: a small file may hold very many."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmembed.service.memory import LARGE_PIXELS, give_back_soon

__all__ = ["Room"]


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
