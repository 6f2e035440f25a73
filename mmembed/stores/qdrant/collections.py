"""What collections a server has and what they remember: contracts in their metadata, or beside them."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from qdrant_client import QdrantClient, models

from mmembed.collection.contract import METADATA_KEY, contract_from_json, contract_to_json, with_note, with_vector
from mmembed.errors import CollectionNotOurs, StoreError, StoreUnavailable
from mmembed.stores.checks import check_new, check_there
from mmembed.stores.qdrant.calls import READ_TRIES, WRITE_TRIES, retrying, translated
from mmembed.stores.qdrant.models import NO_GRAPH, dense_params, new_vector, sparse_params
from mmembed.types import Contract, IndexType, VectorContract

CONTRACTS = "mmembed_contracts"
"""Where contracts are kept on a server that is too old for metadata: one point a collection, without vectors."""

_REMEMBER_SECONDS = 5.0  # what a collection looks like, which another client may change
_METADATA_SINCE = (1, 16)
_ADDED_VECTORS_SINCE = (1, 18)

_T = TypeVar("_T")


@dataclass(frozen=True)
class CollectionState:
    """What a collection looked like a moment ago."""

    contract: Contract | None
    indexes: Mapping[str, str]  # field -> type
    read_at: float  # time.monotonic()


class ServerCollections:
    """What a `Store` does with whole collections, over one QdrantClient, and the one way to call it."""

    def __init__(
        self, client: QdrantClient, *, url: str, folder: Path | None, version: tuple[int, ...], local: bool
    ) -> None:
        self.url = url
        self.folder = folder
        self.version = version
        self.local = local
        self._client = client
        # Local mode is not safe for threads, not even for readers.
        self._lock: contextlib.AbstractContextManager[object] = threading.RLock() if local else contextlib.nullcontext()
        self._changing = threading.Lock()  # around reading a contract and writing it changed
        self._known: dict[str, CollectionState] = {}
        self._local_indexes: dict[str, dict[str, str]] = {}  # local mode has none, and forgets that they were asked for
        self._closed = False

    def close(self) -> None:
        """Close the connection; closing twice is no error."""
        self._closed = True
        with self._lock:
            self._client.close()

    def ask(self, collection: str, call: Callable[[], _T], *, tries: int = READ_TRIES) -> _T:
        """Run a call of the client. Raises only errors of ours."""
        if self._closed:
            raise StoreUnavailable(f"the store {self.url} was closed: open it again")
        with self._lock, translated(self.url, collection, names=self.collections, tries=tries):
            return retrying(tries)(call)

    def write(self, collection: str, call: Callable[[], object]) -> None:
        """The same with more patience: writing twice is writing once, so all our writes may be repeated."""
        self.ask(collection, call, tries=WRITE_TRIES)

    def collections(self) -> list[str]:
        """Names, sorted, without our own."""
        return sorted(set(self.names()) - {CONTRACTS})

    def names(self) -> list[str]:
        """Names of all, in no order."""
        return [found.name for found in self.ask("", self._client.get_collections).collections]

    def look(self, collection: str) -> CollectionState:
        """Ask the server. Raises CollectionNotFound."""
        info = self.ask(collection, partial(self._client.get_collection, collection))
        stored = (info.config.metadata or {}).get(METADATA_KEY)
        contract = contract_from_json(stored, collection) if stored else self._kept_contract(collection, info)
        indexes = {field: str(index.data_type.value) for field, index in info.payload_schema.items()}
        indexes |= self._local_indexes.get(collection, {})
        known = self._known[collection] = CollectionState(contract, indexes, time.monotonic())
        return known

    def contract(self, collection: str) -> Contract | None:
        """See `Store.contract`: as it is now."""
        return self.look(collection).contract

    def remembered(self, collection: str) -> CollectionState:
        """As it was at most five seconds ago: not every search asks the server twice."""
        known = self._known.get(collection)
        return known if known and time.monotonic() - known.read_at < _REMEMBER_SECONDS else self.look(collection)

    def ours(self, collection: str) -> Contract:
        """The contract. Raises CollectionNotOurs where there is none."""
        contract = self.remembered(collection).contract
        if contract is None:
            raise CollectionNotOurs(collection)
        return contract

    def require_points(self, collection: str, ids: Sequence[str]) -> None:
        """Raise StoreError where a point is missing, before anything is changed."""
        read = partial(self._client.retrieve, collection, list(ids), with_payload=False)
        there = {str(record.id) for record in self.ask(collection, read)}
        check_there(collection, ids, there)

    def create(
        self,
        collection: str,
        contract: Contract,
        *,
        indexes: Mapping[str, IndexType],
        shards: int | None = None,
        replicas: int | None = None,
    ) -> None:
        """See `Store.create`. A failure half-way leaves no collection."""
        check_new(collection, contract)
        if collection == CONTRACTS or self.ask(collection, partial(self._client.collection_exists, collection)):
            raise StoreError(f"collection {collection!r} already exists in {self.url}: drop it first, or take it")
        if self.version < _METADATA_SINCE:
            self._keep_contract(collection, contract)  # first: one without a collection does no harm
        make = partial(
            self._client.create_collection,
            collection,
            vectors_config=dense_params(contract.vectors),
            sparse_vectors_config=sparse_params(contract.vectors) or None,
            shard_number=shards,
            replication_factor=replicas,
            metadata={METADATA_KEY: contract_to_json(contract)},
        )
        self.ask(collection, make)
        try:
            self._make_indexes(collection, indexes)
            if self.look(collection).contract is None:  # metadata was dropped without a word
                self._keep_contract(collection, contract)
        except BaseException:
            self.write(collection, partial(self._client.delete_collection, collection))
            raise
        finally:
            self._known.pop(collection, None)

    def add_vector(self, collection: str, name: str, vector: VectorContract) -> None:
        """See `Store.add_vector`. Needs a server of version 1.18 or later."""
        with self._changing:
            self.look(collection)
            contract = self.ours(collection)
            extended = with_vector(collection, contract, name, vector)
            if extended == contract:
                return
            check_new(collection, extended)
            if self.version < _ADDED_VECTORS_SINCE:
                raise StoreError(
                    f"vector {name!r} was to be added to collection {collection!r}, and Qdrant at {self.url} is "
                    f"version {'.'.join(map(str, self.version))}, which cannot: upgrade it to 1.18 or later"
                )
            client = self._client
            self.write(collection, partial(client.create_vector_name, collection, name, new_vector(vector)))
            if vector.kind == "multi":
                diff = {name: models.VectorParamsDiff(hnsw_config=NO_GRAPH)}
                self.write(collection, partial(client.update_collection, collection, vectors_config=diff))
            self._replace_contract(collection, extended)

    def set_note(self, collection: str, key: str, value: Any) -> None:
        """See `Store.set_note`. Of two clients that write notes at the same moment the second one's stay."""
        with self._changing:
            self.look(collection)
            contract = self.ours(collection)
            noted = with_note(collection, contract, key, value)
            if noted != contract:
                self._replace_contract(collection, noted)

    def add_indexes(self, collection: str, indexes: Mapping[str, IndexType]) -> None:
        self.ours(collection)
        known = self.look(collection).indexes
        self._make_indexes(collection, {field: kind for field, kind in indexes.items() if field not in known})

    def indexes(self, collection: str) -> Mapping[str, IndexType]:
        """See `Store.indexes`: as they are now. Other clients may have made some of other types."""
        found = self.look(collection).indexes
        return {field: cast(IndexType, kind) for field, kind in found.items() if kind in get_args(IndexType)}

    def drop(self, collection: str) -> None:
        self.ours(collection)
        if collection not in self.names():  # a server would delete nothing and say nothing
            raise StoreError(f"{collection!r} is an alias: drop the collection that it stands for")
        self.write(collection, partial(self._client.delete_collection, collection))
        self._known.pop(collection, None)
        self._local_indexes.pop(collection, None)
        if CONTRACTS in self.names():
            doomed = models.PointIdsList(points=[_contract_id(collection)])
            self.write(CONTRACTS, partial(self._client.delete, CONTRACTS, doomed, wait=True))

    def optimize(self, collection: str) -> None:
        """Nothing to do: a server builds its graphs by itself."""
        self.look(collection)

    def _make_indexes(self, collection: str, indexes: Mapping[str, IndexType]) -> None:
        if self.local:  # it looks at every point anyway, and warns that it does
            self._local_indexes.setdefault(collection, {}).update(indexes)
            return
        for field, kind in indexes.items():
            schema = models.PayloadSchemaType(kind)
            self.write(collection, partial(self._client.create_payload_index, collection, field, schema, wait=True))
        self._known.pop(collection, None)

    def _replace_contract(self, collection: str, contract: Contract) -> None:
        """In the metadata, or where servers without it keep contracts. Raises StoreError where neither holds."""
        metadata = {METADATA_KEY: contract_to_json(contract)}
        self.write(collection, partial(self._client.update_collection, collection, metadata=metadata))
        if self.look(collection).contract == contract:
            return
        self._keep_contract(collection, contract)
        if self.look(collection).contract != contract:
            raise StoreError(
                f"what is remembered of collection {collection!r} was to be changed, and Qdrant at {self.url} kept the "
                f"old: another client may have written at the same time, so try again"
            )

    def _keep_contract(self, collection: str, contract: Contract) -> None:
        """For servers that drop metadata."""
        if CONTRACTS not in self.names():
            self.ask(CONTRACTS, partial(self._client.create_collection, CONTRACTS, vectors_config={}))
        payload = {"collection": collection, METADATA_KEY: contract_to_json(contract)}
        row = models.PointStruct(id=_contract_id(collection), vector={}, payload=payload)
        self.write(CONTRACTS, partial(self._client.upsert, CONTRACTS, [row], wait=True))
        self._known.pop(collection, None)

    def _kept_contract(self, collection: str, info: models.CollectionInfo) -> Contract | None:
        if collection == CONTRACTS or CONTRACTS not in self.names():
            return None
        rows = self.ask(CONTRACTS, partial(self._client.retrieve, CONTRACTS, [_contract_id(collection)]))
        if not rows:
            return None
        contract = contract_from_json((rows[0].payload or {}).get(METADATA_KEY), collection)
        # The collection may have been dropped and made anew by somebody else since.
        params = info.config.params
        dense = params.vectors if isinstance(params.vectors, dict) else {}
        return contract if contract.vectors.keys() <= dense.keys() | (params.sparse_vectors or {}).keys() else None


def _contract_id(collection: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"mmembed:{collection}"))
