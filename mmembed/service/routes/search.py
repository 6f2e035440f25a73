"""Search over HTTP: in one collection, or in several at once.

request -> schemas (what is asked) -> images (fetched) -> a thread: images decoded, search -> hits as JSON
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from PIL.Image import Image

from mmembed.collection import Collection
from mmembed.collection.thumbnails import thumbnail_path
from mmembed.errors import CollectionNotFound, InvalidRequest, MmembedError, StoreError, StoreUnavailable
from mmembed.images import load_image, pixel_size
from mmembed.retrieval import api
from mmembed.retrieval.query import Example, PointId, Search
from mmembed.retrieval.several import search_several
from mmembed.service.error_responses import without_places
from mmembed.service.images import fetch_images
from mmembed.service.middleware.auth import needs
from mmembed.service.schemas.forms import FormFiles, JsonOrForm, files_of, form_of
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.schemas.search import (
    FoundHit,
    LikedOrNot,
    Minus,
    QueryImages,
    SearchAnswer,
    SearchFields,
    SearchRequest,
    SeveralAnswer,
    SeveralRequest,
)
from mmembed.service.state import Service, ServiceOf
from mmembed.types import Contract, Encoder, Hit, Store

__all__ = ["router"]

router = APIRouter(
    tags=["search"], route_class=JsonOrForm, dependencies=[Depends(needs("search"))], responses=our_errors()
)

_SEARCHED, _SUBTRACTED, _EXAMPLE = "the picture to search with", "a picture to subtract", "a picture as an example"
Part = TypeVar("Part", bound="str | bytes | PointId")

_KINDS: Mapping[str, Literal["image", "text"]] = {"images": "image", "documents": "text"}


@router.post("/v1/search/{collection}", response_model=SearchAnswer, openapi_extra=form_of("SearchRequest"))
async def search_collection(collection: str, asked: SearchRequest, request: Request, service: ServiceOf) -> Response:
    """Search one collection: by words, by a picture, by both less something, by a stored point, or by a vector."""
    started = time.perf_counter()
    images = await _images(asked, files_of(request), service)
    body = await service.run(_search_one, service, collection, asked, images, started)
    return Response(body, media_type="application/json")


@router.post("/v1/search", response_model=SeveralAnswer, openapi_extra=form_of("SeveralRequest"))
async def search_collections(asked: SeveralRequest, request: Request, service: ServiceOf) -> Response:
    """Search several collections at once; their hits are fused by rank, so that pictures and documents mix."""
    started = time.perf_counter()
    images = await _images(asked, files_of(request), service)
    body = await service.run(_search_several, service, asked, images, started)
    return Response(body, media_type="application/json")


@dataclass(frozen=True)
class _ImageFiles:
    """The images of a query as files, each with the texts and points among which it stands."""

    image: bytes | None
    minus: tuple[str | bytes, ...]
    positive: tuple[str | bytes | PointId, ...]
    negative: tuple[str | bytes | PointId, ...]

    @property
    def named(self) -> list[tuple[bytes, str]]:
        """Each file, and what an error calls it."""
        files = [] if self.image is None else [(self.image, _SEARCHED)]
        files += [(part, _SUBTRACTED) for part in self.minus if isinstance(part, bytes)]
        return files + [(part, _EXAMPLE) for part in (*self.positive, *self.negative) if isinstance(part, bytes)]


async def _images(asked: SearchFields, files_sent: FormFiles, service: Service) -> _ImageFiles:
    """The files of the query's images, those that are addresses fetched side by side."""
    if asked.image is not None and files_sent.image is not None:
        raise InvalidRequest("the picture came twice, as a file and in the query: send one of them")
    parts: tuple[Minus | LikedOrNot, ...] = (*asked.minus, *asked.positive, *asked.negative)
    sources = [source for source in (asked.image, *(part.image for part in parts)) if source is not None]
    most = int(service.settings.max_body_mb * 2**20)
    files = iter(await fetch_images(sources, fetcher=service.fetcher, max_bytes=most, max_bytes_together=most))

    def following() -> bytes:
        file = next(files)
        if isinstance(file, MmembedError):
            raise file
        return file

    def example(part: LikedOrNot) -> str | bytes | PointId:
        if part.text is not None:
            return part.text
        return following() if part.id is None else PointId(part.id)

    image = files_sent.image if asked.image is None else following()
    minus = [part.text if part.text is not None else following() for part in asked.minus]
    positive = [example(part) for part in asked.positive]
    negative = [example(part) for part in asked.negative]
    return _ImageFiles(image, (*minus, *files_sent.minus), tuple(positive), tuple(negative))


