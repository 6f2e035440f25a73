"""Every error of mmembed. Branches end in Error, leaves say what happened.

MmembedError
├── EncoderError
│   ├── UnknownEncoder        no such preset, family or model; names the nearest and what is installed
│   ├── DuplicateEncoder      two installed packages register one family
│   ├── EncoderLoadError      the weights or the tokenizer are not there, or not what the name promises
│   ├── MissingDependency     an optional package is not installed; gives the pip line
│   ├── UnsupportedModality   a text encoder was handed a picture, or the other way round
│   ├── EncoderUnavailable    the API behind an encoder cannot be reached, is over its limits or keeps failing
│   ├── EncoderRefused        the API behind an encoder turns the request down: its key, model or input is wrong
│   └── InvalidEmbedding      an encoder returned NaN, a wrong shape, or rows that are not unit length
├── InputError                one input is bad; in an index it becomes a Failure and the rest goes on
│   ├── NotAList              one text or picture where a list of them is wanted
│   ├── UnreadableImage
│   ├── ImageTooLarge
│   ├── UnreadableDocument
│   ├── UnreadableSource      a path, folder or manifest that cannot be read
│   ├── ForbiddenUrl          an address that pictures are not fetched from
│   ├── InvalidQuery          a search that asks for nothing, or for what the collection cannot answer
│   ├── InvalidLabels         labels that are empty, equal, or that the encoder cannot tell apart
│   ├── InvalidSample         labelled pictures from which nothing can be learnt: one class, too few, none
│   └── InvalidTestSet        a corpus, queries, judgements or a search log that cannot be evaluated
├── StoreError
│   ├── StoreUnavailable      not reachable, gone half-way, or held by another process
│   ├── StoreFull             no room on the disk for the next batch
│   ├── CollectionNotFound
│   ├── PointNotFound
│   ├── CollectionNotOurs     no contract: it is read, never written to
│   └── CollectionMismatch    the vectors were made by another encoder
├── ServiceError              the service turns a request away
│   ├── InvalidRequest        malformed, of the wrong type, or with an option that does not exist
│   ├── Unauthorized          no key, or one that is not known
│   ├── Forbidden             a key without the scope, or a page of another origin
│   ├── RequestTooLarge       more bytes or inputs than are taken at once
│   ├── RequestTimeout        the request did not arrive in time
│   └── Overloaded            too much is waiting already: later it may be answered
└── SettingsError             an option that makes no sense

Each says in one sentence what was asked, what was found and what to do. A parameter stands in it as Python has it,
in backquotes: `cross_encoder=`, `dtype='float32'`. The command line and the service spell it their way by `respell`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

__all__ = [
    "CollectionMismatch",
    "CollectionNotFound",
    "CollectionNotOurs",
    "DuplicateEncoder",
    "EncoderError",
    "EncoderLoadError",
    "EncoderRefused",
    "EncoderUnavailable",
    "Forbidden",
    "ForbiddenUrl",
    "ImageTooLarge",
    "InputError",
    "InvalidEmbedding",
    "InvalidLabels",
    "InvalidQuery",
    "InvalidRequest",
    "InvalidSample",
    "InvalidTestSet",
    "MissingDependency",
    "MmembedError",
    "NotAList",
    "Overloaded",
    "PointNotFound",
    "RequestTimeout",
    "RequestTooLarge",
    "ServiceError",
    "SettingsError",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "Unauthorized",
    "UnknownEncoder",
    "UnreadableDocument",
    "UnreadableImage",
    "UnreadableSource",
    "UnsupportedModality",
]

_PARAMETER = re.compile(r"`([a-z_]+)=([^`]*)`")


def respell(sentence: str, spell: Callable[[str, str], str]) -> str:
    """The sentence with each parameter in it as `spell(name, value)` has it; the value may be empty.

    >>> respell("name it with `encoder=`", lambda name, value: f'"{name}"')
    'name it with "encoder"'
    """
    return _PARAMETER.sub(lambda found: spell(found[1], found[2]), sentence)


class MmembedError(Exception):
    """Root of the tree. `str(error)` is one line that can be shown to a user as it is."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class EncoderError(MmembedError):
    """Something about an encoder: its name, its weights or what it returned."""


class UnknownEncoder(EncoderError):
    """No encoder of that name; `known` are the names that would have worked."""

    def __init__(self, name: str, known: Iterable[str], *, hint: str = "") -> None:
        self.name = name
        self.known = sorted(known)
        nearest = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(repr(n) for n in nearest)}? " if nearest else ""
        super().__init__(f"no encoder {name!r}: {meant}{hint or 'known are ' + ', '.join(self.known)}")


class DuplicateEncoder(EncoderError):
    """Two distributions register the same family: which one runs would be chance."""

    def __init__(self, family: str, distributions: Iterable[str]) -> None:
        names = " and by ".join(sorted(distributions))
        super().__init__(f"encoder family {family!r} is registered by {names}: uninstall one of them")


