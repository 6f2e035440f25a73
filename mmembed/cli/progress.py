"""A progress bar with rate and time left on stderr; where stderr is no terminal, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol, TypeAlias

_LINE_EVERY_SECONDS = 15.0


class Counted(Protocol):
    """A report that grows while the work is done."""

    seconds: float

    @property
    def done(self) -> int: ...


_Show: TypeAlias = Callable[[str, int, Callable[[], int], float | None], None]  # the last: how many a second


@contextmanager
def show_progress(count: Callable[[], int], what: str) -> Iterator[Callable[[Counted], None]]:
    """Give long work something to report to; `count` tells how much there is to do."""
    total = cache(count)
    with _shown() as show:
        yield lambda report: show(what, report.done, total, report.done / report.seconds if report.seconds else 0.0)


@contextmanager
def show_steps() -> Iterator[Callable[[str, int, int], None]]:
    """Give work that says what is done, how much of it and of how much something to report to."""
    with _shown() as show:
        yield lambda what, done, total: show(what, done, lambda: total, None)


@contextmanager
def _shown() -> Iterator[_Show]:
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console.print)
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
    with Progress(
        texts[0], BarColumn(), MofNCompleteColumn(), texts[1], TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=None, rate="")

        def show(what: str, done: int, total: Callable[[], int], rate: float | None) -> None:
            shown = "" if rate is None else f"{rate:,.1f}/s"
            bar.update(task, description=what, completed=done, total=total(), rate=shown)

        yield show


def _lines(write: Callable[..., None]) -> _Show:
    """A line at most every fifteen seconds; short runs say nothing."""
    last = time.monotonic()

    def show(what: str, done: int, total: Callable[[], int], rate: float | None) -> None:
        nonlocal last
        if time.monotonic() - last < _LINE_EVERY_SECONDS:
            return
        left = "" if rate is None else f", {rate:,.1f} a second, {(total() - done) / max(rate, 1e-9):,.0f} s left"
        write(f"{what}: {done:,} of {total():,}{left}", highlight=False)
        last = time.monotonic()

    return show
