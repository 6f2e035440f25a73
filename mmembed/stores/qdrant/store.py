"""A Qdrant server or cluster, and `:memory:`, which is qdrant-client's local mode: exact, slow, for tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import platformdirs
from qdrant_client import QdrantClient, models

from mmembed.collection.payload import canonical_ids, qdrant_id
from mmembed.errors import InvalidQuery
from mmembed.stores.checks import (
    check_facet,
    check_payload,
    check_payloads,
    check_points,
    check_query,
    got_stuck,
    plain_point,
    point_batches,
    weighted,
)
from mmembed.stores.filters import dump_filter, is_compound, unindexed_fields
from mmembed.stores.qdrant.calls import translated
from mmembed.stores.qdrant.collections import ServerCollections
from mmembed.stores.qdrant.models import query_arguments, wire_vectors
from mmembed.types import FacetValue, Hit, Payload, Point, StoreQuery

_OPEN_SECONDS = 5  # for the first answer
_WEIGHTS_SINCE = (1, 17)
# How the graph is walked, see filters.py. Servers before 1.16 do not know ACORN, and ignore it.
_EXACT = models.SearchParams(exact=True)
_ACORN = models.SearchParams(acorn=models.AcornSearchParams(enable=True))


def open_server(
    url: str, *, api_key: str | None, prefer_grpc: bool, grpc_port: int = 6334, timeout_seconds: float
) -> QdrantStore:
    """Connect and ask for the version. Raises StoreUnavailable within a few seconds where nothing answers."""

    def connect(seconds: float) -> QdrantClient:
        return QdrantClient(
            url=url,
            api_key=api_key,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout=max(1, round(seconds)),
            check_compatibility=False,
        )

    with translated(url):
        with warnings.catch_warnings():  # of a key sent over http: the second connection says it once
            warnings.simplefilter("ignore", UserWarning)
            probe = connect(min(timeout_seconds, _OPEN_SECONDS))
        with closing(probe):
            version = _version(probe.info().version)
    parts = urlsplit(url)
    place = quote(f"{parts.hostname}:{parts.port or 6333}{parts.path.rstrip('/')}", safe="")
    folder = platformdirs.user_data_path("mmembed") / "servers" / place
    return QdrantStore(connect(timeout_seconds), url=url, folder=folder, version=version, local=False)


def open_memory() -> QdrantStore:
    """An empty store that is forgotten when it is closed."""
    client = QdrantClient(":memory:")
    return QdrantStore(client, url=":memory:", folder=None, version=_version(client.info().version), local=True)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split(".")[:2])


class QdrantStore(ServerCollections):
    """`Store` over one QdrantClient. Every write waits until it is applied; what fails is tried again, then raised."""

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        for batch in point_batches(check_points(collection, self.ours(collection), points)):
            rows = [models.PointStruct(id=p.id, vector=wire_vectors(p.vectors), payload=p.payload) for p in batch]
            self.write(collection, partial(self._client.upsert, collection, rows, wait=True))

    def update_vectors(self, collection: str, points: Sequence[Point]) -> None:
        for batch in point_batches(check_points(collection, self.ours(collection), points)):
            self.require_points(collection, [p.id for p in batch])
            rows = [models.PointVectors(id=p.id, vector=wire_vectors(p.vectors)) for p in batch]
            self.write(collection, partial(self._client.update_vectors, collection, rows, wait=True))

    def set_payload(self, collection: str, ids: Sequence[str], payload: Payload) -> None:
        self.ours(collection)
        if not ids:  # the server refuses to change nothing
            return
        payload = check_payload(payload, f"{len(ids)} points")
        self.require_points(collection, canonical_ids(ids))
        chosen = models.PointIdsList(points=[qdrant_id(each) for each in ids])
        self.write(collection, partial(self._client.set_payload, collection, payload, chosen, wait=True))

    def set_payloads(self, collection: str, payloads: Mapping[str, Payload]) -> None:
        self.ours(collection)
        for batch in point_batches(check_payloads(payloads)):
            self.require_points(collection, [p.id for p in batch])
            rows = [
                models.SetPayloadOperation(set_payload=models.SetPayload(payload=p.payload, points=[p.id]))
                for p in batch
            ]
            self.write(collection, partial(self._client.batch_update_points, collection, rows, wait=True))

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        self.ours(collection)
        if not ids:
            return
        chosen = models.PointIdsList(points=[qdrant_id(each) for each in ids])
        self.write(collection, partial(self._client.delete, collection, chosen, wait=True))

    def delete_where(self, collection: str, filter: models.Filter) -> None:
        self.ours(collection)
        chosen = models.FilterSelector(filter=filter)
        self.write(collection, partial(self._client.delete, collection, chosen, wait=True))

    def query(self, collection: str, query: StoreQuery) -> list[Hit]:
        known = self.remembered(collection)
        query = check_query(collection, known.contract, query)
        if not query.legs:
            return []
        if weighted(query) and self.version < _WEIGHTS_SINCE:
            raise InvalidQuery(f"weights were asked of Qdrant at {self.url}, which is older than 1.17: leave them out")

        def read(params: models.SearchParams | None) -> partial[models.QueryResponse]:
            arguments = query_arguments(query, None if self.local else params)
            return partial(self._client.query_points, collection, **arguments)

        condition = dump_filter(query.filter)
        exact = query.exact or bool(unindexed_fields(condition, known.indexes))
        params = _EXACT if exact else _ACORN if is_compound(condition) else None
        points = self.ask(collection, read(params)).points
        if query.filter is not None and not exact and got_stuck(query, len(points)):
            points = self.ask(collection, read(_EXACT)).points
        name = query.vector_name
        return [Hit(str(p.id), p.score, p.payload or {}, vector_name=name, collection=collection) for p in points]

    def retrieve(
        self, collection: str, ids: Sequence[str], *, vectors: Sequence[str] | bool = False, payload: bool = True
    ) -> list[Point]:
        keys = [qdrant_id(each) for each in ids]
        wanted = vectors if isinstance(vectors, bool) else list(vectors)
        read = partial(self._client.retrieve, collection, keys, with_payload=payload, with_vectors=wanted)
        found = {str(record.id): plain_point(record) for record in self.ask(collection, read)}
        return [found[str(each)] for each in keys if str(each) in found]

    def scroll(
        self,
        collection: str,
        *,
        filter: models.Filter | None = None,
        vectors: Sequence[str] | bool = False,
        payload: Sequence[str] | bool = True,
        batch_size: int = 256,
    ) -> Iterator[Point]:
        """See `Store.scroll`. The first page is read before the first point is asked for."""
        read = partial(
            self._client.scroll,
            collection,
            scroll_filter=filter,
            limit=batch_size,
            with_vectors=vectors if isinstance(vectors, bool) else list(vectors),
            with_payload=payload if isinstance(payload, bool) else list(payload),
        )

        def pages(records: list[models.Record], following: Any) -> Iterator[Point]:
            yield from map(plain_point, records)
            while following is not None:
                records, following = self.ask(collection, partial(read, offset=following))
                yield from map(plain_point, records)

        return pages(*self.ask(collection, read))

    def count(self, collection: str, *, filter: models.Filter | None = None) -> int:
        read = partial(self._client.count, collection, count_filter=filter, exact=True)
        return self.ask(collection, read).count

    def facet(
        self, collection: str, key: str, *, filter: models.Filter | None = None, limit: int = 10
    ) -> list[tuple[FacetValue, int]]:
        check_facet(collection, key, self.indexes(collection), limit)
        read = partial(self._client.facet, collection, key, facet_filter=filter, limit=limit, exact=True)
        return [(hit.value, hit.count) for hit in self.ask(collection, read).hits]
