"""Lanes: which inputs share a forward pass, when it begins, and what becomes of those that fail or are not wanted."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmembed.batching.batcher import Lane
from mmembed.batching.cache import Input, Kept, VectorCache, picture_input, size_of, text_input, texts_as_one
from mmembed.batching.options import BatchingOptions
from mmembed.batching.waiting import Call, Order, Outcome, current_call
from mmembed.errors import EncoderError, EncoderUnavailable, MmembedError, Overloaded, SettingsError, UnreadableImage
from mmembed.service.metrics import Metrics
from mmembed.types import DenseArray, EncoderSpec, Role
from mmembed.vectors import l2_normalize

LONG = 5.0  # seconds in which anything that happens at all has happened


class Recorder:
    """An encoder that writes down its passes, can be held, and fails on the text "bad"."""

    dtype = "float32"
    logit_scale = None
    logit_bias = None

    def __init__(self, *, batch_size: int = 8, remote: bool = False, undivided: Sequence[Role] = ()) -> None:
        self.batch_size = batch_size
        self.remote = remote
        self.undivided = frozenset(undivided)
        self.spec = EncoderSpec(
            name="recorder",
            kind="dense",
            dim=2,
            modalities=frozenset({"image", "text"}),
            fingerprint="recorder",
            context_length=10,
        )
        self.passes: list[tuple[str, list[Any]]] = []  # modality, or role of texts, and what was in the pass
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.most_at_once = 0
        self._at_once = 0

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        self._record(role, list(texts))
        if task == "unknown":
            raise SettingsError("no such task")
        if "bad" in texts:
            raise ZeroDivisionError("/srv/models/secret.bin")
        if "gone" in texts:
            raise EncoderUnavailable("the API does not answer")
        if "panic" in texts:
            raise SystemExit(3)
        made = np.array([[len(text) + 1, 1 if role == "query" else 2] for text in texts], dtype=np.float32)
        made = l2_normalize(made)
        if "nan" in texts:
            made[texts.index("nan")] = np.nan
        return made[:-1] if "short" in texts else made

    def encode_image(self, images: Sequence[Image.Image]) -> DenseArray:
        self._record("image", [image.width for image in images])
        return l2_normalize(np.array([[image.width, 1] for image in images], dtype=np.float32))

    def _record(self, what: str, batch: list[Any]) -> None:
        self.passes.append((what, batch))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.begun.release()
        self.go.wait(LONG)
        self._at_once -= 1


MakeLane = Callable[..., Lane]


@pytest.fixture
def lane_of() -> Iterator[MakeLane]:
    """Makes lanes that are closed afterwards; `on_the_way` is none unless it is said."""
    decoders = ThreadPoolExecutor(2)
    made: list[tuple[Lane, Recorder]] = []

    def make(encoder: Recorder, *, on_the_way: Callable[[], int] = lambda: 0, **settings: Any) -> Lane:
        chosen = BatchingOptions(**settings)
        cache = VectorCache(int(chosen.cache_mb * 2**20))
        lane = Lane(
            encoder,
            chosen,
            cache=cache,
            observer=Metrics(),
            decoders=decoders,
            most_decoding=2,
            on_the_way=on_the_way,
        )
        made.append((lane, encoder))
        return lane

    yield make
    for lane, encoder in made:
        encoder.go.set()
        lane.close()
        assert (lane.waiting, lane.open) == (0, 0)
    decoders.shutdown()


def ask(lane: Lane, *texts: str, role: Role = "document", task: str | None = None) -> Order:
    inputs = [text_input(lane.encoder, text, role=role, task=task) for text in texts]
    return lane.submit({one.key: one for one in inputs}.values())


def show(lane: Lane, *pictures: bytes) -> Order:
    inputs = [picture_input(lane.encoder, picture) for picture in pictures]
    return lane.submit({one.key: one for one in inputs}.values())


def held(lane: Lane, encoder: Recorder) -> Order:
    """Occupy the lane with a pass of its own until `encoder.go` is set."""
    encoder.go.clear()
    order = ask(lane, "held")
    assert encoder.begun.acquire(timeout=LONG)
    return order


def png(width: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 4), "red").save(out, "PNG")
    return out.getvalue()


def outcomes_of(order: Order) -> list[Outcome]:
    return list(order.result().values())


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def test_inputs_that_wait_together_share_a_pass(lane_of: MakeLane) -> None:
    """What arrives during a pass is encoded in the next one, in order of arrival."""
    encoder = Recorder()
    lane = lane_of(encoder)
    first = held(lane, encoder)
    orders = [ask(lane, f"text {number}") for number in range(5)]
    encoder.go.set()
    for order in [first, *orders]:
        assert isinstance(outcomes_of(order)[0], Kept)
    assert [batch for _, batch in encoder.passes] == [["held"], [f"text {number}" for number in range(5)]]


def test_a_pass_is_bounded_by_its_count(lane_of: MakeLane) -> None:
    """No pass has more inputs than the batch size."""
    encoder = Recorder(batch_size=4)
    lane = lane_of(encoder)
    held(lane, encoder)
    order = ask(lane, *(f"text {number}" for number in range(10)))
    encoder.go.set()
    order.result()
    assert [len(batch) for _, batch in encoder.passes] == [1, 4, 4, 2]


def test_a_pass_is_bounded_by_its_tokens(lane_of: MakeLane) -> None:
    """Texts share a pass up to so many tokens, each counted up to the context length of 10; a longer one is alone."""
    encoder = Recorder()
    lane = lane_of(encoder, max_batch_tokens=9)
    held(lane, encoder)
    order = ask(lane, "a b c", "d e f g h i", "j", "k " * 50, "l m")
    encoder.go.set()
    outcomes = outcomes_of(order)
    assert [len(batch) for _, batch in encoder.passes] == [1, 2, 1, 1, 1]
    assert [outcome.tokens for outcome in outcomes if isinstance(outcome, Kept)] == [3, 6, 1, 10, 2]


def test_an_idle_lane_starts_at_once(lane_of: MakeLane) -> None:
    """With nobody on the way, an input does not wait for company."""
    lane = lane_of(Recorder(), max_wait_ms=60_000)
    started = time.monotonic()
    ask(lane, "one").result()
    assert time.monotonic() - started < 1


def test_requests_on_the_way_are_waited_for(lane_of: MakeLane) -> None:
    """Three requests that are on the way one after another are in one pass, which begins as soon as all are here."""
    encoder = Recorder()
    lanes: list[Lane] = []
    lane = lane_of(encoder, max_wait_ms=60_000, on_the_way=lambda: 3 - lanes[0].open)
    lanes.append(lane)
    started = time.monotonic()
    orders = []
    for text in ("one", "two", "three"):
        orders.append(ask(lane, text))
        time.sleep(0.05)
    for order in orders:
        order.result()
    assert encoder.passes == [("document", ["one", "two", "three"])]
    assert time.monotonic() - started < 2


def test_nobody_waits_longer_than_allowed(lane_of: MakeLane) -> None:
    """Requests that never come are waited for no longer than max_wait_ms, and a fifth of it if nothing comes at all."""
    encoder = Recorder()
    lane = lane_of(encoder, max_wait_ms=500, on_the_way=lambda: 7)
    started = time.monotonic()
    ask(lane, "alone").result()
    assert 0.09 < time.monotonic() - started < 0.4
    started = time.monotonic()
    orders = [ask(lane, "text 0")]
    while not encoder.passes[1:]:
        orders.append(ask(lane, "text 0"))  # something always moves, and no batch is full
        time.sleep(0.02)
        assert time.monotonic() - started < LONG
    assert 0.4 < time.monotonic() - started < 1
    for order in orders:
        order.result()


def test_texts_and_pictures_take_turns(lane_of: MakeLane) -> None:
    """A picture that comes when fifty texts wait is in the next pass but one, and the other way round."""
    encoder = Recorder(batch_size=2)
    lane = lane_of(encoder)
    held(lane, encoder)
    texts = ask(lane, *(f"text {number}" for number in range(50)))
    picture = show(lane, png(5))
    until(
        lambda: bool(lane._queues) and all(not queue.coming and not queue.decoding for queue in lane._queues.values())
    )
    encoder.go.set()
    texts.result(), picture.result()
    assert ("image", [5]) in encoder.passes[1:3]
    encoder.passes.clear()
    held_again = held_by(lane, encoder, "held again")
    pictures = show(lane, *(png(width) for width in range(10, 60)))
    text = ask(lane, "a text")
    encoder.go.set()
    for order in (held_again, pictures, text):
        order.result()
    assert ("document", ["a text"]) in encoder.passes[1:3]


def held_by(lane: Lane, encoder: Recorder, text: str) -> Order:
    while encoder.begun.acquire(blocking=False):
        pass
    encoder.go.clear()
    order = ask(lane, text)
    assert encoder.begun.acquire(timeout=LONG)
    return order


def test_roles_and_tasks_are_kept_apart(lane_of: MakeLane) -> None:
    """The same text as query, as document and for a task is three inputs, in three passes."""
    encoder = Recorder()
    lane = lane_of(encoder)
    held(lane, encoder)
    orders = [ask(lane, "a", role="query"), ask(lane, "a"), ask(lane, "a", task="other")]
    encoder.go.set()
    query, document, _ = (outcomes_of(order)[0] for order in orders)
    assert isinstance(query, Kept)
    assert isinstance(document, Kept)
    assert not np.array_equal(np.asarray(query.vector), np.asarray(document.vector))
    assert sorted(encoder.passes[1:]) == [("document", ["a"]), ("document", ["a"]), ("query", ["a"])]


def test_what_was_computed_is_not_computed_again(lane_of: MakeLane) -> None:
    """A text that came before is answered without a pass; with a cache of no size it is encoded again."""
    encoder = Recorder()
    lane = lane_of(encoder)
    once, again = outcomes_of(ask(lane, "a")), outcomes_of(ask(lane, "a"))
    assert once == again
    assert len(encoder.passes) == 1
    forgetful = lane_of(encoder, cache_mb=0)
    ask(forgetful, "a").result(), ask(forgetful, "a").result()
    assert len(encoder.passes) == 3


def test_one_text_asked_for_by_two_is_encoded_once(lane_of: MakeLane) -> None:
    """A text that waits or is being computed is not queued again, and both who asked for it get it."""
    encoder = Recorder()
    lane = lane_of(encoder)
    first = held(lane, encoder)
    same, waiting, twice = ask(lane, "held"), ask(lane, "a"), ask(lane, "a")
    assert lane.waiting == 1
    encoder.go.set()
    assert outcomes_of(first)[0] is outcomes_of(same)[0]
    assert outcomes_of(waiting)[0] is outcomes_of(twice)[0]
    assert [batch for _, batch in encoder.passes] == [["held"], ["a"]]


def test_what_nobody_waits_for_is_dropped(lane_of: MakeLane) -> None:
    """A cancelled input is not encoded while it waits, unless somebody else wants it too."""
    encoder = Recorder()
    lane = lane_of(encoder)
    held(lane, encoder)
    gone, shared, other = ask(lane, "a"), ask(lane, "b"), ask(lane, "b", "c")
    pictures = show(lane, png(1), png(2), png(3), png(4))
    for order in (gone, shared, pictures):
        order.drop()
    until(lambda: lane.waiting == 2)
    encoder.go.set()
    assert len(outcomes_of(other)) == 2
    assert [batch for _, batch in encoder.passes] == [["held"], ["b", "c"]]


def test_what_has_begun_is_finished_and_kept(lane_of: MakeLane) -> None:
    """A call that is cancelled during its pass finds the vector when it comes again."""
    encoder = Recorder()
    lane = lane_of(encoder)
    order = held(lane, encoder)
    order.drop()
    encoder.go.set()
    until(lambda: not lane._jobs)
    assert isinstance(outcomes_of(ask(lane, "held"))[0], Kept)
    assert len(encoder.passes) == 1


def test_a_thread_ends_when_its_client_goes(lane_of: MakeLane) -> None:
    """Cancelling a call ends the wait of the thread that works for it, and that of one which begins to wait later."""
    encoder = Recorder()
    lane = lane_of(encoder)
    held(lane, encoder)
    call = Call()
    ended: list[str] = []

    def work() -> None:
        current_call.set(call)
        for text in ("a", "b"):
            try:
                ask(lane, text).result()
            except CancelledError:
                ended.append(text)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: lane.waiting == 1)
    call.cancel()
    thread.join(LONG)
    assert ended == ["a", "b"]
    assert call.cancelled
    assert lane.waiting == 0


def test_a_full_queue_refuses_all_of_a_call(lane_of: MakeLane) -> None:
    """What does not fit is refused whole, with an honest time to come back, and later there is room again."""
    encoder = Recorder(batch_size=1)
    lane = lane_of(encoder, max_queue=3)
    first = held(lane, encoder)
    waiting = ask(lane, "a", "b")
    with pytest.raises(Overloaded, match="2 inputs wait for encoder recorder already and 2 more") as refused:
        ask(lane, "c", "d")
    assert 1 <= refused.value.retry_after_seconds <= 60
    assert lane.waiting == 2
    assert lane.open == 2
    same = ask(lane, "a", "b", "c")  # only one of them is new
    encoder.go.set()
    for order in (first, waiting, same):
        assert all(isinstance(outcome, Kept) for outcome in outcomes_of(order))
    assert isinstance(outcomes_of(ask(lane, "d"))[0], Kept)


def test_what_could_never_fit_is_taken_where_nothing_waits(lane_of: MakeLane) -> None:
    """A call of more than the queue holds is not refused for ever: it is taken when it would be alone in it."""
    encoder = Recorder(batch_size=2)
    lane = lane_of(encoder, max_queue=3)
    first = held(lane, encoder)
    ask(lane, "a")
    with pytest.raises(Overloaded):
        ask(lane, *"bcdef")
    encoder.go.set()
    first.result()
    ask(lane, "a").result()
    assert all(isinstance(outcome, Kept) for outcome in outcomes_of(ask(lane, *"bcdef")))


def test_the_time_to_come_back_is_measured(lane_of: MakeLane) -> None:
    """A lane that takes half a second an input asks to wait as long as those before will take."""
    encoder = Recorder(batch_size=1)
    lane = lane_of(encoder, max_queue=6)
    encoder.go.clear()
    first = ask(lane, "slow")
    time.sleep(0.5)
    encoder.go.set()
    first.result()
    held_by(lane, encoder, "held")
    ask(lane, *"abcdef")
    with pytest.raises(Overloaded) as refused:
        ask(lane, "more")
    assert 3 <= refused.value.retry_after_seconds <= 5


def test_only_the_bad_picture_fails(lane_of: MakeLane) -> None:
    """A picture that cannot be decoded is the error of that input, reaches no pass, and the next ones are unharmed."""
    encoder = Recorder()
    lane = lane_of(encoder, max_pixels=100)
    order = show(lane, png(1), b"not a picture", png(2), png(3)[:40], png(50))
    first, unknown, second, broken, large = outcomes_of_in_order(
        order, lane, png(1), b"not a picture", png(2), png(3)[:40], png(50)
    )
    assert isinstance(first, Kept)
    assert isinstance(second, Kept)
    assert isinstance(unknown, UnreadableImage)
    assert isinstance(broken, UnreadableImage)
    assert str(large).startswith("the picture: 50 x 4 pixels are more than the 100 allowed")
    assert sorted(width for _, batch in encoder.passes for width in batch) == [1, 2]
    assert isinstance(outcomes_of(show(lane, png(7)))[0], Kept)


def outcomes_of_in_order(order: Order, lane: Lane, *pictures: bytes) -> list[Outcome]:
    outcomes = order.result()
    return [outcomes[picture_input(lane.encoder, picture).key] for picture in pictures]


def test_queued_pictures_cost_their_bytes(lane_of: MakeLane) -> None:
    """Of a hundred pictures that wait, no more are decoded than two batches."""
    encoder = Recorder(batch_size=4)
    lane = lane_of(encoder)
    held(lane, encoder)
    order = show(lane, *(png(width) for width in range(1, 101)))
    (queue,) = lane._queues.values()
    until(lambda: len(queue.ready) == 8 and not queue.decoding)
    assert len(queue.coming) == 92
    encoder.go.set()
    assert all(isinstance(outcome, Kept) for outcome in order.result().values())
    assert max(len(batch) for _, batch in encoder.passes) == 4


def test_large_pictures_are_not_piled_up(lane_of: MakeLane) -> None:
    """Where pictures wait as large as they are, decoding stops at twice the largest picture that is allowed."""
    encoder = Recorder(batch_size=8)
    lane = lane_of(encoder, max_pixels=400)  # each has 4 rows
    held(lane, encoder)
    order = show(lane, *(png(width) for width in range(91, 101)))
    (queue,) = lane._queues.values()
    until(lambda: len(queue.ready) >= 3 and not queue.decoding)
    assert len(queue.ready) <= 4
    encoder.go.set()
    assert all(isinstance(outcome, Kept) for outcome in order.result().values())


@pytest.mark.parametrize("spoiler", ["bad", "nan", "panic"])
def test_only_the_bad_text_fails(lane_of: MakeLane, spoiler: str, caplog: pytest.LogCaptureFixture) -> None:
    """A text on which the encoder raises, panics or returns nonsense fails alone; its error names no file."""
    encoder = Recorder()
    lane = lane_of(encoder)
    held(lane, encoder)
    order = ask(lane, "a", "b", spoiler, "c", "d")
    encoder.go.set()
    outcomes = order.result()
    failed = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, MmembedError)}
    assert list(failed) == [text_input(encoder, spoiler, role="document", task=None).key]
    (error,) = failed.values()
    assert isinstance(error, EncoderError)
    assert "/srv" not in str(error)
    assert ("/srv/models/secret.bin" in caplog.text) == (spoiler == "bad")
    assert isinstance(outcomes_of(ask(lane, "e"))[0], Kept)


def test_too_few_vectors_are_noticed(lane_of: MakeLane) -> None:
    """An encoder that returns one vector too few for a batch does not shift those of the others."""
    encoder = Recorder()
    lane = lane_of(encoder)
    held(lane, encoder)
    order = ask(lane, "a", "short", "ccc")
    encoder.go.set()
    good = [outcome for outcome in outcomes_of(order) if isinstance(outcome, Kept)]
    expected = encoder.encode_text(["a", "ccc"], role="document")
    np.testing.assert_array_equal(np.stack([np.asarray(kept.vector) for kept in good]), expected)


@pytest.mark.parametrize(
    ("text", "task", "error"), [("gone", None, EncoderUnavailable), ("a", "unknown", SettingsError)]
)
def test_an_error_of_all_is_not_tried_one_by_one(
    lane_of: MakeLane, text: str, task: str | None, error: type[MmembedError]
) -> None:
    """An API that does not answer, or a task that there is not, costs a batch one pass and disturbs no other."""
    encoder = Recorder()
    lane = lane_of(encoder)
    held(lane, encoder)
    order, other = ask(lane, text, "b", "c", task=task), ask(lane, "d", role="query")
    encoder.go.set()
    assert all(isinstance(outcome, error) for outcome in outcomes_of(order))
    assert isinstance(outcomes_of(other)[0], Kept)
    assert len(encoder.passes) == 3


def test_errors_are_not_kept(lane_of: MakeLane) -> None:
    """What failed is tried again when it comes again."""
    encoder = Recorder()
    lane = lane_of(encoder)
    for _ in range(2):
        assert isinstance(outcomes_of(ask(lane, "gone"))[0], EncoderUnavailable)
    assert len(encoder.passes) == 2


def test_a_remote_encoder_is_asked_several_times_at_once(lane_of: MakeLane) -> None:
    """Four passes of an API run beside each other."""
    encoder = Recorder(batch_size=1, remote=True)
    lane = lane_of(encoder)
    encoder.go.clear()
    order = ask(lane, *"abcdefgh")
    until(lambda: len(encoder.passes) == 4)
    time.sleep(0.05)
    assert len(encoder.passes) == 4
    encoder.go.set()
    assert len(outcomes_of(order)) == 8
    assert encoder.most_at_once == 4


def test_texts_of_one_document_stay_together(lane_of: MakeLane) -> None:
    """The texts of a call that are read as one share a pass, however many, with no others; equal ones are two."""
    encoder = Recorder(batch_size=2, undivided=("document",))
    lane = lane_of(encoder, max_batch_tokens=1)
    held(lane, encoder)
    orders = [
        lane.submit(texts_as_one(encoder, texts, role="document", task=None)) for texts in (["a", "b", "a"], ["c"])
    ]
    encoder.go.set()
    assert [len(order.result()) for order in orders] == [3, 1]
    assert [batch for _, batch in encoder.passes] == [["held"], ["a", "b", "a"], ["c"]]


def test_a_closing_lane_finishes_what_it_accepted(lane_of: MakeLane) -> None:
    """What waits when the lane is closed is encoded, pictures too; what comes later is refused."""
    encoder = Recorder(batch_size=2)
    lane = lane_of(encoder)
    held(lane, encoder)
    orders = [ask(lane, *"abcde"), show(lane, *(png(width) for width in range(1, 8)))]
    closing = threading.Thread(target=lane.close)
    closing.start()
    until(lambda: lane._closing)
    with pytest.raises(Overloaded, match="stopping"):
        ask(lane, "late")
    encoder.go.set()
    closing.join(LONG)
    assert not closing.is_alive()
    assert [len(outcomes_of(order)) for order in orders] == [5, 7]


def test_the_cache_is_bounded_in_bytes() -> None:
    """The cache keeps what was used last, never more than its size, and nothing that is larger than itself."""
    encoder = Recorder()
    inputs: list[Input] = [text_input(encoder, f"{number}", role="query", task=None) for number in range(10)]
    kept = Kept(np.zeros(100, dtype=np.float32), 1)
    cache = VectorCache(3 * size_of(inputs[0].key, kept))
    for one in inputs[:3]:
        cache.put(one.key, kept)
    assert cache.get(inputs[0].key) is kept
    cache.put(inputs[3].key, kept)
    assert [cache.get(one.key) is not None for one in inputs[:4]] == [True, False, True, True]
    cache.put(inputs[4].key, Kept(np.zeros(10_000, dtype=np.float32), 1))
    assert len(cache) == 3
    assert cache.bytes == cache.max_bytes
    cache.put(inputs[0].key, kept)
    assert cache.bytes == cache.max_bytes
