"""The main job: pictures and documents in. `images.py` and `documents.py` are read top to bottom."""

from mmembed.collection.thumbnails import drop_thumbnails, remove_thumbnails, thumbnail_path
from mmembed.ingest.documents import ingest_documents
from mmembed.ingest.images import ingest_images
from mmembed.ingest.report import IngestReport

__all__ = [
    "IngestReport",
    "drop_thumbnails",
    "ingest_documents",
    "ingest_images",
    "remove_thumbnails",
    "thumbnail_path",
]
