"""Tags for a collection in Edge from its stored vectors: seconds, and against reading the vectors alone, as JSON lines.

    python bench/tagging.py [--points 100000] [--dim 512] [--labels 50] [--best 100] [--json OUT]

Points are stored as an index leaves them, with a search graph. Level: 20 s for 100,000 points, others in proportion.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lines import Lines, arguments

from mmembed.classification.classes import Classes
from mmembed.classification.labels import labels_of
from mmembed.classification.tagging import tag
from mmembed.collection import Collection
from mmembed.stores import open_store
from mmembed.types import Contract, DenseArray, Point, Store, VectorContract

SECONDS_FOR_100_000 = 20
BATCH = 2048
COLLECTION, FINGERPRINT = "bench", "0"


def unit(n: int, dim: int, *, seed: int) -> DenseArray:
    """`(n, dim)` rows of norm 1 in directions by chance."""
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def fill(store: Store, points: int, dim: int) -> None:
    """A collection as an index of pictures leaves it."""
    vector = VectorContract("bench", FINGERPRINT, "image", "dense", dim)
    store.create(COLLECTION, Contract("images", {"image": vector}), indexes={"content_hash": "keyword"})
    for start in range(0, points, BATCH):
        rows = enumerate(unit(min(BATCH, points - start), dim, seed=start), start)
        store.upsert(
            COLLECTION,
            [
                Point(
                    str(uuid.UUID(int=n)),
                    {"image": row},
                    {"uri": f"/photos/{n:08}.jpg", "content_hash": f"{n:032x}", "size": n, "width": 640, "height": 480},
                )
                for n, row in rows
            ],
        )
    store.optimize(COLLECTION)


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--best", type=int, default=100)
    options = parser.parse_args()
    lines = Lines("tagging", options.json)
    labels = labels_of([f"label {n}" for n in range(options.labels)])
    embeddings = unit(options.labels, options.dim, seed=-1 % 2**32)
    classes = Classes(labels, embeddings, 100.0, None, FINGERPRINT, "bench")
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"edge:{Path(folder) / 'store.mm'}")
        fill(store, options.points, options.dim)
        read = seconds(lambda: [None for _ in Collection(store, COLLECTION).image_vectors()])
        lines.add("the vectors read alone", read, unit="s", points=options.points, dim=options.dim)
        report = tag(store, COLLECTION, classes)
        level = SECONDS_FOR_100_000 * options.points / 100_000
        lines.add("tag", report.seconds, unit="s", at_most=level, tagged=report.tagged, labels=options.labels)
        lines.add("tag, over reading the vectors alone", report.seconds / read, unit="ratio")
        again = tag(store, COLLECTION, classes)
        lines.add("tag again, nothing new", again.seconds, unit="s", unchanged=again.unchanged)
        lines.add("the search graph built anew", seconds(lambda: store.optimize(COLLECTION)), unit="s")
        few = tag(store, COLLECTION, classes, key="nearest", best=options.best)
        lines.add(f"the {options.best} best of each label alone", few.seconds, unit="s", tagged=few.tagged)
        store.close()
    lines.exit()


if __name__ == "__main__":
    main()
