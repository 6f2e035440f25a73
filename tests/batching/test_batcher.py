"""The batcher: which inputs share a forward pass, when it begins, what becomes of those that fail or are dropped."""

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

from mmembed.batching.batcher import Batcher
from mmembed.batching.cache import CacheKey, Result, VectorCache, image_key, keys_as_one, size_of, text_key
from mmembed.batching.options import BatchingOptions
from mmembed.batching.submission import Call, Submission, current_call
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

    def __init__(self, *, batch_size: int = 8, remote: bool = False, whole_call: Sequence[Role] = ()) -> None:
        self.batch_size = batch_size
        self.spec = EncoderSpec(
            name="recorder",
            kind="dense",
            dim=2,
            modalities=frozenset({"image", "text"}),
            fingerprint="recorder",
            context_length=10,
            remote=remote,
            whole_call=frozenset(whole_call),
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


MakeBatcher = Callable[..., Batcher]


@pytest.fixture
def batcher_of() -> Iterator[MakeBatcher]:
    """Makes batchers that are closed afterwards; `on_the_way` is none unless it is said."""
    decoders = ThreadPoolExecutor(2)
    made: list[tuple[Batcher, Recorder]] = []

    def make(encoder: Recorder, *, on_the_way: Callable[[], int] = lambda: 0, **settings: Any) -> Batcher:
        chosen = BatchingOptions(**settings)
        cache = VectorCache(int(chosen.cache_mb * 2**20))
        batcher = Batcher(
            encoder,
            chosen,
            cache=cache,
            observer=Metrics(),
            decoders=decoders,
            most_decoding=2,
            on_the_way=on_the_way,
        )
        made.append((batcher, encoder))
        return batcher

    yield make
    for batcher, encoder in made:
        encoder.go.set()
        batcher.close()
        assert (batcher.waiting, batcher.open) == (0, 0)
    decoders.shutdown()


def ask(batcher: Batcher, *texts: str, role: Role = "document", task: str | None = None) -> Submission:
    return batcher.submit({text_key(batcher.encoder, text, role=role, task=task): text for text in texts})


def show(batcher: Batcher, *images: bytes) -> Submission:
    return batcher.submit({image_key(batcher.encoder, image): image for image in images})


def held(batcher: Batcher, encoder: Recorder) -> Submission:
    """Occupy the batcher with a pass of its own until `encoder.go` is set."""
    encoder.go.clear()
    submission = ask(batcher, "held")
    assert encoder.begun.acquire(timeout=LONG)
    return submission


def png(width: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 4), "red").save(out, "PNG")
    return out.getvalue()


def wait(submission: Submission) -> dict[CacheKey, Result | MmembedError]:
    """As a thread waits."""
    if submission.missing:
        with submission.watched():
            submission.future.result()
    return submission.results


