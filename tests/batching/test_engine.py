"""The engine: whatever a request wants as vectors, equal to the encoder called directly, by loop and by threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from plugin_sites import install_plugin

from mmembed import load_encoder
from mmembed.batching.cache import Result
from mmembed.batching.engine import EncodeRequest, Engine
from mmembed.batching.options import BatchingOptions
from mmembed.batching.submission import Call, current_call
from mmembed.demo import PICTOGRAMS
from mmembed.errors import (
    EncoderError,
    EncoderLoadError,
    MmembedError,
    Overloaded,
    RequestTooLarge,
    SettingsError,
    UnknownEncoder,
    UnreadableImage,
    UnsupportedModality,
)
from mmembed.images import load_image
from mmembed.ingest import ingest_images
from mmembed.service.metrics import Metrics
from mmembed.service.served_encoders import ServedEncoders
from mmembed.service.settings import Settings
from mmembed.stores import open_store
from mmembed.types import Encoder, PixelEncoder, SparseVector, Store, Vector

ENCODERS = ("fake", "fake?kind=sparse", "fake?kind=multi", "minilm", "fake:small?dim=8")
MINILM = "sentence:sentence-transformers/all-MiniLM-L6-v2"
T = TypeVar("T")

NESTED = '''
"""An encoder that was trained so that the first dimensions stand alone."""
from dataclasses import replace

from mmembed.encoders.families.fake import FakeEncoder


def load(name, run):
    encoder = FakeEncoder(name, run, dim=32)
    encoder.spec = replace(encoder.spec, matryoshka_dims=(8, 16))
    return encoder
'''


@pytest.fixture(scope="module")
def store() -> Store:
    return open_store(":memory:")


@pytest.fixture(scope="module")
def served(store: Store) -> ServedEncoders:
    served = ServedEncoders(store, Settings(encoder=ENCODERS))
    served.load_all()
    assert served.ready
    assert not served.failures()
    return served


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [file.read_bytes() for file in sorted(PICTOGRAMS.glob("*.png"))[:40]]


@asynccontextmanager
async def opened(served: ServedEncoders, **settings: Any) -> AsyncIterator[tuple[Engine, Metrics]]:
    metrics = Metrics()
    engine = Engine(served, Settings(encoder=ENCODERS, **settings).batching, metrics)
    yield engine, metrics
    await engine.close()
    assert [batcher.waiting for batcher in engine._batchers.values()] == [0] * len(engine._batchers)


def with_engine(served: ServedEncoders, work: Callable[[Engine], Awaitable[T]], **settings: Any) -> T:
    async def run() -> T:
        async with opened(served, **settings) as (engine, _):
            return await work(engine)

    return asyncio.run(run())


def made(outcomes: list[Result | MmembedError]) -> list[Result]:
    return [outcome for outcome in outcomes if isinstance(outcome, Result)]


def apart(one: Vector, other: Vector) -> float:
    if isinstance(one, SparseVector) and isinstance(other, SparseVector):
        assert np.array_equal(one.indices, np.sort(other.indices))
        return float(np.abs(one.values - other.values[np.argsort(other.indices)]).max(initial=0))
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


@pytest.mark.parametrize("name", ["tiny", "minilm", "fake", "fake?kind=sparse", "fake?kind=multi", "bm25"])
def test_vectors_are_those_of_the_encoder_itself(served: ServedEncoders, files: list[bytes], name: str) -> None:
    """Texts in both roles, and pictures, are encoded as by the encoder called directly, to 1e-5; tokens are counted."""
    encoder = load_encoder(name)
    texts = ["a red apple", "two parrots on a branch", "", "Ünïcode 漢字 🙂", "long words " * 300]
    wanted = [EncodeRequest(name, text, role=role) for role in ("query", "document") for text in texts]
    direct = [*encoder.encode_text(texts, role="query"), *encoder.encode_text(texts, role="document")]
    if "image" in encoder.spec.modalities:
        wanted += [EncodeRequest(name, file) for file in files[:6]]
        direct += [*encoder.encode_image([load_image(file, uri="one") for file in files[:6]])]
    outcomes = made(with_engine(served, lambda engine: engine.embed(wanted)))
    assert len(outcomes) == len(wanted)
    assert max(apart(one.vector, other) for one, other in zip(outcomes, direct, strict=True)) < 1e-5
    longest = encoder.spec.context_length
    counted = [min(encoder.count_tokens(text), longest or 10**9) for text in texts]
    assert [one.tokens for one in outcomes[:10]] == counted * 2
    assert {one.tokens for one in outcomes[10:]} <= {0}


def test_one_call_mixes_encoders_and_bad_inputs(served: ServedEncoders, files: list[bytes]) -> None:
    """Each input of a mixed call gets its own outcome, in order, and the bad ones are told apart."""
    wanted = [
        EncodeRequest("tiny", "a cat"),
        EncodeRequest("tiny", files[0]),
        EncodeRequest("tiny", b"no picture"),
        EncodeRequest("minilm", files[0]),
        EncodeRequest("BM25", "a cat", role="query"),
        EncodeRequest("gpt-9", "a cat"),
        EncodeRequest("tiny", "a cat", task="no such task"),
        EncodeRequest("tiny", "a cat", dim=100),
        EncodeRequest("bm25", "a cat", dim=100),
        EncodeRequest("sentence-transformers/ALL-minilm-l6-v2", "a cat"),
    ]
    outcomes = with_engine(served, lambda engine: engine.embed(wanted))
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [
        *(Result, Result, UnreadableImage, UnsupportedModality, Result),
        *(UnknownEncoder, SettingsError, SettingsError, SettingsError, Result),
    ]
    sizes = [len(one.vector) if not isinstance(one.vector, SparseVector) else None for one in made(outcomes)]
    assert sizes == [256, 256, None, 384]
    assert "256" in str(outcomes[7])
    assert "sparse" in str(outcomes[8])
    assert "served are bm25, fake" in str(outcomes[5])


def test_no_request_makes_it_load_anything_else(served: ServedEncoders) -> None:
    """What could be loaded, but is not served, is refused and not loaded."""
    before = set(served.loaded())
    for name in ("siglip2-b32", "fake?dim=16", "fake:other", "bge-small", "", "?", "tiny?x=1", "tiny:" + "y" * 100_000):
        with pytest.raises(UnknownEncoder) as refused:
            served.resolve(name)
        assert len(str(refused.value)) < 1000
    assert set(served.loaded()) == before


def test_a_name_is_known_in_every_spelling(served: ServedEncoders) -> None:
    """A preset, a full name, and a bare model id in any case mean one encoder, which is loaded once."""
    spellings = ("minilm", "MiniLM", MINILM, "sentence-transformers/all-MiniLM-L6-v2", MINILM.lower())
    assert {served.resolve(name) for name in spellings} == {MINILM}
    assert len({id(served.encoder(name)) for name in spellings}) == 1
    assert served.resolve("Qdrant/bm25") == "bm25"
    assert served.names() == sorted(["tiny", "bm25", MINILM, *(name for name in ENCODERS if name != "minilm")])


def test_an_encoder_is_loaded_once_by_many_threads(store: Store) -> None:
    """Threads that ask for an encoder at the same time get the same one."""
    served = ServedEncoders(store, Settings())
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: id(served.encoder("tiny")), range(64)))
    assert len(set(found)) == 1
    assert list(served.loaded()) == ["tiny"]


def test_a_collection_made_since_the_start_is_served(tmp_path: Path) -> None:
    """The contracts are looked at again before a name is refused."""
    with_store = open_store(f"edge:{tmp_path / 'store.mm'}")
    served = ServedEncoders(with_store, Settings())
    with pytest.raises(UnknownEncoder):
        served.resolve("fake")
    ingest_images(with_store, "images", [PICTOGRAMS / "1f004.png"], encoder=load_encoder("fake"))
    served._looked -= 3  # as if so many seconds had gone by
    assert served.resolve("fake") == "fake"
    assert "fake" in served.names()
    with_store.close()


def test_an_encoder_that_cannot_be_loaded_harms_no_other(store: Store) -> None:
    """A failure is kept and told to who asks for that encoder; the rest is loaded and ready."""
    served = ServedEncoders(store, Settings(encoder=("tiny:none", "fake")))
    served.load_all()
    assert served.ready
    assert set(served.loaded()) == {"tiny", "bm25", "fake"}
    assert isinstance(served.failures()["tiny:none"], EncoderLoadError)
    wanted = [EncodeRequest("tiny:none", "a"), EncodeRequest("fake", "a"), EncodeRequest("tiny:none", "b")]
    failed, fine, again = with_engine(served, lambda engine: engine.embed(wanted))
    assert isinstance(failed, EncoderLoadError)
    assert isinstance(fine, Result)
    assert again is failed


def test_a_store_that_is_gone_is_told_from_an_unknown_name(tmp_path: Path) -> None:
    """With a store that cannot be asked, what is always served works, and the rest is not called unknown."""
    gone = open_store(f"edge:{tmp_path / 'store.mm'}")
    gone.close()
    served = ServedEncoders(gone, Settings())
    assert served.resolve("tiny") == "tiny"
    for _ in range(2):
        with pytest.raises(MmembedError, match="was closed"):
            served.resolve("minilm")
    assert served.names() == ["bm25", "tiny"]


def test_several_sizes_of_a_text_cost_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matryoshka sizes are cut from one vector, which is computed once, and have norm 1."""
    install_plugin(tmp_path, "nested-dolls", "nested", NESTED)
    monkeypatch.syspath_prepend(tmp_path)
    name = "nested"
    served = ServedEncoders(open_store(":memory:"), Settings(encoder=(name,)))
    dims = (None, 8, 16, 32)

    async def work() -> None:
        async with opened(served) as (engine, metrics):
            outcomes = made(await engine.embed([EncodeRequest(name, "a cat", dim=dim) for dim in dims]))
            full = np.asarray(outcomes[0].vector)
            assert len(outcomes) == 4
            for dim, one in zip(dims[1:], outcomes[1:], strict=True):
                cut = full[:dim] / np.linalg.norm(full[:dim])
                np.testing.assert_allclose(np.asarray(one.vector), cut, atol=1e-6)
            assert passes(metrics) == (1, 1)

    asyncio.run(work())


