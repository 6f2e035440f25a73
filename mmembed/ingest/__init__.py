"""The main job: pictures and documents in. `images.py` and `documents.py` are read top to bottom."""

from mmembed.ingest.documents import document_steps, ingest_documents
from mmembed.ingest.images import image_steps, ingest_images
from mmembed.ingest.report import IngestReport
from mmembed.ingest.thumbnails import drop_thumbnails, remove_thumbnails, thumbnail_path

__all__ = [
    "IngestReport",
    "document_steps",
    "drop_thumbnails",
    "image_steps",
    "ingest_documents",
    "ingest_images",
    "remove_thumbnails",
    "thumbnail_path",
]
