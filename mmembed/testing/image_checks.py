"""What must hold of every encoder that reads pictures. Each check tells what it found, or raises Fault or NotJudged."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mmembed.errors import InputError
from mmembed.images import load_image
from mmembed.streams import load_in_order
from mmembed.testing.images import broken_files, extreme_images, image_files, images, unconverted_images
from mmembed.testing.report import Fault, NotJudged
from mmembed.testing.subject import Subject, attempt
from mmembed.testing.vectors import check_form, distance, split_rows
from mmembed.types import PixelEncoder, Vector

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "batch_invariance",
    "determinism",
    "empty_list",
    "files",
    "form",
    "modes",
    "order",
    "pixels",
]

_MANY = 6  # times the pictures are repeated
_THREADS = 4


def form(subject: Subject) -> str:
    tried = {**images(), **extreme_images()}
    for name, image in tried.items():
        try:
            check_form(subject.encode_image([image]), 1, subject.spec)
        except Fault as fault:
            raise Fault(f"a picture of {name}: {fault}") from fault
    return f"{check_form(subject.encode_image(list(tried.values())), len(tried), subject.spec)}, of {', '.join(tried)}"


def order(subject: Subject) -> str:
    names, shown = list(images()), list(images().values())
    plain, turned = subject.images(shown), subject.images(shown[::-1])
    if all(distance(row, plain[0]) <= subject.tolerance for row in plain):
        raise Fault("every picture has the same vector")
    return subject.equal(zip(names, plain, turned[::-1], strict=True))


def determinism(subject: Subject) -> str:
    shown = list(images().values())
    return subject.equal(zip(images(), subject.images(shown), subject.images(shown), strict=True))


def empty_list(subject: Subject) -> str:
    check_form(subject.encode_image([]), 0, subject.spec)
    return f"(0, {subject.spec.dim})" if subject.spec.kind == "dense" else "[]"


def batch_invariance(subject: Subject) -> str:
    return subject.equal(_alone_and_together(subject))


def _alone_and_together(subject: Subject) -> Iterator[tuple[str, Vector, Vector]]:
    names, shown = list(images()), list(images().values())
    alone = [subject.images([image])[0] for image in shown]
    yield from zip(names, alone, subject.images(shown), strict=True)
    yield from zip(names * _MANY, alone * _MANY, subject.images(shown * _MANY), strict=True)
    for name, image, vector in zip(names, shown, alone, strict=True):
        yield f"{name} beside {names[-1]}", vector, subject.images([image, shown[-1]])[0]


def files(subject: Subject) -> str:
    """Pictures of all modes with broken ones between them, as an index reads them: in threads, into one batch."""
    good = image_files()
    named = [(file.name, file.content) for file in good]
    mixed = [*named[:3], *broken_files().items(), *named[3:]]
    loading = load_in_order(mixed, lambda job: load_image(job[1], uri=job[0]), workers=_THREADS, ahead=2 * _THREADS)
    read: list[Image] = [result for _, result in loading if not isinstance(result, InputError)]
    if len(read) != len(good):
        raise Fault(f"of {len(good)} sound pictures and {len(mixed) - len(good)} broken ones {len(read)} were read")
    expected = [subject.images([file.shows])[0] for file in good]
    alike = [row for file, row in zip(good, expected, strict=True) if file.shows.size == good[0].shows.size]
    if all(distance(row, alike[0]) <= subject.tolerance for row in alike):
        raise Fault("different pictures of one size have the same vector")
    apart = subject.equal(zip([file.name for file in good], subject.images(read), expected, strict=True))
    return f"{len(good)} kinds of file, broken ones left out: {apart}"


def modes(subject: Subject) -> str:
    """Pictures that nobody converted. They need not be taken, since only RGB is promised; none may become nonsense."""
    others, refused = [], []
    for mode, (image, shows) in unconverted_images().items():
        try:
            found = subject.encode_image([image])
        except Fault:
            refused.append(mode)
            continue
        try:
            check_form(found, 1, subject.spec)
        except Fault as fault:
            raise Fault(f"a picture of mode {mode} is taken, but {fault}") from fault
        if distance(split_rows(found, 1, subject.spec.kind)[0], subject.images([shows])[0]) > subject.tolerance:
            others.append(mode)
    if others:
        raise NotJudged(
            f"read otherwise than mmembed.images.to_rgb reads them: {', '.join(others)}; only RGB is promised, so "
            f"convert others first"
        )
    return f"refused: {', '.join(refused)}; the others are right" if refused else "all of them are right"


def pixels(subject: Subject) -> str:
    encoder = subject.encoder
    if not isinstance(encoder, PixelEncoder):
        raise NotJudged("it has no preprocess_image and encode_pixels of its own")
    names, shown = list(images()), list(images().values())
    with ThreadPoolExecutor(_THREADS) as pool:
        made = attempt("preprocess_image", lambda: list(pool.map(encoder.preprocess_image, shown * _MANY)))
    rows = split_rows(attempt("encode_pixels", lambda: encoder.encode_pixels(made)), len(made), subject.spec.kind)
    check_form(attempt("encode_pixels", lambda: encoder.encode_pixels([])), 0, subject.spec)
    return subject.equal(zip(names * _MANY, rows, subject.images(shown) * _MANY, strict=True))
