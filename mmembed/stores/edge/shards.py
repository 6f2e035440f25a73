"""Every collection of one folder, as Qdrant Edge shards. Runs in the process of edge_shard.py.

    FOLDER/lock                                   held while that process lives
    FOLDER/owner.json                             on whose behalf it holds it
    FOLDER/collections/NAME/contract.json         {"mmembed": the contract, "indexes": {field: type}, "late": [field]}
    FOLDER/collections/NAME/shard/                Qdrant Edge's own files

NAME is percent-encoded. A collection is made under another name and renamed when it is whole, and renamed
before it is removed, so that a process killed at any moment leaves a collection or none.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args
from urllib.parse import unquote

import qdrant_edge as edge

from mmembed.collection.contract import METADATA_KEY, Json
from mmembed.collection.payload import qdrant_id
from mmembed.errors import CollectionNotFound, StoreError, StoreFull
from mmembed.stores.checks import check_there, got_stuck, plain_point
from mmembed.stores.edge import models
from mmembed.stores.edge.files import directory_name, read_json, sync_directory, write_json
from mmembed.stores.filters import is_compound, unindexed_fields
from mmembed.types import FacetValue, IndexType, Payload, Point, StoreQuery, Vector

_NEW_SHARD_BYTES = 100 * 2**20  # an empty shard reserves two logs and a page of 32 MB each
_INDEX_TYPES = get_args(IndexType)
_FLUSH_BYTES = 64 * 2**20  # written since the last flush: bounds the log that is replayed after a kill


@dataclass
class _OpenShard:
    """One shard in use."""

    shard: edge.EdgeShard
    graph_indexes: dict[str, str]  # payload indexes that were there before any vector
    unflushed_bytes: int = 0


class ShardFolder:
    """Every collection of a folder. Methods take and give plain values: they come and go through a pipe."""

    def __init__(self, folder: Path, free_margin_bytes: int) -> None:
        self.folder = folder
        self.root = folder / "collections"
        self.root.mkdir(exist_ok=True)
        self._free_margin_bytes = free_margin_bytes
        self._open: dict[str, _OpenShard] = {}
        for leftover in (*self.root.glob(".new-*"), *self.root.glob(".dropped-*")):
            shutil.rmtree(leftover)

    def collections(self) -> list[str]:
        homes = (file.parent for file in self.root.glob("*/contract.json"))
        return sorted(unquote(home.name) for home in homes if (home / "shard").is_dir())

    def contract(self, name: str) -> Json | None:
        """The contract's JSON, None for a shard without one."""
        file = self._home(name) / "contract.json"
        return cast(Json, read_json(file)[METADATA_KEY]) if file.exists() else None

    def create(self, name: str, contract: Json, indexes: dict[str, str]) -> None:
        home = self.root / directory_name(name)
        if (home / "shard").is_dir():
            raise StoreError(f"collection {name!r} already exists in edge:{self.folder}: drop it first, or take it")
        self._require_room(_NEW_SHARD_BYTES)
        staging = self.root / f".new-{home.name}"
        for leftover in (staging, home):  # a contract that lost its shard holds nothing
            if leftover.exists():
                shutil.rmtree(leftover)
        staging.mkdir()
        shard = edge.EdgeShard.create(str(staging / "shard"), models.edge_config(contract["vectors"]))
        try:
            for field, index_type in indexes.items():
                shard.update(models.new_index_operation(field, index_type))
            shard.flush()
        finally:
            shard.close()
        write_json(staging / "contract.json", {METADATA_KEY: contract, "indexes": indexes, "late": []})
        staging.rename(home)
        sync_directory(self.root)

    def add_vector(self, name: str, vector: str, contract: Json) -> None:
        """`contract` is the new one. The shard comes first: a vector without its line is made again."""
        opened = self._shard(name)
        row = contract["vectors"][vector]
        opened.shard.update(models.new_vector_operation(vector, row))
        opened.shard.flush()
        opened.shard.close()
        del self._open[name]
        # Loading with the configuration of the whole contract is what turns the graph of a multivector off.
        config = models.edge_config(contract["vectors"])
        edge.EdgeShard.load(str(self._home(name) / "shard"), config).close()
        self.replace_contract(name, contract)

    def replace_contract(self, name: str, contract: Json) -> None:
        """Its indexes stay."""
        file = self._home(name) / "contract.json"
        write_json(file, {**read_json(file), METADATA_KEY: contract})

    def add_indexes(self, name: str, indexes: dict[str, str]) -> None:
        """An index that comes after the vectors is "late": the graph has no edges for it (see filters.py)."""
        opened = self._shard(name)
        file = self._home(name) / "contract.json"
        stored = read_json(file)
        new = {field: index_type for field, index_type in indexes.items() if field not in stored["indexes"]}
        for field, index_type in new.items():
            opened.shard.update(models.new_index_operation(field, index_type))
        opened.shard.flush()
        late = [*stored["late"], *new] if opened.shard.info().points_count else stored["late"]
        write_json(file, {**stored, "indexes": {**stored["indexes"], **new}, "late": late})
        opened.graph_indexes = self._graph_indexes(name, opened.shard)

    def indexes(self, name: str) -> dict[str, str]:
        """Payload key -> index type, of the types that we make."""
        return {field: kind for field, kind in _index_types(self._shard(name).shard).items() if kind in _INDEX_TYPES}

    def upsert(self, name: str, points: list[Point]) -> None:
        built = [edge.Point(p.id, models.edge_vectors(p.vectors), p.payload) for p in points]
        self._write(name, _bytes(points), edge.UpdateOperation.upsert_points(built))

    def update_vectors(self, name: str, points: list[Point]) -> None:
        self._require_points(name, [p.id for p in points])
        built = [edge.PointVectors(p.id, models.edge_vectors(p.vectors)) for p in points]
        self._write(name, _bytes(points), edge.UpdateOperation.update_vectors(built))

    def set_payload(self, name: str, ids: list[str], payload: Payload) -> None:
        self._require_points(name, ids)
        self._write(name, len(ids) * len(str(payload)), edge.UpdateOperation.set_payload(list(ids), payload))

    def set_payloads(self, name: str, points: list[Point]) -> None:
        """Edge knows no update of many points by payloads of their own: one operation each, in one request."""
        self._require_points(name, [p.id for p in points])
        self._write(name, _bytes(points), *(edge.UpdateOperation.set_payload([p.id], p.payload) for p in points))

    def delete(self, name: str, ids: list[str]) -> None:
        self._write(name, 0, edge.UpdateOperation.delete_points([qdrant_id(each) for each in ids]))

    def delete_where(self, name: str, filter: Json) -> None:
        self._write(name, 0, edge.UpdateOperation.delete_points_by_filter(models.edge_filter(filter)))

    def query(self, name: str, query: StoreQuery, filter: Json | None) -> list[tuple[str, float, Payload]]:
        """(id, score, payload), best first. Exact where the graph is no help, see filters.py."""
        opened = self._shard(name)
        exact = query.exact or is_compound(filter) or bool(unindexed_fields(filter, opened.graph_indexes))
        hits = opened.shard.query(models.edge_query(query, filter, exact=exact))
        if filter is not None and not exact and got_stuck(query, len(hits)):
            hits = opened.shard.query(models.edge_query(query, filter, exact=True))
        return [(str(hit.id), hit.score, hit.payload or {}) for hit in hits]

    def retrieve(self, name: str, ids: Sequence[str], vectors: list[str] | bool, payload: bool) -> list[Point]:
        keys = [qdrant_id(each) for each in ids]
        found = {str(r.id): plain_point(r) for r in self._shard(name).shard.retrieve([*keys], payload, vectors)}
        return [found[str(each)] for each in keys if str(each) in found]

    def page(
        self, name: str, after: str | None, size: int, filter: Json | None, vectors: list[str] | bool,
        payload: list[str] | bool,
    ) -> tuple[list[Point], str | None]:  # fmt: skip
        """Points in the order of ids from `after` on, and where the next page starts."""
        request = edge.ScrollRequest(
            offset=qdrant_id(after) if after is not None else None,
            limit=size,
            filter=models.optional_filter(filter),
            with_payload=payload,
            with_vector=vectors,
        )
        records, following = self._shard(name).shard.scroll(request)
        return [plain_point(r) for r in records], str(following) if following is not None else None

    def count(self, name: str, filter: Json | None) -> int:
        return self._shard(name).shard.count(edge.CountRequest(exact=True, filter=models.optional_filter(filter)))

    def facet(self, name: str, key: str, filter: Json | None, limit: int) -> list[tuple[FacetValue, int]]:
        """(value, count), most frequent first, ties in the order of values."""
        request = edge.FacetRequest(key, limit=limit, exact=True, filter=models.optional_filter(filter))
        return [(hit.value, hit.count) for hit in self._shard(name).shard.facet(request).hits]

    def drop(self, name: str) -> None:
        home = self._home(name)
        if name in self._open:
            self._open.pop(name).shard.close()
        doomed = self.root / f".dropped-{home.name}"
        home.rename(doomed)
        sync_directory(self.root)
        shutil.rmtree(doomed)

    def optimize(self, name: str) -> None:
        opened = self._shard(name)
        shard = self._home(name) / "shard"
        used = sum(file.stat().st_blocks * 512 for file in shard.rglob("*") if file.is_file())
        self._require_room(2 * used)  # the old segments stay until the new ones are whole
        opened.shard.optimize()
        opened.shard.flush()
        opened.unflushed_bytes = 0

    def close(self) -> None:
        for opened in self._open.values():
            opened.shard.flush()
            opened.shard.close()
        self._open.clear()

    def _home(self, name: str) -> Path:
        home = self.root / directory_name(name)
        if not (home / "shard").is_dir():
            raise CollectionNotFound(name, self.collections(), f"edge:{self.folder}")
        return home

    def _shard(self, name: str) -> _OpenShard:
        home = self._home(name)
        if name not in self._open:
            shard = edge.EdgeShard.load(str(home / "shard"))
            self._open[name] = _OpenShard(shard, self._graph_indexes(name, shard))
        return self._open[name]

    def _graph_indexes(self, name: str, shard: edge.EdgeShard) -> dict[str, str]:
        file = self._home(name) / "contract.json"
        late = read_json(file)["late"] if file.exists() else []
        return {field: index_type for field, index_type in _index_types(shard).items() if field not in late}

    def _write(self, name: str, size_bytes: int, *operations: edge.UpdateOperation) -> None:
        opened = self._shard(name)
        if size_bytes:  # deleting is how room is made
            self._require_room(3 * size_bytes)  # the log, the segment, and their growth by pages
        for operation in operations:
            opened.shard.update(operation)
        opened.unflushed_bytes += size_bytes
        if opened.unflushed_bytes > _FLUSH_BYTES:
            opened.shard.flush()
            opened.unflushed_bytes = 0

    def _require_points(self, name: str, ids: Sequence[str]) -> None:
        """Before anything is changed: Edge would change some of the points and refuse the rest."""
        there = {str(r.id) for r in self._shard(name).shard.retrieve(list(ids), False, False)}
        check_there(name, ids, there)

    def _require_room(self, size_bytes: int) -> None:
        """Edge maps its files into memory: a full disk would kill this process with SIGBUS."""
        free = shutil.disk_usage(self.folder).free
        wanted = size_bytes + self._free_margin_bytes
        if free < wanted:
            raise StoreFull(
                f"edge:{self.folder} needs {wanted / 2**20:,.0f} MiB of free disk for the next write and has "
                f"{free / 2**20:,.0f} MiB: everything before it is stored; make room and go on"
            )


def _index_types(shard: edge.EdgeShard) -> dict[str, str]:
    schema = shard.info().payload_schema
    return {field: str(index.data_type).rpartition(".")[2].lower() for field, index in schema.items()}


def _bytes(points: Sequence[Point]) -> int:
    def of(vector: Vector) -> int:
        return sum(part.nbytes for part in vector) if isinstance(vector, tuple) else vector.nbytes

    return sum(sum(map(of, p.vectors.values())) + len(str(p.payload)) + 64 for p in points)