def passes(metrics: Metrics) -> tuple[float, float]:
    """How many there were, and of how many inputs."""
    lines = [line.split(" ") for line in metrics.render().decode().splitlines() if "batch_size_" in line]
    counted = [
        sum(float(value) for name, *_, value in lines if name.startswith(f"mmembed_batch_size_{what}{{"))
        for what in ("count", "sum")
    ]
    return counted[0], counted[1]


def test_equal_inputs_of_calls_cost_one_pass(served: ServedEncoders) -> None:
    """Thirty calls that want the same two texts, one of them twice, are one pass of two inputs."""

    async def work() -> None:
        async with opened(served) as (engine, metrics):
            calls = [
                [EncodeRequest("tiny", "a"), EncodeRequest("tiny", "b"), EncodeRequest("tiny", "a")] for _ in range(30)
            ]
            answers = await asyncio.gather(*(engine.embed(call) for call in calls))
            assert {len(made(answer)) for answer in answers} == {3}
            assert passes(metrics) == (1, 2)

    asyncio.run(work())


def test_too_many_inputs_are_refused(served: ServedEncoders) -> None:
    """A call of more inputs than max_inputs is refused whole."""
    with pytest.raises(RequestTooLarge, match="has 3 inputs and at most 2"):
        with_engine(served, lambda engine: engine.embed([EncodeRequest("tiny", "a")] * 3), max_inputs=2)


