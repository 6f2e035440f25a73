"""Labels over HTTP: which of some labels a picture shows, one picture, several, or a stored point.

request -> label_schemas -> a thread: the labels' embeddings (cached) -> pictures through the engine, or a stored
vector -> a thread: the labels of each -> JSON
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import fastapi
import numpy as np
from fastapi import APIRouter, Depends, Response

from mmembed.batching.engine import Request
from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.collection_classes import classes_of, image_encoder
from mmembed.classification.labels import Label, Labels, labels_of
from mmembed.classification.probabilities import Verdict, decide, score
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
from mmembed.service.schemas.common import ImageInput
from mmembed.service.schemas.forms import ImageForm, files_of, form_of
from mmembed.service.schemas.openapi import our_errors
from mmembed.service.state import Service, ServiceOf
from mmembed.types import DenseArray, Encoder, Store

__all__ = ["router"]

router = APIRouter(
    tags=["labels"], route_class=ImageForm, dependencies=[Depends(needs("search"))], responses=our_errors()
)

_SENTENCES_AN_INPUT = 16  # more than a short text of a request's own: sentences are short, and kept
_MIB = 1 << 20


@router.post(
    "/v1/classify",
    response_model=ClassifyAnswer | ClassifySeveralAnswer,
    openapi_extra=form_of("ClassifyRequest", ImageForm),
)
async def classify(asked: ClassifyRequest, request: fastapi.Request, service: ServiceOf) -> Response:
    """Say which of some labels a picture shows: one picture, several of them, or a stored point."""
    started = time.perf_counter()
    sources = _sources(asked, files_of(request).image)
    _check_size(service, asked, len(sources))
    classes = await service.threads.run(_classes, service, asked)
    if asked.id is None:
        vectors = await _encoded(service, classes.encoder, sources)
    else:
        vectors = [await service.threads.run(_stored, service.store, cast(str, asked.collection), asked.id)]
    if asked.images is None and isinstance(error := vectors[0], MmembedError):
        raise error.with_traceback(None)  # it may be raised to several, each of whom would lengthen it
    results = await service.threads.run(_results, classes, vectors, asked, service.hidden)
    found = results[0] if asked.images is None else {"results": results}
    calibrated = classes.calibration is not None
    seconds = round(time.perf_counter() - started, 6)
    return json_response({**found, "encoder": classes.encoder, "calibrated": calibrated, "seconds": seconds})


def _sources(asked: ClassifyRequest, upload: bytes | None) -> list[ImageSource | bytes]:
    """The pictures that are asked about; none for a stored point. Raises InvalidRequest unless one thing is asked."""
    if asked.image is not None and upload is not None:
        raise InvalidRequest("the picture came twice, as a file and in the query: send one of them")
    given = [name for name in ("image", "images", "id") if getattr(asked, name) is not None]
    given += ["the file"] if upload is not None else []
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise InvalidRequest(f"ask about one of image, images, id and a file 'image', not about {found}")
    if asked.id is not None:
        if asked.collection is None:
            raise InvalidRequest("the point 'id' is in some collection: name it as 'collection'")
        return []
    if asked.images is not None:
        return [*asked.images]
    return [upload] if upload is not None else [cast(ImageInput, asked.image)]


def _check_size(service: Service, asked: ClassifyRequest, images: int) -> None:
    """Raise RequestTooLarge for more pictures, or more sentences of labels, than are taken at once."""
    most = service.settings.max_inputs
    if images > most:
        raise RequestTooLarge(f"the request has {images} pictures and at most {most} are allowed: split it")
    templates = TEMPLATES[asked.templates] if isinstance(asked.templates, str) else asked.templates
    texts = len(asked.background) + sum(
        max(1, len(one.texts)) if isinstance(one, LabelTexts) else 1 for one in asked.labels
    )
    sentences = texts * len(templates)
    if sentences > _SENTENCES_AN_INPUT * most:
        raise RequestTooLarge(
            f"the labels in their templates are {sentences:,} sentences and at most {_SENTENCES_AN_INPUT * most:,} "
            f"are allowed: use fewer labels or templates"
        )


# --- in a thread ----------------------------------------------------------------------------------


def _classes(service: Service, asked: ClassifyRequest) -> Classes:
    """The embeddings of the labels by the encoder asked for, else the collection's, else `tiny`.

    Calibrated where the collection has a calibration for them.
    """
    encoders, labels = service.engine.encoders(), _labels(asked)
    if asked.collection is None:
        return embed_classes(_checked(encoders[asked.encoder or "tiny"]), labels, cache=service.classes)
    collection = Collection(service.store, asked.collection)
    encoder = _checked(image_encoder(collection, encoders, encoders[asked.encoder] if asked.encoder else None))
    return classes_of(collection, labels, encoders, encoder=encoder, cache=service.classes)


def _labels(asked: ClassifyRequest) -> Labels:
    named = [
        Label(one.label, tuple(one.texts), tuple(one.parents)) if isinstance(one, LabelTexts) else Label(one)
        for one in asked.labels
    ]
    templates = TEMPLATES[asked.templates] if isinstance(asked.templates, str) else tuple(asked.templates)
    return labels_of(named, templates=templates, background=asked.background)


def _checked(encoder: Encoder) -> Encoder:
    """The same; UnsupportedModality or InvalidRequest where pictures and texts get no dense vectors in one space."""
    spec = encoder.spec
    for modality, what in (("image", "pictures"), ("text", "texts")):
        if modality not in spec.modalities:
            raise UnsupportedModality(spec.name, what, spec.modalities)
    if spec.kind != "dense":
        raise InvalidRequest(
            f"encoder {spec.name!r} makes {spec.kind} vectors, and labels are compared by dense ones: name another"
        )
    return encoder


def _stored(store: Store, collection: str, id: str) -> DenseArray:
    """The vector of a stored picture. Raises PointNotFound, and InvalidQuery for a point without one."""
    found = store.retrieve(collection, [id], vectors=["image"], payload=False)
    if not found:
        raise PointNotFound(collection, id)
    if "image" not in found[0].vectors:
        raise InvalidQuery(f"point {id!r} of collection {collection!r} has no vector of its picture: index it again")
    return cast(DenseArray, found[0].vectors["image"])


def _results(
    classes: Classes, vectors: Sequence[DenseArray | MmembedError], asked: ClassifyRequest, hidden: Sequence[str]
) -> list[dict[str, Any]]:
    """For each picture what it shows, or why that cannot be told."""
    rows = [vector for vector in vectors if not isinstance(vector, MmembedError)]
    verdicts: list[Verdict] = []
    if rows:
        scores = score(classes, np.stack(rows))
        verdicts = decide(classes, scores, threshold=asked.threshold, top_k=asked.top_k)
    thresholds = classes.calibration is not None and bool(classes.calibration.thresholds)
    told = bool(asked.background) or asked.threshold is not None or thresholds
    shown = iter(verdicts)
    return [
        {"error": sentence_of(vector, hidden), "type": type(vector).__name__}
        if isinstance(vector, MmembedError)
        else _shown(next(shown), told=told)
        for vector in vectors
    ]


def _shown(verdict: Verdict, *, told: bool) -> dict[str, Any]:
    none = verdict.none_of_these if told else None
    return {"labels": verdict.labels, "none_of_these": none, "groups": verdict.groups}


# --- images ---------------------------------------------------------------------------------------


async def _encoded(
    service: Service, encoder: str, sources: Sequence[ImageSource | bytes]
) -> list[DenseArray | MmembedError]:
    """The vector of each image, or what is wrong with it."""
    most = int(service.settings.max_body_mb * _MIB)
    files = await fetch_images(sources, fetcher=service.fetcher, max_bytes=most, max_bytes_together=most)
    good = [Request(encoder, file) for file in files if not isinstance(file, MmembedError)]
    results = iter(await service.engine.embed(good))
    outcomes = [file if isinstance(file, MmembedError) else next(results) for file in files]
    return [one if isinstance(one, MmembedError) else cast(DenseArray, one.vector) for one in outcomes]
