"""From images and texts to vectors: the only loop over images, and encoders of one body in one forward pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import numpy as np
from PIL.Image import Image

from mmembed.errors import InputError
from mmembed.images import MAX_PIXELS, read_image, thumbnail_webp
from mmembed.sources.items import image_content
from mmembed.streams import batched, check_several, load_in_order
from mmembed.types import Embeddings, Encoder, Failure, Item, JointEncoder, Payload, PixelEncoder, Pixels, Role, Vector
from mmembed.vectors import check_embeddings

FACTS = ("width", "height", "format", "taken_at")
"""What reading an image finds out about it."""

_DECODERS = 8


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """One image and its vector, by the encoder that was given."""

    item: Item
    vector: Vector  # (dim,), of a multivector encoder (patches, dim)


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image that waits for its forward pass."""

    pixels: Pixels | Image  # preprocessed for a PixelEncoder, in place of the image, which is let go
    facts: Payload  # width, height, format and taken_at, as far as they are known
    whole: Image | None = None  # the image itself
    thumbnail: bytes | None = None  # WebP
    problem: str = ""  # of one that could be read all the same


def encode_images(
    items: Iterable[Item | Failure], encoder: Encoder, *, workers: int | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[EncodedImage | Failure]:
    """Images in files and in memory -> their vectors, one answer for each item and in the same order, lazily.

    Images are decoded upright in RGB, and preprocessed where the encoder is a PixelEncoder, in threads beside the
    forward pass. No more than about two batches are held. One that cannot be read becomes a Failure in its place,
    and a Failure that was given stays where it is.

    Args:
        workers: decoding threads; None: one a core, at most 8.
        max_pixels: larger images become failures.

    >>> for found in encode_images(scan(["photos"], modality="image", suffixes=IMAGE_SUFFIXES), encoder):
    ...     print(found.error if isinstance(found, Failure) else found.vector.shape)
    """
    check_several(items, "items")
    threads = decoders(workers)
    ahead = images_ahead(encoder, threads, batch_size=encoder.batch_size)

    def load(item: Item | Failure) -> PreparedImage | Failure:
        return item if isinstance(item, Failure) else load_for(encoder, item, max_pixels=max_pixels)

    with closing(load_in_order(items, load, workers=threads, ahead=ahead)) as loading:
        for batch in batched(loading, encoder.batch_size):
            vectors = encode_loaded(encoder, [loaded for _, loaded in batch if isinstance(loaded, PreparedImage)])
            rows = count()
            for item, loaded in batch:
                if isinstance(loaded, Failure):
                    yield loaded
                elif isinstance(loaded, InputError):
                    yield Failure(item.uri, str(loaded))
                else:
                    assert isinstance(item, Item)  # a Failure is loaded as itself
                    yield EncodedImage(item, vectors[next(rows)])


def decoders(workers: int | None) -> int:
    """Threads that decode: as many as asked for, else one a core, at most 8."""
    return workers or min(_DECODERS, os.cpu_count() or 1)


def images_ahead(encoder: Encoder, workers: int, *, batch_size: int) -> int:
    """How many images are loaded ahead: enough for the threads, and what one forward pass takes of pixels."""
    return max(2 * workers, batch_size if isinstance(encoder, PixelEncoder) else 0)


def load_for(
    encoder: Encoder, item: Item, *, max_pixels: int = MAX_PIXELS, whole: bool = False, thumbnail: bool = False
) -> PreparedImage:
    """One image, decoded and, for a PixelEncoder, preprocessed; to be run in several threads at once.

    `whole` and `thumbnail` are left out unless asked for: the first is what a second encoder reads.

    Raises UnreadableImage, ImageTooLarge.
    """
    loaded = read_image(image_content(item), uri=item.uri, max_pixels=max_pixels)
    image = loaded.image
    return PreparedImage(
        encoder.preprocess_image(image) if isinstance(encoder, PixelEncoder) else image,
        {key: value for key in FACTS if (value := getattr(loaded, key))},
        whole=image if whole else None,
        thumbnail=thumbnail_webp(image) if thumbnail else None,
        problem=loaded.problem,
    )


def encode_loaded(encoder: Encoder, loaded: Sequence[PreparedImage]) -> Embeddings:
    """n images, loaded for this encoder -> n embeddings, in order; dense ones are checked."""
    if not loaded:
        return []
    vectors: Embeddings
    if isinstance(encoder, PixelEncoder):
        vectors = encoder.encode_pixels([one.pixels for one in loaded if isinstance(one.pixels, np.ndarray)])
    else:
        vectors = encoder.encode_image([one.pixels for one in loaded if isinstance(one.pixels, Image)])
    if not isinstance(vectors, np.ndarray):
        return vectors
    return check_embeddings(vectors, n=len(loaded), dim=encoder.spec.dim, encoder=encoder.spec.name)


def encode_texts(
    encoders: Sequence[Encoder], texts: Sequence[str], *, role: Role, task: str | None = None
) -> list[Embeddings]:
    """n strings -> what each encoder makes of them, in the order of `encoders`; one body reads them once.

    `task` is a matter of the first encoder alone, which then reads them by itself.

    >>> dense, words, late = encode_texts([bge_m3, bm25, bge_m3_colbert], ["a", "b"], role="document")  # two passes
    """
    check_several(texts, "texts")
    made: dict[int, Embeddings] = {}
    for number, encoder in enumerate(encoders):
        if number in made:
            continue
        own_task = task if number == 0 else None
        if isinstance(encoder, JointEncoder) and own_task is None:
            left = [n for n in range(number + 1, len(encoders)) if n not in made]
            others = [n for n in left if encoder.shares_forward(encoders[n])]
            rows = encoder.encode_text_jointly(texts, [encoders[n] for n in others], role=role)
            made |= dict(zip([number, *others], rows, strict=True))
        else:
            made[number] = encoder.encode_text(texts, role=role, task=own_task)
    return [made[number] for number in range(len(encoders))]
