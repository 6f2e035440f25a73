"""`bm25`: words as sparse vectors, with the token ids of Qdrant's own `qdrant/bm25` (Edge carries the same code).

Scripts that put no blanks between words are cut by Qdrant's own multilingual tokenizer (Chinese, Japanese, Thai). It
cuts a few ideographs without a letter of kana as Chinese, also where they are a query in Japanese, and leaves Korean,
Lao, Khmer and Burmese whole: runs of these become pairs of characters as well, in documents and queries alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from qdrant_edge import Bm25, Bm25Config, DisabledStemmer, StopwordsSet, TokenizerType

from mmembed.documents.characters import matched
from mmembed.encoders.checkpoint import fingerprint
from mmembed.encoders.inputs import texts_in
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.text_encoder import TextEncoder
from mmembed.errors import EncoderLoadError
from mmembed.types import Embeddings, EncoderSpec, LoadOptions, Role, SparseVector

_K, _B, _AVERAGE_LENGTH = 1.2, 0.75, 256
_UNSTEMMED = {"none", "korean", "thai"}  # no stop words and no stemmer: Qdrant has none for them
_LANGUAGES = {  # by their codes of ISO 639-1
    "ar": "arabic",
    "az": "azerbaijani",
    "bn": "bengali",
    "ca": "catalan",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "eu": "basque",
    "fi": "finnish",
    "fr": "french",
    "he": "hebrew",
    "hu": "hungarian",
    "id": "indonesian",
    "it": "italian",
    "ja": "japanese",
    "kk": "kazakh",
    "ko": "korean",
    "ne": "nepali",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sl": "slovene",
    "sv": "swedish",
    "tg": "tajik",
    "th": "thai",
    "tr": "turkish",
    "zh": "chinese",
    "hi-en": "hinglish",
}

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HANGUL = "\uac00-\ud7a3"
_WHOLE = "\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff"  # Lao, Burmese, Khmer
_UNSPACED = re.compile(f"[{_HAN}\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u0e00-\u0e7f]+")
_PAIRED = re.compile(f"[{_HAN}]+|[{_HANGUL}]+|[{_WHOLE}]+")
_ONE_SYLLABLE = re.compile(  # a Korean noun of one syllable and its particle
    f"(?<![{_HANGUL}])([{_HANGUL}])(?:은|는|이|가|을|를|에|의|도|와|과|로|만|에서|에게|으로|까지|부터)(?![{_HANGUL}])"
)
_FREQUENT = 1e6  # as k, with b = 0: weights from which the frequencies of terms can be had back


class Bm25Encoder(TextEncoder):
    """k=1.2, b=0.75, average length 256, stop words and stemmer of `language`; the store multiplies by IDF."""

    dtype = "float32"

    def __init__(self, name: EncoderName, run: LoadOptions, *, language: str) -> None:
        try:
            self._bm25 = Bm25(_config(language))
        except ValueError as exc:
            raise EncoderLoadError(
                f"encoder {str(name)!r}: there are no stop words and no stemmer of {language!r}: choose "
                f"`language='none'`, or one of {', '.join(_LANGUAGES.values())}"
            ) from exc
        self._words, self._segments = (
            Bm25(_config(language, k=_FREQUENT, b=0.0, tokenizer=tokenizer))
            for tokenizer in (TokenizerType.Word, TokenizerType.Multilingual)
        )
        self._pairs = Bm25(_config("none", k=_FREQUENT, b=0.0, tokenizer=TokenizerType.Whitespace))
        self.batch_size = run.batch_size or 256
        self.spec = EncoderSpec(
            name=str(name),
            kind="sparse",
            dim=None,
            distance="dot",
            modalities=frozenset({"text"}),
            fingerprint=fingerprint({"bm25": [_K, _B, _AVERAGE_LENGTH, language]}),
            licence="Apache-2.0",
        )

    def count_tokens(self, text: str) -> int:
        """Words, counted at white space: BM25 has no limit that tokens would have to fit."""
        return len(text.split())

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> Embeddings:
        """n strings -> n sparse vectors: term weights for a document, ones for a query. SettingsError for a task.

        Texts are matched by `mmembed.documents.characters.matched`, so that one word has one id however it is encoded.
        """
        check_task(self.spec.name, task)
        return [self._encode(matched(text), role) for text in texts_in(texts)]

    def _encode(self, text: str, role: Role) -> SparseVector:
        if not text.isascii() and (_UNSPACED.search(text) or _PAIRED.search(text)):
            return self._of_terms(self._terms(text), role)
        made = (self._bm25.embed_query if role == "query" else self._bm25.embed_document)(text)
        return SparseVector(np.array(made.indices, dtype=np.uint32), np.array(made.values, dtype=np.float32))

    def _terms(self, text: str) -> Counter[int]:
        """How often each term occurs: words between blanks, words that the tokenizer finds, pairs of characters."""
        spaced = _frequencies(self._words, _UNSPACED.sub(" ", text))
        found = _frequencies(self._segments, " ".join(_UNSPACED.findall(text)))
        pairs = _frequencies(self._pairs, " ".join([*_pairs(text), *_ONE_SYLLABLE.findall(text)]))
        return (spaced + found) | pairs  # a pair that is a word as well counts once

    def _of_terms(self, terms: Counter[int], role: Role) -> SparseVector:
        indices = np.fromiter(terms.keys(), dtype=np.uint32, count=len(terms))
        if role == "query":
            return SparseVector(indices, np.ones(len(terms), dtype=np.float32))
        often = np.fromiter(terms.values(), dtype=np.float32, count=len(terms))
        length = _K * (1 - _B + _B * terms.total() / _AVERAGE_LENGTH)
        return SparseVector(indices, (often * (_K + 1) / (often + length)).astype(np.float32))


def _config(
    language: str, *, k: float = _K, b: float = _B, tokenizer: TokenizerType = TokenizerType.Word
) -> Bm25Config:
    if language not in _UNSTEMMED:
        return Bm25Config(k=k, b=b, avg_len=_AVERAGE_LENGTH, tokenizer=tokenizer, language=language)
    nothing = StopwordsSet(languages=set(), custom=set())
    return Bm25Config(
        k=k, b=b, avg_len=_AVERAGE_LENGTH, tokenizer=tokenizer, stopwords=nothing, stemmer=DisabledStemmer()
    )


def _frequencies(bm25: Bm25, text: str) -> Counter[int]:
    made = bm25.embed_document(text)
    return Counter(
        {id: round(w * _FREQUENT / (_FREQUENT + 1 - w)) for id, w in zip(made.indices, made.values, strict=True)}
    )


def _pairs(text: str) -> Iterator[str]:
    """Neighbouring characters, each with the marks on it; one that stands alone is itself."""
    for run in _PAIRED.findall(text):
        clusters: list[str] = []
        for character in run:
            if clusters and unicodedata.category(character).startswith("M"):
                clusters[-1] += character
            else:
                clusters.append(character)
        yield from map("".join, pairwise(clusters)) if len(clusters) > 1 else clusters


def load(name: EncoderName, run: LoadOptions, *, language: str = "english") -> Bm25Encoder:
    """`bm25`, or `bm25?language=german` (or `de`) for another stemmer and its stop words; `none` has neither."""
    if name.model:
        raise EncoderLoadError(f"encoder {str(name)!r}: 'bm25' has no weights, so it takes no model name")
    language = language.lower()
    return Bm25Encoder(name, run, language=_LANGUAGES.get(language, language))
