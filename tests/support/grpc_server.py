"""Qdrant's gRPC face on loopback, with local mode behind it: every message is packed, sent and unpacked for real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]  # ships no stubs
from qdrant_client import QdrantClient
from qdrant_client import grpc as q
from qdrant_client import models as m
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.conversions.conversion import grpc_payload_schema_to_field_type as field_type
from qdrant_client.grpc import collections_service_pb2_grpc, points_service_pb2_grpc, qdrant_pb2_grpc

VERSION = "1.20.0"


class Service:
    """Every call that the store makes. Local mode knows no payload indexes, so they are written down here."""

    def __init__(self) -> None:
        self.local = QdrantClient(":memory:")
        self.indexes: dict[str, dict[str, m.PayloadSchemaType]] = {}
        self.keeps_metadata = True  # servers did not, once
        self._lock = threading.Lock()  # local mode is not safe for threads

    # --- the server and its collections -------------------------------------------------------------

    def health_check(self, _: Any) -> Any:
        return q.HealthCheckReply(title="qdrant - vector search engine", version=VERSION)

    def list_collections(self, _: Any) -> Any:
        names = [found.name for found in self.local.get_collections().collections]
        return q.ListCollectionsResponse(collections=[q.CollectionDescription(name=name) for name in names])

    def collection_exists(self, request: Any) -> Any:
        there = self.local.collection_exists(request.collection_name)
        return q.CollectionExistsResponse(result=q.CollectionExists(exists=there))

    def get_collection(self, request: Any) -> Any:
        name = request.collection_name
        schema = {
            field: m.PayloadIndexInfo(data_type=kind, points=0) for field, kind in self.indexes.get(name, {}).items()
        }
        found = self.local.get_collection(name).model_copy(update={"payload_schema": schema})
        return q.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(found))

    def create(self, request: Any) -> Any:
        vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
        sparse = GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config)
        metadata = GrpcToRest.convert_payload(request.metadata) if self.keeps_metadata else None
        self.local.create_collection(request.collection_name, vectors, sparse_vectors_config=sparse, metadata=metadata)
        return q.CollectionOperationResponse(result=True)

    def update(self, request: Any) -> Any:
        if request.metadata:
            self.local.update_collection(request.collection_name, metadata=GrpcToRest.convert_payload(request.metadata))
        if request.HasField("vectors_config"):
            diff = GrpcToRest.convert_vectors_config_diff(request.vectors_config)
            assert all(change.hnsw_config is not None for change in diff.values())
        return q.CollectionOperationResponse(result=True)

    def delete_collection(self, request: Any) -> Any:
        self.indexes.pop(request.collection_name, None)
        return q.CollectionOperationResponse(result=self.local.delete_collection(request.collection_name))

    def create_field_index(self, request: Any) -> Any:
        kinds = {field_type(RestToGrpc.convert_payload_schema_type(kind)): kind for kind in m.PayloadSchemaType}
        kind = kinds[request.field_type]
        self.indexes.setdefault(request.collection_name, {})[request.field_name] = kind
        return _updated()

    def create_vector_name(self, request: Any) -> Any:
        config: Any
        if request.HasField("sparse_config"):
            given = request.sparse_config
            modifier = GrpcToRest.convert_modifier(given.modifier) if given.HasField("modifier") else None
            config = m.SparseVectorNameConfig(sparse=m.SparseVectorConfig(modifier=modifier))
        else:
            given = request.dense_config
            multi = given.HasField("multivector_config")
            config = m.DenseVectorNameConfig(
                dense=m.DenseVectorConfig(
                    size=given.size,
                    distance=GrpcToRest.convert_distance(given.distance),
                    multivector_config=(
                        GrpcToRest.convert_multivector_config(given.multivector_config) if multi else None
                    ),
                )
            )
        self.local.create_vector_name(request.collection_name, request.vector_name, config)
        return _updated()

    # --- points -------------------------------------------------------------------------------------

    def upsert(self, request: Any) -> Any:
        self.local.upsert(request.collection_name, [GrpcToRest.convert_point_struct(p) for p in request.points])
        return _updated()

    def update_vectors(self, request: Any) -> Any:
        rows = [GrpcToRest.convert_point_vectors(p) for p in request.points]
        self.local.update_vectors(request.collection_name, rows)
        return _updated()

    def set_payload(self, request: Any) -> Any:
        chosen = GrpcToRest.convert_points_selector(request.points_selector)
        self.local.set_payload(request.collection_name, GrpcToRest.convert_payload(request.payload), chosen)
        return _updated()

    def update_batch(self, request: Any) -> Any:
        for operation in request.operations:
            assert operation.WhichOneof("operation") == "set_payload"
            change = operation.set_payload
            chosen = GrpcToRest.convert_points_selector(change.points_selector)
            self.local.set_payload(request.collection_name, GrpcToRest.convert_payload(change.payload), chosen)
        done = _updated()
        return q.UpdateBatchResponse(result=[done.result] * len(request.operations), time=done.time)

    def delete(self, request: Any) -> Any:
        self.local.delete(request.collection_name, GrpcToRest.convert_points_selector(request.points))
        return _updated()

    def get(self, request: Any) -> Any:
        found = self.local.retrieve(
            request.collection_name,
            [GrpcToRest.convert_point_id(each) for each in request.ids],
            with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        return q.GetResponse(result=[_retrieved(record) for record in found])

    def scroll(self, request: Any) -> Any:
        records, following = self.local.scroll(
            request.collection_name,
            scroll_filter=_filter(request),
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=GrpcToRest.convert_with_payload_interface(request.with_payload),
            with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
        )
        return q.ScrollResponse(
            result=[_retrieved(record) for record in records],
            next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
        )

    def facet(self, request: Any) -> Any:
        found = self.local.facet(
            request.collection_name,
            request.key,
            facet_filter=_filter(request),
            limit=request.limit,
            exact=request.exact,
        )
        return q.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(hit) for hit in found.hits])

    def count(self, request: Any) -> Any:
        counted = self.local.count(request.collection_name, count_filter=_filter(request), exact=request.exact)
        return q.CountResponse(result=RestToGrpc.convert_count_result(counted))

    def query(self, request: Any) -> Any:
        asked = GrpcToRest.convert_query_points(request)
        found = self.local.query_points(
            request.collection_name,
            query=asked.query,
            using=asked.using,
            prefetch=asked.prefetch,
            query_filter=asked.filter,
            score_threshold=asked.score_threshold,
            limit=asked.limit,
            offset=asked.offset,
            with_payload=asked.with_payload,
        )
        return q.QueryResponse(result=[RestToGrpc.convert_scored_point(hit) for hit in found.points])

    def call(self, method: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                with self._lock:
                    return getattr(self, method)(request)
            except ValueError as exc:  # as a server words it
                missing = "not found" in str(exc)
                code = grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.INVALID_ARGUMENT
                name = getattr(request, "collection_name", "")
                context.abort(code, f"Not found: Collection `{name}` doesn't exist!" if missing else str(exc))

        return answer


def _filter(request: Any) -> m.Filter | None:
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _retrieved(record: m.Record) -> Any:
    return RestToGrpc.convert_retrieved_point(record.model_copy(update={"payload": record.payload or {}}))


def _updated() -> Any:
    done = m.UpdateResult(operation_id=1, status=m.UpdateStatus.COMPLETED)
    return q.PointsOperationResponse(result=RestToGrpc.convert_update_result(done), time=time.time())


def _servicer(kind: type, service: Service, methods: dict[str, str]) -> Any:
    """An instance of a generated class that answers `methods` (its name -> ours) and nothing else."""
    calls = {theirs: staticmethod(service.call(ours)) for theirs, ours in methods.items()}
    return type(kind.__name__, (kind,), calls)()


_ROOT = {"HealthCheck": "health_check"}
_COLLECTIONS = {
    "List": "list_collections",
    "CollectionExists": "collection_exists",
    "Get": "get_collection",
    "Create": "create",
    "Update": "update",
    "Delete": "delete_collection",
}
_POINTS = {
    "CreateFieldIndex": "create_field_index",
    "CreateVectorName": "create_vector_name",
    "Upsert": "upsert",
    "UpdateVectors": "update_vectors",
    "SetPayload": "set_payload",
    "UpdateBatch": "update_batch",
    "Delete": "delete",
    "Get": "get",
    "Scroll": "scroll",
    "Count": "count",
    "Facet": "facet",
    "Query": "query",
}


@contextmanager
def serve() -> Iterator[tuple[Service, int]]:
    """The service and the port on which it listens."""
    service, server = Service(), grpc.server(ThreadPoolExecutor(4))
    root = _servicer(qdrant_pb2_grpc.QdrantServicer, service, _ROOT)
    collections = _servicer(collections_service_pb2_grpc.CollectionsServicer, service, _COLLECTIONS)
    points = _servicer(points_service_pb2_grpc.PointsServicer, service, _POINTS)
    qdrant_pb2_grpc.add_QdrantServicer_to_server(root, server)
    collections_service_pb2_grpc.add_CollectionsServicer_to_server(collections, server)
    points_service_pb2_grpc.add_PointsServicer_to_server(points, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield service, port
    finally:
        server.stop(None).wait()
        service.local.close()
