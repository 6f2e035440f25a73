"""The embedded store: Qdrant Edge in a folder, one process at a time, no server."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmembed.collection.contract import contract_from_json, contract_to_json, with_note, with_vector
from mmembed.collection.payload import canonical_ids
from mmembed.errors import CollectionNotOurs, StoreError, StoreUnavailable
from mmembed.stores.checks import (
    check_facet,
    check_new,
    check_payload,
    check_payloads,
    check_points,
    check_query,
    point_batches,
)
from mmembed.stores.edge.pipe import Hello, ShardPipe, open_pipe_to
from mmembed.stores.filters import dump_filter
from mmembed.types import Contract, FacetValue, Hit, IndexType, Payload, Point, StoreQuery, VectorContract

if TYPE_CHECKING:
    from qdrant_client.models import Filter

FREE_MARGIN_BYTES = 128 * 2**20  # disk that is left free beyond what a write needs
WAIT_SECONDS = 10.0  # for another process to let go of the folder


_READS = frozenset({"collections", "contract", "count", "facet", "indexes", "page", "query", "retrieve"})
_LOCK_FILES = {"lock", "owner.json"}  # all there is in a folder whose first opener was stopped at once

logger = logging.getLogger(__name__)


def _nobody(lost: StoreError) -> None:
    """Who is told where nobody asked to be."""


class EdgeStore:
    """`Store` over the shards of one folder. They live in a process of their own, which this one talks to.

    What is acknowledged survives the death of either process, and when that of the shards dies, the next who asks opens
    them again: what only reads is asked once more, a write that was on the way raises StoreUnavailable. Where they
    cannot be opened, `lost` says why and `on_lost` is told, once. Not usable after a fork: open it again there.
    """

    def __init__(
        self, url: str, *, wait_seconds: float = WAIT_SECONDS, free_margin_bytes: int = FREE_MARGIN_BYTES
    ) -> None:
        self.url = url
        folder = Path(url.removeprefix("edge:")).expanduser().resolve()
        self.folder: Path | None = folder
        command = shlex.join(sys.orig_argv).encode("utf-8", "backslashreplace").decode()  # an argument may be no text
        if open_pipe_to(folder):
            raise StoreUnavailable(
                f"edge:{folder} is in use by this very process {os.getpid()} ({command}): share the store that "
                f"is open, or close it first"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = {entry.name for entry in folder.iterdir()}
        except OSError as exc:
            raise StoreError(f"the folder {folder} cannot be made ({exc}): choose another") from exc
        if there - _LOCK_FILES and "collections" not in there:
            raise StoreError(
                f"the folder {folder} is not a store and holds other things: choose another, or an empty one"
            )
        self._hello = Hello(os.getpid(), command, wait_seconds, free_margin_bytes)
        self._pipe = ShardPipe(folder, self._hello)
        self._opening = threading.Lock()
        self.lost: StoreError | None = None
        self.on_lost: Callable[[StoreError], object] = _nobody
        self._contracts: dict[str, Contract | None] = {}  # nobody else can change them while the folder is ours
        self._changing = threading.Lock()  # around reading a contract and writing it changed

    @property
    def pid(self) -> int:
        """Of the process that owns the shards."""
        return self._pipe.pid

    def create(
        self,
        collection: str,
        contract: Contract,
        *,
        indexes: Mapping[str, IndexType],
        shards: int | None = None,  # a folder is one shard
        replicas: int | None = None,
    ) -> None:
        """See `Store.create`. Whole or not at all, also when the process is killed."""
        check_new(collection, contract)
        self._call("create", collection, contract_to_json(contract), dict(indexes))
        self._contracts[collection] = contract

    def contract(self, collection: str) -> Contract | None:
        try:
            return self._contracts[collection]
        except KeyError:
            stored = self._call("contract", collection)
        read = self._contracts[collection] = None if stored is None else contract_from_json(stored, collection)
        return read  # another thread may have dropped the collection

    def add_vector(self, collection: str, name: str, vector: VectorContract) -> None:
        with self._changing:
            contract = self._ours(collection)
            extended = with_vector(collection, contract, name, vector)
            if extended != contract:
                check_new(collection, extended)
                self._call("add_vector", collection, name, contract_to_json(extended))
                self._contracts[collection] = extended

    def set_note(self, collection: str, key: str, value: Any) -> None:
        with self._changing:
            noted = with_note(collection, self._ours(collection), key, value)
            self._call("replace_contract", collection, contract_to_json(noted))
            self._contracts[collection] = noted

    def add_indexes(self, collection: str, indexes: Mapping[str, IndexType]) -> None:
        self._ours(collection)
        self._call("add_indexes", collection, dict(indexes))

    def indexes(self, collection: str) -> Mapping[str, IndexType]:
        return cast(dict[str, IndexType], self._call("indexes", collection))

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        for batch in point_batches(check_points(collection, self._ours(collection), points)):
            self._call("upsert", collection, batch)

    def query(self, collection: str, query: StoreQuery) -> list[Hit]:
        query = check_query(collection, self.contract(collection), query)
        if not query.legs:
            return []
        plain = replace(query, filter=None)  # the other process does not know qdrant_client
        found: list[tuple[str, float, Payload]] = self._call("query", collection, plain, dump_filter(query.filter))
        name = query.vector_name
        return [Hit(id=i, score=s, payload=p, vector_name=name, collection=collection) for i, s, p in found]

    def retrieve(
        self, collection: str, ids: Sequence[str], *, vectors: Sequence[str] | bool = False, payload: bool = True
    ) -> list[Point]:
        wanted = vectors if isinstance(vectors, bool) else list(vectors)
        return cast(list[Point], self._call("retrieve", collection, canonical_ids(ids), wanted, payload))

    def scroll(
        self,
        collection: str,
        *,
        filter: Filter | None = None,
        vectors: Sequence[str] | bool = False,
        payload: Sequence[str] | bool = True,
        batch_size: int = 256,
    ) -> Iterator[Point]:
        """See `Store.scroll`. The first page is read before the first point is asked for."""
        condition = dump_filter(filter)
        vectors = vectors if isinstance(vectors, bool) else list(vectors)
        payload = payload if isinstance(payload, bool) else list(payload)

        def page(after: str | None) -> Any:
            return self._call("page", collection, after, batch_size, condition, vectors, payload)

        def pages(points: list[Point], following: str | None) -> Iterator[Point]:
            yield from points
            while following is not None:
                points, following = page(following)
                yield from points

        return pages(*page(None))

    def update_vectors(self, collection: str, points: Sequence[Point]) -> None:
        for batch in point_batches(check_points(collection, self._ours(collection), points)):
            self._call("update_vectors", collection, batch)

    def set_payload(self, collection: str, ids: Sequence[str], payload: Payload) -> None:
        self._ours(collection)
        payload = check_payload(payload, f"{len(ids)} points")
        self._call("set_payload", collection, canonical_ids(ids), payload)

    def set_payloads(self, collection: str, payloads: Mapping[str, Payload]) -> None:
        self._ours(collection)
        for batch in point_batches(check_payloads(payloads)):
            self._call("set_payloads", collection, batch)

    def count(self, collection: str, *, filter: Filter | None = None) -> int:
        return cast(int, self._call("count", collection, dump_filter(filter)))

    def facet(
        self, collection: str, key: str, *, filter: Filter | None = None, limit: int = 10
    ) -> list[tuple[FacetValue, int]]:
        check_facet(collection, key, self.indexes(collection), limit)
        found = self._call("facet", collection, key, dump_filter(filter), limit)
        return cast(list[tuple[FacetValue, int]], found)

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        self._ours(collection)
        self._call("delete", collection, canonical_ids(ids))

    def delete_where(self, collection: str, filter: Filter) -> None:
        self._ours(collection)
        self._call("delete_where", collection, dump_filter(filter))

    def drop(self, collection: str) -> None:
        self._ours(collection)
        self._call("drop", collection)
        self._contracts.pop(collection, None)

    def collections(self) -> list[str]:
        return cast(list[str], self._call("collections"))

    def optimize(self, collection: str) -> None:
        """Build the search graph now and flush: once after many writes, not after each."""
        self._ours(collection)
        self._call("optimize", collection)

    def close(self) -> None:
        """Flush and let go of the folder; closing twice is no error."""
        self._pipe.close()

    def _call(self, method: str, *arguments: object) -> Any:
        """One method of ShardFolder. Raises what it raised, StoreUnavailable if its process is gone."""
        pipe = self._opened()
        try:
            return pipe.call(method, *arguments)
        except StoreUnavailable as exc:
            if not pipe.died:
                raise
            pipe = self._opened()
            if method not in _READS:
                raise StoreUnavailable(
                    f"the process that owned the store {self.url} ended while it wrote ({method}): the store is open "
                    f"again with everything that was acknowledged, so do this once more"
                ) from exc
        return pipe.call(method, *arguments)

    def _opened(self) -> ShardPipe:
        """The pipe to a process that lives, a new one if need be. Raises StoreUnavailable where there is none."""
        if not self._pipe.died:
            return self._pipe
        with self._opening:
            if self._pipe.died and self.lost is None:
                self._open_again()
        if self.lost is not None:
            raise StoreUnavailable(str(self.lost)) from self.lost
        return self._pipe

    def _open_again(self) -> None:
        self._pipe.lost()
        self._pipe.close()
        self._contracts.clear()  # what was on the way may have been written
        try:
            self._pipe = ShardPipe(self._pipe.folder, self._hello)
        except StoreError as exc:
            self.lost = StoreUnavailable(f"the process that owned the store {self.url} ended, and {exc}")
            logger.error("%s", self.lost)
            self.on_lost(self.lost)
        else:
            logger.warning("edge:%s was opened again, by process %d", self._pipe.folder, self.pid)

    def _ours(self, collection: str) -> Contract:
        contract = self.contract(collection)
        if contract is None:
            raise CollectionNotOurs(collection)
        return contract
