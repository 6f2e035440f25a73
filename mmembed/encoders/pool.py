"""Encoders by name, each loaded once: what searches, index runs and labels take theirs from."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future

from mmembed.encoders.registry import load_named, parse_name
from mmembed.types import Encoder, LoadOptions


class Encoders(Mapping[str, Encoder]):
    """Names to encoders. One is loaded when it is first looked up, once, however many threads ask.

    >>> encoders = Encoders(LoadOptions(device="cuda"))
    >>> encoders["minilm"] is encoders["minilm"]
    True
    >>> encoders.clear()  # gives their memory back once nobody else holds them
    """

    def __init__(self, options: LoadOptions | None = None, loaded: Iterable[Encoder] = ()) -> None:
        """`options`: how those that are loaded here are run; `loaded`: some that are there already."""
        self.options = options or LoadOptions()
        self._lock = threading.Lock()
        self._encoders: dict[str, Future[Encoder]] = {}
        for encoder in loaded:
            self._encoders[encoder.spec.name] = Future()
            self._encoders[encoder.spec.name].set_result(encoder)

    def __getitem__(self, name: str) -> Encoder:
        """Raises what `load_encoder` raises, to all who wait for it; the next who asks tries again."""
        key = str(parse_name(name))  # a preset and the name that it stands for are one
        with self._lock:
            mine = key not in self._encoders
            future = self._encoders.setdefault(key, Future())
        if mine:
            self._load(key, future)
        return future.result()

    def __iter__(self) -> Iterator[str]:
        """Names of those that are loaded, as they were asked for."""
        with self._lock:
            return iter([name for name, future in self._encoders.items() if future.done()])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def clear(self) -> None:
        """Forget all of them; who is waiting for one still gets it."""
        with self._lock:
            self._encoders.clear()

    def _load(self, name: str, future: Future[Encoder]) -> None:
        try:
            encoder = load_named(name, self.options)
        except BaseException as exc:
            with self._lock:
                if self._encoders.get(name) is future:
                    del self._encoders[name]
            future.set_exception(exc)
            return
        with self._lock:  # a folder's own name holds its absolute path
            self._encoders.setdefault(encoder.spec.name, future)
        future.set_result(encoder)


SHARED = Encoders()
"""Where searches find encoders that are given none. `SHARED.clear()` gives the memory back."""
