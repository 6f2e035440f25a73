"""Which encoders may be used: those that the collections remember, those of `--encoder`, and always `tiny` and `bm25`.

No request makes the service load anything else, and no contract anything but what is here and known, for contracts may
be a stranger's: see `mmembed.encoders.trust`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

from mmembed.encoders.presets import PRESETS
from mmembed.encoders.registry import load_named, parse_name
from mmembed.encoders.trust import reason_to_ask, with_absolute_path
from mmembed.errors import (
    EncoderLoadError,
    EncoderUnavailable,
    MmembedError,
    StoreError,
    StoreUnavailable,
    UnknownEncoder,
)
from mmembed.service.settings import Settings
from mmembed.types import Contract, Encoder, Store

_ALWAYS = ("tiny", "bm25")
_LOOK_SECONDS = 2.0  # between two looks at the store's contracts
_SHOWN = 100  # characters of an unknown name
_RETRY_SECONDS = 30.0  # after an API behind an encoder did not answer while it was loaded

logger = logging.getLogger(__name__)


class ServedEncoders:
    """Names to encoders, each loaded once, however many threads ask. `known` and `loaded` do not block."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._options = settings.loading
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._looked = -_LOOK_SECONDS
        self._unread: StoreError | None = None
        self._names = {_canonical(name) for name in (*_ALWAYS, *settings.encoder)}
        self._trusted = {with_absolute_path(name) for name in self._names}
        self._trusts_contracts = settings.trust_contracts
        self._aliases: dict[str, str] = {}  # another name of the same encoder -> the one it is served by
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # held while one is loaded
        self._loaded: dict[str, Encoder | MmembedError] = {}
        self._retry_at: dict[str, float] = {}
        self.ready = False

    def names(self) -> list[str]:
        """Every name that is served, sorted; those of the last look where the store cannot be asked."""
        self._look()
        with self._lock:
            return sorted(self._names - set(self._aliases))

    def resolve(self, name: str) -> str:
        """Any spelling -> the name that is served: a preset, a full name, or a model id in whatever case.

        Raises UnknownEncoder for what is not served, StoreUnavailable where the store could not be asked.
        """
        known = self.known(name)
        if known is not None:
            return known
        unread = self._look()
        with self._lock:
            matches = self._matches(name)
        if len(matches) == 1:
            return matches[0]
        if unread is not None:
            raise unread.with_traceback(None)
        hint = f"several have this name, {' and '.join(matches)}: give the full name of one"
        names = self.names()
        if not matches:
            hint = f"served are {', '.join(names)}; others are named with --encoder when the service is started"
        raise UnknownEncoder(name[:_SHOWN], names, hint=hint)

    def known(self, name: str) -> str | None:
        """The same without a look at the store, at once; None if that would be needed."""
        with self._lock:
            matches = self._matches(name)
        return matches[0] if len(matches) == 1 else None

    def encoder(self, name: str) -> Encoder:
        """The encoder of that name, in any spelling. Raises what loading it raised, each time it is asked for."""
        canonical = self.resolve(name)
        with self._lock:
            turn = self._turns[canonical]
        with turn:
            found = self._loaded.get(canonical)
            again = isinstance(found, EncoderUnavailable) and time.monotonic() >= self._retry_at[canonical]
            if found is None or again:
                found = self._load(canonical)
                with self._lock:
                    self._loaded[canonical] = found
        if isinstance(found, MmembedError):
            raise found.with_traceback(None)  # one error for many callers: each raise would lengthen its traceback
        return found

    def load_all(self) -> None:
        """Load every encoder that is served. A failure is logged and kept for those who ask for that encoder."""
        for name in self.names():
            with contextlib.suppress(MmembedError):  # logged where it was loaded
                self.encoder(name)
        _set_apart()
        self.ready = True

    def loaded(self) -> dict[str, Encoder]:
        """The encoders that are there, by name."""
        return {name: one for name, one in self._tried() if not isinstance(one, MmembedError)}

    def failures(self) -> dict[str, MmembedError]:
        """Those that could not be loaded, and why."""
        return {name: one for name, one in self._tried() if isinstance(one, MmembedError)}

    def _tried(self) -> list[tuple[str, Encoder | MmembedError]]:
        with self._lock:
            return [(name, one) for name, one in self._loaded.items() if name not in self._aliases]

    def _look(self) -> StoreError | None:
        """Read the contracts again, unless that was tried a moment ago. Returns why it could not be done."""
        with self._looking:
            if time.monotonic() - self._looked < _LOOK_SECONDS:
                return self._unread
            try:
                remembered = {_canonical(name) for name in _remembered(self._store)}
            except StoreError as exc:
                logger.warning("which encoders the collections remember cannot be read: %s", exc)
                self._unread = exc
            else:
                self._unread = None
                with self._lock:
                    self._names |= remembered
            self._looked = time.monotonic()
            return self._unread

    def _matches(self, name: str) -> list[str]:
        """The served names that `name` may mean: more than one where several encoders are made of one model."""
        written = name.strip()
        preset = next((preset for preset in PRESETS if preset.lower() == written.lower()), written)
        exact = _canonical(preset)
        exact = self._aliases.get(exact, exact)
        if exact in self._names:
            return [exact]
        lowered = written.lower()
        own = self._names - set(self._aliases)
        same = sorted(served for served in own if lowered in _spellings(served))
        plain = [served for served in same if "?" not in served]
        return plain if len(plain) == 1 else same

    def _load(self, name: str) -> Encoder | MmembedError:
        started = time.monotonic()
        try:
            self._check_trusted(name)
            encoder = load_named(name, self._options)
        except BaseException as exc:  # of a stranger's library
            self._retry_at[name] = time.monotonic() + _RETRY_SECONDS
            return load_failure("encoder", name, exc)
        logger.info("encoder %s loaded in %.1f s", name, time.monotonic() - started)
        with self._lock:
            if (own := encoder.spec.name) != name:  # a relative path, say, which the encoder makes absolute
                alias, served = (name, own) if own in self._turns else (own, name)
                self._aliases[alias] = served
        if self.ready:
            _set_apart()
        return encoder

    def _check_trusted(self, name: str) -> None:
        """Raise EncoderLoadError for what a contract alone may not make the service load."""
        if self._trusts_contracts or with_absolute_path(name) in self._trusted:
            return
        if reason := reason_to_ask(name):
            raise EncoderLoadError(
                f"a collection names encoder {name!r}, {reason}: start the service with --encoder {name!r} if you know "
                f"it, or with --trust-contracts if nobody else writes to the store"
            )


