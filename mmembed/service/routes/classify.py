"""Labels over HTTP: which of some labels a picture shows, one picture, several, or a stored point.

request -> label_schemas -> a thread: the labels' embeddings (cached) -> pictures through the engine, or a stored
vector -> a thread: the labels of each -> JSON
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import fastapi
import numpy as np
from fastapi import APIRouter, Depends, Response

from mmembed.batching.engine import EncodeRequest
from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.collection_classes import classes_of
from mmembed.classification.labels import Label, Labels, labels_of
from mmembed.classification.scoring import Verdict, decide, score
from mmembed.classification.templates import TEMPLATES
from mmembed.collection import Collection
from mmembed.errors import (
    InvalidQuery,
    InvalidRequest,
    MmembedError,
    PointNotFound,
    RequestTooLarge,
    UnsupportedModality,
)
from mmembed.service.error_responses import json_response, sentence_of
from mmembed.service.images import ImageSource, fetch_images
from mmembed.service.middleware.auth import needs
from mmembed.service.schemas.classify import ClassifyAnswer, ClassifyRequest, ClassifySeveralAnswer, LabelTexts
from mmembed.service.schemas.forms import ImageForm, files_of, form_of
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.state import Service, ServiceOf
from mmembed.types import DenseArray

router = APIRouter(
    tags=["labels"], route_class=ImageForm, dependencies=[Depends(needs("search"))], responses=our_errors()
)

_SENTENCES_AN_INPUT = 16  # more than a short text of a request's own: sentences are short, and kept
_MIB = 1 << 20


@router.post(
    "/v1/classify",
    summary="Label pictures",
    response_model=ClassifyAnswer | ClassifySeveralAnswer,
    openapi_extra=form_of("ClassifyRequest", ImageForm),
)
async def post_classify(query: ClassifyRequest, request: fastapi.Request, service: ServiceOf) -> Response:
    """Say which of some labels a picture shows: one picture, several of them, or a stored point."""
    started = time.perf_counter()
    sources = _sources(query, files_of(request).image)
    _check_size(service, query, len(sources))
    classes = await service.threads.run(_classes, service, query)
    if query.id is None:
        vectors = await _encoded(service, classes.encoder, sources)
    else:
        vectors = [await service.threads.run(_stored, Collection(service.store, query.collection or ""), query.id)]
    if query.images is None and isinstance(error := vectors[0], MmembedError):
        raise error.with_traceback(None)  # it may be raised to several, each of whom would lengthen it
    results = await service.threads.run(_results, classes, vectors, query, service.hidden)
    found = results[0] if query.images is None else {"results": results}
    calibrated = classes.calibration is not None
    seconds = round(time.perf_counter() - started, 6)
    return json_response({**found, "encoder": classes.encoder, "calibrated": calibrated, "seconds": seconds})


def _sources(query: ClassifyRequest, upload: bytes | None) -> list[ImageSource | bytes]:
    """The pictures that are asked about; none for a stored point. Raises InvalidRequest unless one thing is asked."""
    if query.image is not None and upload is not None:
        raise InvalidRequest("the picture came twice, as a file and in the query: send one of them")
    subjects = {"image": query.image, "images": query.images, "id": query.id, "the file": upload}
    names = [name for name, subject in subjects.items() if subject is not None]
    if len(names) != 1:
        found = " and ".join(names) or "none of them"
        raise InvalidRequest(f"ask about one of image, images, id and a file 'image', not about {found}")
    if query.id is not None and query.collection is None:
        raise InvalidRequest("the point 'id' is in some collection: name it as 'collection'")
    return [one for one in (query.image, *(query.images or ()), upload) if one is not None]


def _check_size(service: Service, query: ClassifyRequest, images: int) -> None:
    """Raise RequestTooLarge for more pictures, or more sentences of labels, than are taken at once."""
    most = service.settings.max_inputs
    if images > most:
        raise RequestTooLarge(f"the request has {images} pictures and at most {most} are allowed: split it")
    templates = TEMPLATES[query.templates] if isinstance(query.templates, str) else query.templates
    texts = len(query.background) + sum(
        max(1, len(one.texts)) if isinstance(one, LabelTexts) else 1 for one in query.labels
    )
    sentences = texts * len(templates)
    if sentences > _SENTENCES_AN_INPUT * most:
        raise RequestTooLarge(
            f"the labels in their templates are {sentences:,} sentences and at most {_SENTENCES_AN_INPUT * most:,} "
            f"are allowed: use fewer labels or templates"
        )


# --- in a thread ----------------------------------------------------------------------------------


def _classes(service: Service, query: ClassifyRequest) -> Classes:
    """The embeddings of the labels by the encoder asked for, else the collection's, else `tiny`.

    Calibrated where the collection has a calibration for them.
    """
    encoders, labels = service.engine.encoders(), _labels(query)
    encoder = encoders[query.encoder] if query.encoder else None
    if query.collection is not None:
        return classes_of(
            Collection(service.store, query.collection), labels, encoders, encoder=encoder, cache=service.classes
        )
    encoder = encoder or encoders["tiny"]
    if "image" not in encoder.spec.modalities:
        raise UnsupportedModality(encoder.spec.name, "pictures", encoder.spec.modalities)
    return embed_classes(encoder, labels, cache=service.classes)


def _labels(query: ClassifyRequest) -> Labels:
    named = [
        Label(one.label, tuple(one.texts), tuple(one.parents)) if isinstance(one, LabelTexts) else Label(one)
        for one in query.labels
    ]
    templates = TEMPLATES[query.templates] if isinstance(query.templates, str) else tuple(query.templates)
    return labels_of(named, templates=templates, background=query.background)


def _stored(collection: Collection, id: str) -> DenseArray:
    """The vector of a stored picture. Raises PointNotFound, and InvalidQuery for a point without one."""
    points = collection.store.retrieve(collection.name, [id], vectors=["image"], payload=False)
    if not points:
        raise PointNotFound(collection.name, id)
    if "image" not in points[0].vectors:
        raise InvalidQuery(
            f"point {id!r} of collection {collection.name!r} has no vector of its picture: index it again"
        )
    return cast(DenseArray, points[0].vectors["image"])


def _results(
    classes: Classes, vectors: Sequence[DenseArray | MmembedError], query: ClassifyRequest, hidden: Sequence[str]
) -> list[dict[str, Any]]:
    """For each picture what it shows, or why that cannot be told."""
    rows = [vector for vector in vectors if not isinstance(vector, MmembedError)]
    verdicts: Iterator[Verdict] = iter(())
    if rows:
        verdicts = iter(decide(classes, score(classes, np.stack(rows)), threshold=query.threshold, top_k=query.top_k))
    thresholds = classes.calibration is not None and bool(classes.calibration.thresholds)
    decided = bool(query.background) or query.threshold is not None or thresholds

    def result(vector: DenseArray | MmembedError) -> dict[str, Any]:
        if isinstance(vector, MmembedError):
            return {"error": sentence_of(vector, hidden), "type": type(vector).__name__}
        verdict = next(verdicts)
        none = verdict.none_of_these if decided else None
        return {"labels": verdict.labels, "none_of_these": none, "groups": verdict.groups}

    return [result(vector) for vector in vectors]


# --- images ---------------------------------------------------------------------------------------


async def _encoded(
    service: Service, encoder: str, sources: Sequence[ImageSource | bytes]
) -> list[DenseArray | MmembedError]:
    """The vector of each image, or what is wrong with it."""
    most = int(service.settings.max_body_mb * _MIB)
    files = await fetch_images(sources, fetcher=service.fetcher, max_bytes=most, max_bytes_together=most)
    good = [EncodeRequest(encoder, file) for file in files if not isinstance(file, MmembedError)]
    results = iter(await service.engine.embed(good))
    outcomes = [file if isinstance(file, MmembedError) else next(results) for file in files]
    return [one if isinstance(one, MmembedError) else cast(DenseArray, one.vector) for one in outcomes]
