"""A progress bar with rate and time left on stderr; where stderr is no terminal, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Counted", "show_progress", "show_steps"]

_LINE_EVERY_SECONDS = 15.0


class Counted(Protocol):
    """A report that grows while the work is done."""

    seconds: float

    @property
    def done(self) -> int: ...


OnProgress: TypeAlias = Callable[[Counted], None]
OnStep: TypeAlias = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@contextmanager
def show_progress(count: Callable[[], int], what: str) -> Iterator[OnProgress]:
    """Give long work something to report to; `count` tells how much there is to do."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(count, what, console)
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=count(), rate="")
        yield lambda report: bar.update(task, completed=report.done, rate=f"{_per_second(report):,.1f}/s")


def _lines(count: Callable[[], int], what: str, console: Console) -> OnProgress:
    """A line at most every fifteen seconds; short runs say nothing."""
    said, total = time.monotonic(), -1

    def say(report: Counted) -> None:
        nonlocal said, total
        if time.monotonic() - said < _LINE_EVERY_SECONDS:
            return
        total = count() if total < 0 else total
        left = (total - report.done) / max(_per_second(report), 1e-9)
        line = f"{what}: {report.done:,} of {total:,}, {_per_second(report):,.1f} a second, {left:,.0f} s left"
        console.print(line, highlight=False)
        said = time.monotonic()

    return say


@contextmanager
def show_steps() -> Iterator[OnStep]:
    """Give work that knows how much of it there is something to report to."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _step_lines(console)
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _step_lines(console: Console) -> OnStep:
    said = time.monotonic()

    def say(what: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_EVERY_SECONDS:
            console.print(f"{what}: {done:,} of {total:,}", highlight=False)
            said = time.monotonic()

    return say


def _per_second(report: Counted) -> float:
    return report.done / report.seconds if report.seconds else 0.0
