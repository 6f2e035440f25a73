"""Which files are wanted, and what becomes of one that is not."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mmembed.types import Failure, Item, Modality

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Wanted:
    """The kinds of files that were asked for, and as what."""

    modality: Modality
    suffixes: frozenset[str]
    exclude: tuple[str, ...] = ()

    @property
    def kinds(self) -> str:
        return ", ".join(sorted(self.suffixes))

    def has_kind(self, path: str) -> bool:
        return os.path.splitext(path)[1].lower() in self.suffixes

    def excludes(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}") for pattern in self.exclude)

    def item(self, path: str) -> Item | Failure:
        """A file that was found and has the right suffix."""
        if failure := bad_name(path):
            return failure
        if not os.path.isfile(path):
            return Failure(path, f"{path}: not a regular file, or a link to nothing")
        return Item(uri=path, modality=self.modality, path=Path(path))

    def named(self, path: str) -> Item | Failure:
        """A file that somebody named: one of another kind fails instead of being passed over."""
        if self.has_kind(path):
            return self.item(path)
        return Failure(printable(path), f"{printable(path)}: not one of the kinds {self.kinds}")


def bad_name(path: str) -> Failure | None:
    """Names that are not UTF-8 cannot be stored in a payload, nor typed."""
    if printable(path) == path:
        return None
    return Failure(printable(path), f"{printable(path)}: its name is not valid UTF-8: rename it")


def printable(path: str) -> str:
    """The path with bytes that are not UTF-8 written as \\udcXX."""
    return path.encode("utf-8", "backslashreplace").decode()


def is_remote(uri: str) -> bool:
    return _SCHEME.match(uri) is not None and not uri.lower().startswith("file://")


def not_local(uri: str) -> Failure:
    return Failure(uri, f"{uri}: only files on this machine are read: download it first")
