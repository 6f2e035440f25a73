"""Pictures in, verdicts out: encode a batch, score, decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmembed.classification.cache import ClassCache
from mmembed.classification.calibration import Calibration
from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.labels import Labels
from mmembed.classification.scoring import Threshold, Verdict, decide, score
from mmembed.encoders.encoding import EncodedImage, encode_images
from mmembed.errors import InvalidLabels, UnsupportedModality
from mmembed.images import MAX_PIXELS
from mmembed.streams import batched, check_several
from mmembed.types import DenseArray, Encoder, Failure, Item

ImageLike: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8] | Item | Failure
"""A file, by its path; its bytes, an image or an array in memory, or what `mmembed.sources.scan` found."""

Learnt: TypeAlias = Callable[[DenseArray], npt.NDArray[np.float64]]
"""`(n, dim)` vectors of pictures -> `(n, labels)` probabilities: `few_shot.load_few_shot` gives one."""


@dataclass(frozen=True)
class Classified(Verdict):
    """The verdict on one picture."""

    uri: str = field(kw_only=True)  # its path, or "#3" for the fourth source where it has none


def classify(
    sources: Iterable[ImageLike],
    labels: Labels | Sequence[str] | Classes,
    *,
    encoder: Encoder,
    threshold: Threshold | None = None,
    top_k: int | None = None,
    calibration: Calibration | None = None,
    learnt: Learnt | None = None,
    cache: ClassCache | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Classified | Failure]:
    """Say of each picture which labels fit, lazily and in order; a bad picture is a Failure in its place.

    Args:
        labels: names, Labels, or what `embed_classes` made of them with the same encoder.
        threshold, top_k: see `decide`.
        calibration: of these labels and this encoder, instead of the one that Classes carry.
        learnt: gives the probabilities in place of the texts; calibrations play no part then.
        cache: of class embeddings that were made before.
        workers: decoding threads; None: one a core, at most 8.
        max_pixels: larger pictures become failures.

    Raises:
        UnsupportedModality: the encoder does not read both text and pictures, or its vectors are not dense.
        InvalidLabels: see `embed_classes`; or the classes are those of another encoder.
        InvalidSample: the calibration is of other labels or another encoder.
        NotAList: one picture was given, not several.
    """
    check_several(sources, "pictures")
    spec = encoder.spec
    if "image" not in spec.modalities:
        raise UnsupportedModality(spec.name, "images", spec.modalities)
    classes = labels if isinstance(labels, Classes) else embed_classes(encoder, labels, cache=cache)
    if classes.fingerprint != spec.fingerprint:
        raise InvalidLabels(f"the labels were embedded by {classes.encoder}, not by {spec.name}: embed them by it")
    if calibration is not None or learnt is not None:
        classes = classes.calibrated(calibration if learnt is None else None)
    nothing = np.zeros((0, len(classes.embeddings)), dtype=np.float32)
    decide(classes, nothing, threshold=threshold, top_k=top_k)  # options that make no sense are refused at once
    items = (_item(number, source) for number, source in enumerate(sources))
    encoded = encode_images(items, encoder, workers=workers, max_pixels=max_pixels)
    return _classify(encoded, classes, encoder.batch_size, learnt, threshold, top_k)


def _item(number: int, source: ImageLike) -> Item | Failure:
    if isinstance(source, Item | Failure):
        return source
    if isinstance(source, str | Path):
        return Item(str(source), "image", Path(source))
    return Item(f"#{number}", "image", content=source)


def _classify(
    encoded: Iterator[EncodedImage | Failure],
    classes: Classes,
    batch_size: int,
    learnt: Learnt | None,
    threshold: Threshold | None,
    top_k: int | None,
) -> Iterator[Classified | Failure]:
    for batch in batched(encoded, batch_size):
        images = [entry for entry in batch if isinstance(entry, EncodedImage)]
        decided: Iterator[Verdict] = iter(())
        if images:
            vectors = np.stack([np.asarray(image.vector, dtype=np.float32) for image in images])
            found = None if learnt is None else learnt(vectors)
            decided = iter(decide(classes, score(classes, vectors), learnt=found, threshold=threshold, top_k=top_k))
        for entry in batch:
            if isinstance(entry, Failure):
                yield entry
            else:
                verdict = next(decided)
                yield Classified(verdict.labels, verdict.none_of_these, verdict.groups, uri=entry.item.uri)
