"""Packed batches and prefixes read once, held against each text alone through transformers' own model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints_text import TEXTS, build_e5_mistral, build_gemma3, build_qwen3
from transformers import AutoModel, MistralModel

from mmembed.encoders.families import decoder_forward
from mmembed.encoders.families.decoder_forward import DecoderForward, Ways, common_prefix, packed_rows
from mmembed.encoders.families.decoder_lm import E5_MISTRAL, DecoderLM
from mmembed.encoders.families.decoder_passes import Prefix, pool_packed, pool_padded, pool_prefixed, read_prefix
from mmembed.encoders.prompts import query_prefix
from mmembed.encoders.registry import load_encoder
from mmembed.types import DenseArray
from mmembed.vectors import l2_normalize

MIXED = [*TEXTS, " ", "parrots " * 200, "one more text of a middling length, and no more than that", "7", "Query: a"]
WEB_SEARCH = query_prefix(E5_MISTRAL.query_prompt, None)


def _configured(folder: Path, **settings: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


BUILDERS: dict[str, Callable[[Path], str]] = {
    "mistral": lambda folder: f"e5-mistral:{build_e5_mistral(folder)}",
    "mistral, short window": lambda folder: f"e5-mistral:{_configured(build_e5_mistral(folder), sliding_window=150)}",
    "qwen3": lambda folder: f"qwen3:{build_qwen3(folder)}",
    "gemma3": lambda folder: f"harrier:{_configured(build_gemma3(folder), sliding_window=4096)}",
    "gemma3, short window": lambda folder: f"harrier:{_configured(build_gemma3(folder), sliding_window=150)}",
}


@pytest.fixture(scope="module", params=list(BUILDERS))
def name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of each kind; the short windows are longer than a prefix and shorter than some texts."""
    return BUILDERS[request.param](tmp_path_factory.mktemp("decoder") / "model")


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> str:
    return BUILDERS["mistral"](tmp_path_factory.mktemp("mistral") / "model")


def load(name: str, **options: Any) -> DecoderLM:
    encoder = load_encoder(name, device="cpu", **options)
    assert isinstance(encoder, DecoderLM)
    return encoder


@cache
def reference_of(name: str) -> Any:
    return AutoModel.from_pretrained(name.partition(":")[2])


