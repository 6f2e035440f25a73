"""Uploads in, points and collections out: POST /v1/index/{collection} and the DELETEs."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from pydantic.config import JsonDict

from mmembed.collection import Collection
from mmembed.collection.removal import RemovedPoints, remove_collection, remove_ids, remove_where
from mmembed.errors import InvalidRequest, PointNotFound
from mmembed.service.indexing.ingestion import Contents, contents_of, index_uploads
from mmembed.service.indexing.uploads import forget_uploads, uploads_folder
from mmembed.service.json_bodies import JsonRoute
from mmembed.service.middleware.auth import needs
from mmembed.service.schemas.filters import QdrantFilter
from mmembed.service.schemas.forms import FORM, uploaded_files
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.state import Service, ServiceOf

_T = TypeVar("_T")

router = APIRouter(tags=["index"], route_class=JsonRoute, responses=our_errors())

Writer = Depends(needs("index"))

_EXAMPLE: JsonDict = {
    "embedded": 1,
    "unchanged": 0,
    "moved": 0,
    "copied": 0,
    "removed": 0,
    "failures": [{"uri": "notes.png", "error": "notes.png: not a picture, or a broken one"}],
    "seconds": 0.081,
    "ids": ["0b0f9ad6-9c1c-5d5c-8f0e-2f1f5b6a7c11", None],
}


class FileFailure(BaseModel):
    uri: str
    error: str


class Counts(BaseModel):
    """Files by what became of them."""

    embedded: int
    unchanged: int
    moved: int
    copied: int
    removed: int
    failures: list[FileFailure]
    seconds: float


class Indexed(Counts, json_schema_extra={"examples": [_EXAMPLE]}):
    """What an index request came to: `ids` is parallel to the files, null where nothing is stored."""

    images: Counts | None = None
    ids: list[str | None]


_REMOVALS: list[JsonDict] = [
    {"ids": ["0b0f9ad6-9c1c-5d5c-8f0e-2f1f5b6a7c11"]},
    {"filter": {"must": [{"key": "album", "match": {"value": "2024"}}]}},
]


class Removal(BaseModel, extra="forbid", json_schema_extra={"examples": [*_REMOVALS]}):
    """Which points go: those of `ids`, or all that pass `filter`, a Qdrant filter."""

    ids: Annotated[list[str], Field(fail_fast=True)] | None = None
    filter: QdrantFilter | None = None


class PointsRemoved(BaseModel):
    removed: int


class CollectionRemoved(BaseModel):
    removed: Literal[True] = True


@router.post(
    "/v1/index/{collection}",
    summary="Index pictures or documents that are uploaded",
    response_model=Indexed,
    response_model_exclude_unset=True,
    openapi_extra=FORM,
    dependencies=[Writer],
)
async def post_index(
    collection: str,
    request: Request,
    service: ServiceOf,
    kind: Annotated[
        Contents | None,
        Query(description="What the files are; by default what the collection holds, or else images."),
    ] = None,
    encoder: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=300,
            description="One that is served; by default the collection's own, or else tiny for images, minilm for "
            "documents.",
        ),
    ] = None,
    images_into: Annotated[
        str, Query(description="The collection for the pictures inside documents; empty leaves them out.")
    ] = "images",
) -> dict[str, Any]:
    """Files become points of the collection, which is made if there is none; each is kept, and indexed once.

    A picture is one point, a document one for each passage (and one for each picture inside it). A file that cannot
    be read is one of `failures`, and the rest is stored; where nothing could be, the answer is 400. Pictures that a
    document only links to are left out.
    """
    uploads_folder(service.folder, collection)  # refuses a name that no collection can have
    contents = await service.threads.run(contents_of, Collection(service.store, collection), kind)
    into = images_into or None if contents == "documents" else None
    if into is not None:
        uploads_folder(service.folder, into)
    if into == collection:
        raise InvalidRequest(f"documents and the pictures inside them cannot both go into {collection!r}: name another")
    limit = service.settings.max_inputs
    largest = int(service.settings.max_body_mb * 2**20)
    async with AsyncExitStack() as finish:
        form = await request.form(max_files=limit + 1, max_fields=2, max_part_size=largest)
        finish.push_async_callback(form.close)
        files = await asyncio.to_thread(uploaded_files, form, limit)
        index = partial(index_uploads, service, collection, files, contents=contents, encoder=encoder, images_into=into)
        return await service.writes.alone(collection, index, beside=into, encodes=True, finish=finish)


@router.delete("/v1/points/{collection}", summary="Remove points by id or by filter", dependencies=[Writer])
async def delete_points(collection: str, removal: Removal, service: ServiceOf) -> PointsRemoved:
    """Points go, with their thumbnails and uploads.

    Of a document each passage is a point, and only those that are named go; a filter on its `uri` removes it whole.
    """
    if (removal.ids is None) == (removal.filter is None):
        raise InvalidRequest("points are removed by ids or by a filter: give one of the two")
    if removal.filter is not None:
        condition = removal.filter
        if not any((condition.must, condition.should, condition.must_not, condition.min_should)):
            raise InvalidRequest("an empty filter would remove every point: DELETE /v1/collections/NAME does that")
        return await _remove(service, collection, remove_where, condition)
    return await _remove(service, collection, remove_ids, [_uuid(id) for id in removal.ids or ()])


@router.delete("/v1/points/{collection}/{id}", summary="Remove one point", dependencies=[Writer])
async def delete_point(collection: str, id: str, service: ServiceOf) -> PointsRemoved:
    """One point goes, with its thumbnail and upload; of a document only this passage."""
    try:
        ids = [_uuid(id)]
    except InvalidRequest as exc:
        raise PointNotFound(collection, id) from exc
    answer = await _remove(service, collection, remove_ids, ids)
    if answer.removed == 0:
        raise PointNotFound(collection, id)
    return answer


@router.delete("/v1/collections/{collection}", summary="Remove a collection", dependencies=[Depends(needs("admin"))])
async def delete_collection(collection: str, service: ServiceOf) -> CollectionRemoved:
    """A collection of ours goes, with its uploads and thumbnails and the pictures inside its documents."""

    def work() -> None:
        uploads = uploads_folder(service.folder, collection)
        remove_collection(Collection(service.store, collection))
        shutil.rmtree(uploads, ignore_errors=True)

    await service.writes.alone(collection, work)
    return CollectionRemoved()


async def _remove(
    service: Service, name: str, remove: Callable[[Collection, _T], RemovedPoints], points: _T
) -> PointsRemoved:
    """Remove points, and the uploads of which nothing is left."""

    def work() -> int:
        removed = remove(Collection(service.store, name), points)
        forget_uploads(uploads_folder(service.folder, name), removed.uris)
        return removed.points

    return PointsRemoved(removed=await service.writes.alone(name, work))


def _uuid(id: str) -> str:
    try:
        return str(uuid.UUID(id))
    except ValueError as exc:
        raise InvalidRequest(f"{id[:80]!r} is not the id of a point: give a UUID, as a hit has it") from exc
