"""The main job: images and documents in. Read `run.py`, the one driver, then `images.py` or `documents.py`."""

from mmembed.ingest.documents import ingest_documents
from mmembed.ingest.images import ingest_images
from mmembed.ingest.report import IngestReport

__all__ = ["IngestReport", "ingest_documents", "ingest_images"]
