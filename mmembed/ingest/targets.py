"""Where an index run writes to: a collection, and the encoders of its vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmembed.collection import Collection
from mmembed.collection.prepare import PayloadIndexes, check_encoders, prepare_collection
from mmembed.documents import Document, Passage, cut_passages, windows
from mmembed.encoders.encoding import encode_texts
from mmembed.encoders.pool import SHARED
from mmembed.encoders.registry import load_encoder
from mmembed.errors import StoreError, UnsupportedModality
from mmembed.images import MAX_PIXELS
from mmembed.types import Embeddings, Encoder, Kind, Modality, SparseVector, Vector
from mmembed.vectors import check_embeddings

MAX_TOKENS = 256
OVERLAP_TOKENS = 32
_KINDS: Mapping[Kind, str] = {"dense": "dense vectors", "sparse": "sparse vectors", "multi": "multivectors"}
_INPUTS: Mapping[Modality, str] = {"image": "pictures", "text": "text"}


@dataclass(frozen=True)
class RunOptions:
    """How a run reads and writes, as opposed to what and by which encoders."""

    roots: Sequence[Path] = ()  # its folders: a file that vanished from there has moved; grows as sources are met
    workers: int | None = None  # threads that read; None: one a core, within reason
    max_pixels: int = MAX_PIXELS  # larger images become failures
    linked_images: bool = True  # read the image files that a document names, beside those that it holds
    shards: int | None = None  # of a collection that is made in a cluster
    replicas: int | None = None
    dry_run: bool = False  # write nothing
    language: str | None = None  # of BM25's stop words and stemmer; None: as the collection remembers, else English
    images_turn: Callable[[str], AbstractContextManager[object]] | None = None
    """By the name of their collection: held while the images inside a document are written; None: nobody else does."""


class ImageTarget:
    """A collection of images and the encoders that write to it."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        *,
        caption_encoder: Encoder | None = None,
        late_encoder: Encoder | None = None,
        default_caption_encoder: Encoder | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        options: RunOptions = RunOptions(),  # frozen
    ) -> None:
        """`encoders`: where those come from that are not given, by the name that a collection remembers."""
        self.collection = collection
        self.encoder = encoder
        self.options = options
        self._encoders = SHARED if encoders is None else encoders
        _require(encoder, "image", "dense", "image")
        self.late = late_encoder or collection.remembered("late", self._encoders)
        if self.late is not None:
            _require(self.late, "late", "multi", "image")
        self._default_caption_encoder = default_caption_encoder
        self._by_caption: dict[str, Encoder] = {}  # those that read captions; none before the first
        self.indexes = PayloadIndexes(collection)
        if caption_encoder is not None:  # at once: a server older than 1.18 cannot add them later
            self._by_caption = {"caption": caption_encoder, "caption_bm25": self._bm25()}
        makers = {"image": encoder, **self._by_caption}
        self.vectors = ["image"]  # those that every image gets, with or without a caption
        self.batch_size = encoder.batch_size  # images encoded at a time
        if self.late is not None:
            makers["late"] = self.late
            self.vectors.append("late")
            self.batch_size = min(self.batch_size, self.late.batch_size)  # each is held at its full size until then
        if options.dry_run:
            check_encoders(collection, "images", makers)
        else:
            prepare_collection(collection, "images", makers, shards=options.shards, replicas=options.replicas)

    def _bm25(self) -> Encoder:
        return _bm25(self.collection, "caption_bm25", self._encoders, self.options.language)

    def caption_vectors(self, captions: Sequence[str]) -> list[dict[str, Vector]]:
        """n captions -> their `caption` and `caption_bm25` vectors."""
        if not captions:
            return []
        if not self._by_caption:
            remembered = self.collection.remembered("caption", self._encoders)
            dense = remembered or self._default_caption_encoder or self._encoders["minilm"]
            by_caption = {"caption": dense, "caption_bm25": self._bm25()}
            prepare_collection(self.collection, "images", {"image": self.encoder, **by_caption})
            self._by_caption = by_caption
        rows = [encoder.encode_text(captions, role="document") for encoder in self._by_caption.values()]
        return [dict(zip(self._by_caption, of_one, strict=True)) for of_one in zip(*rows, strict=True)]


