"""What may go wrong in the engine when clients leave, and when many ask for much: nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import io
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plugin_sites import install_plugin

from mmembed.batching.batcher import Batcher
from mmembed.batching.cache import BatchKey, CacheKey, Content, Result, VectorCache, image_key, text_key
from mmembed.batching.encoder import BatchedEncoder
from mmembed.batching.engine import EncodeRequest, Engine
from mmembed.batching.options import BatchingOptions
from mmembed.batching.submission import Call, Submission, current_call
from mmembed.encoders.families.fake import FakeEncoder
from mmembed.encoders.registry import EncoderName
from mmembed.service.metrics import Metrics
from mmembed.service.served_encoders import ServedEncoders
from mmembed.service.settings import Settings
from mmembed.stores import open_store
from mmembed.types import DenseArray, LoadOptions, Pixels, Role

SECONDS = 5  # after which what waits is taken to wait for ever


class Gated(FakeEncoder):
    """Counts tokens and encodes only while its gates are open."""

    def __init__(self, *, batch_size: int) -> None:
        super().__init__(EncoderName("gated"), LoadOptions(batch_size=batch_size), dim=8)
        self.counting, self.encoding = threading.Event(), threading.Event()
        self.arrived = threading.Semaphore(0)  # up by one whenever somebody stands before a gate

    def open(self) -> None:
        self.counting.set()
        self.encoding.set()

    def count_tokens(self, text: str) -> int:
        self.arrived.release()
        self.counting.wait(SECONDS)
        return super().count_tokens(text)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        self.arrived.release()
        self.encoding.wait(SECONDS)
        return super().encode_text(texts, role=role, task=task)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> DenseArray:
        self.arrived.release()
        self.encoding.wait(SECONDS)
        return super().encode_pixels(pixels)

    def stands(self) -> None:
        """Wait until somebody stands before a gate."""
        assert self.arrived.acquire(timeout=SECONDS)


@pytest.fixture
def batcher_of() -> Iterator[Callable[[Gated], Batcher]]:
    """Batchers that are closed after the test; one that cannot be closed is a failure of its own."""
    decoders = ThreadPoolExecutor(2)
    made: list[tuple[Gated, Batcher]] = []

    def make(encoder: Gated) -> Batcher:
        batcher = Batcher(
            encoder,
            BatchingOptions(),
            cache=VectorCache(0),  # so that there is always something to compute
            observer=Metrics(),
            decoders=decoders,
            most_decoding=2,
            on_the_way=lambda: 0,
        )
        made.append((encoder, batcher))
        return batcher

    yield make
    for encoder, opened in made:
        encoder.open()
        closing = threading.Thread(target=opened.close, daemon=True)
        closing.start()
        closing.join(SECONDS)
        assert not closing.is_alive(), "the batcher has work that nobody does"
    decoders.shutdown()


Contents = dict[CacheKey, Content]


def text(encoder: Gated, content: str) -> Contents:
    return {text_key(encoder, content, role="query", task=None): content}


def image(encoder: Gated, grey: int) -> Contents:
    file = io.BytesIO()
    Image.new("L", (4, 4), grey).save(file, "PNG")
    return {image_key(encoder, file.getvalue()): file.getvalue()}


def waited(submission: Submission) -> int:
    """How many outcomes came in time."""
    until = time.monotonic() + SECONDS
    while submission.missing and time.monotonic() < until:
        time.sleep(0.005)
    return len(submission.results)


def test_images_behind_those_of_a_client_that_left(batcher_of: Callable[[Gated], Batcher]) -> None:
    """When decoded pictures are dropped those behind them are decoded in their place, and do not wait for ever."""
    encoder = Gated(batch_size=1)  # so that two pictures are decoded ahead
    batcher = batcher_of(encoder)
    first = batcher.submit(image(encoder, 0))
    encoder.stands()
    leaving = batcher.submit(image(encoder, 1) | image(encoder, 2))
    behind = batcher.submit(image(encoder, 3))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and sum(len(queue.ready) for queue in batcher._queues.values()) < 2:
        time.sleep(0.005)
    leaving.drop()
    encoder.open()
    assert waited(first) == 1
    assert waited(behind) == 1


def test_a_text_that_comes_when_all_before_it_left(batcher_of: Callable[[Gated], Batcher]) -> None:
    """What is asked for while the worker counts the tokens of texts that nobody wants any more is not lost."""
    encoder = Gated(batch_size=4)
    batcher = batcher_of(encoder)
    leaving = batcher.submit(text(encoder, "first"))
    encoder.stands()  # the worker counts, without the lock
    leaving.drop()
    coming = batcher.submit(text(encoder, "second"))
    encoder.open()
    assert waited(coming) == 1


def test_what_is_dropped_in_its_pass_and_asked_for_again(batcher_of: Callable[[Gated], Batcher]) -> None:
    """An input whose only client left in the middle of its pass answers the next client from that pass."""
    encoder = Gated(batch_size=4)
    encoder.counting.set()
    batcher = batcher_of(encoder)
    leaving = batcher.submit(text(encoder, "first"))
    encoder.stands()
    encoder.stands()  # counted, and in its pass
    leaving.drop()
    again = batcher.submit(text(encoder, "first"))
    encoder.encoding.set()
    assert waited(again) == 1
    assert not encoder.arrived.acquire(blocking=False)  # no second pass


def test_clients_that_come_and_leave_at_random(batcher_of: Callable[[Gated], Batcher]) -> None:
    """Whatever is dropped, every client that stays is answered, and nothing is left in the batcher."""
    encoder = Gated(batch_size=2)
    encoder.open()
    batcher = batcher_of(encoder)
    inputs = [*(text(encoder, str(number)) for number in range(40)), *(image(encoder, grey) for grey in range(40))]

    def ask(seed: int) -> bool:
        chance = random.Random(seed)
        for _ in range(30):
            some: Contents = {}
            for one in chance.sample(inputs, chance.randint(1, 6)):
                some |= one
            submission = batcher.submit(some)
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.002)
                submission.drop()
            elif waited(submission) != len(some):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    until = time.monotonic() + SECONDS
    while batcher._entries and time.monotonic() < until:  # dropped ones that had begun
        time.sleep(0.005)
    assert (batcher.open, batcher.waiting, batcher._queues, batcher._entries) == (0, 0, {}, {})


def test_the_cache_counts_its_keys() -> None:
    """A long instruction as a task is part of what the cache holds, and is bounded with it."""
    cache = VectorCache(1 << 20)
    for number in range(200):
        batch = BatchKey("text", "query", f"{number} " + "find what answers this " * 4000)  # 92 kB
        cache.put(CacheKey("fake", batch, number.to_bytes(16)), Result(np.ones(8, dtype=np.float32), 1))
    held = sum(len(key.batch.task or "") for key in cache._entries)
    assert held <= 2 << 20


def test_a_call_lets_go_of_what_it_has(batcher_of: Callable[[Gated], Batcher]) -> None:
    """A long call that embeds batch after batch keeps none of the vectors that it has taken."""
    encoder = Gated(batch_size=2)
    encoder.open()
    proxy = BatchedEncoder(batcher_of(encoder))
    token = current_call.set(Call())
    try:
        seen = weakref.WeakSet[Submission]()
        submit = proxy._batcher.submit

        def watched(contents: Contents) -> Submission:
            submission = submit(contents)
            seen.add(submission)
            return submission

        proxy._batcher.submit = watched  # type: ignore[assignment, method-assign]
        for number in range(50):
            proxy.encode_text([f"a{number}", f"b{number}"], role="document")
        gc.collect()
        assert len(seen) < 10
    finally:
        current_call.reset(token)


SLOW_TO_LOAD = '''
"""An encoder that is loaded when it is let go."""
import threading
from mmembed.encoders.families.fake import FakeEncoder

GATE = threading.Event()


def load(name, run, *, number="0"):
    GATE.wait(30)
    return FakeEncoder(name, run, dim=8)
'''


def test_encoders_that_load_do_not_hold_up_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While many wait for encoders that take their time to load, one that is loaded answers."""
    install_plugin(tmp_path, "slow-loader", "slow-to-load", SLOW_TO_LOAD)
    monkeypatch.syspath_prepend(tmp_path)
    names = tuple(f"slow-to-load?number={number}" for number in range(6))
    settings = Settings(encoder=names)
    store = open_store(":memory:")
    served = ServedEncoders(store, settings)
    served.encoder("tiny")

    async def ask() -> None:
        engine = Engine(served, settings.batching, Metrics())
        waiting = [asyncio.create_task(engine.embed([EncodeRequest(name, "a")])) for name in names]
        try:
            await asyncio.sleep(0.2)
            made = (await asyncio.wait_for(engine.embed([EncodeRequest("tiny", "a")]), 5))[0]
            assert isinstance(made, Result)
        finally:
            __import__("slow_loader").GATE.set()
            assert all(isinstance(one[0], Result) for one in await asyncio.gather(*waiting))
            await engine.close()

    asyncio.run(ask())
    store.close()
