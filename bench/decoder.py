"""Forward passes of a random Mistral on the CPU: prefixes read once and packed batches against plain, padded ones.

    python bench/decoder.py [--json OUT] [--queries 200] [--texts 64] [--rounds 3] [--layers 8]

75 million parameters at eight layers, drawn wide so that a wrong vector would show. Tokens are drawn too: queries of 4
to 18 after an instruction of 21, as E5-Mistral's for web search is, and texts of 8 to 512, half of them below 64, that
come in fixed batches of 32, as ingest sends them. Both sides take turns on one core, whose own seconds are counted, so
that other jobs do not; the ratio is the median of the rounds' own. Plain batches are sorted by length as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from lines import Lines, arguments
from transformers import MistralConfig, MistralModel

from mmembed.encoders.families.decoder_forward import DecoderForward, FastPasses
from mmembed.types import DenseArray
from mmembed.vectors import l2_normalize

VOCABULARY = 32_000
INSTRUCTION = 21  # tokens of E5-Mistral's for web search, <s> included
BATCH = 32
PREFIXED, PACKED = 0.6, 0.7

Rows = list[list[int]]


def build_model(layers: int) -> MistralModel:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=4,
        initializer_range=0.1,
    )
    model = MistralModel(config)
    model.train(False)  # as eval() does, which has no types
    return model


def rows_of(lengths: Sequence[int], rng: np.random.Generator) -> Rows:
    return [rng.integers(3, VOCABULARY, size=length).tolist() for length in lengths]


def queries(count: int, rng: np.random.Generator) -> Rows:
    """Rows that start with the same instruction."""
    [instruction] = rows_of([INSTRUCTION], rng)
    return [instruction + row for row in rows_of(rng.integers(4, 19, size=count).tolist(), rng)]


def texts(count: int, rng: np.random.Generator) -> Rows:
    """Rows of mixed lengths: many short, few long."""
    return rows_of(np.clip(rng.lognormal(4.15, 1.0, size=count), 8, 512).astype(int).tolist(), rng)


def in_batches(forward: DecoderForward, rows: Rows) -> DenseArray:
    """Fixed batches, in the order in which the texts come."""
    return np.concatenate([forward.pool(rows[i : i + BATCH], None) for i in range(0, len(rows), BATCH)])


def after_prefix(forward: DecoderForward, rows: Rows) -> DenseArray:
    """All at once; reading the prefix, which happens once a task, is counted."""
    return forward.pool(rows, forward.prefix(rows))


def compare(
    lines: Lines, what: str, sides: Sequence[Callable[[], DenseArray]], rounds: int, *, tokens: int, at_most: float
) -> None:
    """Time the plain side and the fast one in turn; their vectors must be equal."""
    plain, fast = (l2_normalize(side()) for side in sides)  # which warms both up
    taken: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, seconds in zip(sides, taken, strict=True):
            began = time.process_time()
            side()
            seconds.append(time.process_time() - began)
    ratios = [after / before for before, after in zip(*taken, strict=True)]
    for name, seconds in zip((f"{what}, the plain way", what), taken, strict=True):
        lines.add(name, tokens / statistics.median(seconds), unit="tokens a second", rounds=rounds)
    lines.add(f"{what}, time over plain", statistics.median(ratios), unit="ratio", at_most=at_most)
    lines.add(f"{what}, largest difference of a coordinate", float(np.abs(plain - fast).max()), unit="", at_most=1e-5)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    lines = Lines("decoder", options.json)
    torch.set_num_threads(1)
    model = build_model(options.layers)
    plain, prefixed, packed = (
        DecoderForward("bench", model, ways, padding_side="right", batch_size=BATCH)
        for ways in (
            FastPasses(False, False),
            FastPasses(packed=False, prefixed=True),
            FastPasses(packed=True, prefixed=False),
        )
    )
    rng = np.random.default_rng(0)
    short, mixed = queries(options.queries, rng), texts(options.texts, rng)
    tokens = [sum(map(len, rows)) for rows in (short, mixed)]
    sides = [lambda: plain.pool(short, None), lambda: after_prefix(prefixed, short)]
    compare(lines, "queries after a prefix", sides, options.rounds, tokens=tokens[0], at_most=PREFIXED)
    sides = [lambda: in_batches(plain, mixed), lambda: in_batches(packed, mixed)]
    compare(lines, "texts packed", sides, options.rounds, tokens=tokens[1], at_most=PACKED)
    lines.exit()


if __name__ == "__main__":
    main()
