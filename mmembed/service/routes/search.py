"""Search over HTTP: in one collection, or in several at once.

request -> schemas (what is asked) -> pictures (fetched or decoded) -> a thread: search -> hits as JSON
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response

from mmembed.collection.thumbnails import thumbnail_path
from mmembed.errors import CollectionNotFound, InvalidRequest, StoreError, StoreUnavailable
from mmembed.images import load_image, picture_size
from mmembed.retrieval.api import search, search_several
from mmembed.retrieval.query import ImageQuery
from mmembed.service.error_responses import without_places
from mmembed.service.middleware.auth import needs
from mmembed.service.pictures import picture_bytes
from mmembed.service.schemas.forms import JsonOrForm, Uploads, form_of, uploads_of
from mmembed.service.schemas.search import FoundHit, SearchAnswer, SearchRequest, SeveralAnswer, SeveralRequest
from mmembed.service.state import Service, ServiceOf
from mmembed.types import Contract, Hit, Store

__all__ = ["router"]

router = APIRouter(tags=["search"], route_class=JsonOrForm, dependencies=[Depends(needs("search"))])

_SEARCHED, _SUBTRACTED = "the picture to search with", "a picture to subtract"
_KINDS = {"images": "image", "documents": "text"}


@dataclass(frozen=True)
class Pictures:
    """The bytes of the pictures of one query; of what is subtracted, texts stay texts."""

    image: bytes | None
    minus: tuple[str | bytes, ...]


@router.post("/v1/search/{collection}", response_model=SearchAnswer, openapi_extra=form_of("SearchRequest"))
async def search_collection(collection: str, asked: SearchRequest, request: Request, service: ServiceOf) -> Response:
    """Search one collection: by words, by a picture, by both less something, by a stored point, or by a vector."""
    started = time.perf_counter()
    pictures = await _pictures(asked, uploads_of(request), service)
    body = await service.run(_search_one, service, collection, asked, pictures, started)
    return Response(body, media_type="application/json")


@router.post("/v1/search", response_model=SeveralAnswer, openapi_extra=form_of("SeveralRequest"))
async def search_collections(asked: SeveralRequest, request: Request, service: ServiceOf) -> Response:
    """Search several collections at once; their hits are fused by rank, so that pictures and documents mix."""
    started = time.perf_counter()
    pictures = await _pictures(asked, uploads_of(request), service)
    hidden: Sequence[str] = request.app.state.hidden
    body = await service.run(_search_several, service, asked, pictures, hidden, started)
    return Response(body, media_type="application/json")


async def _pictures(asked: SearchRequest, uploads: Uploads, service: Service) -> Pictures:
    """The pictures of the query and of what is subtracted, those that are addresses fetched side by side."""
    if asked.image is not None and uploads.image is not None:
        raise InvalidRequest("the picture came twice, as a file and in the query: send one of them")
    sources = [asked.image, *(part.image for part in asked.minus)]
    max_bytes = int(service.settings.max_body_mb * 2**20)

    async def read(source: str | dict[str, str] | None) -> bytes | None:
        if source is None:
            return None
        return await picture_bytes(source, fetcher=service.fetcher, max_bytes=max_bytes)

    image, *subtracted = await asyncio.gather(*map(read, sources))
    minus = [part.text if picture is None else picture for part, picture in zip(asked.minus, subtracted, strict=True)]
    return Pictures(
        image if uploads.image is None else uploads.image,
        (*(part for part in minus if part is not None), *uploads.minus),
    )


# --- in a thread ----------------------------------------------------------------------------------


def _search_one(service: Service, collection: str, asked: SearchRequest, pictures: Pictures, started: float) -> bytes:
    with service.engine.room.of(_pixels(service, pictures)):
        hits = search(service.store, collection, **_arguments(service, asked, pictures))
    found = _found(service, hits, {collection: _contract(service.store, collection)}, asked)
    return _json(SearchAnswer(hits=found, seconds=_seconds(started)), asked)


def _search_several(
    service: Service, asked: SeveralRequest, pictures: Pictures, hidden: Sequence[str], started: float
) -> bytes:
    store = service.store
    with service.engine.room.of(_pixels(service, pictures)):
        several = search_several(
            store,
            asked.collections or _ours(store),
            collection_weights=asked.collection_weights,
            missing_ok=asked.collections is None,  # one may have been removed since they were listed
            **_arguments(service, asked, pictures),
        )
    contracts = {name: _contract(store, name) for name in {hit.collection for hit in several.hits}}
    found = _found(service, several.hits, contracts, asked)
    skipped = {name: without_places(sentence, hidden) for name, sentence in several.skipped.items()}
    return _json(SeveralAnswer(hits=found, skipped=skipped, seconds=_seconds(started)), asked)


def _ours(store: Store) -> list[str]:
    """The collections that mmembed made, with those of which it cannot be told: why is for the search to say."""
    names = []
    for name in store.collections():
        try:
            if store.contract(name) is not None:
                names.append(name)
        except CollectionNotFound:
            continue  # it was removed since it was listed
        except StoreUnavailable:
            raise
        except StoreError:
            names.append(name)
    return names


def _contract(store: Store, collection: str) -> Contract | None:
    """None also for a collection that was removed since its hits were found."""
    try:
        return store.contract(collection)
    except CollectionNotFound:
        return None


def _pixels(service: Service, pictures: Pictures) -> int:
    """What the pictures come to once they are decoded. Raises InvalidRequest for more than one picture may have."""
    most = service.settings.max_pixels
    files = [] if pictures.image is None else [(pictures.image, _SEARCHED)]
    files += [(picture, _SUBTRACTED) for picture in pictures.minus if isinstance(picture, bytes)]
    sizes = [picture_size(file, uri=what, max_pixels=most) for file, what in files]
    pixels = sum(width * height for width, height in sizes)
    if pixels > most:
        raise InvalidRequest(
            f"the pictures of a search have {pixels:,} pixels, and at most {most:,} may be: shrink them"
        )
    return pixels


def _arguments(service: Service, asked: SearchRequest, pictures: Pictures) -> dict[str, Any]:
    """The arguments of `search` and `search_several`, pictures decoded."""
    encoders = service.engine.encoders()

    def decoded(picture: bytes, what: str) -> ImageQuery:
        return load_image(picture, uri=what, max_pixels=service.settings.max_pixels)

    return {
        "text": asked.text,
        "image": None if pictures.image is None else decoded(pictures.image, _SEARCHED),
        "vector": asked.vector,
        "id": asked.id,
        "weights": asked.weights,
        "minus": [p if isinstance(p, str) else decoded(p, _SUBTRACTED) for p in pictures.minus],
        "vector_name": asked.vector_name,
        "encoder": None if asked.encoder is None else encoders[service.served.resolve(asked.encoder)],
        "encoders": encoders,
        "task": asked.task,
        "filter": asked.filter,
        "limit": asked.limit,
        "offset": asked.offset,
        "score_threshold": asked.score_threshold,
        "all_passages": asked.all_passages,
        "exact": asked.exact,
    }


def _found(
    service: Service, hits: Sequence[Hit], contracts: Mapping[str, Contract | None], asked: SearchRequest
) -> list[FoundHit]:
    return [_found_hit(service, hit, contracts[hit.collection], with_payload=asked.with_payload) for hit in hits]


def _found_hit(service: Service, hit: Hit, contract: Contract | None, *, with_payload: bool) -> FoundHit:
    kind = None if contract is None else _KINDS[contract.kind]
    uri = _text(hit.payload.get("uri"))
    return FoundHit.model_construct(
        id=hit.id,
        score=hit.score,
        probability=hit.probability,
        collection=hit.collection,
        vector=hit.vector_name,
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
    path = thumbnail_path(service.store, hit.collection, hit.id)
    if path is None or not os.path.exists(path):
        return None
    return f"/v1/points/{quote(hit.collection, safe='')}/{hit.id}/thumbnail"


def _seconds(started: float) -> float:
    return round(time.perf_counter() - started, 6)


def _json(answer: SearchAnswer, asked: SearchRequest) -> bytes:
    """The answer without what was not asked for. NaN, which a stranger's payload may hold, becomes null."""
    wanted = {"probability": asked.with_probability, "payload": asked.with_payload}
    without = {name for name, with_it in wanted.items() if not with_it}
    return answer.model_dump_json(exclude={"hits": {"__all__": without}} if without else None).encode()