def outcomes_of(submission: Submission) -> list[Result | MmembedError]:
    return list(wait(submission).values())


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def test_inputs_that_wait_together_share_a_pass(batcher_of: MakeBatcher) -> None:
    """What arrives during a pass is encoded in the next one, in order of arrival."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    first = held(batcher, encoder)
    submissions = [ask(batcher, f"text {number}") for number in range(5)]
    encoder.go.set()
    for submission in [first, *submissions]:
        assert isinstance(outcomes_of(submission)[0], Result)
    assert [batch for _, batch in encoder.passes] == [["held"], [f"text {number}" for number in range(5)]]


def test_a_pass_is_bounded_by_its_count(batcher_of: MakeBatcher) -> None:
    """No pass has more inputs than the batch size."""
    encoder = Recorder(batch_size=4)
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    submission = ask(batcher, *(f"text {number}" for number in range(10)))
    encoder.go.set()
    wait(submission)
    assert [len(batch) for _, batch in encoder.passes] == [1, 4, 4, 2]


def test_a_pass_is_bounded_by_its_tokens(batcher_of: MakeBatcher) -> None:
    """Texts share a pass up to so many tokens, each counted up to the context length of 10; a longer one is alone."""
    encoder = Recorder()
    batcher = batcher_of(encoder, max_batch_tokens=9)
    held(batcher, encoder)
    submission = ask(batcher, "a b c", "d e f g h i", "j", "k " * 50, "l m")
    encoder.go.set()
    outcomes = outcomes_of(submission)
    assert [len(batch) for _, batch in encoder.passes] == [1, 2, 1, 1, 1]
    assert [outcome.tokens for outcome in outcomes if isinstance(outcome, Result)] == [3, 6, 1, 10, 2]


def test_an_idle_lane_starts_at_once(batcher_of: MakeBatcher) -> None:
    """With nobody on the way, an input does not wait for company."""
    batcher = batcher_of(Recorder(), max_wait_ms=60_000)
    started = time.monotonic()
    wait(ask(batcher, "one"))
    assert time.monotonic() - started < 1


def test_requests_on_the_way_are_waited_for(batcher_of: MakeBatcher) -> None:
    """Three requests that are on the way one after another are in one pass, which begins as soon as all are here."""
    encoder = Recorder()
    batchers: list[Batcher] = []
    batcher = batcher_of(encoder, max_wait_ms=60_000, on_the_way=lambda: 3 - batchers[0].open)
    batchers.append(batcher)
    started = time.monotonic()
    submissions = []
    for text in ("one", "two", "three"):
        submissions.append(ask(batcher, text))
        time.sleep(0.05)
    for submission in submissions:
        wait(submission)
    assert encoder.passes == [("document", ["one", "two", "three"])]
    assert time.monotonic() - started < 2


def test_nobody_waits_longer_than_allowed(batcher_of: MakeBatcher) -> None:
    """Requests that never come are waited for no longer than max_wait_ms, and a fifth of it if nothing comes at all."""
    encoder = Recorder()
    batcher = batcher_of(encoder, max_wait_ms=500, on_the_way=lambda: 7)
    started = time.monotonic()
    wait(ask(batcher, "alone"))
    assert 0.09 < time.monotonic() - started < 0.4
    started = time.monotonic()
    submissions = [ask(batcher, "text 0")]
    while not encoder.passes[1:]:
        submissions.append(ask(batcher, "text 0"))  # something always moves, and no batch is full
        time.sleep(0.02)
        assert time.monotonic() - started < LONG
    assert 0.4 < time.monotonic() - started < 1
    for submission in submissions:
        wait(submission)


def test_texts_and_images_take_turns(batcher_of: MakeBatcher) -> None:
    """A picture that comes when fifty texts wait is in the next pass but one, and the other way round."""
    encoder = Recorder(batch_size=2)
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    texts = ask(batcher, *(f"text {number}" for number in range(50)))
    image = show(batcher, png(5))
    until(
        lambda: (
            bool(batcher._queues)
            and all(not queue.undecoded and not queue.decoding for queue in batcher._queues.values())
        )
    )
    encoder.go.set()
    wait(texts), wait(image)
    assert ("image", [5]) in encoder.passes[1:3]
    encoder.passes.clear()
    held_again = held_by(batcher, encoder, "held again")
    images = show(batcher, *(png(width) for width in range(10, 60)))
    text = ask(batcher, "a text")
    encoder.go.set()
    for submission in (held_again, images, text):
        wait(submission)
    assert ("document", ["a text"]) in encoder.passes[1:3]


def held_by(batcher: Batcher, encoder: Recorder, text: str) -> Submission:
    while encoder.begun.acquire(blocking=False):
        pass
    encoder.go.clear()
    submission = ask(batcher, text)
    assert encoder.begun.acquire(timeout=LONG)
    return submission


def test_roles_and_tasks_are_kept_apart(batcher_of: MakeBatcher) -> None:
    """The same text as query, as document and for a task is three inputs, in three passes."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    submissions = [ask(batcher, "a", role="query"), ask(batcher, "a"), ask(batcher, "a", task="other")]
    encoder.go.set()
    query, document, _ = (outcomes_of(submission)[0] for submission in submissions)
    assert isinstance(query, Result)
    assert isinstance(document, Result)
    assert not np.array_equal(np.asarray(query.vector), np.asarray(document.vector))
    assert sorted(encoder.passes[1:]) == [("document", ["a"]), ("document", ["a"]), ("query", ["a"])]


