"""Micro-batching: inputs of one encoder that wait at the same time share a forward pass.

submit -> a queue for each (modality, role, task), served in turn -> a worker thread: count tokens, take, encode, settle
                └ bytes of images -> decoded by shared threads, just ahead of their forward pass

An idle batcher starts at once. Only while requests are on the way does it wait for them: at most `max_wait_ms`, and no
longer than a fifth of it after the last that came.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from itertools import islice
from typing import cast

from mmembed.batching.cache import BatchKey, CacheKey, Content, Result, VectorCache
from mmembed.batching.forward import encode, prepare_file, tokens_read
from mmembed.batching.options import STOPPING, BatchingOptions, Observer
from mmembed.batching.queue import Entry, Queue, results_of
from mmembed.batching.submission import Submission, deliver
from mmembed.errors import MmembedError, Overloaded
from mmembed.types import Encoder

_REMOTE_WORKERS = 4  # forward passes at once where the work is done by somebody else's machine
_BATCHES_AHEAD = 2  # of images, decoded and waiting
_QUIET = 0.2  # of max_wait: when nothing has come for so long, nothing is on the way to this batcher


class Batcher:
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
        """`decoders` are shared with other batchers; `on_the_way` tells how many requests may still come to one."""
        self.encoder = encoder
        self.batch_size = options.batch_size or encoder.batch_size
        self.max_queue = options.max_queue
        self.open = 0  # submissions that are not complete
        self._options = options
        self._max_wait = options.max_wait_ms / 1000
        self._cache = cache
        self._observer = observer
        self._decoders = decoders
        self._most_decoding = most_decoding
        self._on_the_way = on_the_way
        self._changed = threading.Condition(threading.Lock())  # guards all that follows
        self._entries: dict[CacheKey, Entry] = {}  # all that are not settled
        self._begun = 0  # of them
        self._queues: dict[BatchKey, Queue] = {}  # none of them empty; the next to be served first
        self._last_move = -math.inf
        self._wake_at = math.inf
        self._pace: float | None = None  # seconds an input
        self._closing = False
        name, workers = f"mmembed-{encoder.spec.name}", _REMOTE_WORKERS if encoder.spec.remote else 1
        self._workers = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(workers)]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Inputs whose forward pass has not begun."""
        return len(self._entries) - self._begun

    # --- what callers do ----------------------------------------------------------------------------

    def submit(self, contents: Mapping[CacheKey, Content], loop: asyncio.AbstractEventLoop | None = None) -> Submission:
        """Take all of these inputs or none. Those that came before, or wait already, cost nothing.

        Raises Overloaded if more would wait than may, or the batcher is closing. More than may wait are taken where
        nothing does: texts that are read as one cannot be divided, and would be too many however often they came.
        """
        with self._changed:
            if self._closing:
                raise Overloaded(STOPPING, retry_after_seconds=5)
            submission = Submission(self.drop, loop)
            fresh: list[Entry] = []
            for key, content in contents.items():
                cached = None if key in self._entries else self._cache.get(key)
                if cached is not None:
                    submission.results[key] = cached
                    continue
                submission.missing.add(key)
                if key not in self._entries:
                    fresh.append(Entry(key, content))
            if self.waiting and self.waiting + len(fresh) > self.max_queue:
                seconds = max(1, min(60, math.ceil(self.waiting * (self._pace or 0))))
                raise Overloaded(
                    f"{self.waiting} inputs already wait for encoder {self.encoder.spec.name}, and {len(fresh)} more "
                    f"are too many: try again in {seconds} s",
                    retry_after_seconds=seconds,
                )
            if submission.missing:
                self.open += 1
                self._enqueue(submission, fresh)
        self._observer.cache(len(contents) - len(fresh), len(fresh))
        return submission

    def drop(self, submission: Submission) -> None:
        """Nobody waits for this submission any more: what only it wanted is not computed, unless that has begun."""
        with self._changed:
            if not submission.missing:
                return
            self.open -= 1
            touched: set[Queue] = set()
            for key in submission.missing:
                entry = self._entries[key]
                entry.submissions.remove(submission)
                queue = self._queues.get(key.batch)
                if not entry.submissions and queue is not None and queue.remove(key):
                    del self._entries[key]
                    touched.add(queue)
            submission.missing = set()
            for queue in touched:
                self._moved(queue)
            self._changed.notify_all()  # a batcher that is closing may have come to its end

    def close(self) -> None:
        """Finish what was accepted; blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _enqueue(self, submission: Submission, fresh: Sequence[Entry]) -> None:
        """Under the lock."""
        self._last_move = time.monotonic()
        touched: dict[BatchKey, Queue] = {}
        for entry in fresh:
            self._entries[entry.key] = entry
            batch = entry.key.batch
            queue = touched[batch] = self._queues.setdefault(batch, Queue(batch))
            queue.add(entry)
        for key in submission.missing:
            self._entries[key].submissions.append(submission)
        for queue in touched.values():
            self._moved(queue)

    def _moved(self, queue: Queue) -> None:
        """Under the lock, once a queue has changed: go on with its images, forget it if it is empty, count it.

        A worker is woken if there is something for it before it would wake by itself.
        """
        self._decode_ahead(queue)
        if not queue and self._queues.get(queue.batch) is queue:
            del self._queues[queue.batch]
        now = time.monotonic()
        if now + self._patience(queue, now) < self._wake_at or (self._closing and not self._entries):
            self._changed.notify()
        modality = queue.batch.modality
        waiting = sum(len(queue) for queue in self._queues.values() if queue.batch.modality == modality)
        self._observer.queued(self.encoder.spec.name, modality, waiting)

    # --- decoding, in the shared threads --------------------------------------------------------------

    def _decode_ahead(self, queue: Queue) -> None:
        """Under the lock: as many images as two batches take, and no more pixels than two of the largest have."""
        while queue.undecoded and len(queue.decoding) < self._most_decoding:
            ahead, pixels = len(queue.decoding) + len(queue.ready), sum(one.pixels for one in queue.ready.values())
            if ahead >= _BATCHES_AHEAD * self.batch_size or pixels >= 2 * self._options.max_pixels:
                return
            self._decoders.submit(self._decode, queue, queue.next_undecoded())

    def _decode(self, queue: Queue, entry: Entry) -> None:
        prepared = prepare_file(self.encoder, cast(bytes, entry.content), max_pixels=self._options.max_pixels)
        finished: list[Submission] = []
        with self._changed:
            del queue.decoding[entry.key]
            if isinstance(prepared, MmembedError):
                finished = self._settle([entry], [prepared])
            elif not entry.submissions:
                del self._entries[entry.key]
            else:
                entry.content = prepared
                queue.add_ready(entry)
            self._moved(queue)
        deliver(finished)

    # --- forward passes, in the batcher's own thread ---------------------------------------------------

    def _work(self) -> None:
        while (queue := self._next()) is not None:
            if entries := self._take(queue):
                started = time.monotonic()
                sound = [entry for entry in entries if entry.fault is None]
                vectors = encode(self.encoder, queue.batch, [entry.content for entry in sound]) if sound else []
                seconds = time.monotonic() - started
                self._observer.batch(self.encoder.spec.name, queue.batch.modality, len(entries), seconds)
                pace = seconds / len(entries) / len(self._workers)
                with self._changed:
                    self._begun -= len(entries)
                    self._last_move = time.monotonic()
                    self._pace = pace if self._pace is None else 0.8 * self._pace + 0.2 * pace
                    finished = self._settle(entries, results_of(entries, vectors))
                deliver(finished)

    def _next(self) -> Queue | None:
        """Wait for a queue whose forward pass may begin; None at the end."""
        with self._changed:
            while True:
                now, soonest = time.monotonic(), math.inf
                for queue in self._queues.values():
                    patience = self._patience(queue, now)
                    if patience <= 0:
                        return queue
                    soonest = min(soonest, patience)
                if self._closing and not self._entries:
                    self._changed.notify_all()
                    return None
                self._wake_at = now + soonest
                self._changed.wait(None if math.isinf(soonest) else soonest)
                self._wake_at = math.inf  # whoever else sleeps, sleeps until it is woken

    def _patience(self, queue: Queue, now: float) -> float:
        """Seconds for which it is worth waiting for more of this queue before its forward pass."""
        if not queue.ready:
            return math.inf
        left = next(iter(queue.ready.values())).since + self._max_wait - now
        if queue.batch.alone or left <= 0 or len(queue.ready) >= self.batch_size:
            return 0.0
        if queue.decoding:
            return left
        if self._on_the_way() <= 0:
            return 0.0
        return min(left, self._last_move + _QUIET * self._max_wait - now)

    def _take(self, queue: Queue) -> list[Entry]:
        """The inputs of the next forward pass, from the front; none if they were dropped meanwhile."""
        most = len(queue.ready) if queue.batch.alone else self.batch_size
        with self._changed:
            front = list(islice(queue.ready.values(), most))
        for entry in front:  # without the lock: long texts take their time
            if entry.tokens is None:
                counted = tokens_read(self.encoder, entry.content) if isinstance(entry.content, str) else 0
                entry.tokens, entry.fault = (0, counted) if isinstance(counted, MmembedError) else (counted, None)
        entries: list[Entry] = []
        left = math.inf if queue.batch.alone else self._options.max_batch_tokens
        with self._changed:
            for entry in islice(queue.ready.values(), most):
                left -= entry.tokens or 0
                if entry.tokens is None or (entries and left < 0):
                    break
                entries.append(entry)
            for entry in entries:
                del queue.ready[entry.key]
            self._begun += len(entries)
            if self._queues.get(queue.batch) is queue:
                self._queues[queue.batch] = self._queues.pop(queue.batch)  # the others first, next time
            self._moved(queue)
            if self._queues:
                self._changed.notify()  # another worker, where there are several
        return entries

    def _settle(self, entries: Sequence[Entry], results: Sequence[Result | MmembedError]) -> list[Submission]:
        """Under the lock: keep what was made, hand it to those who wait -> the submissions that are complete now."""
        finished: list[Submission] = []
        for entry, result in zip(entries, results, strict=True):
            del self._entries[entry.key]
            if isinstance(result, MmembedError):
                self._observer.failure(type(result).__name__)
            elif not entry.key.batch.alone:
                self._cache.put(entry.key, result)
            for submission in entry.submissions:
                submission.results[entry.key] = result
                submission.missing.discard(entry.key)
                if not submission.missing:
                    finished.append(submission)
        self.open -= len(finished)
        return finished
