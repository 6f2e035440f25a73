"""A progress bar with rate and time left on stderr; where stderr is no terminal, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmembed.ingest import IngestReport

__all__ = ["show_progress"]

_LINE_EVERY_SECONDS = 15.0


def show_progress(
    steps: Generator[IngestReport, None, IngestReport], count: Callable[[], int], what: str
) -> IngestReport:
    """Run an index to its end, showing how far it is."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        return _with_bar(steps, count(), what, console)
    return _with_lines(steps, count, what, console)


def _with_bar(
    steps: Generator[IngestReport, None, IngestReport], total: int, what: str, console: object
) -> IngestReport:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    assert isinstance(console, Console)
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, rate="")
        while True:
            try:
                report = next(steps)
            except StopIteration as stop:
                result: IngestReport = stop.value
                return result
            per_second = report.done / report.seconds if report.seconds else 0.0
            progress.update(task, completed=report.done, rate=f"{per_second:,.1f}/s")


def _with_lines(
    steps: Generator[IngestReport, None, IngestReport], count: Callable[[], int], what: str, console: object
) -> IngestReport:
    from rich.console import Console

    assert isinstance(console, Console)
    said, total = time.monotonic(), None
    while True:
        try:
            report = next(steps)
        except StopIteration as stop:
            result: IngestReport = stop.value
            return result
        if time.monotonic() - said < _LINE_EVERY_SECONDS:
            continue
        total = count() if total is None else total
        per_second = report.done / report.seconds if report.seconds else 0.0
        left = (total - report.done) / per_second if per_second else 0.0
        console.print(
            f"{what}: {report.done:,} of {total:,}, {per_second:,.1f} a second, {left:,.0f} s left", highlight=False
        )
        said = time.monotonic()
