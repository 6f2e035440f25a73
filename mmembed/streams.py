"""Things that come one after another: batches, and bounded threads that keep the order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from mmembed.errors import InputError, NotAList, SettingsError

_T = TypeVar("_T")


def check_several(values: object, what: str) -> None:
    """Raise NotAList unless `values` are several, if only one or none: no text, no bytes, no path, no image.

    >>> check_several(["a cat"], "texts")
    >>> check_several("a cat", "texts")
    Traceback (most recent call last):
    mmembed.errors.NotAList: texts are wanted in a list, and a single str was given: write [...] around it
    """
    single = isinstance(values, str | bytes | bytearray | memoryview | Mapping) or not isinstance(values, Iterable)
    if single or getattr(values, "ndim", 1) in (0, 2, 3):  # an array of numbers is one image
        raise NotAList(
            f"{what} are wanted in a list, and a single {type(values).__name__} was given: write [...] around it"
        )


def batched(items: Iterable[_T], n: int) -> Iterator[list[_T]]:
    """Lists of n, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, n)):
        yield batch


def batched_by(items: Iterable[_T], size: Callable[[_T], int], *, most: int, room: int) -> Iterator[list[_T]]:
    """Lists of at most `most` whose sizes add up to `room` at most; one that is larger comes alone."""
    batch: list[_T] = []
    held = 0
    for item in items:
        if batch and held + size(item) > room:
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += size(item)
        if len(batch) == most or held >= room:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


_R = TypeVar("_R")


def load_in_order(
    jobs: Iterable[_T], load: Callable[[_T], _R], *, workers: int, ahead: int
) -> Generator[tuple[_T, _R | InputError], None, None]:
    """Run `load` on every job in `workers` threads and yield `(job, result)` in the order of the jobs.

    Jobs are pulled lazily; at most `ahead` are being loaded or wait to be yielded. An InputError
    is yielded in place of its result, any other exception is raised. Closing the generator
    cancels what has not begun and waits for what has.
    """
    if workers < 1 or ahead < 1:
        raise SettingsError(f"loading needs at least one worker and one job ahead, not {workers} and {ahead}")
    return _load_in_order(iter(jobs), load, workers, ahead)


def _load_in_order(
    jobs: Iterator[_T], load: Callable[[_T], _R], workers: int, ahead: int
) -> Generator[tuple[_T, _R | InputError], None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="mmembed-load")
    waiting: deque[tuple[_T, Future[_R]]] = deque()
    try:
        while True:
            waiting.extend((job, pool.submit(load, job)) for job in islice(jobs, ahead - len(waiting)))
            if not waiting:
                return
            job, future = waiting.popleft()
            result: _R | InputError
            try:
                result = future.result()
            except InputError as exc:
                result = exc
            yield job, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
