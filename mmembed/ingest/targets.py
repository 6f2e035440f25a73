"""Where an index run writes to: a collection, and the encoders of its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from qdrant_client import models

from mmembed.documents import Document, Passage, cut_passages, windows
from mmembed.errors import StoreError, UnsupportedModality
from mmembed.ingest.collection import PayloadIndexes, prepare_collection, vector_contract
from mmembed.ingest.plan import batched
from mmembed.ingest.thumbnails import remove_thumbnails
from mmembed.registry import load_encoder, load_remembered
from mmembed.types import Encoder, LoadOptions, Store, Vector
from mmembed.vectors import check_embeddings

__all__ = ["MAX_TOKENS", "OVERLAP_TOKENS", "DocumentTarget", "ImageTarget"]

MAX_TOKENS = 256
OVERLAP_TOKENS = 32
_URIS_A_FILTER = 128


class ImageTarget:
    """A collection of pictures and the encoders that write to it."""

    def __init__(
        self,
        store: Store,
        collection: str,
        encoder: Encoder,
        caption_encoder: Encoder | None = None,
        *,
        roots: Sequence[Path],
        shards: int | None = None,
        replicas: int | None = None,
        run: LoadOptions | None = None,
        default_caption_encoder: Encoder | None = None,
    ) -> None:
        if "image" not in encoder.spec.modalities:
            raise UnsupportedModality(encoder.spec.name, "pictures", encoder.spec.modalities)
        if encoder.spec.kind != "dense":
            raise StoreError(
                f"encoder {encoder.spec.name!r} makes {encoder.spec.kind} vectors; pictures need dense ones"
            )
        self.store = store
        self.collection = collection
        self.encoder = encoder
        self.roots = roots
        self._caption_encoder = caption_encoder
        self._default_caption_encoder = default_caption_encoder
        self._bm25: Encoder | None = None
        self._run = run or LoadOptions()
        self.indexes = PayloadIndexes(store, collection)
        encoders = {"image": (encoder, vector_contract(encoder, "image"))}
        if caption_encoder is not None:  # at once: a server older than 1.18 cannot add them later
            self._bm25 = load_encoder("bm25")
            encoders["caption"] = (caption_encoder, vector_contract(caption_encoder, "text"))
            encoders["caption_bm25"] = (self._bm25, vector_contract(self._bm25, "text"))
        prepare_collection(store, collection, "images", encoders, shards=shards, replicas=replicas)

    def caption_vectors(self, captions: Sequence[str]) -> list[dict[str, Vector]]:
        """n captions -> their `caption` and `caption_bm25` vectors."""
        if not captions:
            return []
        dense, bm25 = self._caption_encoders()
        rows = dense.encode_text(captions, role="document")
        words = bm25.encode_text(captions, role="document")
        return [{"caption": row, "caption_bm25": word} for row, word in zip(rows, words, strict=True)]

    def _caption_encoders(self) -> tuple[Encoder, Encoder]:
        if self._bm25 is None:
            contract = self.store.contract(self.collection)
            remembered = contract.vectors.get("caption") if contract else None
            if self._caption_encoder is None and remembered is not None:
                self._caption_encoder = load_remembered(self.collection, "caption", remembered, run=self._run)
            elif self._caption_encoder is None:
                self._caption_encoder = self._default_caption_encoder or load_encoder(
                    "minilm", device=self._run.device, dtype=self._run.dtype
                )
            self._bm25 = load_encoder("bm25")
            encoders = {
                "image": (self.encoder, vector_contract(self.encoder, "image")),
                "caption": (self._caption_encoder, vector_contract(self._caption_encoder, "text")),
                "caption_bm25": (self._bm25, vector_contract(self._bm25, "text")),
            }
            prepare_collection(self.store, self.collection, "images", encoders)
        assert self._caption_encoder is not None
        return self._caption_encoder, self._bm25


class DocumentTarget:
    """A collection of passages, the encoders that write to it, and where the pictures go."""

    def __init__(
        self,
        store: Store,
        collection: str,
        encoder: Encoder,
        cross_encoder: Encoder | None,
        pictures_into: str | None,
        *,
        roots: Sequence[Path],
        shards: int | None,
        replicas: int | None,
        run: LoadOptions | None,
    ) -> None:
        if "text" not in encoder.spec.modalities:
            raise UnsupportedModality(encoder.spec.name, "text", encoder.spec.modalities)
        if encoder.spec.kind != "dense":
            raise StoreError(
                f"encoder {encoder.spec.name!r} makes {encoder.spec.kind} vectors; the vector 'text' needs dense ones"
            )
        self.store = store
        self.collection = collection
        self.roots = roots
        self.encoder = encoder
        self.bm25 = load_encoder("bm25")
        picture_encoder = _encoder_of_images(store, pictures_into or "images", run)
        self.cross = cross_encoder or picture_encoder or load_encoder("tiny")
        self.pictures_into = pictures_into
        self.images: ImageTarget | None = None  # until there is a picture, or the collection is there
        self._picture_encoder = picture_encoder or self.cross
        self._run = run
        if pictures_into is not None and "image" not in self._picture_encoder.spec.modalities:
            spec = self._picture_encoder.spec
            raise UnsupportedModality(spec.name, "pictures", spec.modalities)
        if pictures_into is not None and pictures_into in store.collections():
            self.images = self.image_target(pictures_into)
        self.indexes = PayloadIndexes(store, collection)
        prepare_collection(
            store,
            collection,
            "documents",
            {
                "text": (encoder, vector_contract(encoder, "text")),
                "bm25": (self.bm25, vector_contract(self.bm25, "text")),
                "cross": (self.cross, vector_contract(self.cross, "text", kind="multi")),
            },
            shards=shards,
            replicas=replicas,
        )

    def image_target(self, collection: str) -> ImageTarget:
        """Where pictures go; the first call makes their collection."""
        if self.images is None:
            self.images = ImageTarget(
                self.store,
                collection,
                self._picture_encoder,
                roots=self.roots,
                run=self._run,
                default_caption_encoder=self.encoder,
            )
        return self.images

    def cut(self, document: Document) -> list[Passage]:
        limit = min(MAX_TOKENS, self.encoder.spec.context_length or MAX_TOKENS)
        overlap = min(OVERLAP_TOKENS, limit // 8)
        return cut_passages(document, count_tokens=self.encoder.count_tokens, max_tokens=limit, overlap=overlap)

    def encode(self, texts: Sequence[str]) -> list[dict[str, Vector]]:
        """n passages -> their `text`, `bm25` and `cross` vectors."""
        dense = self.encoder.encode_text(texts, role="document")
        assert isinstance(dense, np.ndarray)  # checked at the door: kind is dense
        check_embeddings(dense, n=len(texts), dim=self.encoder.spec.dim, encoder=self.encoder.spec.name)
        words = self.bm25.encode_text(texts, role="document")
        limit = self.cross.spec.context_length or MAX_TOKENS
        pieces = [windows(text, count_tokens=self.cross.count_tokens, max_tokens=limit) for text in texts]
        flat = self.cross.encode_text([piece for some in pieces for piece in some], role="document")
        ends = np.cumsum([len(some) for some in pieces])
        multi = np.split(np.asarray(flat), ends[:-1])
        return [{"text": row, "bm25": word, "cross": rows} for row, word, rows in zip(dense, words, multi, strict=True)]

    def forget_pictures_of(self, uris: Sequence[str]) -> None:
        """Remove the pictures that only stood inside these documents."""
        if self.images is None:
            return
        for some in batched(uris, _URIS_A_FILTER):
            condition = models.FieldCondition(key="document", match=models.MatchAny(any=list(some)))
            inside = [
                point.id
                for point in self.store.scroll(
                    self.images.collection, filter=models.Filter(must=[condition]), payload=["uri", "document"]
                )
                if str(point.payload["uri"]).startswith(f"{point.payload['document']}#")
            ]
            self.store.delete(self.images.collection, inside)
            remove_thumbnails(self.store, self.images.collection, inside)


def _encoder_of_images(store: Store, collection: str, run: LoadOptions | None) -> Encoder | None:
    """The encoder that the collection of pictures remembers, if there is one of ours."""
    contract = store.contract(collection) if collection in store.collections() else None
    if contract is None or "image" not in contract.vectors:
        return None
    return load_remembered(collection, "image", contract.vectors["image"], run=run)
