"""A Qdrant server or cluster, and `:memory:`, which is qdrant-client's local mode: exact, slow, for tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import platformdirs
from qdrant_client import QdrantClient, models

from mmembed.collection.payload import canonical_ids, qdrant_id
from mmembed.errors import InvalidQuery
from mmembed.stores.checks import (
    Search,
    batches,
    check_facet,
    check_payload,
    check_payloads,
    check_points,
    check_search,
)
from mmembed.stores.filters import dump_filter, is_compound, unindexed_fields
from mmembed.stores.qdrant.calls import attempt
from mmembed.stores.qdrant.collections import Collections
from mmembed.stores.qdrant.models import plain_point, query_arguments, wire_vectors
from mmembed.types import Contract, FacetValue, Hit, IndexType, Leg, Payload, Point, Ranking, VectorContract

__all__ = ["QdrantStore", "open_memory", "open_server"]

_OPEN_SECONDS = 5  # for the first answer
_WEIGHTS_SINCE = (1, 17)


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

    def ask_version() -> tuple[int, ...]:
        with warnings.catch_warnings():  # of a key sent over http: the second connection says it once
            warnings.simplefilter("ignore", UserWarning)
            probe = connect(min(timeout_seconds, _OPEN_SECONDS))
        try:
            return _version(probe.info().version)
        finally:
            probe.close()

    version = attempt(ask_version, url=url, collection="", names=list, tries=1)
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


class QdrantStore:
    """`Store` over one QdrantClient. Every write waits until it is applied; what fails is tried again, then raised."""

    def __init__(
        self, client: QdrantClient, *, url: str, folder: Path | None, version: tuple[int, ...], local: bool
    ) -> None:
        self.url = url
        self.folder = folder
        self._client = client
        self._collections = Collections(client, url=url, version=version, local=local)

    # --- collections ----------------------------------------------------------------------------

    def create(
        self,
        collection: str,
        contract: Contract,
        *,
        indexes: Mapping[str, IndexType],
        shards: int | None = None,
        replicas: int | None = None,
    ) -> None:
        self._collections.create(collection, contract, indexes=indexes, shards=shards, replicas=replicas)

    def contract(self, collection: str) -> Contract | None:
        return self._collections.look(collection).contract

    def add_vector(self, collection: str, name: str, vector: VectorContract) -> None:
        """See `Store.add_vector`. Needs a server of version 1.18 or later."""
        self._collections.add_vector(collection, name, vector)

    def set_note(self, collection: str, key: str, value: Any) -> None:
        self._collections.set_note(collection, key, value)

    def add_indexes(self, collection: str, indexes: Mapping[str, IndexType]) -> None:
        self._collections.add_indexes(collection, indexes)

    def indexes(self, collection: str) -> Mapping[str, IndexType]:
        return self._collections.indexes(collection)

    def drop(self, collection: str) -> None:
        self._collections.drop(collection)

    def collections(self) -> list[str]:
        return self._collections.listed()

    def optimize(self, collection: str) -> None:
        """Nothing to do: a server builds its graphs by itself."""
        self._collections.look(collection)

    def close(self) -> None:
        """Close the connection; closing twice is no error."""
        self._collections.close()

    # --- points ---------------------------------------------------------------------------------

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        for batch in batches(check_points(collection, self._collections.ours(collection), points)):
            rows = [models.PointStruct(id=p.id, vector=wire_vectors(p.vectors), payload=p.payload) for p in batch]
            self._collections.write(collection, partial(self._client.upsert, collection, rows, wait=True))

    def update_vectors(self, collection: str, points: Sequence[Point]) -> None:
        for batch in batches(check_points(collection, self._collections.ours(collection), points)):
            self._collections.require_points(collection, [p.id for p in batch])
            rows = [models.PointVectors(id=p.id, vector=wire_vectors(p.vectors)) for p in batch]
            self._collections.write(collection, partial(self._client.update_vectors, collection, rows, wait=True))

    def set_payload(self, collection: str, ids: Sequence[str], payload: Payload) -> None:
        self._collections.ours(collection)
        if not ids:  # the server refuses to change nothing
            return
        payload = check_payload(payload, f"{len(ids)} points")
        self._collections.require_points(collection, canonical_ids(ids))
        chosen = models.PointIdsList(points=[qdrant_id(each) for each in ids])
        self._collections.write(collection, partial(self._client.set_payload, collection, payload, chosen, wait=True))

    def set_payloads(self, collection: str, payloads: Mapping[str, Payload]) -> None:
        self._collections.ours(collection)
        for batch in batches(check_payloads(payloads)):
            self._collections.require_points(collection, [p.id for p in batch])
            rows = [
                models.SetPayloadOperation(set_payload=models.SetPayload(payload=p.payload, points=[p.id]))
                for p in batch
            ]
            self._collections.write(collection, partial(self._client.batch_update_points, collection, rows, wait=True))

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        self._collections.ours(collection)
        if not ids:
            return
        chosen = models.PointIdsList(points=[qdrant_id(each) for each in ids])
        self._collections.write(collection, partial(self._client.delete, collection, chosen, wait=True))

    def delete_where(self, collection: str, filter: models.Filter) -> None:
        self._collections.ours(collection)
        chosen = models.FilterSelector(filter=filter)
        self._collections.write(collection, partial(self._client.delete, collection, chosen, wait=True))

    def query(
        self,
        collection: str,
        rankings: Sequence[Ranking],
        *,
        limit: int,
        offset: int = 0,
        filter: models.Filter | None = None,
        score_threshold: float | None = None,
        exact: bool = False,
        depth: int = 100,
        rrf_k: int = 60,
        rerank: Leg | None = None,
    ) -> list[Hit]:
        known = self._collections.remembered(collection)
        search = check_search(
            collection,
            known.contract,
            rankings,
            limit=limit,
            offset=offset,
            score_threshold=score_threshold,
            exact=exact,
            depth=depth,
            rrf_k=rrf_k,
            rerank=rerank,
        )
        if not search.legs:
            return []
        if search.weighted and self._collections.version < _WEIGHTS_SINCE:
            raise InvalidQuery(f"weights were asked of Qdrant at {self.url}, which is older than 1.17: leave them out")
        condition = dump_filter(filter)
        exact = exact or bool(unindexed_fields(condition, known.indexes))
        points = self._nearest(collection, search, filter, exact=exact, acorn=is_compound(condition))
        if filter is not None and not exact and search.approximate and len(points) < search.due:
            points = self._nearest(collection, search, filter, exact=True, acorn=False)
        name = search.vector_name
        return [Hit(str(p.id), p.score, p.payload or {}, vector_name=name, collection=collection) for p in points]

    def _nearest(
        self, collection: str, search: Search, filter: models.Filter | None, *, exact: bool, acorn: bool
    ) -> list[models.ScoredPoint]:
        """Once. See filters.py for why it is exact, or with ACORN (servers since 1.16; older ones ignore it)."""
        params = None
        if exact:
            params = models.SearchParams(exact=True)
        elif acorn:
            params = models.SearchParams(acorn=models.AcornSearchParams(enable=True))
        arguments = query_arguments(search, filter, None if self._collections.local else params)
        page = partial(self._client.query_points, collection, limit=search.limit, offset=search.offset)
        return self._collections.ask(collection, partial(page, with_payload=True, **arguments)).points

    def retrieve(
        self, collection: str, ids: Sequence[str], *, vectors: Sequence[str] | bool = False, payload: bool = True
    ) -> list[Point]:
        asked = [qdrant_id(each) for each in ids]
        wanted = vectors if isinstance(vectors, bool) else list(vectors)
        read = partial(self._client.retrieve, collection, asked, with_payload=payload, with_vectors=wanted)
        found = {str(record.id): plain_point(record) for record in self._collections.ask(collection, read)}
        return [found[str(each)] for each in asked if str(each) in found]

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
                records, following = self._collections.ask(collection, partial(read, offset=following))
                yield from map(plain_point, records)

        return pages(*self._collections.ask(collection, read))

    def count(self, collection: str, *, filter: models.Filter | None = None) -> int:
        read = partial(self._client.count, collection, count_filter=filter, exact=True)
        return self._collections.ask(collection, read).count

    def facet(
        self, collection: str, key: str, *, filter: models.Filter | None = None, limit: int = 10
    ) -> list[tuple[FacetValue, int]]:
        check_facet(collection, key, self.indexes(collection), limit)
        read = partial(self._client.facet, collection, key, facet_filter=filter, limit=limit, exact=True)
        return [(hit.value, hit.count) for hit in self._collections.ask(collection, read).hits]