def test_what_was_computed_is_not_computed_again(batcher_of: MakeBatcher) -> None:
    """A text that came before is answered without a pass; with a cache of no size it is encoded again."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    once, again = outcomes_of(ask(batcher, "a")), outcomes_of(ask(batcher, "a"))
    assert once == again
    assert len(encoder.passes) == 1
    forgetful = batcher_of(encoder, cache_mb=0)
    wait(ask(forgetful, "a")), wait(ask(forgetful, "a"))
    assert len(encoder.passes) == 3


def test_one_text_asked_for_by_two_is_encoded_once(batcher_of: MakeBatcher) -> None:
    """A text that waits or is being computed is not queued again, and both who asked for it get it."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    first = held(batcher, encoder)
    same, waiting, twice = ask(batcher, "held"), ask(batcher, "a"), ask(batcher, "a")
    assert batcher.waiting == 1
    encoder.go.set()
    assert outcomes_of(first)[0] is outcomes_of(same)[0]
    assert outcomes_of(waiting)[0] is outcomes_of(twice)[0]
    assert [batch for _, batch in encoder.passes] == [["held"], ["a"]]


def test_what_nobody_waits_for_is_dropped(batcher_of: MakeBatcher) -> None:
    """A cancelled input is not encoded while it waits, unless somebody else wants it too."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    gone, shared, other = ask(batcher, "a"), ask(batcher, "b"), ask(batcher, "b", "c")
    images = show(batcher, png(1), png(2), png(3), png(4))
    for submission in (gone, shared, images):
        submission.drop()
    until(lambda: batcher.waiting == 2)
    encoder.go.set()
    assert len(outcomes_of(other)) == 2
    assert [batch for _, batch in encoder.passes] == [["held"], ["b", "c"]]


def test_what_has_begun_is_finished_and_kept(batcher_of: MakeBatcher) -> None:
    """A call that is cancelled during its pass finds the vector when it comes again."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    submission = held(batcher, encoder)
    submission.drop()
    encoder.go.set()
    until(lambda: not batcher._entries)
    assert isinstance(outcomes_of(ask(batcher, "held"))[0], Result)
    assert len(encoder.passes) == 1