class DocumentTarget:
    """A collection of passages, the encoders that write to it, and where the images in documents go."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        *,
        cross_encoder: Encoder | None = None,
        sparse_encoder: Encoder | None = None,
        late_encoder: Encoder | None = None,
        images_into: str | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        options: RunOptions = RunOptions(),  # frozen
    ) -> None:
        """See `ingest_documents`. `encoders`: as of an ImageTarget; `images_into`: None leaves them out."""
        self.collection = collection
        self.encoder = encoder
        self.options = options
        self.wants_images = images_into is not None
        self.images: ImageTarget | None = None  # until there is an image, or the collection is there
        self._encoders = SHARED if encoders is None else encoders
        _require(encoder, "text", "dense", "text")
        self.by_passage = {  # those that read a passage as a whole
            "text": encoder,
            "bm25": _bm25(collection, "bm25", self._encoders, options.language),
            **self._optional("sparse", sparse_encoder, "sparse"),
            **self._optional("late", late_encoder, "multi"),
        }
        self.vectors = sorted([*self.by_passage, "cross"])  # those that every passage gets
        remembered = Collection(collection.store, images_into or "images").remembered("image", self._encoders)
        self.cross = cross_encoder or remembered or load_encoder("tiny")
        self._image_encoder = remembered or self.cross
        self._images_into = None if images_into is None else Collection(collection.store, images_into)
        if self._images_into is not None:
            _require(self._image_encoder, "image", "dense", "image")
            if self._images_into.exists:
                self.image_target()
        self.indexes = PayloadIndexes(collection)
        makers = {"cross": self.cross, **self.by_passage}
        if options.dry_run:
            check_encoders(collection, "documents", makers)
        else:
            prepare_collection(collection, "documents", makers, shards=options.shards, replicas=options.replicas)

    def _optional(self, vector: str, given: Encoder | None, kind: Kind) -> dict[str, Encoder]:
        made_by = given or self.collection.remembered(vector, self._encoders)
        if made_by is None:
            return {}
        _require(made_by, vector, kind, "text")
        made_by.encode_text([], role="document")  # one that reads texts as queries alone says so before all
        return {vector: made_by}

    def images_turn(self) -> AbstractContextManager[object]:
        """Within it nobody else writes to the collection of the images."""
        turn = self.options.images_turn
        return nullcontext() if turn is None or self._images_into is None else turn(self._images_into.name)

    def image_target(self) -> ImageTarget:
        """Where images go; the first call makes their collection. Only where they are wanted."""
        if self.images is None:
            assert self._images_into is not None
            self.images = ImageTarget(
                self._images_into,
                self._image_encoder,
                default_caption_encoder=self.encoder,
                encoders=self._encoders,
                options=replace(self.options, workers=None, shards=None, replicas=None),
            )
        return self.images

    def cut(self, document: Document) -> list[Passage]:
        limit = min(MAX_TOKENS, self.encoder.spec.context_length or MAX_TOKENS)
        overlap = min(OVERLAP_TOKENS, limit // 8)
        return cut_passages(document, count_tokens=self.encoder.count_tokens, max_tokens=limit, overlap=overlap)

    def encode(self, texts: Sequence[str]) -> list[dict[str, Vector]]:
        """n passages -> their vectors by name. Where several encoders share a forward pass, there is one."""
        rows = encode_texts(list(self.by_passage.values()), texts, role="document")
        made: dict[str, Embeddings | list[np.ndarray]] = dict(zip(self.by_passage, rows, strict=True))
        dense = made["text"]
        assert isinstance(dense, np.ndarray)  # checked on the way in: kind is dense
        check_embeddings(dense, n=len(texts), dim=self.encoder.spec.dim, encoder=self.encoder.spec.name)
        limit = self.cross.spec.context_length or MAX_TOKENS
        pieces = [windows(text, count_tokens=self.cross.count_tokens, max_tokens=limit) for text in texts]
        flat = self.cross.encode_text([piece for some in pieces for piece in some], role="document")
        ends = np.cumsum([len(some) for some in pieces])
        made["cross"] = np.split(np.asarray(flat), ends[:-1])
        # A text without a token that counts has a multivector of no rows: a store has no place for it.
        return [
            {name: v for name, v in zip(made, of_one, strict=True) if isinstance(v, SparseVector) or v.size}
            for of_one in zip(*made.values(), strict=True)
        ]


def _bm25(collection: Collection, vector: str, encoders: Mapping[str, Encoder], language: str | None) -> Encoder:
    """The one of that language; else the one that the collection remembers, else that of English."""
    if language is not None:
        return load_encoder(f"bm25?language={language}")
    return collection.remembered(vector, encoders) or load_encoder("bm25")


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
