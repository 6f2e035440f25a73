"""Labels to class embeddings: what pictures are compared with (Radford et al. 2021, section 3.1.4).

Each text is put into each template and encoded to norm 1; a class is their mean, normalised again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from mmembed.classification.cache import ClassCache, row_key
from mmembed.classification.calibration import Calibration
from mmembed.classification.labels import Labels, labels_of
from mmembed.classification.templates import fill
from mmembed.errors import InvalidLabels, InvalidSample, UnsupportedModality
from mmembed.streams import batched
from mmembed.types import DenseArray, Encoder
from mmembed.vectors import check_embeddings, l2_normalize

logger = logging.getLogger(__name__)

_BLOCK = 4096  # texts that are handed to an encoder at once
_ALIKE = 1e-5  # distance of two embeddings of one and the same text in another batch, at most
_UNKNOWN = "\U00010600"  # a letter of Linear A, which is in no vocabulary
_ROWS = 1024  # of the comparison of all classes with all


@dataclass(frozen=True, eq=False)
class Classes:
    """Labels as one encoder sees them: all that is needed to score stored vectors, without the encoder."""

    labels: Labels
    embeddings: DenseArray  # (labels + background, dim), rows of norm 1, labels first and in order
    logit_scale: float | None  # None: no probabilities, unless calibrated
    logit_bias: float | None  # not None: independent sigmoids instead of one softmax
    fingerprint: str  # of the encoder
    encoder: str  # its name
    calibration: Calibration | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def columns(self) -> tuple[str, ...]:
        """What each row of `embeddings` is: labels, then background."""
        return (*self.names, *self.labels.background)

    @property
    def exclusive(self) -> bool:
        """Whether probabilities of labels and background sum to 1: exactly one of them is meant."""
        if self.calibration is not None:
            return self.calibration.method == "temperature"
        return self.logit_bias is None

    def calibrated(self, calibration: Calibration | None) -> Classes:
        """The same classes with (or without) a calibration.

        Raises InvalidSample if it was fitted to other labels, templates or background, or to another encoder.
        """
        if calibration is not None:
            if calibration.fingerprint != self.fingerprint:
                raise InvalidSample(
                    f"the calibration was fitted to scores of another encoder than {self.encoder}: calibrate this one"
                )
            if calibration.labels_key != self.labels.key:
                raise InvalidSample(
                    f"the calibration was fitted to other labels, templates or background ("
                    f"{some_of(calibration.names)}) than these ({some_of(self.names)}): calibrate these"
                )
        return replace(self, calibration=calibration)


def embed_classes(encoder: Encoder, labels: Labels | Sequence[str], *, cache: ClassCache | None = None) -> Classes:
    """Labels (and background) -> class embeddings; those that `cache` has are not encoded again.

    Texts are encoded as queries: a label asks for pictures. Two labels with one and the same embedding (words in
    another order, to an encoder that does not see it) are logged as a warning: the first stands for both.

    Raises:
        UnsupportedModality: the encoder reads no text, or its vectors are not dense.
        InvalidLabels: what Labels refuses; a label in a script that the encoder does not know; or a single label
            without background where probabilities are a softmax.
    """
    labels = labels_of(labels)
    spec = encoder.spec
    if "text" not in spec.modalities or spec.kind != "dense":
        raise UnsupportedModality(
            spec.name, f"labels as {'text' if spec.kind == 'dense' else 'dense vectors'}", spec.modalities
        )
    softmax = encoder.logit_scale is not None and encoder.logit_bias is None
    if softmax and len(labels.labels) + len(labels.background) == 1:
        raise InvalidLabels(
            f"{labels.names[0]!r} is the only label, and {spec.name} shares probability out among all that are given: "
            f"add labels, or a background of what else there may be"
        )
    rows = _rows(
        encoder,
        [*(label.terms for label in labels.labels), *((text,) for text in labels.background)],
        labels.templates,
        cache or ClassCache(),
    )
    classes = Classes(labels, rows, encoder.logit_scale, encoder.logit_bias, spec.fingerprint, spec.name)
    pairs = _alike(rows)
    if len(pairs):
        logger.warning(
            "%r and %r are the same to encoder %s%s: pictures of the second get the first, so say one in other words",
            *(classes.columns[column] for column in pairs[0]),
            spec.name,
            f" (and {len(pairs) - 1} more such)" if len(pairs) > 1 else "",
        )
    return classes


def _rows(
    encoder: Encoder, classes: Sequence[tuple[str, ...]], templates: tuple[str, ...], cache: ClassCache
) -> DenseArray:
    """n classes, each as its texts -> (n, dim)."""
    keys = [row_key(encoder, texts, templates) for texts in classes]
    rows = {key: row for key in keys if (row := cache.get(key, encoder.spec.dim)) is not None}
    missing = {key: texts for key, texts in zip(keys, classes, strict=True) if key not in rows}
    _check_known(encoder, [text for texts in missing.values() for text in texts])
    sentences = [fill(t, text) for texts in missing.values() for text, t in product(texts, templates)]
    encoded = _encode(encoder, sentences)
    stops = np.cumsum([len(texts) * len(templates) for texts in missing.values()], dtype=np.intp)
    for key, some in zip(missing, np.split(encoded, stops), strict=False):  # beyond the last stop there is nothing
        rows[key] = l2_normalize(some.mean(axis=0, dtype=np.float64))
        cache.put(key, rows[key])
    return np.stack([rows[key] for key in keys])


def _encode(encoder: Encoder, sentences: Sequence[str]) -> DenseArray:
    """n texts, equal ones only once -> (n, dim)."""
    distinct = list(dict.fromkeys(sentences))
    blocks = [np.zeros((0, encoder.spec.dim or 0), dtype=np.float32)]
    for block in batched(distinct, _BLOCK):
        vectors = encoder.encode_text(block, role="query")
        assert isinstance(vectors, np.ndarray)  # embed_classes refuses encoders that are not dense
        blocks.append(check_embeddings(vectors, n=len(block), dim=encoder.spec.dim, encoder=encoder.spec.name))
    row_of = {sentence: row for row, sentence in enumerate(distinct)}
    return np.concatenate(blocks)[[row_of[sentence] for sentence in sentences]]


def _check_known(encoder: Encoder, texts: Sequence[str]) -> None:
    """Raise InvalidLabels for a text that the encoder reads as it reads letters that it does not know."""
    foreign = [text for text in texts if not text.isascii()]
    unknown = [" ".join(_UNKNOWN * len(word) for word in text.split()) for text in foreign]
    rows, against = np.split(_encode(encoder, [*foreign, *unknown]), 2)
    for text, distance in zip(foreign, np.linalg.norm(rows - against, axis=1), strict=True):
        if distance <= _ALIKE:
            raise InvalidLabels(
                f"{text!r} is in a script that encoder {encoder.spec.name} does not know: say it in other words, or "
                f"take an encoder of its language"
            )


def _alike(rows: DenseArray) -> npt.NDArray[np.intp]:
    """(k, 2) pairs of classes that have one and the same embedding: each class with the first that is like it."""
    pairs = [np.zeros((0, 2), dtype=np.intp)]
    for start in range(0, len(rows), _ROWS):
        near = np.tril(rows[start : start + _ROWS] @ rows.T > 1 - 1e-4, start - 1)  # float32 tells no closer
        seconds = np.flatnonzero(near.any(axis=1))
        firsts = np.flatnonzero(near.any(axis=0))
        left, right = rows[start + seconds].astype(np.float64), rows[firsts].astype(np.float64)
        squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
        alike = near[np.ix_(seconds, firsts)] & (squares <= _ALIKE**2)
        places, columns = np.nonzero(alike)  # row by row, so the first of each comes first
        found, at = np.unique(places, return_index=True)
        pairs.append(np.stack([firsts[columns[at]], start + seconds[found]], axis=1))
    return np.concatenate(pairs)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """`"cat, dog and 3 more"`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