def test_a_thread_ends_when_its_client_goes(batcher_of: MakeBatcher) -> None:
    """Cancelling a call ends the wait of the thread that works for it, and that of one which begins to wait later."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    call = Call()
    ended: list[str] = []

    def work() -> None:
        current_call.set(call)
        for text in ("a", "b"):
            try:
                wait(ask(batcher, text))
            except CancelledError:
                ended.append(text)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: batcher.waiting == 1)
    call.cancel()
    thread.join(LONG)
    assert ended == ["a", "b"]
    assert call.cancelled
    assert batcher.waiting == 0


def test_a_full_queue_refuses_all_of_a_call(batcher_of: MakeBatcher) -> None:
    """What does not fit is refused whole, with an honest time to come back, and later there is room again."""
    encoder = Recorder(batch_size=1)
    batcher = batcher_of(encoder, max_queue=3)
    first = held(batcher, encoder)
    waiting = ask(batcher, "a", "b")
    with pytest.raises(Overloaded, match="2 inputs already wait for encoder recorder, and 2 more") as refused:
        ask(batcher, "c", "d")
    assert 1 <= refused.value.retry_after_seconds <= 60
    assert batcher.waiting == 2
    assert batcher.open == 2
    same = ask(batcher, "a", "b", "c")  # only one of them is new
    encoder.go.set()
    for submission in (first, waiting, same):
        assert all(isinstance(outcome, Result) for outcome in outcomes_of(submission))
    assert isinstance(outcomes_of(ask(batcher, "d"))[0], Result)


def test_what_could_never_fit_is_taken_where_nothing_waits(batcher_of: MakeBatcher) -> None:
    """A call of more than the queue holds is not refused for ever: it is taken when it would be alone in it."""
    encoder = Recorder(batch_size=2)
    batcher = batcher_of(encoder, max_queue=3)
    first = held(batcher, encoder)
    ask(batcher, "a")
    with pytest.raises(Overloaded):
        ask(batcher, *"bcdef")
    encoder.go.set()
    wait(first)
    wait(ask(batcher, "a"))
    assert all(isinstance(outcome, Result) for outcome in outcomes_of(ask(batcher, *"bcdef")))


def test_the_time_to_come_back_is_measured(batcher_of: MakeBatcher) -> None:
    """A batcher that takes half a second an input asks to wait as long as those before will take."""
    encoder = Recorder(batch_size=1)
    batcher = batcher_of(encoder, max_queue=6)
    encoder.go.clear()
    first = ask(batcher, "slow")
    time.sleep(0.5)
    encoder.go.set()
    wait(first)
    held_by(batcher, encoder, "held")
    ask(batcher, *"abcdef")
    with pytest.raises(Overloaded) as refused:
        ask(batcher, "more")
    assert 3 <= refused.value.retry_after_seconds <= 5


def test_only_the_bad_image_fails(batcher_of: MakeBatcher) -> None:
    """A picture that cannot be decoded is the error of that input, reaches no pass, and the next ones are unharmed."""
    encoder = Recorder()
    batcher = batcher_of(encoder, max_pixels=100)
    submission = show(batcher, png(1), b"not a picture", png(2), png(3)[:40], png(50))
    first, unknown, second, broken, large = outcomes_of_in_order(
        submission, batcher, png(1), b"not a picture", png(2), png(3)[:40], png(50)
    )
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert isinstance(unknown, UnreadableImage)
    assert isinstance(broken, UnreadableImage)
    assert str(large).startswith("the picture: 50 x 4 pixels are more than the 100 allowed")
    assert sorted(width for _, batch in encoder.passes for width in batch) == [1, 2]
    assert isinstance(outcomes_of(show(batcher, png(7)))[0], Result)


def outcomes_of_in_order(submission: Submission, batcher: Batcher, *images: bytes) -> list[Result | MmembedError]:
    outcomes = wait(submission)
    return [outcomes[image_key(batcher.encoder, image)] for image in images]


def test_queued_images_cost_their_bytes(batcher_of: MakeBatcher) -> None:
    """Of a hundred pictures that wait, no more are decoded than two batches."""
    encoder = Recorder(batch_size=4)
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    submission = show(batcher, *(png(width) for width in range(1, 101)))
    (queue,) = batcher._queues.values()
    until(lambda: len(queue.ready) == 8 and not queue.decoding)
    assert len(queue.undecoded) == 92
    encoder.go.set()
    assert all(isinstance(outcome, Result) for outcome in wait(submission).values())
    assert max(len(batch) for _, batch in encoder.passes) == 4


def test_large_images_are_not_piled_up(batcher_of: MakeBatcher) -> None:
    """Where pictures wait as large as they are, decoding stops at twice the largest picture that is allowed."""
    encoder = Recorder(batch_size=8)
    batcher = batcher_of(encoder, max_pixels=400)  # each has 4 rows
    held(batcher, encoder)
    submission = show(batcher, *(png(width) for width in range(91, 101)))
    (queue,) = batcher._queues.values()
    until(lambda: len(queue.ready) >= 3 and not queue.decoding)
    assert len(queue.ready) <= 4
    encoder.go.set()
    assert all(isinstance(outcome, Result) for outcome in wait(submission).values())


@pytest.mark.parametrize("spoiler", ["bad", "nan", "panic"])
def test_only_the_bad_text_fails(batcher_of: MakeBatcher, spoiler: str, caplog: pytest.LogCaptureFixture) -> None:
    """A text on which the encoder raises, panics or returns nonsense fails alone; its error names no file."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    submission = ask(batcher, "a", "b", spoiler, "c", "d")
    encoder.go.set()
    outcomes = wait(submission)
    failed = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, MmembedError)}
    assert list(failed) == [text_key(encoder, spoiler, role="document", task=None)]
    (error,) = failed.values()
    assert isinstance(error, EncoderError)
    assert "/srv" not in str(error)
    assert ("/srv/models/secret.bin" in caplog.text) == (spoiler == "bad")
    assert isinstance(outcomes_of(ask(batcher, "e"))[0], Result)


