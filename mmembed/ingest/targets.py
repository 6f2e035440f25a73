"""Where an index run writes to: a collection, and the encoders of its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.prepare import PayloadIndexes, prepare_collection, vector_contract
from mmembed.collection.thumbnails import remove_thumbnails
from mmembed.documents import Document, Passage, cut_passages, windows
from mmembed.encoders.encoding import encode_texts
from mmembed.encoders.pool import SHARED
from mmembed.encoders.registry import load_encoder
from mmembed.errors import StoreError, UnsupportedModality
from mmembed.images import MAX_PIXELS
from mmembed.streams import batched
from mmembed.types import Embeddings, Encoder, Kind, Modality, Store, Vector
from mmembed.vectors import check_embeddings

__all__ = ["MAX_TOKENS", "OVERLAP_TOKENS", "DocumentTarget", "ImageTarget"]

MAX_TOKENS = 256
OVERLAP_TOKENS = 32
_URIS_A_FILTER = 128
_KINDS: Mapping[Kind, str] = {"dense": "dense vectors", "sparse": "sparse vectors", "multi": "multivectors"}
_INPUTS: Mapping[Modality, str] = {"image": "pictures", "text": "text"}


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
        default_caption_encoder: Encoder | None = None,
        late_encoder: Encoder | None = None,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        """`encoders`: where those come from that are not given, by the name that a collection remembers."""
        _require(encoder, "image", "dense", "image")
        self.late = late_encoder or Collection(store, collection).remembered(
            "late", SHARED if encoders is None else encoders
        )
        if self.late is not None:
            _require(self.late, "late", "multi", "image")
        self.store = store
        self.collection = collection
        self.encoder = encoder
        self.roots = roots
        self._caption_encoder = caption_encoder
        self._default_caption_encoder = default_caption_encoder
        self._bm25: Encoder | None = None
        self._encoders = SHARED if encoders is None else encoders
        self.indexes = PayloadIndexes(store, collection)
        makers = {"image": (encoder, vector_contract(encoder, "image"))}
        if caption_encoder is not None:  # at once: a server older than 1.18 cannot add them later
            self._bm25 = load_encoder("bm25")
            makers["caption"] = (caption_encoder, vector_contract(caption_encoder, "text"))
            makers["caption_bm25"] = (self._bm25, vector_contract(self._bm25, "text"))
        if self.late is not None:
            makers["late"] = (self.late, vector_contract(self.late, "image"))
        prepare_collection(store, collection, "images", makers, shards=shards, replicas=replicas)

    @property
    def vectors(self) -> list[str]:
        """Those that every picture gets, with or without a caption."""
        return ["image"] if self.late is None else ["image", "late"]

    @property
    def batch_size(self) -> int:
        """Pictures encoded at a time; for `late` each is held at its full size until then."""
        return min(encoder.batch_size for encoder in (self.encoder, self.late) if encoder is not None)

    def caption_vectors(self, captions: Sequence[str]) -> list[dict[str, Vector]]:
        """n captions -> their `caption` and `caption_bm25` vectors."""
        if not captions:
            return []
        dense, bm25 = self._caption_encoders()
        rows = dense.encode_text(captions, role="document")
        words = bm25.encode_text(captions, role="document")
        return [{"caption": row, "caption_bm25": word} for row, word in zip(rows, words, strict=True)]

    def _caption_encoders(self) -> tuple[Encoder, Encoder]:
        if self._bm25 is None or self._caption_encoder is None:
            dense = self._caption_encoder or Collection(self.store, self.collection).remembered(
                "caption", self._encoders
            )
            dense = dense or self._default_caption_encoder
            dense = dense or self._encoders["minilm"]
            bm25 = load_encoder("bm25")
            encoders = {
                "image": (self.encoder, vector_contract(self.encoder, "image")),
                "caption": (dense, vector_contract(dense, "text")),
                "caption_bm25": (bm25, vector_contract(bm25, "text")),
            }
            prepare_collection(self.store, self.collection, "images", encoders)
            self._caption_encoder, self._bm25 = dense, bm25
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
        sparse_encoder: Encoder | None = None,
        late_encoder: Encoder | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        max_pixels: int = MAX_PIXELS,
        linked_pictures: bool = True,
    ) -> None:
        """See `ingest_documents`. `encoders`: as of an ImageTarget; `max_pixels`: of a picture in a document;
        `linked_pictures`: read the picture files that a document names, beside those that it holds.
        """
        _require(encoder, "text", "dense", "text")
        encoders = SHARED if encoders is None else encoders
        self.store = store
        self.collection = collection
        self.roots = roots
        self.encoder = encoder
        self.by_passage = {"text": encoder, "bm25": load_encoder("bm25")}  # those that read a passage as a whole
        optional: dict[str, tuple[Encoder | None, Kind]] = {
            "sparse": (sparse_encoder, "sparse"),
            "late": (late_encoder, "multi"),
        }
        for name, (given, kind) in optional.items():
            made_by = given or Collection(store, collection).remembered(name, encoders)
            if made_by is not None:
                _require(made_by, name, kind, "text")
                made_by.encode_text([], role="document")  # one that reads texts as queries alone says so before all
                self.by_passage[name] = made_by
        picture_encoder = Collection(store, pictures_into or "images").remembered("image", encoders)
        self.cross = cross_encoder or picture_encoder or load_encoder("tiny")
        self.pictures_into = pictures_into
        self.images: ImageTarget | None = None  # until there is a picture, or the collection is there
        self._picture_encoder = picture_encoder or self.cross
        self._encoders = encoders
        self.max_pixels = max_pixels
        self.linked_pictures = linked_pictures
        if pictures_into is not None:
            _require(self._picture_encoder, "image", "dense", "image")
        if pictures_into is not None and pictures_into in store.collections():
            self.images = self.image_target(pictures_into)
        self.indexes = PayloadIndexes(store, collection)
        prepare_collection(
            store,
            collection,
            "documents",
            {
                "cross": (self.cross, vector_contract(self.cross, "text", kind="multi")),
                **{name: (each, vector_contract(each, "text")) for name, each in self.by_passage.items()},
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
                default_caption_encoder=self.encoder,
                encoders=self._encoders,
            )
        return self.images

    @property
    def vectors(self) -> list[str]:
        """Those that every passage gets, sorted."""
        return sorted([*self.by_passage, "cross"])

    def cut(self, document: Document) -> list[Passage]:
        limit = min(MAX_TOKENS, self.encoder.spec.context_length or MAX_TOKENS)
        overlap = min(OVERLAP_TOKENS, limit // 8)
        return cut_passages(document, count_tokens=self.encoder.count_tokens, max_tokens=limit, overlap=overlap)

    def encode(self, texts: Sequence[str]) -> list[dict[str, Vector]]:
        """n passages -> their vectors by name. Where several encoders share a forward pass, there is one."""
        rows = encode_texts(list(self.by_passage.values()), texts, role="document")
        made: dict[str, Embeddings | list[np.ndarray]] = dict(zip(self.by_passage, rows, strict=True))
        dense = made["text"]
        assert isinstance(dense, np.ndarray)  # checked at the door: kind is dense
        check_embeddings(dense, n=len(texts), dim=self.encoder.spec.dim, encoder=self.encoder.spec.name)
        limit = self.cross.spec.context_length or MAX_TOKENS
        pieces = [windows(text, count_tokens=self.cross.count_tokens, max_tokens=limit) for text in texts]
        flat = self.cross.encode_text([piece for some in pieces for piece in some], role="document")
        ends = np.cumsum([len(some) for some in pieces])
        made["cross"] = np.split(np.asarray(flat), ends[:-1])
        vectors = [dict(zip(made, of_one, strict=True)) for of_one in zip(*made.values(), strict=True)]
        return [{name: v for name, v in of_one.items() if not _is_rowless(v)} for of_one in vectors]

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


def _require(encoder: Encoder, vector: str, kind: Kind, modality: Modality) -> None:
    """Raise UnsupportedModality or StoreError for an encoder that cannot make this vector."""
    spec = encoder.spec
    if modality not in spec.modalities:
        raise UnsupportedModality(spec.name, _INPUTS[modality], spec.modalities)
    if spec.kind != kind:
        raise StoreError(
            f"encoder {spec.name!r} makes {_KINDS[spec.kind]}, and the vector {vector!r} is for {_KINDS[kind]}: "
            f"choose another encoder for it"
        )


def _is_rowless(vector: Vector) -> bool:
    """A multivector of no rows, from a text without a token that counts: a store has no place for it."""
    return isinstance(vector, np.ndarray) and vector.size == 0
