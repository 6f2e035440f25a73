"""What an index run is pointed at: folders, files, patterns, manifests and items -> one lazy stream of items."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from itertools import repeat, takewhile
from pathlib import Path
from typing import TypeAlias

from mmembed.sources import scan
from mmembed.sources.items import checked_item
from mmembed.types import Failure, Item, Modality

IngestSource: TypeAlias = str | Path | Item
"""A folder, file, pattern or manifest, or an item that may be in memory."""


@dataclass(frozen=True)
class ScannedSources:
    """What a run has met so far."""

    roots: list[Path] = field(default_factory=list)  # absolute folders and files; see `_root_of`
    manifests: dict[str, set[str]] = field(default_factory=dict)  # each with the uris it names, those of failures too


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
            TypeError: one source was given and not several, or something else.
        """
        if isinstance(sources, str | bytes | Path | Item):
            raise TypeError("sources are several, not one: write [...] around it")
        if isinstance(sources, Sequence):
            found = [None if isinstance(source, Item) else self._scan(source, seen) for source in sources]
            return self._all(zip(sources, found, strict=True), seen)
        return self._all(zip(sources, repeat(None), strict=False), seen)

    def _all(
        self, sources: Iterable[tuple[IngestSource, Iterator[Item | Failure] | None]], seen: ScannedSources
    ) -> Iterator[Item | Failure]:
        for source, found in sources:
            if isinstance(source, Item):
                yield checked_item(source, self.modality)
                continue
            for entry in found or self._scan(source, seen):
                if entry.source is not None:
                    seen.manifests.setdefault(entry.source, set()).add(entry.uri)
                yield entry

    def _scan(self, source: str | Path, seen: ScannedSources) -> Iterator[Item | Failure]:
        if not isinstance(source, str | os.PathLike):
            raise TypeError(f"a {type(source).__name__} is no source: give a path, or an Item with it as its content")
        seen.roots.append(_root_of(source))
        return scan([source], modality=self.modality, suffixes=self.suffixes, exclude=self.exclude)


def until_first_item(items: Iterator[Item | Failure]) -> list[Item | Failure]:
    """Take entries up to the first that is not a Failure: no Item in the list means that there is none at all."""
    taken: list[Item | Failure] = []
    for entry in items:
        taken.append(entry)
        if isinstance(entry, Item):
            break
    return taken


def _root_of(source: str | Path) -> Path:
    """The absolute folder or file; of a pattern, the folder before its first wildcard."""
    parts = Path(os.path.abspath(Path(source).expanduser())).parts
    fixed = takewhile(lambda part: not has_magic(part), parts)
    path = Path(*parts)
    return path if path.exists() else Path(*fixed)
