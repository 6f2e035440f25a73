"""Files that are gone: which have moved away, and with `sync` their way out of the collection."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmembed.collection import Collection
from mmembed.collection.conditions import of_uris
from mmembed.collection.payload import path_of
from mmembed.collection.removal import remove_ids, remove_where
from mmembed.errors import SettingsError
from mmembed.ingest.entries import ScannedSources
from mmembed.ingest.report import IngestReport, PlannedChange
from mmembed.streams import batched
from mmembed.types import Payload

_BATCH = 256
_MANY, _LARGE_PART = 100, 0.1  # more of both is not removed unasked


def file_of(payload: Payload) -> str | None:
    """The file behind a point, of an image inside a document that document.

    None where its uri names none: its content came from memory, or from a file under another name.
    """
    path = path_of(payload)
    inside = path != payload["uri"]
    return path if os.path.isabs(path) and (inside or "mtime_ns" in payload) else None


def has_left(path: str | None, roots: Sequence[Path]) -> bool:
    """Whether a file was moved away, and is not on a disk or machine that is out of sight.

    Its folder is still there, or it was under a folder of this run.
    """
    return path is not None and _is_gone(path) and (Path(path).parent.is_dir() or _under(path, map(str, roots)))


@dataclass(frozen=True)
class SyncOptions:
    """Whether and how a run removes what is gone; see `ingest_images`. Raises SettingsError for what makes no sense."""

    sync: bool = False
    insist: bool = False
    trash: str | Path | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.sync and (self.insist or self.trash is not None):
            option = "insist=True" if self.insist else "trash=FILE"
            raise SettingsError(f"`{option}` is for what a sync removes, and none was asked for: add `sync=True`")
        if self.trash is not None and Path(self.trash).suffix.lower() != ".jsonl":
            raise SettingsError(f"{self.trash}: what is removed is kept as a manifest: let its name end in .jsonl")


@dataclass
class _Absence:
    """What a look at the points under the roots and in the manifests of a run found."""

    looked_for: int = 0
    gone: dict[str, str] = field(default_factory=dict)  # id -> uri
    dead: Counter[str] = field(default_factory=Counter)  # folders that hold nothing any more -> points in them


def remove_gone(
    collection: Collection,
    seen: ScannedSources,
    options: SyncOptions,
    report: IngestReport,
    tell: Callable[[IngestReport], None],
    *,
    moved: Set[str] = frozenset(),
) -> None:
    """Remove what is of files that are gone: under the roots, or no longer in a manifest. Adds to the report.

    A manifest with a line that could not be read has dropped nothing: the line may name any file. What came from
    memory has no file that could be gone, and stays. What a folder held that is gone as a whole, or holds no file of
    the kind any more, may lie on a disk that is not mounted: it is held back unless insisted on, and so is much at
    once. Counted, and told, before the first goes. `moved` are points that a dry run takes for moved.
    """
    absence = _absence(collection, seen, moved, insist=options.insist)
    images = collection.require_ours().kind == "images"
    what = "pictures" if images else "documents"
    for folder, count in absence.dead.most_common():
        report.held_back += count
        report.warnings.append(
            f"{folder} holds no {what} any more, and those that were indexed from it ({count:,}) were not removed: "
            f"mount its disk, or add `insist=True` if they are gone for good"
        )
    count = len(absence.gone)
    if not options.insist and count > _MANY and count > absence.looked_for * _LARGE_PART:
        report.held_back += count
        report.warnings.append(
            f"{count:,} of {absence.looked_for:,} {what} are gone from the disk or their manifest, too many to remove "
            f"unasked, so none was removed: look whether that is right, and add `insist=True`"
        )
        return
    report.to_remove = count
    if options.dry_run:
        report.removed = count
        if report.planned is not None:
            report.planned += [PlannedChange("remove", uri) for uri in absence.gone.values()]
        return
    if not count:
        return
    tell(report)
    if options.trash is not None:
        _keep(collection, list(absence.gone), Path(options.trash).expanduser())
    if images:
        report.removed = remove_ids(collection, list(absence.gone)).points
        return
    uris = list(absence.gone.values())  # each is that of many passages
    report.removed = sum(len(remove_where(collection, of_uris(some)).uris) for some in batched(uris, _BATCH))


def _absence(collection: Collection, seen: ScannedSources, moved: Set[str], *, insist: bool) -> _Absence:
    torn = {name for name, uris in seen.manifests.items() if any(uri.startswith(f"{name}: line ") for uri in uris)}
    prefixes = [str(root) for root in seen.roots]
    keys = ["uri", "document", "source", "mtime_ns"]
    found = _Absence()
    lives = cache(lambda folder: folder in seen.folders or _holds(folder, seen.suffixes))
    for point in collection.store.scroll(collection.name, filter=collection.heads(), payload=keys):
        uri, source, path = str(point.payload["uri"]), point.payload.get("source"), file_of(point.payload)
        named = source in seen.manifests
        dropped = named and source not in torn and uri not in seen.manifests[str(source)]
        looked_for = path is not None and (named or _under(uri, prefixes))
        if point.id in moved or not (dropped or looked_for):
            continue
        found.looked_for += 1
        if dropped:
            found.gone[point.id] = uri
        elif path is not None and _is_gone(path):
            folder = os.path.dirname(path)
            beside = frozenset({Path(path).suffix.lower()})  # a picture in a document goes by other documents there
            if insist or lives(folder) or (path != uri and _holds(folder, beside)):
                found.gone[point.id] = uri
            else:
                found.dead[_highest(folder, prefixes, lives)] += 1
    return found


def _holds(folder: str, suffixes: frozenset[str]) -> bool:
    """Whether there is a file of these kinds in it that a scan may have left out, or that no manifest names."""
    try:
        with os.scandir(folder) as listing:
            return any(
                os.path.splitext(entry.name)[1].lower() in suffixes and entry.name[0] != "." and entry.is_file()
                for entry in listing
            )
    except OSError:  # it is gone, or out of reach
        return False


def _highest(folder: str, prefixes: Sequence[str], lives: Callable[[str], bool]) -> str:
    """The highest folder under the roots in which nothing is left: the place of a disk, if it is one."""
    while folder not in prefixes and not lives(parent := os.path.dirname(folder)) and _under(parent, prefixes):
        folder = parent
    return folder


def _keep(collection: Collection, ids: Sequence[str], trash: Path) -> None:
    """Add a line for each point to a manifest: its uri and caption, and what else its payload holds."""
    try:
        with trash.open("a", encoding="utf-8") as lines:
            for some in batched(ids, _BATCH):
                for point in collection.store.retrieve(collection.name, some):
                    payload = dict(point.payload)
                    row = {key: payload.pop(key) for key in ("uri", "caption") if key in payload}
                    lines.write(json.dumps({**row, "payload": payload}, ensure_ascii=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
    except OSError as exc:
        raise SettingsError(
            f"{trash} cannot be written ({exc.strerror}), so nothing was removed: name another file to keep it in"
        ) from exc


def _is_gone(path: str) -> bool:
    """True only if the file is certainly not there; a folder that cannot be looked into proves nothing."""
    try:
        Path(path).lstat()  # a link to what is out of sight is there
    except OSError as exc:
        return isinstance(exc, FileNotFoundError | NotADirectoryError)
    return False


def _under(uri: str, prefixes: Iterable[str]) -> bool:
    return any(uri == prefix or uri.startswith((prefix.rstrip("/") + "/", prefix + "#")) for prefix in prefixes)
