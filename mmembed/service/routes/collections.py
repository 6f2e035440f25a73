"""What there is (collections, facets, encoders, thumbnails), whether the service lives, and how it fares."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from starlette.responses import Response

from mmembed.collection import Collection
from mmembed.collection.payload import FACET_TYPES, RESERVED, TagKeys
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.errors import CollectionNotFound, EncoderUnavailable, MmembedError, PointNotFound, StoreUnavailable
from mmembed.service.metrics import CONTENT_TYPE
from mmembed.service.middleware.auth import needs
from mmembed.service.schemas.collections import (
    Alive,
    CollectionFacts,
    Collections,
    EncoderFacts,
    Encoders,
    Facet,
    Facets,
    VectorFacts,
)
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.served_encoders import ServedEncoders
from mmembed.service.state import ServiceOf
from mmembed.types import Contract, Encoder, Store

__all__ = ["READY_SECONDS", "router"]

router = APIRouter(tags=["about"], responses=our_errors())

READY_SECONDS = 2.0  # that the store may take to answer
_FRESH_SECONDS = 300  # that a client may show a thumbnail without asking whether it is still the same
_TECHNICAL = (RESERVED["image"] | RESERVED["text"] | {"document"}) - {"headings"}  # no person filters by them

Searcher = Depends(needs("search"))


@router.get("/v1/collections", summary="The collections and their encoders", dependencies=[Searcher])
async def collections(service: ServiceOf) -> Collections:
    """Every collection of the store, those of others too."""
    return Collections(collections=await service.run(_collections, service.store, service.served))


@router.get("/v1/collections/{collection}/facets", summary="What hits can be filtered by", dependencies=[Searcher])
async def facets(
    collection: str,
    service: ServiceOf,
    limit: Annotated[int, Query(ge=1, le=100, description="Values of each key.")] = 10,
    key: Annotated[
        str | None, Query(min_length=1, max_length=256, description="This payload key alone, whatever it holds.")
    ] = None,
) -> Facets:
    """The most frequent values of the payload's keys, without those that mmembed writes for itself."""
    return Facets(facets=await service.run(_facets, service.store, collection, key, limit))


@router.get("/v1/encoders", summary="The encoders that are served", dependencies=[Searcher])
async def encoders(service: ServiceOf) -> Encoders:
    """Those of the collections, those named at the start, tiny and bm25. Nothing is loaded for the answer."""
    return Encoders(encoders=await service.run(_encoders, service.served))


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
async def thumbnail(collection: str, id: str, request: Request, service: ServiceOf) -> Response:
    """The 256-pixel WebP that was kept when the picture was indexed."""
    try:
        canonical = str(uuid.UUID(id))
    except ValueError as exc:
        raise PointNotFound(collection, id[:80]) from exc
    webp = await service.run(_thumbnail, service.store, collection, canonical)
    etag = f'"{hashlib.blake2b(webp, digest_size=16).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": f"private, max-age={_FRESH_SECONDS}"}
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(webp, media_type="image/webp", headers=headers)


@router.get("/health", summary="Whether the service lives")
async def health() -> Alive:
    """Always 200: it asks nobody."""
    return Alive()


@router.get("/ready", summary="Whether the service can answer")
async def ready(service: ServiceOf) -> Alive:
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
async def metrics(service: ServiceOf) -> Response:
    """Requests, forward passes, queues and the cache, in Prometheus's text format."""
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _collections(store: Store, served: ServedEncoders) -> list[CollectionFacts]:
    found = []
    for name in store.collections():
        try:
            found.append(_collection(store, served, name))
        except CollectionNotFound:
            continue  # it was removed since it was listed
    return found


def _collection(store: Store, served: ServedEncoders, name: str) -> CollectionFacts:
    points = store.count(name)
    try:
        contract = store.contract(name)
    except CollectionNotFound:
        raise
    except MmembedError as exc:  # a newer mmembed made it, or somebody changed its contract by hand
        return CollectionFacts(name=name, kind=None, points=points, vectors={}, searchable=str(exc))
    vectors = contract.vectors if contract is not None else {}
    facts = {
        vector: VectorFacts(encoder=row.encoder, modality=row.modality, kind=row.kind, dim=row.dim)
        for vector, row in vectors.items()
    }
    searchable = _searchable(served, contract)
    return CollectionFacts(
        name=name,
        kind=contract.kind if contract is not None else None,
        points=points,
        vectors=facts,
        searchable=searchable,
    )


def _searchable(served: ServedEncoders, contract: Contract | None) -> Literal[True] | str:
    if contract is None:
        return (
            "mmembed did not make this collection and cannot know its encoder: name `encoder` and `vector_name` in "
            "the search"
        )
    vector = contract.vectors.get("image" if contract.kind == "images" else "text")
    try:
        error = served.failures().get(served.resolve(vector.encoder)) if vector is not None else None
    except MmembedError as exc:
        error = exc
    return True if error is None else str(error)


def _facets(store: Store, collection: str, key: str | None, limit: int) -> dict[str, list[Facet]]:
    keys = [key] if key is not None else _facet_keys(store, collection)
    found = {name: store.facet(collection, name, limit=limit) for name in keys}
    return {name: [Facet(value=value, count=count) for value, count in rows] for name, rows in found.items()}


def _facet_keys(store: Store, collection: str) -> list[str]:
    """Payload keys that a person filters by, sorted: not what mmembed needs itself, nor which run wrote the tags."""
    indexes = store.indexes(collection)
    technical = _TECHNICAL | {TagKeys.of(name).by for name in indexes}
    return [name for name, index in sorted(indexes.items()) if index in FACET_TYPES and name not in technical]


def _encoders(served: ServedEncoders) -> list[EncoderFacts]:
    loaded, failures = served.loaded(), served.failures()
    return [_encoder(name, loaded.get(name), failures.get(name)) for name in served.names()]


def _encoder(name: str, encoder: Encoder | None, failure: MmembedError | None) -> EncoderFacts:
    if encoder is None:
        return EncoderFacts(name=name, error=str(failure) if failure is not None else None)
    spec = encoder.spec
    return EncoderFacts(
        name=name,
        kind=spec.kind,
        dim=spec.dim,
        modalities=sorted(spec.modalities),
        matryoshka_dims=list(spec.matryoshka_dims),
        context_length=spec.context_length,
        image_size=spec.image_size,
        licence=spec.licence,
        loaded=True,
    )


def _thumbnail(store: Store, collection: str, id: str) -> bytes:
    store.contract(collection)  # raises CollectionNotFound
    path = thumbnail_path(Collection(store, collection), id)
    try:
        return _read(path)
    except FileNotFoundError as exc:
        sentence = f"there is no thumbnail of a point {id!r} in collection {collection!r}: pictures alone have one"
        raise HTTPException(404, sentence) from exc


def _read(path: Path | None) -> bytes:
    if path is None:
        raise FileNotFoundError("this store keeps no thumbnails")
    return path.read_bytes()