def test_a_full_queue_refuses_the_call_and_forgets_it(served: ServedEncoders, files: list[bytes]) -> None:
    """Where one of a call's encoders has no room, nothing of the call waits for another, and later calls are served."""

    async def work(engine: Engine) -> None:
        many = [EncodeRequest("tiny", files[0] + bytes([number])) for number in range(64)]
        asked = asyncio.ensure_future(engine.embed(many))
        while not any(batcher.waiting for batcher in engine._batchers.values()):
            await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await engine.embed(
                [EncodeRequest("fake", "a"), *(EncodeRequest("tiny", f"text {number}") for number in range(63))]
            )
        assert refused.value.retry_after_seconds >= 1
        assert len(made(await asked)) == 64
        assert len(made(await engine.embed([EncodeRequest("tiny", "later")]))) == 1

    with_engine(served, work, max_queue=64, max_inputs=64, batch_size=1)


def test_a_cancelled_call_leaves_nothing_behind(served: ServedEncoders, files: list[bytes]) -> None:
    """A task that is cancelled, and a call whose client goes, end at once; what waited for them alone is dropped."""

    async def work(engine: Engine) -> None:
        wanted = [EncodeRequest("tiny", file) for file in files]
        task = asyncio.ensure_future(engine.embed(wanted))
        call = Call()
        current_call.set(call)
        other = asyncio.ensure_future(engine.embed(wanted[:20]))
        await asyncio.sleep(0.005)
        task.cancel()
        call.cancel()
        for gone in (task, other):
            with pytest.raises(asyncio.CancelledError):
                await gone
        current_call.set(None)
        assert sum(batcher.open for batcher in engine._batchers.values()) == 0
        assert len(made(await engine.embed(wanted))) == len(wanted)

    with_engine(served, work)


