"""Which rerankers may be used: those of `--reranker`, each loaded once. No request makes the service load another."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import asdict

from mmembed.encoders.registry import load_reranker
from mmembed.errors import MmembedError, UnknownEncoder
from mmembed.service.served_encoders import load_failure
from mmembed.service.settings import Settings
from mmembed.types import Reranker

_SHOWN = 100  # characters of an unknown name


class ServedRerankers:
    """Names, as they were given when the service was started, to rerankers. Blocks while one is loaded."""

    def __init__(self, settings: Settings) -> None:
        self._names, self._options = settings.reranker, settings.loading
        self._lock = threading.Lock()
        self._loaded: dict[str, Reranker | MmembedError] = {}

    def __getitem__(self, name: str) -> Reranker:
        """Raises UnknownEncoder for what is not served, and what loading it raised, each time it is asked for."""
        if name not in self._names:
            served = ", ".join(self._names) or "none"
            hint = f"rerankers served are {served}; others are named with --reranker when the service is started"
            raise UnknownEncoder(name[:_SHOWN], self._names, hint=hint)
        with self._lock:  # whoever asks for another waits too: they are few, and loaded when the service starts
            if name not in self._loaded:
                try:
                    self._loaded[name] = load_reranker(name, **asdict(self._options))
                except Exception as exc:  # of a stranger's library too
                    self._loaded[name] = load_failure("reranker", name, exc)
            reranker = self._loaded[name]
        if isinstance(reranker, MmembedError):
            raise reranker.with_traceback(None)  # one error for many callers: each raise would lengthen its traceback
        return reranker

    def load_all(self) -> None:
        """Load every one. A failure is logged and kept for those who ask for that reranker."""
        for name in self._names:
            with contextlib.suppress(MmembedError):  # logged where it was loaded
                self[name]