def alone(name: str, rows: Sequence[Sequence[int]]) -> DenseArray:
    """The reference: every row in a forward pass of its own, nothing padded, nothing masked."""
    model = reference_of(name)
    with torch.inference_mode():
        states = [model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
    return l2_normalize(torch.stack(states).numpy())


def queries_of(encoder: DecoderLM, texts: Sequence[str], task: str | None = None) -> list[list[int]]:
    """The rows of queries as the encoder reads them."""
    prefix = query_prefix(encoder._family.query_prompt, task)
    return encoder._tokens.ids([prefix + text for text in texts], limit=encoder.spec.context_length)


def unit(states: torch.Tensor) -> DenseArray:
    return l2_normalize(states.numpy())


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which forward passes were made, in order; they are made all the same."""
    made: list[str] = []

    def spy(way: str) -> None:
        real = getattr(decoder_forward, way)

        def spied(*arguments: Any, **options: Any) -> Any:
            made.append(way)
            return real(*arguments, **options)

        monkeypatch.setattr(decoder_forward, way, spied)

    for way in ("pool_padded", "pool_packed", "pool_prefixed", "read_prefix"):
        spy(way)
    return made


# --- equal ---------------------------------------------------------------------------------------


def test_every_pass_equals_each_text_alone(name: str) -> None:
    """Padded on either side, packed in any number of packs and after a prefix of any length: the vectors are those."""
    encoder = load(name)
    model, rows = encoder._forward.model, queries_of(encoder, MIXED)
    expected = alone(name, rows)
    for side in ("left", "right"):
        assert np.allclose(unit(pool_padded(model, rows, side=side)), expected, atol=1e-5), side
    for packs in (1, 2, 3, len(rows)):
        dealt = packed_rows([len(row) for row in rows], packs)
        assert np.allclose(unit(pool_packed(model, rows, dealt)), expected, atol=1e-5), packs
    shared = common_prefix(rows)
    assert len(shared) > 10
    for length in (1, 5, len(shared)):
        prefix = read_prefix(model, shared[:length])
        assert np.allclose(unit(pool_prefixed(model, rows, prefix)), expected, atol=1e-5), length


@pytest.mark.parametrize("size", [1, 2, 3, 5, len(MIXED)])
def test_batches_and_order_do_not_change_a_vector(name: str, size: int, passes: list[str]) -> None:
    """Queries and documents in any batch size and any order have the vectors that they have alone."""
    encoder = load(name, batch_size=size)
    passes.clear()
    order = np.random.default_rng(size).permutation(len(MIXED))
    shuffled = [MIXED[i] for i in order]
    got = encoder.encode_text(shuffled, role="query")
    assert np.allclose(got, alone(name, queries_of(encoder, shuffled)), atol=1e-5)
    assert passes.count("read_prefix") == 1
    if size < 5:
        assert "pool_prefixed" in passes
    got = encoder.encode_text(shuffled, role="document")
    assert np.allclose(got, alone(name, encoder._tokens.ids(shuffled)), atol=1e-5)
    if size > 2:
        assert "pool_packed" in passes


def test_one_text_and_none(name: str) -> None:
    """A single text, an empty one among them, has the vector that it has among others; no texts are no rows."""
    encoder = load(name)
    for text in ("", "a", MIXED[1]):
        got = encoder.encode_text([text], role="query")
        assert np.allclose(got, alone(name, queries_of(encoder, [text])), atol=1e-5), text
    assert encoder.encode_text([], role="query").shape == (0, 64)


@pytest.mark.parametrize("limit", [8, 40, 120])
def test_cut_texts(name: str, limit: int, passes: list[str]) -> None:
    """Texts that are cut have the vector of what is left of them; an instruction that is itself cut is not read."""
    encoder = load(f"{name}?max_length={limit}")
    passes.clear()
    rows = queries_of(encoder, MIXED)
    assert max(map(len, rows)) == limit
    assert np.allclose(encoder.encode_text(MIXED, role="query"), alone(name, rows), atol=1e-5)
    assert ("read_prefix" in passes) == (limit > 8)


def test_many_tasks(name: str, passes: list[str]) -> None:
    """Each task has its own prefix, which is read once and again only when many others came between."""
    encoder = load(name)
    passes.clear()
    tasks = [None, *(f"Find text number {i}" for i in range(9))]
    for task in [*tasks, tasks[-1], tasks[0]]:
        got = encoder.encode_text(TEXTS, role="query", task=task)
        assert np.allclose(got, alone(name, queries_of(encoder, TEXTS, task)), atol=1e-5), task
    assert passes.count("read_prefix") == len(tasks) + 1
    got = encoder.encode_text(TEXTS, role="query", task="")
    assert np.allclose(got, alone(name, encoder._tokens.ids(TEXTS)), atol=1e-5)
    assert passes.count("read_prefix") == len(tasks) + 1


def test_a_long_instruction_is_not_kept(mistral: str, passes: list[str]) -> None:
    """Keys and values of an instruction of hundreds of tokens would fill the memory: it is read with every text."""
    encoder = load(mistral)
    passes.clear()
    for words, kept in ((40, 1), (900, 0)):
        task = "find " * words
        got = encoder.encode_text(TEXTS, role="query", task=task)
        assert np.allclose(got, alone(mistral, queries_of(encoder, TEXTS, task)), atol=1e-5), words
        assert passes.count("read_prefix") == kept, words
        passes.clear()


def test_threads_share_a_prefix(mistral: str) -> None:
    """Calls from several threads, of several tasks, have the vectors of calls one after another."""
    encoder = load(mistral)
    tasks = [None, "SciFact", "similarity", "Find it"] * 6
    expected = {task: alone(mistral, queries_of(encoder, MIXED, task)) for task in set(tasks)}
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda task: encoder.encode_text(MIXED, role="query", task=task), tasks))
    for task, got in zip(tasks, found, strict=True):
        assert np.allclose(got, expected[task], atol=1e-5), task


def test_the_same_call_gives_the_same_bits(mistral: str) -> None:
    """The first call, which reads the prefix, and a later one agree in every bit, in half precision too."""
    for dtype in ("float32", "bfloat16"):
        encoder = load(mistral, dtype=dtype)
        first = encoder.encode_text(MIXED, role="query")
        assert (encoder.encode_text(MIXED, role="query") == first).all()


def test_a_prefix_is_never_changed(mistral: str) -> None:
    """Batches leave the keys and values of a prefix as they were."""
    encoder = load(mistral)
    prefix = encoder._prefix_of(WEB_SEARCH)
    assert prefix is not None
    before = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.cache.layers]
    encoder.encode_text(MIXED, role="query")
    assert len(before) == 4
    for (keys, values), layer in zip(before, prefix.cache.layers, strict=True):
        assert keys.shape[-2] == len(prefix.ids)
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_rows_that_start_otherwise_go_the_plain_way(mistral: str, passes: list[str]) -> None:
    """A row that the prefix does not lead, or that is no longer than it, is computed whole."""
    encoder = load(mistral)
    prefix = encoder._prefix_of(WEB_SEARCH)
    assert prefix is not None
    led = queries_of(encoder, TEXTS)
    others = [list(prefix.ids), list(prefix.ids[:-1]), [1, 2], [*prefix.ids[:-1], 9, 9, 2]]
    rows = [row for pair in zip(led, others, strict=False) for row in pair]
    assert [prefix.leads(row) for row in rows] == [True, False] * 4
    passes.clear()
    assert np.allclose(l2_normalize(encoder._forward.pool(rows, prefix)), alone(mistral, rows), atol=1e-5)
    assert passes.count("pool_prefixed") == 1


def test_a_prefix_is_cut_where_texts_part(tmp_path: Path) -> None:
    """With Mistral's own tokenizer 21 tokens are shared, one less than the instruction alone is read as."""
    package = pytest.importorskip("mistral_common", reason="carries Mistral-7B's tokenizer")
    vocabulary = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    encoder = load(f"e5-mistral:{build_e5_mistral(tmp_path / 'e5', vocabulary=vocabulary)}")
    prefix = encoder._prefix_of(WEB_SEARCH)
    assert prefix is not None
    assert len(prefix.ids) == 21
    [by_itself] = encoder._tokens.ids([WEB_SEARCH])
    assert encoder._tokens.words(by_itself[21:]) == ["▁", "</s>"]
    assert all(prefix.leads(row) for row in queries_of(encoder, MIXED))


def test_texts_without_any_token(tmp_path: Path) -> None:
    """Where a tokenizer frames nothing, an empty text has a vector too, and its neighbours keep theirs."""
    folder = build_qwen3(tmp_path / "q")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    encoder = load(f"harrier:{folder}")
    texts = ["parrots", "", "two parrots on a branch"]
    got = encoder.encode_text(texts, role="document")
    rows = encoder._tokens.ids(texts)
    assert [len(row) > 0 for row in rows] == [True, False, True]
    assert np.allclose(got[::2], alone(f"harrier:{folder}", rows[::2]), atol=1e-5)
    assert np.isfinite(encoder.encode_text([""], role="document")).all()


# --- the cheapest way ----------------------------------------------------------------------------


def test_each_batch_goes_the_cheapest_way(mistral: str, passes: list[str]) -> None:
    """Mixed lengths are packed, equal ones and single texts are not, and a short prefix of long texts is not lent."""
    encoder = load(mistral)
    rng = np.random.default_rng(0)

    def went(lengths: Sequence[int], prefix: Prefix | None = None) -> list[str]:
        passes.clear()
        start = prefix.ids if prefix else ()
        encoder._forward.pool([[*start, *rng.integers(3, 200, size=n - len(start)).tolist()] for n in lengths], prefix)
        return list(passes)

    prefix = encoder._prefix_of(WEB_SEARCH)
    assert prefix is not None
    shared = len(prefix.ids)
    assert went([40, 10, 10, 10, 10]) == ["pool_packed"]
    assert went([20, 20, 20]) == ["pool_padded"]
    assert went([20]) == ["pool_padded"]
    assert went([shared + 9, shared + 5, shared + 1], prefix) == ["pool_prefixed"]
    assert went([shared + 9], prefix) == ["pool_prefixed"]
    assert went([20 * shared, 20 * shared], prefix) == ["pool_padded"]
    assert went([20 * shared, *[shared + 20] * 9], prefix) == ["pool_packed"]


def test_what_is_longer_than_a_window_goes_the_plain_way(tmp_path: Path, passes: list[str]) -> None:
    """The trial at loading shows nothing of windows: a longer text is padded, and the others are packed without it."""
    folder = _configured(build_gemma3(tmp_path / "gemma"), sliding_window=64)
    forward = load(f"harrier:{folder}")._forward
    for longest, ways in ((65, ["pool_padded", "pool_packed"]), (64, ["pool_packed"])):
        passes.clear()
        forward.pool([list(range(3, 3 + n)) for n in (longest, 40, 10, 10, 10)], None)
        assert passes == ways
    prefix = forward.prefix([[5, 6, 7, 8], [5, 6, 7, 9]])
    for length, way in ((65, "pool_padded"), (4, "pool_prefixed")):
        passes.clear()
        forward.pool([[5, 6, 7, *range(3, length)]], prefix)
        assert passes == [way]
    assert forward.prefix([[*range(3, 90), 1], [*range(3, 90), 2]]) is None


def test_packs_are_even() -> None:
    """Every text is in one pack, and no pack is longer than the shortest by more than its own last text."""
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 60, size=100)]
    for packs in (1, 2, 7, 100):
        dealt = packed_rows(lengths, packs)
        assert sorted(i for pack in dealt for i in pack) == list(range(100))
        sums = [sum(lengths[i] for i in pack) for pack in dealt]
        assert all(total - lengths[pack[-1]] <= min(sums) for pack, total in zip(dealt, sums, strict=True))


