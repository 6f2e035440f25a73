"""`mmembed serve` in a process of its own against the same encoder and store called directly, both in turn.

    python bench/service.py [--json OUT] [--part NAME ...] [--help for the sizes]

latency     added by one client alone, at the median: a search by words, an embedding
throughput  64 clients against the encoder called directly at its best batch size: ViT-B-32, texts and JPEGs
constant    64 clients, `tiny` against an encoder that costs next to nothing, of the same server
memory      resident memory after the first fifth of many requests and after all of them
corrupt     a load of which 1 % are broken pictures
loop        longest gap of a 5 ms ticker on the event loop while the embedded store loads, takes points and optimises
gpu         64 clients against one at a time; only where there is a GPU

The clients are a process of their own too. Weights of ViT-B-32 are random: speed does not depend on them. What counts
of rounds that took turns is the fastest of each side, since another job on the machine only ever makes one slower.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from http_load import Load, put_load
from lines import Lines, arguments
from open_clip_ingest import write_checkpoint
from served import Serving, embed, images, infer, search_for, serving, texts, write_store
from service_loop import measure_gaps

from mmembed import Encoder, load_encoder, open_store, search
from mmembed.images import load_image

CLIENTS = 64
ADDED_MS, OF_DIRECT, OF_CONSTANT, TIMES_ONE, FLAT, GAP_MS = 3.0, 0.9, 0.8, 8.0, 1.05, 50.0
BATCH_SIZES = (8, 16, 32, 64, 128)


def latency(lines: Lines, folder: Path, options: argparse.Namespace) -> None:
    encoder = load_encoder("tiny", device="cpu")
    for side in ("direct", "served"):
        write_store(folder / side, encoder, options.points)
    store = open_store(f"edge:{folder / 'direct'}")
    asked: dict[str, tuple[Callable[[str], object], Callable[[str], tuple[str, str]]]] = {
        "search by words": (
            lambda text: search(store, "bench", text=text, limit=10, encoder=encoder),
            search_for,
        ),
        "embedding of a text": (
            lambda text: encoder.encode_text([text], role="document"),
            lambda text: embed("tiny", text),
        ),
    }
    with serving(folder, "--store", f"edge:{folder / 'served'}") as served:
        for what, (call, request) in asked.items():
            seconds: dict[str, list[float]] = {"direct": [], "served": []}
            for number in range(options.rounds + 1):
                block = texts(options.calls, of=f"{what} {number}")
                direct = [timed(call, text) for text in block]
                load = put_load(served.port, [request(text) for text in block], connections=1)
                assert not load.failures, set(load.statuses)
                if number:  # the first round warms both
                    seconds["direct"].append(statistics.median(direct))
                    seconds["served"].append(statistics.median(load.seconds))
            direct_ms, served_ms = (min(seconds[side]) * 1000 for side in ("direct", "served"))
            facts = {"direct_ms": round(direct_ms, 3), "served_ms": round(served_ms, 3), "points": options.points}
            lines.add(f"{what}, added at p50", served_ms - direct_ms, unit="ms", at_most=ADDED_MS, **facts)
    store.close()


def timed(call: Callable[[str], object], text: str) -> float:
    began = time.perf_counter()
    call(text)
    return time.perf_counter() - began


def throughput(lines: Lines, folder: Path, options: argparse.Namespace) -> None:
    write_checkpoint(folder / "weights.pt", options.architecture)
    name = f"open_clip:{options.architecture}@{folder / 'weights.pt'}"
    encoder = load_encoder(name, device="cpu")
    jpegs, words = images(folder / "pictures", options.inputs), texts(options.inputs, of="throughput")
    sides: dict[str, tuple[Callable[[int], float], list[tuple[str, str]]]] = {
        "texts": (lambda size: encode_texts(encoder, words, size), [embed(name, text) for text in words]),
        "JPEGs": (lambda size: encode_images(encoder, jpegs, size), [infer(name, jpeg) for jpeg in jpegs]),
    }
    with serving(folder, "--store", f"edge:{folder / 'store'}", "--encoder", name, "--cache-mb", "0") as served:
        for what, (direct, requests) in sides.items():
            put_load(served.port, requests[:CLIENTS], connections=CLIENTS)
            sizes = {size: direct(size) for size in BATCH_SIZES if size <= options.inputs}
            best = max(sizes, key=lambda size: sizes[size])
            rates, loads = [sizes[best]], []
            for _ in range(options.rounds):
                loads.append(put_load(served.port, requests, connections=CLIENTS))
                rates.append(direct(best))
            facts = {"architecture": options.architecture, "best_batch_size": best, "inputs": options.inputs}
            lines.add(
                f"{what}, encoder called directly", max(rates), unit="inputs a second", rounds=rounded(rates), **facts
            )
            add_load(lines, what, loads)
            served_rate = max(load.rate for load in loads)
            lines.add(f"{what}, 64 clients over direct", served_rate / max(rates), unit="ratio", at_least=OF_DIRECT)


def encode_texts(encoder: Encoder, words: Sequence[str], size: int) -> float:
    """Texts a second in batches of `size`."""
    began = time.perf_counter()
    for start in range(0, len(words), size):
        encoder.encode_text(words[start : start + size], role="document")
    return len(words) / (time.perf_counter() - began)


def encode_images(encoder: Encoder, jpegs: Sequence[bytes], size: int) -> float:
    """Pictures a second in batches of `size`, decoded first."""
    began = time.perf_counter()
    for start in range(0, len(jpegs), size):
        encoder.encode_image([load_image(jpeg, uri="picture") for jpeg in jpegs[start : start + size]])
    return len(jpegs) / (time.perf_counter() - began)


def rounded(rates: Sequence[float]) -> list[float]:
    return [round(rate, 1) for rate in rates]


def add_load(lines: Lines, what: str, loads: Sequence[Load]) -> None:
    """Rate, p99 and failures of 64 clients."""
    rates = [load.rate for load in loads]
    lines.add(f"{what}, 64 clients", max(rates), unit="requests a second", rounds=rounded(rates))
    best = min(loads, key=lambda load: load.wall)
    p50 = round(best.quantile_ms(0.5), 2)
    lines.add(f"{what}, 64 clients, p99", best.quantile_ms(0.99), unit="ms", p50_ms=p50)
    lines.add(f"{what}, 64 clients, failures", sum(load.failures for load in loads), unit="requests", at_most=0)


def constant(lines: Lines, folder: Path, options: argparse.Namespace) -> None:
    dim = load_encoder("tiny", device="cpu").spec.dim
    names = {"tiny": "tiny", "constant": f"fake?dim={dim}"}
    loads: dict[str, list[Load]] = {side: [] for side in names}
    flags = ["--store", f"edge:{folder / 'store'}", "--encoder", names["constant"], "--cache-mb", "0"]
    with serving(folder, *flags) as served:
        for number in range(options.rounds + 1):
            for side in names if number % 2 else reversed(names):
                asked = [embed(names[side], text) for text in texts(options.requests, of=f"{side} {number}")]
                load = put_load(served.port, asked, connections=CLIENTS)
                if number:  # the first round warms both
                    loads[side].append(load)
    for side, done in loads.items():
        add_load(lines, f"texts by {side}", done)
    tiny, same = (max(load.rate for load in loads[side]) for side in ("tiny", "constant"))
    lines.add("tiny over a constant encoder, 64 clients", tiny / same, unit="ratio", at_least=OF_CONSTANT)


def memory(lines: Lines, folder: Path, options: argparse.Namespace) -> None:
    write_store(folder / "store", load_encoder("tiny", device="cpu"), options.points)
    few = options.many // 5
    with serving(folder, "--store", f"edge:{folder / 'store'}", "--cache-mb", "2") as served:
        before = after_load(served, few, "first")
        after = after_load(served, options.many - few, "then")
    for process, level in (("service", FLAT), ("store", None)):
        ratio, mib = after[process] / before[process], [round(before[process]), round(after[process])]
        what = f"memory of the {process}, after all requests over after a fifth"
        lines.add(what, ratio, unit="ratio", at_most=level, requests=options.many, mib=mib)


def after_load(served: Serving, n: int, of: str) -> dict[str, float]:
    """Memory after n requests, every other one a search, which must all be answered."""
    asked = [search_for(text) if at % 2 else embed("tiny", text) for at, text in enumerate(texts(n, of=of))]
    load = put_load(served.port, asked, connections=CLIENTS)
    assert not load.failures, f"{load.failures} of {n} requests failed"
    return served.memory_mb()


def corrupt(lines: Lines, folder: Path, options: argparse.Namespace) -> None:
    good = images(folder / "pictures", 200)
    bad = [good[0][:600], b"no picture", b"", b"\x89PNG\r\n\x1a\n" + bytes(40), good[1][2:]]
    requests = [infer("tiny", image) for image in [*good, *bad]]
    order = [n % 200 if n % 100 else 200 + n // 100 % len(bad) for n in range(1, options.load + 1)]
    with serving(folder, "--store", f"edge:{folder / 'store'}", "--cache-mb", "0") as served:
        load = put_load(served.port, requests, connections=CLIENTS, order=order)
    answered = list(zip(load.asked, load.statuses, strict=True))
    good_lost = sum(asked < 200 and status != 200 for asked, status in answered)
    bad_other = sum(asked >= 200 and status != 400 for asked, status in answered)
    facts = {"requests": options.load, "corrupt": sum(asked >= 200 for asked in order)}
    lines.add("good pictures among corrupt ones, not answered", good_lost, unit="requests", at_most=0, **facts)
    lines.add("corrupt pictures, answered otherwise than by 400", bad_other, unit="requests", at_most=0, **facts)
    lines.add("pictures by tiny, 64 clients", load.rate, unit="requests a second", p99_ms=round(load.quantile_ms(0.99)))


def loop(lines: Lines, folder: Path, options: argparse.Namespace) -> None:
    for gap in measure_gaps(folder, options.loop_points):
        level = GAP_MS if gap.during.endswith("searched") else None
        what = f"longest gap of a 5 ms ticker, {gap.during}"
        facts = {"points": options.loop_points, "computed_ms": round(gap.computed_ms, 1)}
        lines.add(what, gap.longest_ms, unit="ms", at_most=level, **facts)


def gpu(lines: Lines, folder: Path, options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        lines.add("64 clients over one at a time, on a GPU", 0, unit="not run", why="there is no GPU")
        return
    write_checkpoint(folder / "weights.pt", options.architecture)
    name = f"open_clip:{options.architecture}@{folder / 'weights.pt'}"
    flags = ["--store", f"edge:{folder / 'store'}", "--encoder", name, "--cache-mb", "0", "--device", "cuda"]
    with serving(folder, *flags) as served:
        put_load(served.port, [embed(name, text) for text in texts(CLIENTS, of="warm")], connections=CLIENTS)
        rates: dict[int, list[float]] = {1: [], CLIENTS: []}
        for number in range(options.rounds):
            for clients, done in rates.items():
                asked = [embed(name, text) for text in texts(options.inputs * clients, of=f"{clients} {number}")]
                done.append(put_load(served.port, asked, connections=clients).rate)
    lines.add(
        "64 clients over one at a time, on a GPU",
        max(rates[CLIENTS]) / max(rates[1]),
        unit="ratio",
        at_least=TIMES_ONE,
        device=torch.cuda.get_device_name(),
        alone=round(max(rates[1]), 1),
        cpus_of_host=os.cpu_count(),
    )


PARTS = (latency, throughput, constant, memory, corrupt, loop, gpu)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--part", action="append", choices=[part.__name__ for part in PARTS], help="by default all")
    parser.add_argument("--points", type=int, default=5_000, help="of the store that is searched")
    parser.add_argument("--calls", type=int, default=200, help="one after another in a round of latency")
    parser.add_argument("--inputs", type=int, default=256, help="in a round of throughput")
    parser.add_argument("--requests", type=int, default=4_000, help="in a round of constant")
    parser.add_argument("--many", type=int, default=50_000, help="requests over which memory must be flat")
    parser.add_argument("--load", type=int, default=10_000, help="requests of which 1 %% are corrupt")
    parser.add_argument(
        "--loop-points", type=int, default=20_000, help="that the store takes while the loop is watched"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--architecture", default="ViT-B-32")
    options = parser.parse_args()
    lines = Lines("service", options.json)
    for part in PARTS:
        if not options.part or part.__name__ in options.part:
            with tempfile.TemporaryDirectory() as folder:
                part(lines, Path(folder), options)
    lines.exit()


if __name__ == "__main__":
    main()
