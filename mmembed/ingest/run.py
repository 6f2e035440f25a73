"""The one driver of an index run: scan -> plan -> read -> batch -> write -> report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Protocol, TypeVar

from mmembed.collection import Collection
from mmembed.errors import InputError, MmembedError
from mmembed.ingest.entries import Entries, IngestSource, ScannedSources
from mmembed.ingest.gone import SyncOptions, remove_gone
from mmembed.ingest.plan import PlannedItem, plan
from mmembed.ingest.report import IngestReport, OnReport, PlannedChange
from mmembed.ingest.targets import RunOptions
from mmembed.streams import load_in_order
from mmembed.types import Failure, Item, Modality

_R = TypeVar("_R")

logger = logging.getLogger(__name__)


class Work(Protocol[_R]):
    """What an index run does with each of its things: `ImageWork` and `DocumentWork`. Only `read` runs in threads."""

    collection: Collection
    modality: Modality
    options: RunOptions
    workers: int  # threads that read
    ahead: int  # how many things are read ahead of the one that is written
    batch_size: int  # a batch is written once the sizes of what is in it come to this
    required: Sequence[str]  # vectors without which what is stored is read again

    def settle(self, planned: PlannedItem) -> PlannedItem | IngestReport:
        """What is to be done, or what came of it where it was done at once: the unchanged."""

    def read(self, planned: PlannedItem) -> _R:
        """Open and decode one thing. Raises InputError where it cannot be read."""

    def size(self, ready: _R) -> int: ...

    def write(self, batch: Sequence[_R]) -> IngestReport:
        """Encode and store. On return all of it is stored."""

    def finish(self) -> None:
        """Once at the end of a run that wrote or removed something."""


def run_index(
    collection: Collection,
    sources: Iterable[IngestSource],
    begin: Callable[[ScannedSources], Work[_R]],
    *,
    entries: Entries,
    report: IngestReport,
    removal: SyncOptions,
    on_progress: OnReport | None,
) -> IngestReport:
    """A whole run over `sources`; `begin` makes or checks the collection once there is something to put into it.

    Raises what `begin`, `Entries.of` and the store raise.
    """
    started = time.perf_counter()

    def tell(report: IngestReport) -> None:
        report.seconds = time.perf_counter() - started
        if on_progress is not None:
            on_progress(report)

    seen = ScannedSources(suffixes=entries.suffixes, passed_over=report.passed_over)
    found = entries.of(sources, seen)
    first: list[Item | Failure] = []  # up to the first that is no Failure
    for entry in found:
        first.append(entry)
        if isinstance(entry, Item):
            break
    if removal.dry_run:
        report.planned = []
    if not any(isinstance(entry, Item) for entry in first) and not collection.exists:
        report.failures.extend(entry for entry in first if isinstance(entry, Failure))
        return report  # a collection without a thing in it would only bind its name to this encoder
    work = begin(seen)
    moved: set[str] = set()
    if removal.dry_run:
        moved = foresee(work, chain(first, found), report, on_progress=tell)
    else:
        drive(work, chain(first, found), report, on_progress=tell)
    if removal.sync and collection.exists:
        remove_gone(collection, seen, removal, report, tell, moved=moved)
    changed = report.embedded or report.moved or report.copied or report.removed
    if changed and not removal.dry_run:
        work.finish()
    report.seconds = time.perf_counter() - started
    return report


def foresee(
    work: Work[_R], entries: Iterable[Item | Failure], report: IngestReport, *, on_progress: OnReport
) -> set[str]:
    """Plan and write nothing: adds to `report` what would come of it; gives the points that would move away."""
    moved: set[str] = set()
    collection, planned_changes = work.collection if work.collection.exists else None, report.planned
    assert planned_changes is not None
    for planned in plan(collection, entries, modality=work.modality, vectors=work.required, roots=work.options.roots):
        if isinstance(planned, Failure):
            report.failures.append(planned)
            continue
        uri, origin = planned.item.uri, planned.origin
        if planned.moved and planned.donor is not None:
            moved.add(planned.donor)
        if planned.action == "read":
            report.embedded += 1
            planned_changes.append(PlannedChange("embed", uri))
        elif planned.action == "reuse" and planned.moved:
            report.moved += 1
            planned_changes.append(PlannedChange("move", uri, origin))
        elif planned.action == "reuse":
            report.copied += 1
            planned_changes.append(PlannedChange("copy", uri, origin))
        else:
            report.unchanged += 1
    on_progress(report)
    return moved


def drive(
    work: Work[_R], entries: Iterable[Item | Failure], report: IngestReport, *, on_progress: OnReport | None = None
) -> None:
    """Plan, read, batch and write, adding to `report`; tells of its progress after each batch and at the end."""

    def to_do() -> Iterator[PlannedItem]:
        roots = work.options.roots
        for planned in plan(work.collection, entries, modality=work.modality, vectors=work.required, roots=roots):
            if isinstance(planned, Failure):
                report.failures.append(planned)
                continue
            settled = work.settle(planned)
            if isinstance(settled, PlannedItem):
                yield settled
            else:
                report.add(settled)

    def read(planned: PlannedItem) -> _R:
        try:
            return work.read(planned)
        except MmembedError:
            raise
        except Exception as exc:  # a fault of a reader is that file's failure, never the end of the run
            logger.warning("%s: reading it raised %r", planned.item.uri, exc)
            logger.debug("%s", planned.item.uri, exc_info=exc)
            raise InputError(f"{planned.item.uri}: cannot be read ({exc or type(exc).__name__}): save it anew") from exc

    pending: list[_R] = []
    size = 0
    with closing(load_in_order(to_do(), read, workers=work.workers, ahead=work.ahead)) as reading:
        for planned, ready in reading:
            if isinstance(ready, InputError):
                report.failures.append(Failure(planned.item.uri, str(ready)))
                continue
            pending.append(ready)
            size += work.size(ready)
            if size >= work.batch_size:
                report.add(work.write(pending))
                pending, size = [], 0
                if on_progress is not None:
                    on_progress(report)
    if pending:
        report.add(work.write(pending))
    if on_progress is not None:
        on_progress(report)
