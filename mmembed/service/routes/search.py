"""Search over HTTP: in one collection, or in several at once.

request -> schemas (the query) -> images (fetched) -> a thread: images decoded, search -> hits as JSON
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields, replace
from typing import Any, cast
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response

from mmembed.collection import Collection
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.errors import CollectionNotFound, InvalidRequest, MmembedError, StoreUnavailable
from mmembed.images import check_quick, load_image, pixel_size
from mmembed.retrieval.api import search_collection
from mmembed.retrieval.query import PointId, Search
from mmembed.retrieval.several import search_several
from mmembed.service.error_responses import as_fields, without_places
from mmembed.service.images import fetch_images
from mmembed.service.middleware.auth import needs
from mmembed.service.schemas.forms import FormFiles, JsonOrForm, files_of, form_of
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.schemas.search import (
    ExampleInput,
    FoundHit,
    SearchAnswer,
    SearchFields,
    SearchRequest,
    SeveralAnswer,
    SeveralRequest,
    TextOrImage,
)
from mmembed.service.served_encoders import contracts_of
from mmembed.service.state import Service, ServiceOf
from mmembed.types import Hit, Modality

router = APIRouter(
    tags=["search"], route_class=JsonOrForm, dependencies=[Depends(needs("search"))], responses=our_errors()
)

_CALLED = {
    "image": "the picture to search with",
    "minus": "a picture to subtract",
    "positive": "a picture as an example",
    "negative": "a picture as an example",
}
_KINDS: Mapping[str, Modality] = {"images": "image", "documents": "text"}


@router.post(
    "/v1/search/{collection}",
    summary="Search one collection",
    response_model=SearchAnswer,
    openapi_extra=form_of("SearchRequest"),
)
async def post_search(collection: str, query: SearchRequest, request: Request, service: ServiceOf) -> Response:
    """Search one collection: by words, by a picture, by both less something, by a stored point, or by a vector."""
    started = time.perf_counter()
    search = await _with_files(query, files_of(request), service)
    async with _deadline(service):
        return await service.threads.run(_search_one, service, collection, query, search, started)


@router.post(
    "/v1/search",
    summary="Search several collections",
    response_model=SeveralAnswer,
    openapi_extra=form_of("SeveralRequest"),
)
async def post_search_several(query: SeveralRequest, request: Request, service: ServiceOf) -> Response:
    """Search several collections at once; their hits are fused by rank, so that pictures and documents mix."""
    started = time.perf_counter()
    search = await _with_files(query, files_of(request), service)
    async with _deadline(service):
        return await service.threads.run(_search_several, service, query, search, started)


@asynccontextmanager
async def _deadline(service: Service) -> AsyncIterator[None]:
    """Raises StoreUnavailable for a search that takes too long: its client waits no longer, and nobody for him."""
    seconds = service.settings.search_seconds
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise StoreUnavailable(
            f"the search was not answered within {seconds:g} s: give it a simpler filter or a smaller limit, or raise "
            f"--search-seconds"
        ) from None


async def _with_files(query: SearchFields, uploads: FormFiles, service: Service) -> Search:
    """The search without its reranker, its images as files, those that are addresses fetched side by side."""
    if query.image is not None and uploads.image is not None:
        raise InvalidRequest("the picture came twice, as a file and in the query: send one of them")
    parts: tuple[TextOrImage, ...] = (*query.minus, *query.positive, *query.negative)
    sources = [source for source in (query.image, *(part.image for part in parts)) if source is not None]
    most = int(service.settings.max_body_mb * 2**20)
    files = await fetch_images(sources, fetcher=service.fetcher, max_bytes=most, max_bytes_together=most)
    for file in files:
        if isinstance(file, MmembedError):
            raise file
    following = iter(files)

    def content(part: TextOrImage) -> Any:
        if part.text is not None:
            return part.text
        return next(following) if part.image is not None else PointId(cast(ExampleInput, part).id or "")

    fields_of_query = {field.name: getattr(query, field.name) for field in fields(Search) if hasattr(query, field.name)}
    images = {
        "image": uploads.image if query.image is None else next(following),
        "minus": (*map(content, query.minus), *uploads.minus),
        "positive": tuple(map(content, query.positive)),
        "negative": tuple(map(content, query.negative)),
    }
    return Search(**{**fields_of_query, **images, "rerank": None})


# --- in a thread ----------------------------------------------------------------------------------


def _search_one(service: Service, name: str, query: SearchFields, search: Search, started: float) -> Response:
    encoders = service.engine.encoders()
    with _decoded(service, query, search) as decoded:
        encoder = None if query.encoder is None else encoders[query.encoder]
        where = Collection(service.store, name)
        hits = search_collection(where, decoded, encoder=encoder, encoders=encoders)
    return _answer(SearchAnswer(hits=_found(service, hits, query), seconds=_seconds(started)), query)


def _search_several(service: Service, query: SeveralRequest, search: Search, started: float) -> Response:
    encoders = service.engine.encoders()
    with _decoded(service, query, search) as decoded:
        names = query.collections or [  # those whose contract cannot be read too: why is for the search to say
            name for name, contract in contracts_of(service.store) if not isinstance(contract, CollectionNotFound)
        ]
        several = search_several(
            service.store,
            names,
            decoded,
            encoder=None if query.encoder is None else encoders[query.encoder],
            encoders=encoders,
            collection_weights=query.collection_weights,
            missing_ok=query.collections is None,  # one may have been removed since they were listed
        )
    skipped = {name: without_places(as_fields(sentence), service.hidden) for name, sentence in several.skipped.items()}
    hits = _found(service, several.hits, query)
    return _answer(SeveralAnswer(hits=hits, skipped=skipped, seconds=_seconds(started)), query)


@contextmanager
def _decoded(service: Service, query: SearchFields, search: Search) -> Iterator[Search]:
    """The search with its reranker, and its images decoded as long as their pixels are held.

    Raises InvalidRequest for images of more pixels together than one may have.
    """
    most = service.settings.max_pixels
    parts = {name: (search.image,) if name == "image" else getattr(search, name) for name in _CALLED}
    files = [(part, _CALLED[name]) for name, some in parts.items() for part in some if isinstance(part, bytes)]
    for file, what in files:
        check_quick(file, uri=what)
    sizes = [pixel_size(file, uri=what, max_pixels=most) for file, what in files]
    pixels = sum(width * height for width, height in sizes)
    if pixels > most:
        raise InvalidRequest(
            f"the pictures of a search have {pixels:,} pixels, and at most {most:,} are allowed: shrink them"
        )

    def decoded(part: Any, name: str) -> Any:
        return load_image(part, uri=_CALLED[name], max_pixels=most) if isinstance(part, bytes) else part

    with service.engine.pixels.hold(pixels):
        images = {name: tuple(decoded(part, name) for part in some) for name, some in parts.items()}
        rerank = None if query.rerank is None else service.rerankers[query.rerank]
        yield replace(search, **{**images, "image": images["image"][0], "rerank": rerank})


def _found(service: Service, hits: Sequence[Hit], query: SearchFields) -> list[FoundHit]:
    kinds = {name: _kind(Collection(service.store, name)) for name in {hit.collection for hit in hits}}
    return [_found_hit(service, hit, kinds[hit.collection], with_payload=query.with_payload) for hit in hits]


def _kind(collection: Collection) -> Modality | None:
    """Of its points; None for a collection that is not ours, or was removed since its hits were found."""
    try:
        contract = collection.contract
    except CollectionNotFound:
        return None
    return None if contract is None else _KINDS[contract.kind]


def _found_hit(service: Service, hit: Hit, kind: Modality | None, *, with_payload: bool) -> FoundHit:
    uri = _text(hit.payload.get("uri"))
    return FoundHit.model_construct(
        id=hit.id,
        score=hit.score,
        probability=hit.probability,
        collection=hit.collection,
        vector=hit.vector_name,
        group=hit.group,
        uri=uri,
        name=None if uri is None else uri.replace("\\", "/").rstrip("/").rpartition("/")[2],
        kind=kind,
        text=_text(hit.payload.get("caption" if kind == "image" else "text")),
        thumbnail=_thumbnail(service, hit) if kind == "image" else None,
        payload=hit.payload if with_payload else None,
    )


def _text(value: object) -> str | None:
    """Other people's payloads may hold anything under these keys."""
    return value if isinstance(value, str) else None


def _thumbnail(service: Service, hit: Hit) -> str | None:
    path = thumbnail_path(Collection(service.store, hit.collection), hit.id)
    if path is None or not os.path.exists(path):
        return None
    return f"/v1/points/{quote(hit.collection, safe='')}/{hit.id}/thumbnail"


def _seconds(started: float) -> float:
    return round(time.perf_counter() - started, 6)


def _answer(answer: SearchAnswer, query: SearchFields) -> Response:
    """The answer without what was not asked for. NaN, which a stranger's payload may hold, becomes null."""
    without = {name for name in ("probability", "payload") if not getattr(query, f"with_{name}")}
    body = answer.model_dump_json(exclude={"hits": {"__all__": without}} if without else None)
    return Response(body, media_type="application/json")