def _set_apart() -> None:
    """Take what is there now out of the garbage collector's rounds: it stays until the end.

    A full round over the objects of torch and transformers stops every thread for 150 ms, in the middle of requests.
    """
    gc.collect()
    gc.freeze()


def contracts_of(store: Store) -> Iterator[tuple[str, Contract | StoreError]]:
    """Every collection of ours with its contract, or why that cannot be read. Raises StoreUnavailable."""
    for name in store.collections():
        try:
            contract = store.contract(name)
        except StoreUnavailable:
            raise
        except StoreError as exc:  # dropped this moment, or made by a newer mmembed
            yield name, exc
        else:
            if contract is not None:
                yield name, contract


def _remembered(store: Store) -> Iterator[str]:
    """The encoders of every collection of ours."""
    for name, contract in contracts_of(store):
        if isinstance(contract, StoreError):  # the others are served all the same
            logger.debug("the encoders of collection %r cannot be read: %s", name, contract)
        else:
            yield from (vector.encoder for vector in contract.vectors.values())


def _canonical(name: str) -> str:
    """As a collection remembers it; a name that is none is left as it is, and fails when it is loaded."""
    try:
        return str(parse_name(name))
    except UnknownEncoder:
        return name


def load_failure(what: str, name: str, exc: BaseException) -> MmembedError:
    """What those who ask for it are told, logged. What a stranger's library says has only the log."""
    if isinstance(exc, MmembedError):
        logger.warning("%s %s cannot be loaded: %s", what, name, exc)
        return exc
    logger.error("%s %s cannot be loaded", what, name, exc_info=exc)
    return EncoderLoadError(
        f"{what} {name!r} cannot be loaded ({type(exc).__name__}): the log of the service says more"
    )


def _spellings(served: str) -> set[str]:
    """What a client may call a served encoder beside its full name, in lower case."""
    stem = served.rpartition("?")[0] or served
    family, _, model = stem.partition(":")
    return {served.lower(), stem.lower(), (model or f"qdrant/{family}").lower()}
