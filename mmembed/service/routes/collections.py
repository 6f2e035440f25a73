"""What there is (collections, facets, encoders, thumbnails), whether the service lives, and how it fares."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from starlette.responses import Response

from mmembed.collection import Collection
from mmembed.collection.payload import FACET_TYPES, RESERVED, TagKeys
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.errors import CollectionNotFound, EncoderUnavailable, MmembedError, PointNotFound, StoreUnavailable
from mmembed.service.error_responses import sentence_of, unless_known
from mmembed.service.metrics import CONTENT_TYPE
from mmembed.service.middleware.auth import needs
from mmembed.service.schemas.collections import (
    Alive,
    CollectionFacts,
    CollectionList,
    EncoderFacts,
    EncoderList,
    Facet,
    Facets,
    VectorFacts,
)
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.state import Service, ServiceOf
from mmembed.types import Contract

router = APIRouter(tags=["about"], responses=our_errors())

READY_SECONDS = 2.0  # that the store may take to answer
_FRESH_SECONDS = 300  # that a client may show a thumbnail without asking whether it is still the same
_TECHNICAL = (RESERVED["image"] | RESERVED["text"] | {"document"}) - {"headings"}  # no person filters by them

Searcher = Depends(needs("search"))


@router.get("/v1/collections", summary="The collections and their encoders", dependencies=[Searcher])
async def get_collections(service: ServiceOf) -> CollectionList:
    """Every collection of the store, those of others too."""
    return CollectionList(collections=await service.threads.run(_collections, service))


@router.get("/v1/collections/{collection}/facets", summary="What hits can be filtered by", dependencies=[Searcher])
async def get_facets(
    collection: str,
    service: ServiceOf,
    limit: Annotated[int, Query(ge=1, le=100, description="Values of each key.")] = 10,
    key: Annotated[
        str | None, Query(min_length=1, max_length=256, description="This payload key alone, whatever it holds.")
    ] = None,
) -> Facets:
    """The most frequent values of the payload's keys, without those that mmembed writes for itself."""
    return Facets(facets=await service.threads.run(_facets, Collection(service.store, collection), key, limit))


@router.get("/v1/encoders", summary="The encoders that are served", dependencies=[Searcher])
async def get_encoders(service: ServiceOf) -> EncoderList:
    """Those of the collections, those named at the start, tiny and bm25. Nothing is loaded for the answer."""
    return EncoderList(encoders=await service.threads.run(_encoders, service))


@router.get(
    "/v1/points/{collection}/{id}/thumbnail",
    summary="The thumbnail of a picture",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "It is the one of the ETag in If-None-Match."},
    },
    dependencies=[Searcher],
)
async def get_thumbnail(collection: str, id: str, request: Request, service: ServiceOf) -> Response:
    """The 256-pixel WebP that was kept when the picture was indexed."""
    try:
        canonical = str(uuid.UUID(id))
    except ValueError as exc:
        raise PointNotFound(collection, id[:80]) from exc
    webp = await service.threads.run(_thumbnail, Collection(service.store, collection), canonical)
    return unless_known(request, webp, media_type="image/webp", cache_control=f"private, max-age={_FRESH_SECONDS}")


@router.get("/health", summary="Whether the service lives")
async def get_health(service: ServiceOf) -> Alive:
    """200 while it lives: it asks nobody. 503 where the embedded store was lost, and the service ends."""
    if lost := getattr(service.store, "lost", None):
        raise StoreUnavailable(str(lost))
    return Alive()


@router.get("/ready", summary="Whether the service can answer")
async def get_ready(service: ServiceOf) -> Alive:
    """200 when the encoders are loaded and the store answers within 2 seconds, else 503."""
    if not service.served.ready:
        raise EncoderUnavailable("encoders are still being loaded: ask again in a moment")
    probe = service.probe.ask()
    done, _ = await asyncio.wait({probe}, timeout=READY_SECONDS)
    if not done:
        raise StoreUnavailable(
            f"the store has not answered for {READY_SECONDS:.0f} seconds (it may be building a search graph): "
            f"ask again in a moment"
        )
    await probe
    return Alive()


@router.get(
    "/metrics",
    summary="Counts and times, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[Depends(needs("admin"))],
)
async def get_metrics(service: ServiceOf) -> Response:
    """Requests, forward passes, queues and the cache, in Prometheus's text format."""
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _collections(service: Service) -> list[CollectionFacts]:
    found = []
    for name in service.store.collections():
        try:
            found.append(_collection(service, Collection(service.store, name)))
        except CollectionNotFound:
            continue  # it was removed since it was listed
    return found


def _collection(service: Service, collection: Collection) -> CollectionFacts:
    points, contract = collection.store.count(collection.name), None
    try:
        contract = collection.contract
        searchable = _searchable(service, contract)
    except CollectionNotFound:
        raise
    except MmembedError as exc:  # a newer mmembed made it, or somebody changed its contract by hand
        searchable = sentence_of(exc, service.hidden)
    vectors = contract.vectors if contract is not None else {}
    return CollectionFacts(
        name=collection.name,
        kind=contract.kind if contract is not None else None,
        points=points,
        vectors={name: VectorFacts.model_validate(row) for name, row in vectors.items()},
        searchable=searchable,
    )


def _searchable(service: Service, contract: Contract | None) -> Literal[True] | str:
    if contract is None:
        return (
            "mmembed did not make this collection and cannot know its encoder: name `encoder` and `vector_name` in "
            "the search"
        )
    served, vector = service.served, contract.vectors.get("image" if contract.kind == "images" else "text")
    error = served.failures().get(served.resolve(vector.encoder)) if vector is not None else None
    return True if error is None else sentence_of(error, service.hidden)


def _facets(collection: Collection, key: str | None, limit: int) -> dict[str, list[Facet]]:
    keys = [key] if key is not None else _facet_keys(collection)
    facets = {key: collection.store.facet(collection.name, key, limit=limit) for key in keys}
    return {key: [Facet(value=value, count=count) for value, count in rows] for key, rows in facets.items()}


def _facet_keys(collection: Collection) -> list[str]:
    """Payload keys that a person filters by, sorted: not what mmembed needs itself, nor which run wrote the tags."""
    indexes = collection.store.indexes(collection.name)
    technical = _TECHNICAL | {TagKeys.of(name).by for name in indexes}
    return [name for name, index in sorted(indexes.items()) if index in FACET_TYPES and name not in technical]


def _encoders(service: Service) -> list[EncoderFacts]:
    loaded, failures = service.served.loaded(), service.served.failures()

    def facts(name: str) -> EncoderFacts:
        if name not in loaded:
            failure = failures.get(name)
            return EncoderFacts(name=name, error=None if failure is None else sentence_of(failure, service.hidden))
        spec = loaded[name].spec
        own = {field: getattr(spec, field) for field in EncoderFacts.model_fields if hasattr(spec, field)}
        return EncoderFacts.model_validate({**own, "name": name, "modalities": sorted(spec.modalities), "loaded": True})

    return [facts(name) for name in service.served.names()]


def _thumbnail(collection: Collection, id: str) -> bytes:
    _ = collection.contract  # raises CollectionNotFound
    path = thumbnail_path(collection, id)
    if path is not None:  # else this store keeps none
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
    raise HTTPException(
        404, f"there is no thumbnail of a point {id!r} in collection {collection.name!r}: pictures alone have one"
    )
