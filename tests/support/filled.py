"""A collection of the kind that tests of stores fill, and a store that talks gRPC."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from grpc_server import Service, serve
from qdrant_client import QdrantClient

from mmembed.stores.qdrant.store import QdrantStore, _version
from mmembed.types import Contract, DenseArray, Hit, Point, SparseVector, Store, VectorContract

SERVER = os.environ.get("MMEMBED_TEST_QDRANT_URL")
CONTRACT = Contract(
    "images",
    {
        "image": VectorContract("tiny", "f1", "image", "dense", 8),
        "bm25": VectorContract("bm25", "f2", "text", "sparse", None, "dot"),
        "splade": VectorContract("splade:x", "f3", "text", "sparse", None, "dot"),
        "cross": VectorContract("clip", "f4", "text", "multi", 4),
    },
)
INDEXES = {"tag": "keyword", "n": "integer", "score": "float", "seen": "bool", "at": "datetime"}


@contextmanager
def grpc_store() -> Iterator[tuple[QdrantStore, Service]]:
    """A store that talks gRPC to what `grpc_server.py` says of itself, and the service behind it."""
    with serve() as (service, port):
        client = QdrantClient(
            url="http://127.0.0.1", grpc_port=port, prefer_grpc=True, timeout=5, check_compatibility=False
        )
        opened = QdrantStore(
            client, url=f"grpc://127.0.0.1:{port}", folder=None, version=_version(client.info().version), local=False
        )
        try:
            yield opened, service
        finally:
            opened.close()


def uid(number: int) -> str:
    return str(uuid.UUID(int=number + 1))


def clustered(n: int, dim: int, seed: int = 0) -> DenseArray:
    """`(n, dim)` unit rows around one centre for every fifty: what pictures look like, and uniform noise does not."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, n // 50), dim))
    rows = centres[np.arange(n) % len(centres)] + 0.3 * random.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sparse(pairs: dict[int, float]) -> SparseVector:
    return SparseVector(np.array(list(pairs), dtype=np.uint32), np.array(list(pairs.values()), dtype=np.float32))


def ids(hits: Sequence[Hit | Point]) -> list[str]:
    return [hit.id for hit in hits]


def fill(store: Store, name: str, n: int = 20) -> DenseArray:
    """A collection of `n` points with an image vector; their number is the payload's n."""
    vectors = clustered(n, 8)
    store.create(name, CONTRACT, indexes=INDEXES)  # type: ignore[arg-type]
    store.upsert(name, [Point(uid(i), {"image": vectors[i]}, {"n": i, "tag": f"t{i % 4}"}) for i in range(n)])
    return vectors
