"""Pictures in, verdicts out: load (threads, bounded, in order), batch, encode, score, decide."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mmembed.classification.cache import ClassCache
from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.labels import Labels
from mmembed.classification.probabilities import LabelScore, Threshold, Verdict, decide, score
from mmembed.errors import InputError, InvalidLabels, UnreadableImage, UnsupportedModality
from mmembed.images import MAX_PIXELS, load_image, to_rgb
from mmembed.streams import load_in_order
from mmembed.types import DenseArray, Embeddings, Encoder, Failure, Item, PixelEncoder, Pixels
from mmembed.vectors import check_embeddings

if TYPE_CHECKING:
    from mmembed.classification.calibration import Calibration

__all__ = ["Classified", "Learnt", "Source", "classify"]

Source: TypeAlias = str | Path | bytes | Image.Image | Item | Failure
"""A file, by its path; its bytes, a picture in memory, or what `mmembed.sources.scan` found."""

Learnt: TypeAlias = Callable[[DenseArray], npt.NDArray[np.float64]]
"""`(n, dim)` vectors of pictures -> `(n, labels)` probabilities: `few_shot.load_adapter` gives one."""


@dataclass(frozen=True)
class Classified:
    """One picture and its verdict; `uri` is its path, or "#3" for the fourth source where it has none."""

    uri: str
    verdict: Verdict

    @property
    def labels(self) -> tuple[LabelScore, ...]:
        return self.verdict.labels

    @property
    def none_of_these(self) -> bool:
        return self.verdict.none_of_these

    @property
    def groups(self) -> tuple[LabelScore, ...]:
        return self.verdict.groups


def classify(
    sources: Iterable[Source],
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
        TypeError: one picture was given, not several.
    """
    if isinstance(sources, str | bytes):
        raise TypeError("sources are several pictures, not one: write [...] around it")
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
    loaded = _load(sources, encoder, workers or min(8, os.cpu_count() or 1), max_pixels)
    return _classify(loaded, classes, encoder, learnt, threshold, top_k)


@dataclass(frozen=True, eq=False)
class _Loaded:
    uri: str
    pixels: Pixels | Image.Image


def _load(sources: Iterable[Source], encoder: Encoder, workers: int, max_pixels: int) -> Iterator[_Loaded | Failure]:
    """Decode, and preprocess where the encoder lets it be done here, as many ahead as one forward pass takes."""
    ahead = max(2 * workers, encoder.batch_size if isinstance(encoder, PixelEncoder) else 0)

    def load(job: tuple[int, Source]) -> _Loaded | Failure:
        number, source = job
        if isinstance(source, Failure):
            return source
        image = _picture(source, _uri(number, source), max_pixels)
        return _Loaded(
            _uri(number, source), encoder.preprocess_image(image) if isinstance(encoder, PixelEncoder) else image
        )

    for (number, source), loaded in load_in_order(enumerate(sources), load, workers=workers, ahead=ahead):
        yield Failure(_uri(number, source), str(loaded)) if isinstance(loaded, InputError) else loaded


def _uri(number: int, source: Source) -> str:
    if isinstance(source, Item | Failure):
        return source.uri
    return str(source) if isinstance(source, str | Path) else f"#{number}"


def _picture(source: str | Path | bytes | Image.Image | Item, uri: str, max_pixels: int) -> Image.Image:
    """An upright RGB picture."""
    if isinstance(source, Item):
        source = source.path if source.path is not None else source.content or b""
    if not isinstance(source, Image.Image):
        return load_image(Path(source) if isinstance(source, str) else source, uri=uri, max_pixels=max_pixels)
    try:
        return to_rgb(ImageOps.exif_transpose(source))
    except Exception as exc:  # a picture that was opened lazily is decoded here, by decoders that raise anything
        raise UnreadableImage(f"{uri}: cannot be decoded ({exc})") from exc


def _classify(
    loaded: Iterator[_Loaded | Failure],
    classes: Classes,
    encoder: Encoder,
    learnt: Learnt | None,
    threshold: Threshold | None,
    top_k: int | None,
) -> Iterator[Classified | Failure]:
    pending: list[_Loaded | Failure] = []

    def verdicts() -> Iterator[Classified | Failure]:
        pictures = [entry for entry in pending if isinstance(entry, _Loaded)]
        decided: Iterator[Verdict] = iter(())
        if pictures:
            vectors = _encode(encoder, [picture.pixels for picture in pictures])
            found = None if learnt is None else learnt(vectors)
            decided = iter(decide(classes, score(classes, vectors), learnt=found, threshold=threshold, top_k=top_k))
        for entry in pending:
            yield entry if isinstance(entry, Failure) else Classified(entry.uri, next(decided))

    for entry in loaded:
        pending.append(entry)
        if len(pending) >= encoder.batch_size:
            yield from verdicts()
            pending.clear()
    yield from verdicts()


def _encode(encoder: Encoder, pixels: Sequence[Pixels | Image.Image]) -> DenseArray:
    """n pictures -> (n, dim)."""
    vectors: Embeddings
    if isinstance(encoder, PixelEncoder):
        vectors = encoder.encode_pixels([p for p in pixels if isinstance(p, np.ndarray)])
    else:
        vectors = encoder.encode_image([p for p in pixels if isinstance(p, Image.Image)])
    assert isinstance(vectors, np.ndarray)  # embed_classes refuses encoders that are not dense
    return check_embeddings(vectors, n=len(pixels), dim=encoder.spec.dim, encoder=encoder.spec.name)