def test_common_prefix() -> None:
    """What all rows start with, wherever the odd one stands."""
    assert common_prefix([[1, 2, 3], [1, 2], [1, 2, 4]]) == [1, 2]
    assert common_prefix([[1, 2, 3], [1, 9, 3], [1, 2, 3]]) == [1]
    assert common_prefix([[1], [2]]) == []
    assert common_prefix([[4, 5], [4, 5]]) == [4, 5]


# --- the trial at loading ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_right_models_pass_the_trial(name: str, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    """All families go all ways in every precision, and nothing is logged."""
    encoder = load(name, dtype=dtype)
    assert encoder._forward._ways == Ways(packed=True, prefixed=True)
    assert not [record for record in caplog.records if record.name.startswith("mmembed")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ignored", ["position_ids", "past_key_values"])
def test_a_model_that_ignores_what_a_way_needs_is_found_out(
    mistral: str, ignored: str, dtype: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without positions packed texts would leak, without the cache a query would lose its task: neither is used."""
    real = MistralModel.forward

    def deaf(self: MistralModel, **arguments: Any) -> Any:
        return real(self, **{**arguments, ignored: None})

    monkeypatch.setattr(MistralModel, "forward", deaf)
    with caplog.at_level(logging.WARNING, "mmembed"):
        encoder = load(mistral, dtype=dtype)
    packed = ignored != "position_ids"
    assert encoder._forward._ways == Ways(packed=packed, prefixed=not packed)
    [record] = [record for record in caplog.records if record.name.startswith("mmembed")]
    assert "goes the plain, slower way" in record.getMessage()
    assert ("after a prefix" if packed else "packed") in record.getMessage()
    monkeypatch.setattr(MistralModel, "forward", real)
    expected = alone(mistral, queries_of(encoder, MIXED)), alone(mistral, encoder._tokens.ids(MIXED))
    monkeypatch.setattr(MistralModel, "forward", deaf)
    got = encoder.encode_text(MIXED, role="query"), encoder.encode_text(MIXED, role="document")
    for left, right in zip(got, expected, strict=True):
        if dtype == "float32":
            assert np.allclose(left, right, atol=1e-5)
        else:
            assert (left * right).sum(axis=1).min() > 0.97


def test_a_model_that_raises_on_what_a_way_needs_goes_the_plain_way(
    mistral: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model whose code knows neither positions nor a cache is loaded, with a line that says why it is slower."""
    real = MistralModel.forward

    def narrow(self: MistralModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
        return real(self, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(MistralModel, "forward", narrow)
    encoder = load(mistral)
    assert encoder._forward._ways == Ways(packed=False, prefixed=False)
    assert "cannot run packed" in caplog.text
    assert "TypeError" in caplog.text
    got = encoder.encode_text(MIXED, role="query")
    monkeypatch.setattr(MistralModel, "forward", real)
    assert np.allclose(got, alone(mistral, queries_of(encoder, MIXED)), atol=1e-5)


def test_a_model_that_looks_ahead_reads_no_prefix_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With attention in both directions a prefix depends on what follows: it is not read once for all."""
    folder = _configured(build_gemma3(tmp_path / "gemma"), sliding_window=512, use_bidirectional_attention=True)
    encoder = load(f"harrier:{folder}")
    assert not encoder._forward._ways.prefixed
    assert "after a prefix differs" in caplog.text
    got = encoder.encode_text(MIXED, role="query")
    assert np.allclose(got, alone(f"harrier:{folder}", queries_of(encoder, MIXED)), atol=1e-5)


def test_the_trial_is_short(mistral: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 it costs four forward passes over a few hundred tokens: a model of 7B must load on a CPU too."""
    real, read = MistralModel.forward, []

    def counting(self: MistralModel, **arguments: Any) -> Any:
        read.append(arguments["input_ids"].numel())
        return real(self, **arguments)

    monkeypatch.setattr(MistralModel, "forward", counting)
    load(mistral)
    assert len(read) == 4
    assert sum(read) < 400


def test_a_forward_without_proof_takes_no_short_cut(mistral: str, passes: list[str]) -> None:
    """Ways that were not proven are not gone, however much they would save."""
    ways = Ways(packed=False, prefixed=False)
    forward = DecoderForward("m", reference_of(mistral), ways, padding_side="right", batch_size=None)
    rows = [[5, 6, 7, *range(10, 10 + n)] for n in (40, 1, 2, 3)]
    assert forward.prefix(rows) is None
    assert np.allclose(l2_normalize(forward.pool(rows, None)), alone(mistral, rows), atol=1e-5)
    assert set(passes) == {"pool_padded"}
