"""`bm25`: words as sparse vectors, with the token ids of Qdrant's own `qdrant/bm25` (Edge carries the same code)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qdrant_edge import Bm25, Bm25Config

from mmembed.documents.characters import matched
from mmembed.encoders.checkpoint import fingerprint
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.text_encoder import TextEncoder
from mmembed.encoders.tokens import characters
from mmembed.errors import EncoderLoadError
from mmembed.types import Embeddings, EncoderSpec, LoadOptions, Role, SparseVector


class Bm25Encoder(TextEncoder):
    """k=1.2, b=0.75, average length 256, stop words and stemmer of `language`; the store multiplies by IDF."""

    dtype = "float32"

    def __init__(self, name: EncoderName, run: LoadOptions, *, language: str) -> None:
        try:
            self._bm25 = Bm25(Bm25Config(language=language))
        except ValueError as exc:
            raise EncoderLoadError(f"encoder {str(name)!r}: {exc}") from exc
        self.batch_size = run.batch_size or 256
        self.spec = EncoderSpec(
            name=str(name),
            kind="sparse",
            dim=None,
            distance="dot",
            modalities=frozenset({"text"}),
            fingerprint=fingerprint({"bm25": [1.2, 0.75, 256, language]}),
            licence="Apache-2.0",
        )

    def count_tokens(self, text: str) -> int:
        """Words, counted at white space: BM25 has no limit that tokens would have to fit."""
        return len(text.split())

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        """n strings -> n sparse vectors: term weights for a document, ones for a query. SettingsError for a task."""
        check_task(self.spec.name, task)
        embed = self._bm25.embed_query if role == "query" else self._bm25.embed_document
        made = (embed(matched(characters(text))) for text in texts)
        return [SparseVector(np.array(v.indices, dtype=np.uint32), np.array(v.values, dtype=np.float32)) for v in made]


def load(name: EncoderName, run: LoadOptions, *, language: str = "english") -> Bm25Encoder:
    """`bm25`, or `bm25?language=german` for another stemmer and its stop words."""
    if name.model:
        raise EncoderLoadError(f"encoder {str(name)!r}: 'bm25' has no weights, so it takes no model name")
    return Bm25Encoder(name, run, language=language)