class EncoderLoadError(EncoderError):
    """The encoder was found but cannot be loaded as its name promises."""


class MissingDependency(EncoderError):
    """A package that this encoder needs is not installed."""

    def __init__(self, what: str, package: str, install: str) -> None:
        super().__init__(f"{what} needs the package {package!r}, which is not installed: pip install '{install}'")


class UnsupportedModality(EncoderError):
    """The encoder has no tower for this kind of input."""

    def __init__(self, encoder: str, modality: str, supported: Iterable[str]) -> None:
        others = " and ".join(sorted(supported))
        super().__init__(f"encoder {encoder!r} cannot encode {modality}, only {others}: name one that can")


class EncoderUnavailable(EncoderError):
    """The API behind an encoder cannot be reached, is over its limits or keeps failing: later it may answer."""


class EncoderRefused(EncoderError):
    """The API behind an encoder turns the request down, and will do so again; `status` is that of its answer."""

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


class InvalidEmbedding(EncoderError):
    """What came out of an encoder cannot be stored: wrong shape, not finite or not of norm 1."""


class InputError(MmembedError):
    """One input is bad. In an index it becomes a Failure; the rest is finished."""


class NotAList(InputError, TypeError):
    """One thing where several are wanted: a text for a list of texts would be read letter by letter."""


class UnreadableImage(InputError):
    """The file is not a picture, or a broken one."""


class ImageTooLarge(InputError):
    """More pixels than `max_pixels`: refused before its pixels are decoded."""

    def __init__(self, uri: str, width: int, height: int, max_pixels: int) -> None:
        super().__init__(
            f"{uri}: {width} x {height} pixels are more than the {max_pixels:,} allowed: "
            f"shrink the picture or raise `max_pixels=`"
        )


class UnreadableDocument(InputError):
    """The document cannot be opened, is encrypted, or holds no text."""


class UnreadableSource(InputError):
    """A path, folder or manifest that was named cannot be read."""


class ForbiddenUrl(InputError):
    """An address that the service does not fetch pictures from: not http, not public, or not answering as it must."""


class InvalidQuery(InputError):
    """The search asks for nothing, or for something this collection cannot answer."""


class InvalidLabels(InputError):
    """Labels that are empty, equal, too few, or that the encoder cannot tell apart."""


class InvalidSample(InputError):
    """Labelled pictures from which nothing can be learnt: one class, too few of one, or none that can be read."""


class InvalidTestSet(InputError):
    """A corpus, queries, judgements, captions or a search log that cannot be evaluated."""


class StoreError(MmembedError):
    """Something about Qdrant or the collections in it."""


class StoreUnavailable(StoreError):
    """Not reachable, gone half-way through, or held by another process."""


class StoreFull(StoreError):
    """Not enough free disk for the next batch; everything stored before it is safe."""


class CollectionNotFound(StoreError):
    """No such collection in this store."""

    def __init__(self, collection: str, existing: Iterable[str], store: str) -> None:
        names = sorted(existing)
        nearest = difflib.get_close_matches(collection, names, n=1)
        if nearest:
            advice = f"did you mean {nearest[0]!r}?"
        elif names:
            advice = f"there are {', '.join(names)}"
        else:
            advice = "it holds none yet: index images or documents first"
        super().__init__(f"no collection {collection!r} in {store}: {advice}")


class PointNotFound(StoreError):
    """No such point in the collection."""

    def __init__(self, collection: str, id: str) -> None:
        super().__init__(f"collection {collection!r} has no point {id!r}")


class CollectionNotOurs(StoreError):
    """The collection carries no contract: it is somebody else's, and nothing is written to it."""

    def __init__(self, collection: str) -> None:
        super().__init__(f"collection {collection!r} was not made by mmembed (it has no contract): choose another")


class CollectionMismatch(StoreError):
    """Vectors of two encoders cannot be compared: their scores would be noise."""

    def __init__(self, collection: str, vector: str, *, stored: str, given: str, advice: str = "") -> None:
        super().__init__(
            f"vector {vector!r} of collection {collection!r} was made by {stored}, not by {given}, and their "
            f"scores would be noise: {advice or 'use the first, or another collection'}"
        )


class ServiceError(MmembedError):
    """The service turns a request away before it looks at what is asked."""


class InvalidRequest(ServiceError):
    """Malformed, of the wrong type, or with an option that does not exist."""


class Unauthorized(ServiceError):
    """No key was sent, or one that is not known."""


class Forbidden(ServiceError):
    """A key without the scope that this needs, or a request of a web page of another origin."""


class RequestTooLarge(ServiceError):
    """More bytes or inputs than the service takes at once."""


class RequestTimeout(ServiceError):
    """The request did not arrive in time."""


class Overloaded(ServiceError):
    """Too much is waiting already; `retry_after_seconds` says when to try again."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class SettingsError(MmembedError):
    """An option, environment variable or combination of them that makes no sense."""
