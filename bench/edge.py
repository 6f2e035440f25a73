"""Qdrant Edge through its own process: median query time and time to reopen, as JSON lines.

    python bench/edge.py [--points 50000] [--dim 768] [--queries 300] [--json OUT]

Vectors are clustered, as those of pictures are: on uniform noise a search graph finds nothing.
Targets at 50,000 x 768: query p50 below 2 ms, reopening below 1 s.
"""

from __future__ import annotations

import tempfile
import time
import uuid

import numpy as np
from lines import Lines, arguments

from mmembed.stores import open_store
from mmembed.types import Contract, DenseArray, Leg, Point, StoreQuery, VectorContract

LATENT_DIM, CLUSTERS, BATCH = 64, 400, 2048


def clustered(n: int, dim: int, *, seed: int) -> DenseArray:
    """`(n, dim)` unit rows in 400 clusters of a 64-dimensional subspace."""
    space = np.random.default_rng(0)
    centres, projection = space.normal(size=(CLUSTERS, LATENT_DIM)), space.normal(size=(LATENT_DIM, dim))
    random = np.random.default_rng(seed)
    latent = centres[random.integers(CLUSTERS, size=n)] + 0.4 * random.normal(size=(n, LATENT_DIM))
    rows = (latent @ projection).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    lines = Lines("edge", options.json)
    contract = Contract("images", {"image": VectorContract("bench", "0", "image", "dense", options.dim)})
    vectors = clustered(options.points, options.dim, seed=1)
    queries = clustered(options.queries, options.dim, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"edge:{folder}")
        store.create("bench", contract, indexes={"n": "integer"})
        began = time.perf_counter()
        for start in range(0, options.points, BATCH):
            rows = enumerate(vectors[start : start + BATCH], start)
            store.upsert("bench", [Point(str(uuid.UUID(int=n)), {"image": v}, {"n": n}) for n, v in rows])
        lines.add("upsert", options.points / (time.perf_counter() - began), unit="points/s")
        began = time.perf_counter()
        store.optimize("bench")
        lines.add("optimize", time.perf_counter() - began, unit="s")
        store.close()

        began = time.perf_counter()
        store = open_store(f"edge:{folder}")
        store.query("bench", StoreQuery([Leg("image", queries[0])], limit=10))
        lines.add("reopen and the first query", time.perf_counter() - began, unit="s", at_most=1)

        seconds, answers = [], []
        for query in queries:
            began = time.perf_counter()
            answers.append(store.query("bench", StoreQuery([Leg("image", query)], limit=10)))
            seconds.append(time.perf_counter() - began)
        p95 = round(float(np.quantile(seconds, 0.95)) * 1000, 4)
        lines.add("query p50", float(np.median(seconds)) * 1000, unit="ms", at_most=2, p95=p95)
        best = [set(np.argpartition(-(vectors @ query), 10)[:10].tolist()) for query in queries]
        found = sum(len({hit.payload["n"] for hit in hits} & b) for hits, b in zip(answers, best, strict=True))
        lines.add("recall@10 of the graph", found / (10 * options.queries), unit="share")
        store.close()
    lines.exit()


if __name__ == "__main__":
    main()
