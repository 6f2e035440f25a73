"""The pictures that stand in documents: which a document shows, and their way into the collection of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from mmembed.documents import Document, EmbeddedPicture
from mmembed.images import IMAGE_SUFFIXES
from mmembed.ingest.images import write_pictures
from mmembed.ingest.plan import Planned
from mmembed.ingest.report import IngestReport
from mmembed.ingest.targets import DocumentTarget
from mmembed.types import Item, Payload

__all__ = ["documents_of_bare_pictures", "lacks_pictures", "linked_pictures", "picture_items", "write_pictures_of"]


def picture_items(planned: Planned, document: Document) -> list[Item]:
    inside: Payload = {"document": planned.item.uri}
    return [
        Item(
            picture.uri,
            "image",
            picture.path,
            picture.content,
            caption=picture.caption,
            payload=inside | ({"page": picture.page} if picture.page is not None else {}),
        )
        for picture in _readable(document)
    ]


def lacks_pictures(target: DocumentTarget, planned: Planned) -> bool:
    """Whether a stored document's pictures are asked for and were left out, or not all there, when it was stored."""
    return target.pictures_into is not None and "pictures" not in (planned.stored or {})


def documents_of_bare_pictures(target: DocumentTarget) -> set[str]:
    """Documents with a picture that was indexed before its collection had all the vectors that it has now."""
    if target.images is None or target.images.late is None:
        return set()
    late = models.HasVectorCondition(has_vector="late")
    inside = models.IsEmptyCondition(is_empty=models.PayloadField(key="document"))
    bare = models.Filter(must_not=[late, inside])
    found = target.store.scroll(target.images.collection, filter=bare, payload=["document"])
    return {str(point.payload["document"]) for point in found}


def linked_pictures(target: DocumentTarget, document: Document) -> Payload:
    """What the first passage says once every picture was there: the files that it links to."""
    if target.pictures_into is None or document.problems:
        return {}
    return {"pictures": [p.uri for p in _readable(document) if p.path is not None]}


def _readable(document: Document) -> list[EmbeddedPicture]:
    """The pictures but for drawings (SVG, EMF), which are not made of pixels."""
    return [
        picture
        for picture in document.pictures
        if picture.path is None or picture.path.suffix.lower() in IMAGE_SUFFIXES
    ]


def write_pictures_of(target: DocumentTarget, items: Sequence[Item], seen: set[str], report: IngestReport) -> None:
    """Index pictures that were not met before in this run: where two documents show one, the first captions it."""
    if target.pictures_into is None or report.pictures is None:
        return
    new = [item for item in {item.uri: item for item in reversed(items)}.values() if item.uri not in seen]
    seen.update(item.uri for item in new)
    if new:
        images = target.image_target(target.pictures_into)
        for _ in write_pictures(images, reversed(new), report.pictures, max_pixels=target.max_pixels):
            pass
