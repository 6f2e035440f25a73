"""The pictures that stand in documents: which a document shows, and their way into the collection of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import models

from mmembed.collection.conditions import is_empty
from mmembed.documents import Document, EmbeddedImage
from mmembed.images import IMAGE_SUFFIXES
from mmembed.ingest.images import ImageWork
from mmembed.ingest.plan import PlannedItem
from mmembed.ingest.report import IngestReport
from mmembed.ingest.run import drive
from mmembed.ingest.targets import DocumentTarget
from mmembed.types import Item, Payload


def image_items(planned: PlannedItem, document: Document) -> list[Item]:
    items = []
    for image in _readable(document):
        place: Payload = {"document": planned.item.uri, **({"page": image.page} if image.page is not None else {})}
        items.append(Item(image.uri, "image", image.path, image.content, image.caption, place))
    return items


def documents_of_bare_images(target: DocumentTarget) -> set[str]:
    """Documents with a picture that was indexed before its collection had all the vectors that it has now."""
    if target.images is None or target.images.late is None:
        return set()
    late = models.HasVectorCondition(has_vector="late")
    bare = models.Filter(must_not=[late, is_empty("document")])
    images = target.images.collection
    found = images.store.scroll(images.name, filter=bare, payload=["document"])
    return {str(point.payload["document"]) for point in found}


def linked_images(target: DocumentTarget, document: Document) -> Payload:
    """What the first passage says once every picture was there: the files that it links to."""
    if not target.wants_images or document.problems:
        return {}
    return {"images": [p.uri for p in _readable(document) if p.path is not None]}


def _readable(document: Document) -> list[EmbeddedImage]:
    """The pictures but for drawings (SVG, EMF), which are not made of pixels."""
    return [image for image in document.images if image.path is None or image.path.suffix.lower() in IMAGE_SUFFIXES]


def index_images_of(target: DocumentTarget, items: Sequence[Item], seen: set[str]) -> IngestReport:
    """Index images that were not met before in this run: where two documents show one, the first captions it."""
    report = IngestReport()
    new = [item for item in {item.uri: item for item in reversed(items)}.values() if item.uri not in seen]
    if new and target.wants_images:
        seen.update(item.uri for item in new)
        drive(ImageWork(target.image_target()), reversed(new), report)
    return report