def test_too_few_vectors_are_noticed(batcher_of: MakeBatcher) -> None:
    """An encoder that returns one vector too few for a batch does not shift those of the others."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    submission = ask(batcher, "a", "short", "ccc")
    encoder.go.set()
    good = [outcome for outcome in outcomes_of(submission) if isinstance(outcome, Result)]
    expected = encoder.encode_text(["a", "ccc"], role="document")
    np.testing.assert_array_equal(np.stack([np.asarray(kept.vector) for kept in good]), expected)


@pytest.mark.parametrize(
    ("text", "task", "error"), [("gone", None, EncoderUnavailable), ("a", "unknown", SettingsError)]
)
def test_an_error_of_all_is_not_tried_one_by_one(
    batcher_of: MakeBatcher, text: str, task: str | None, error: type[MmembedError]
) -> None:
    """An API that does not answer, or a task that there is not, costs a batch one pass and disturbs no other."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    submission, other = ask(batcher, text, "b", "c", task=task), ask(batcher, "d", role="query")
    encoder.go.set()
    assert all(isinstance(outcome, error) for outcome in outcomes_of(submission))
    assert isinstance(outcomes_of(other)[0], Result)
    assert len(encoder.passes) == 3


def test_errors_are_not_kept(batcher_of: MakeBatcher) -> None:
    """What failed is tried again when it comes again."""
    encoder = Recorder()
    batcher = batcher_of(encoder)
    for _ in range(2):
        assert isinstance(outcomes_of(ask(batcher, "gone"))[0], EncoderUnavailable)
    assert len(encoder.passes) == 2


def test_a_remote_encoder_is_asked_several_times_at_once(batcher_of: MakeBatcher) -> None:
    """Four passes of an API run beside each other."""
    encoder = Recorder(batch_size=1, remote=True)
    batcher = batcher_of(encoder)
    encoder.go.clear()
    submission = ask(batcher, *"abcdefgh")
    until(lambda: len(encoder.passes) == 4)
    time.sleep(0.05)
    assert len(encoder.passes) == 4
    encoder.go.set()
    assert len(outcomes_of(submission)) == 8
    assert encoder.most_at_once == 4


def test_texts_of_one_document_stay_together(batcher_of: MakeBatcher) -> None:
    """The texts of a call that are read as one share a pass, however many, with no others; equal ones are two."""
    encoder = Recorder(batch_size=2, whole_call=("document",))
    batcher = batcher_of(encoder, max_batch_tokens=1)
    held(batcher, encoder)
    submissions = [
        batcher.submit(dict(zip(keys_as_one(encoder, len(texts), role="document", task=None), texts, strict=True)))
        for texts in (["a", "b", "a"], ["c"])
    ]
    encoder.go.set()
    assert [len(wait(submission)) for submission in submissions] == [3, 1]
    assert [batch for _, batch in encoder.passes] == [["held"], ["a", "b", "a"], ["c"]]


def test_a_closing_lane_finishes_what_it_accepted(batcher_of: MakeBatcher) -> None:
    """What waits when the batcher is closed is encoded, pictures too; what comes later is refused."""
    encoder = Recorder(batch_size=2)
    batcher = batcher_of(encoder)
    held(batcher, encoder)
    submissions = [ask(batcher, *"abcde"), show(batcher, *(png(width) for width in range(1, 8)))]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: batcher._closing)
    with pytest.raises(Overloaded, match="stopping"):
        ask(batcher, "late")
    encoder.go.set()
    closing.join(LONG)
    assert not closing.is_alive()
    assert [len(outcomes_of(submission)) for submission in submissions] == [5, 7]


def test_the_cache_is_bounded_in_bytes() -> None:
    """The cache keeps what was used last, never more than its size, and nothing that is larger than itself."""
    encoder = Recorder()
    keys = [text_key(encoder, f"{number}", role="query", task=None) for number in range(10)]
    kept = Result(np.zeros(100, dtype=np.float32), 1)
    cache = VectorCache(3 * size_of(keys[0], kept))
    for key in keys[:3]:
        cache.put(key, kept)
    assert cache.get(keys[0]) is kept
    cache.put(keys[3], kept)
    assert [cache.get(key) is not None for key in keys[:4]] == [True, False, True, True]
    cache.put(keys[4], Result(np.zeros(10_000, dtype=np.float32), 1))
    assert len(cache) == 3
    assert cache.bytes == cache.max_bytes
    cache.put(keys[0], kept)
    assert cache.bytes == cache.max_bytes
