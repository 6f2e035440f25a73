"""What an index run is pointed at: folders, files, patterns, manifests and items -> one lazy stream of items."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from itertools import chain, takewhile
from pathlib import Path
from typing import TypeAlias

from mmembed.sources import scan
from mmembed.sources.items import checked_item
from mmembed.streams import check_several
from mmembed.types import Failure, Item, Modality

IngestSource: TypeAlias = str | Path | Item
"""A folder, file, pattern or manifest, or an item that may be in memory."""


@dataclass(frozen=True)
class ScannedSources:
    """What a run has met so far."""

    roots: list[Path] = field(default_factory=list)  # absolute folders and files; see `_root_of`
    manifests: dict[str, set[str]] = field(default_factory=dict)  # each with the uris it names, those of failures too
    folders: set[str] = field(default_factory=set)  # in which, or below which, a file was found
    suffixes: frozenset[str] = frozenset()  # of the kinds that were asked for
    passed_over: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Entries:
    """How sources are read: files as `mmembed.sources.scan` finds them, items as they were handed over."""

    modality: Modality
    suffixes: frozenset[str]
    exclude: Sequence[str] = ()

    def of(self, sources: Iterable[IngestSource], seen: ScannedSources) -> Iterator[Item | Failure]:
        """One after another, lazily; `seen` is filled on the way.

        Of several sources in a list those that are not there are told at once, of an iterator each in its turn.

        Raises:
            UnreadableSource: a root that is not there.
            NotAList: one source was given and not several; TypeError for something else.
        """
        check_several(sources, "sources")
        check_several(self.exclude, "patterns to exclude")
        opened = (self._opened(source, seen) for source in sources)
        return chain.from_iterable(list(opened) if isinstance(sources, Sequence) else opened)

    def _opened(self, source: IngestSource, seen: ScannedSources) -> Iterable[Item | Failure]:
        """The entries of one source, which has been looked for; they are read one by one."""
        if isinstance(source, Item):
            return [checked_item(source, self.modality)]
        if not isinstance(source, str | os.PathLike):
            raise TypeError(f"a {type(source).__name__} is no source: give a path, or an Item with it as its content")
        seen.roots.append(_root_of(source))
        found = scan(
            [source],
            modality=self.modality,
            suffixes=self.suffixes,
            exclude=self.exclude,
            passed_over=seen.passed_over,
        )
        return _noted(found, seen)


def _noted(found: Iterator[Item | Failure], seen: ScannedSources) -> Iterator[Item | Failure]:
    for entry in found:
        if entry.source is not None:
            seen.manifests.setdefault(entry.source, set()).add(entry.uri)
        if isinstance(entry, Item):
            folder = os.path.dirname(entry.uri)
            while folder not in seen.folders:
                seen.folders.add(folder)
                folder = os.path.dirname(folder)
        yield entry


def _root_of(source: str | Path) -> Path:
    """The absolute folder or file; of a pattern, the folder before its first wildcard."""
    parts = Path(os.path.abspath(Path(source).expanduser())).parts
    fixed = takewhile(lambda part: not has_magic(part), parts)
    path = Path(*parts)
    return path if path.exists() else Path(*fixed)
