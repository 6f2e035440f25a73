"""Micro-batching: inputs of one encoder that wait at the same time share a forward pass.

submit -> a queue a line (modality, role, task), served in turn -> a worker thread: count tokens, take, encode, settle
                └ bytes of pictures -> decoded by shared threads, just ahead of their pass

An idle lane starts at once. Only where requests are on the way that are not here yet, it waits for them: at most
`max_wait_ms`, and no longer than a fifth of it after the last that came.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from itertools import islice
from typing import cast

from PIL import Image

from mmembed.batching.cache import Content, Input, Kept, Key, Line, VectorCache
from mmembed.batching.forward import count_tokens, encode, prepare
from mmembed.batching.options import BatchingOptions, Observer
from mmembed.batching.waiting import Order, Outcome, deliver
from mmembed.errors import MmembedError, Overloaded
from mmembed.types import Encoder, Modality

__all__ = ["STOPPING", "Lane"]

_REMOTE_WORKERS = 4  # passes at once where the work is done by somebody else's machine
_BATCHES_AHEAD = 2  # of pictures, decoded and waiting
_QUIET = 0.2  # of max_wait: when nothing has come for so long, nothing is on the way to this lane
STOPPING = "the service is stopping and takes nothing new: try again in a few seconds"


class _Job:
    """One input that somebody waits for, or several do."""

    __slots__ = ("content", "fault", "key", "orders", "since", "tokens")

    def __init__(self, item: Input) -> None:
        self.key = item.key
        self.content: Content = item.content
        self.orders: list[Order] = []
        self.since = 0.0  # when it was ready for its pass
        self.tokens: int | None = None if item.key.line.modality == "text" else 0  # None: not counted yet
        self.fault: MmembedError | None = None

    @property
    def pixels(self) -> int:
        """Of a picture that can only be preprocessed in its pass, and waits as large as it is."""
        return self.content.width * self.content.height if isinstance(self.content, Image.Image) else 0


class _Queue:
    """What waits of one line, in order of arrival."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.coming: dict[Key, _Job] = {}  # bytes of pictures
        self.decoding: dict[Key, _Job] = {}
        self.ready: dict[Key, _Job] = {}

    def __len__(self) -> int:
        return len(self.coming) + len(self.decoding) + len(self.ready)

    def add_ready(self, job: _Job) -> None:
        job.since = time.monotonic()
        self.ready[job.key] = job