def test_encoders_for_threads_equal_the_encoders(served: ServedEncoders, files: list[bytes]) -> None:
    """Thirty-two threads encode texts and pictures through the batchers and get what the encoder itself gives."""
    images = [load_image(file, uri="one") for file in files[:8]]

    async def work(engine: Engine) -> None:
        encoders = engine.encoders()

        def one(number: int) -> float:
            name = ("tiny", "minilm", "fake?kind=sparse", "fake?kind=multi")[number % 4]
            direct, proxy = served.encoder(name), encoders[name]
            assert proxy.spec == direct.spec
            assert (proxy.logit_scale, proxy.dtype) == (direct.logit_scale, direct.dtype)
            assert isinstance(proxy, PixelEncoder) == isinstance(direct, PixelEncoder)
            texts = [f"text {number} {place}" for place in range(5)] + ["the same"]
            pairs = [*zip(proxy.encode_text(texts, role="query"), direct.encode_text(texts, role="query"), strict=True)]
            if "image" in direct.spec.modalities:
                pairs += [*zip(proxy.encode_image(images), direct.encode_image(images), strict=True)]
            return max(apart(one, other) for one, other in pairs)

        with ThreadPoolExecutor(32) as threads:
            assert max(threads.map(one, range(64))) < 1e-5
        assert set(encoders) == set(served.names())

    with_engine(served, work)


def test_encoders_for_threads_behave_like_encoders(served: ServedEncoders, files: list[bytes]) -> None:
    """Nothing gives nothing, more than a batch and more than the queue holds is taken, and errors are the encoder's."""

    def check(encoders: Mapping[str, Encoder]) -> None:
        tiny, words = encoders["tiny"], encoders["minilm"]
        assert np.asarray(tiny.encode_text([], role="query")).shape == (0, 256)
        assert np.asarray(tiny.encode_image([])).shape == (0, 256)
        many = [f"text {number}" for number in range(300)]
        direct = served.encoder("tiny").encode_text(many, role="query")
        np.testing.assert_allclose(np.asarray(tiny.encode_text(many, role="query")), np.asarray(direct), atol=1e-5)
        with pytest.raises(SettingsError):
            tiny.encode_text(["a"], role="query", task="none")
        with pytest.raises(UnsupportedModality):
            words.encode_image([load_image(files[0], uri="one")])
        with pytest.raises(UnknownEncoder):
            encoders["none"]
        assert isinstance(tiny, PixelEncoder)
        pixels = [tiny.preprocess_image(load_image(file, uri="one")) for file in files[:3]]
        images = [load_image(file, uri="one") for file in files[:3]]
        np.testing.assert_array_equal(tiny.encode_pixels(pixels), np.asarray(tiny.encode_image(images)))

    with_engine(served, lambda engine: asyncio.to_thread(check, engine.encoders()), max_queue=40, max_inputs=40)


