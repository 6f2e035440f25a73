"""Folders and patterns -> the files in them, sorted, one folder's listing in memory at a time."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from mmembed.sources.passed_over import UPLOAD, why_file, why_folder, written_here
from mmembed.types import Failure, Item, Modality


def walk(root: str, kinds: FileKinds) -> Iterator[Item | Failure]:
    """Every wanted file below `root`, an absolute path."""
    if failure := bad_name(root):
        yield failure
        return
    if why := why_folder(root, linked=True):
        kinds.passed_over[why] += 1
        return
    entered = [os.path.realpath(root)]
    pending = [_entries(root, kinds)]
    while pending:  # a stack and not recursion: trees may be deeper than Python's
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
        elif isinstance(entry, Failure):
            yield entry
        elif os.path.isdir(entry.path):
            if failure := bad_name(entry.path):
                yield failure
            elif not entry.is_symlink() or _leads_out(entry.path, entered):
                pending.append(_entries(entry.path, kinds))
        elif kinds.wants(entry.name):
            yield kinds.item(entry.path)


def match(pattern: str, kinds: FileKinds) -> Iterator[Item | Failure]:
    """Every wanted file that an absolute pattern matches; `**` is any number of folders.

    Folders that match are searched to the bottom, unless `**` goes through them anyway.
    """
    parts = [part for part in pattern.split("/") if part]
    for found in _match("/", parts, kinds):
        if isinstance(found, Failure):
            yield found
        elif not os.path.isdir(found):
            if kinds.wants(found):
                yield kinds.item(found)
        elif "**" not in parts:
            yield from walk(found, kinds)


def _match(folder: str, parts: list[str], kinds: FileKinds) -> Iterator[str | Failure]:
    head, *rest = parts
    path = os.path.join(folder, head)
    if head == "**":
        while rest[:1] == ["**"]:
            rest = rest[1:]
        for below in _folders(folder, kinds):
            yield from _match(below, rest or ["*"], kinds)
    elif not has_magic(head):  # listing it could be forbidden where entering is not
        if os.path.isdir(path) and rest:
            yield from _match(path, rest, kinds)
        elif os.path.lexists(path) and not rest and not kinds.excludes(path):
            yield path
    else:
        for entry in _entries(folder, kinds, head):
            if isinstance(entry, Failure):
                yield entry
            elif not rest:
                yield entry.path
            elif os.path.isdir(entry.path):
                yield from _match(entry.path, rest, kinds)


def _folders(root: str, kinds: FileKinds) -> Iterator[str]:
    """`root` and all folders below it; links are not followed. One that cannot be read is still named."""
    kinds = replace(kinds, passed_over=Counter())  # what is in them is counted by who reads them
    pending = [root]
    while pending:
        folder = pending.pop()
        yield folder
        below = [
            e.path for e in _entries(folder, kinds) if not isinstance(e, Failure) and e.is_dir(follow_symlinks=False)
        ]
        pending.extend(reversed(below))


def _entries(folder: str, kinds: FileKinds, pattern: str = "*") -> Iterator[os.DirEntry[str] | Failure]:
    """What is in one folder and matches, by name, without what is hidden, excluded or passed over."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as exc:
        yield Failure(folder, f"{folder}: the folder cannot be read ({exc.strerror})")
        return
    for entry in entries:
        if not fnmatchcase(entry.name, pattern) or kinds.excludes(entry.path):
            continue
        linked = entry.is_symlink()
        if os.path.isdir(entry.path) if linked else entry.is_dir():
            why = why_folder(entry.path, linked=linked)
        else:
            why = why_file(entry.path, linked=linked) if kinds.has_kind(entry.name) else None
        if why:
            kinds.passed_over[why] += 1
        elif not entry.name.startswith("."):
            yield entry


def _leads_out(link: str, entered: list[str]) -> bool:
    """Whether a linked folder lies outside of all that are walked anyway; if so, it is remembered as entered."""
    target = os.path.realpath(link)
    if any(_within(target, folder) for folder in entered) or _within(entered[0], target):
        return False
    entered.append(target)
    return True


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


# --- Which files are wanted, and what becomes of one that is not ---

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class FileKinds:
    """The kinds of files that were asked for, and as what."""

    modality: Modality
    suffixes: frozenset[str]
    exclude: tuple[str, ...] = ()
    passed_over: Counter[str] = field(default_factory=Counter)  # by suffix or another reason; grows with a scan

    @property
    def spelled_out(self) -> str:
        return ", ".join(sorted(self.suffixes))

    def has_kind(self, path: str) -> bool:
        return os.path.splitext(path)[1].lower() in self.suffixes

    def wants(self, path: str) -> bool:
        """Whether a file that was found is of these kinds; counts it where it is not."""
        if self.has_kind(path):
            return True
        self.passed_over[printable(os.path.splitext(path)[1].lower()) or "without suffix"] += 1
        return False

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
        if not self.has_kind(path):
            return Failure(printable(path), f"{printable(path)}: not one of the kinds {self.spelled_out}")
        if (why := written_here(path)) and why != UPLOAD:  # uploads are originals, which a manifest may name
            return Failure(printable(path), f"{printable(path)}: mmembed wrote it (a {why}): name what it was made of")
        return self.item(path)


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