class Lane:
    """One encoder, its queues, and the thread that works for it."""

    def __init__(
        self,
        encoder: Encoder,
        options: BatchingOptions,
        *,
        cache: VectorCache,
        observer: Observer,
        decoders: Executor,
        most_decoding: int,
        on_the_way: Callable[[], int],
    ) -> None:
        """`decoders` are shared with other lanes; `on_the_way` tells how many requests are in no lane, but may be."""
        self.encoder = encoder
        self.batch_size = options.batch_size or encoder.batch_size
        self.max_queue = options.max_queue
        self.open = 0  # orders that are not complete
        self._options = options
        self._max_wait = options.max_wait_ms / 1000
        self._cache = cache
        self._observer = observer
        self._decoders = decoders
        self._most_decoding = most_decoding
        self._on_the_way = on_the_way
        self._changed = threading.Condition(threading.Lock())  # guards all that follows
        self._jobs: dict[Key, _Job] = {}  # all that are not settled
        self._begun = 0  # of them
        self._queues: dict[Line, _Queue] = {}  # none of them empty; the next to be served first
        self._last_move = -math.inf
        self._wake_at = math.inf
        self._pace: float | None = None  # seconds an input
        self._closing = False
        workers = _REMOTE_WORKERS if getattr(encoder, "remote", False) else 1
        self._workers = [
            threading.Thread(target=self._work, name=f"mmembed-{encoder.spec.name}", daemon=True)
            for _ in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Inputs whose pass has not begun."""
        return len(self._jobs) - self._begun

    # --- what callers do ----------------------------------------------------------------------------

    def submit(self, inputs: Collection[Input], loop: asyncio.AbstractEventLoop | None = None) -> Order:
        """Inputs of different keys, all of them or none. Those that came before, or wait already, cost nothing.

        Raises Overloaded if more would wait than may, or the lane is closing. More than may wait are taken where
        nothing does: texts that are read as one cannot be divided, and would be too many however often they came.
        """
        with self._changed:
            if self._closing:
                raise Overloaded(STOPPING, retry_after_seconds=5)
            order = Order(self.drop, loop)
            fresh: list[Input] = []
            for item in inputs:
                kept = None if item.key in self._jobs else self._cache.get(item.key)
                if kept is not None:
                    order.outcomes[item.key] = kept
                    continue
                order.missing.add(item.key)
                if item.key not in self._jobs:
                    fresh.append(item)
            if self.waiting and self.waiting + len(fresh) > self.max_queue:
                raise self._overloaded(len(fresh))
            if order.missing:
                self.open += 1
                self._enqueue(order, fresh)
        self._observer.cache(len(inputs) - len(fresh), len(fresh))
        return order

    def drop(self, order: Order) -> None:
        """Nobody waits for this order any more: what only it wanted is not computed, unless that has begun."""
        with self._changed:
            if not order.missing:
                return
            self.open -= 1
            touched: set[_Queue] = set()
            for key in order.missing:
                job = self._jobs[key]
                job.orders.remove(order)
                queue = self._queues.get(key.line)
                if not job.orders and queue is not None:
                    found = queue.coming.pop(key, None) or queue.ready.pop(key, None)
                    if found is not None:  # else it has begun, or is being decoded
                        del self._jobs[key]
                        touched.add(queue)
            order.missing = set()
            for queue in touched:
                self._decode_ahead(queue)
                self._forget_if_empty(queue)
                self._report(queue.line.modality)
            self._changed.notify_all()  # a lane that is closing may have come to its end

    def close(self) -> None:
        """Finish what was accepted; blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _enqueue(self, order: Order, fresh: Sequence[Input]) -> None:
        """Under the lock."""
        self._last_move = time.monotonic()
        touched: dict[Line, _Queue] = {}
        for item in fresh:
            job = self._jobs[item.key] = _Job(item)
            queue = touched[item.key.line] = self._queues.setdefault(item.key.line, _Queue(item.key.line))
            if isinstance(item.content, bytes):
                queue.coming[item.key] = job
            else:
                queue.add_ready(job)
        for key in order.missing:
            self._jobs[key].orders.append(order)
        for queue in touched.values():
            self._decode_ahead(queue)
            self._alert(queue)
            self._report(queue.line.modality)

    def _overloaded(self, more: int) -> Overloaded:
        seconds = max(1, min(60, math.ceil(self.waiting * (self._pace or 0))))
        return Overloaded(
            f"{self.waiting} inputs wait for encoder {self.encoder.spec.name} already and {more} more are too many: "
            f"try again in {seconds} s",
            retry_after_seconds=seconds,
        )

    # --- decoding, in the shared threads --------------------------------------------------------------

    def _decode_ahead(self, queue: _Queue) -> None:
        """Under the lock: as many pictures as two passes take, and no more pixels than two of the largest have."""
        most = _BATCHES_AHEAD * self.batch_size
        while queue.coming and len(queue.decoding) < self._most_decoding:
            pixels = sum(job.pixels for job in queue.ready.values())
            if len(queue.decoding) + len(queue.ready) >= most or pixels >= 2 * self._options.max_pixels:
                return
            job = queue.coming.pop(next(iter(queue.coming)))
            queue.decoding[job.key] = job
            self._decoders.submit(self._decode, queue, job)

    def _decode(self, queue: _Queue, job: _Job) -> None:
        content = cast(bytes, job.content)
        prepared = prepare(self.encoder, content, max_pixels=self._options.max_pixels)
        finished: list[Order] = []
        with self._changed:
            del queue.decoding[job.key]
            if isinstance(prepared, MmembedError):
                finished = self._settle([job], [prepared])
            elif not job.orders:
                del self._jobs[job.key]
            else:
                job.content = prepared
                queue.add_ready(job)
            self._decode_ahead(queue)
            self._alert(queue)
            self._forget_if_empty(queue)
        deliver(finished)

    # --- passes, in the lane's own thread -------------------------------------------------------------

    def _work(self) -> None:
        while (queue := self._next()) is not None:
            if jobs := self._take(queue):
                self._pass(queue.line, jobs)

    def _next(self) -> _Queue | None:
        """Wait for a queue whose pass may begin; None at the end."""
        with self._changed:
            while True:
                now, soonest = time.monotonic(), math.inf
                for queue in self._queues.values():
                    patience = self._patience(queue, now)
                    if patience <= 0:
                        return queue
                    soonest = min(soonest, patience)
                if self._closing and not self._jobs:
                    self._changed.notify_all()
                    return None
                self._wake_at = now + soonest
                self._changed.wait(None if math.isinf(soonest) else soonest)
                self._wake_at = math.inf  # whoever else sleeps, sleeps until it is woken

    def _patience(self, queue: _Queue, now: float) -> float:
        """Seconds for which it is worth waiting for more of this queue before its pass."""
        if not queue.ready:
            return math.inf
        left = next(iter(queue.ready.values())).since + self._max_wait - now
        if queue.line.alone or left <= 0 or len(queue.ready) >= self.batch_size:
            return 0.0
        if queue.decoding:
            return left
        if self._on_the_way() <= 0:
            return 0.0
        return min(left, self._last_move + _QUIET * self._max_wait - now)

    def _alert(self, queue: _Queue) -> None:
        """Wake a worker if there is something for it before it would wake by itself."""
        now = time.monotonic()
        if now + self._patience(queue, now) < self._wake_at or (self._closing and not self._jobs):
            self._changed.notify()

    def _take(self, queue: _Queue) -> list[_Job]:
        """The inputs of the next pass, from the front; none if they were dropped meanwhile."""
        most = len(queue.ready) if queue.line.alone else self.batch_size
        with self._changed:
            front = list(islice(queue.ready.values(), most))
        for job in front:  # without the lock: long texts take their time
            if job.tokens is None:
                counted = count_tokens(self.encoder, cast(str, job.content))
                job.tokens, job.fault = (0, counted) if isinstance(counted, MmembedError) else (counted, None)
        taken: list[_Job] = []
        room = math.inf if queue.line.alone else self._options.max_batch_tokens
        with self._changed:
            for job in islice(queue.ready.values(), most):
                room -= job.tokens or 0
                if job.tokens is None or (taken and room < 0):
                    break
                taken.append(job)
            for job in taken:
                del queue.ready[job.key]
            self._begun += len(taken)
            if self._queues.get(queue.line) is queue:
                self._queues[queue.line] = self._queues.pop(queue.line)  # the others first, next time
            self._decode_ahead(queue)
            self._forget_if_empty(queue)
            self._report(queue.line.modality)
            if self._queues:
                self._changed.notify()  # another worker, where there are several
        return taken

    def _pass(self, line: Line, jobs: list[_Job]) -> None:
        started = time.monotonic()
        sound = [job for job in jobs if job.fault is None]
        vectors = encode(self.encoder, line, [job.content for job in sound]) if sound else []
        seconds = time.monotonic() - started
        outcomes: list[Outcome] = []
        found = dict(zip((job.key for job in sound), vectors, strict=True))
        for job in jobs:
            made = found.get(job.key, job.fault)
            assert made is not None  # a job without a fault was in the pass
            outcomes.append(made if isinstance(made, MmembedError) else Kept(made, job.tokens or 0))
        self._observer.batch(self.encoder.spec.name, line.modality, len(jobs), seconds)
        with self._changed:
            self._begun -= len(jobs)
            self._last_move = time.monotonic()
            pace = seconds / len(jobs) / len(self._workers)
            self._pace = pace if self._pace is None else 0.8 * self._pace + 0.2 * pace
            finished = self._settle(jobs, outcomes)
        deliver(finished)

    def _settle(self, jobs: Sequence[_Job], outcomes: Sequence[Outcome]) -> list[Order]:
        """Under the lock: keep what was made, hand it to those who wait -> the orders that are complete now."""
        finished: list[Order] = []
        for job, outcome in zip(jobs, outcomes, strict=True):
            del self._jobs[job.key]
            if isinstance(outcome, MmembedError):
                self._observer.failure(type(outcome).__name__)
            elif not job.key.line.alone:
                self._cache.put(job.key, outcome)
            for order in job.orders:
                order.outcomes[job.key] = outcome
                order.missing.discard(job.key)
                if not order.missing:
                    finished.append(order)
        self.open -= len(finished)
        return finished

    def _forget_if_empty(self, queue: _Queue) -> None:
        if not queue and self._queues.get(queue.line) is queue:
            del self._queues[queue.line]

    def _report(self, modality: Modality) -> None:
        waiting = sum(len(queue) for queue in self._queues.values() if queue.line.modality == modality)
        self._observer.queued(self.encoder.spec.name, modality, waiting)