# --- in a thread ----------------------------------------------------------------------------------


def _search_one(service: Service, collection: str, asked: SearchFields, images: _ImageFiles, started: float) -> bytes:
    with service.engine.pixels.hold(_pixels(service, images)):
        encoders = service.engine.encoders()
        hits = api.search_collection(
            Collection(service.store, collection),
            _query(service, asked, images),
            encoder=_encoder(service, asked, encoders),
            encoders=encoders,
        )
    found = _found(service, hits, {collection: _contract(service.store, collection)}, asked)
    return _json(SearchAnswer(hits=found, seconds=_seconds(started)), asked)


def _search_several(service: Service, asked: SeveralRequest, images: _ImageFiles, started: float) -> bytes:
    store = service.store
    with service.engine.pixels.hold(_pixels(service, images)):
        encoders = service.engine.encoders()
        several = search_several(
            store,
            asked.collections or _ours(store),
            _query(service, asked, images),
            encoder=_encoder(service, asked, encoders),
            encoders=encoders,
            collection_weights=asked.collection_weights,
            missing_ok=asked.collections is None,  # one may have been removed since they were listed
        )
    contracts = {name: _contract(store, name) for name in {hit.collection for hit in several.hits}}
    found = _found(service, several.hits, contracts, asked)
    skipped = {name: without_places(sentence, service.hidden) for name, sentence in several.skipped.items()}
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


def _pixels(service: Service, images: _ImageFiles) -> int:
    """What the images come to once they are decoded. Raises InvalidRequest for more than one image may have."""
    most = service.settings.max_pixels
    sizes = [pixel_size(file, uri=what, max_pixels=most) for file, what in images.named]
    pixels = sum(width * height for width, height in sizes)
    if pixels > most:
        raise InvalidRequest(
            f"the pictures of a search have {pixels:,} pixels, and at most {most:,} are allowed: shrink them"
        )
    return pixels


def _query(service: Service, asked: SearchFields, files: _ImageFiles) -> Search:
    """The search, with its images decoded and its reranker."""
    most = service.settings.max_pixels

    def decoded(parts: Sequence[Part], what: str) -> tuple[Part | Image, ...]:
        return tuple(load_image(part, uri=what, max_pixels=most) if isinstance(part, bytes) else part for part in parts)

    images = QueryImages(
        None if files.image is None else load_image(files.image, uri=_SEARCHED, max_pixels=most),
        cast("tuple[str | Image, ...]", decoded(files.minus, _SUBTRACTED)),
        cast("tuple[Example, ...]", decoded(files.positive, _EXAMPLE)),
        cast("tuple[Example, ...]", decoded(files.negative, _EXAMPLE)),
    )
    return asked.to_search(images, None if asked.rerank is None else service.rerankers[asked.rerank])


def _encoder(service: Service, asked: SearchFields, encoders: Mapping[str, Encoder]) -> Encoder | None:
    """The one that the query names, for a collection that is not ours."""
    return None if asked.encoder is None else encoders[service.served.resolve(asked.encoder)]


def _found(
    service: Service, hits: Sequence[Hit], contracts: Mapping[str, Contract | None], asked: SearchFields
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
    path = thumbnail_path(service.store, hit.collection, hit.id)
    if path is None or not os.path.exists(path):
        return None
    return f"/v1/points/{quote(hit.collection, safe='')}/{hit.id}/thumbnail"


def _seconds(started: float) -> float:
    return round(time.perf_counter() - started, 6)


def _json(answer: SearchAnswer, asked: SearchFields) -> bytes:
    """The answer without what was not asked for. NaN, which a stranger's payload may hold, becomes null."""
    wanted = {"probability": asked.with_probability, "payload": asked.with_payload}
    without = {name for name, with_it in wanted.items() if not with_it}
    return answer.model_dump_json(exclude={"hits": {"__all__": without}} if without else None).encode()