def test_closing_finishes_what_was_accepted(served: ServedEncoders, files: list[bytes]) -> None:
    """Calls that were accepted are answered while the engine closes; later ones are refused."""

    async def work() -> None:
        engine = Engine(served, BatchingOptions(), Metrics())
        accepted = asyncio.ensure_future(engine.embed([EncodeRequest("tiny", file) for file in files]))
        await asyncio.sleep(0.002)
        await engine.close()
        assert len(made(await accepted)) == len(files)
        for name in ("tiny", "fake"):
            with pytest.raises(Overloaded, match="stopping"):
                await engine.embed([EncodeRequest(name, "late")])

    asyncio.run(work())


def test_many_clients_with_bad_luck(served: ServedEncoders, files: list[bytes]) -> None:
    """Of 64 clients with texts and pictures, some corrupt and some cancelled, every good one is answered rightly."""
    tiny = served.encoder("tiny")
    right = np.asarray(tiny.encode_image([load_image(file, uri="one") for file in files]))
    chance = random.Random(5)
    counts = {"good": 0, "bad": 0, "cancelled": 0}

    async def client(engine: Engine, number: int) -> None:
        for turn in range(15):
            place = chance.randrange(len(files))
            corrupt = chance.random() < 0.05
            file = files[place][: 60 if corrupt else None] + f"{number} {turn}".encode()  # none is in the cache
            wanted = [
                EncodeRequest("tiny", file),
                EncodeRequest("tiny", f"text {number} {turn}"),
                EncodeRequest("bm25", "a cat"),
            ]
            call = asyncio.ensure_future(engine.embed(wanted))
            if chance.random() < 0.1:
                await asyncio.sleep(chance.random() / 50)
                call.cancel()
            try:
                image, text, words = await call
            except asyncio.CancelledError:
                counts["cancelled"] += 1
                continue
            assert isinstance(text, Result)
            assert isinstance(words, Result)
            if corrupt:
                assert isinstance(image, UnreadableImage)
                counts["bad"] += 1
            else:
                assert isinstance(image, Result)
                assert apart(image.vector, right[place]) < 1e-5
                counts["good"] += 1

    async def work() -> None:
        async with opened(served) as (engine, metrics):
            metrics.in_flight = 64
            await asyncio.gather(*(client(engine, number) for number in range(64)))
            (batcher,) = (batcher for batcher in engine._batchers.values() if batcher.encoder is tiny)
            for _ in range(200):
                if not batcher._entries:
                    break
                await asyncio.sleep(0.01)
            assert (batcher.open, batcher.waiting, batcher._entries, batcher._queues) == (0, 0, {}, {})

    asyncio.run(work())
    assert sum(counts.values()) == 64 * 15
    assert min(counts.values()) > 10


def test_errors_that_are_shared_do_not_grow(served: ServedEncoders) -> None:
    """One error that is raised to many threads has the traceback of one."""

    def depth(encoders: Mapping[str, Encoder]) -> int:
        with pytest.raises(SettingsError) as caught:
            encoders["tiny"].encode_text(["a"], role="query", task="none")
        return len(caught.traceback)

    async def work(engine: Engine) -> list[int]:
        return [await asyncio.to_thread(depth, engine.encoders()) for _ in range(5)]

    assert len(set(with_engine(served, work))) == 1
    assert issubclass(SettingsError, MmembedError)
    assert not issubclass(SettingsError, EncoderError)
