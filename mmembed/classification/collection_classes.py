"""Which encoder a collection is labelled with, and labels as that encoder sees them, calibrated if they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmembed.classification.cache import ClassCache
from mmembed.classification.calibration_fit import load_calibration
from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.labels import Labels
from mmembed.collection import Collection
from mmembed.collection.contract import check_fingerprint
from mmembed.errors import CollectionMismatch
from mmembed.types import Encoder


def image_encoder(collection: Collection, encoders: Mapping[str, Encoder], encoder: Encoder | None = None) -> Encoder:
    """The encoder that made the collection's image vectors: the one that it remembers, or `encoder` if it is the same.

    Raises CollectionNotOurs, StoreError for a collection of documents, InvalidQuery for one without the vector
    `image`, and CollectionMismatch where the encoder makes other vectors than those that are stored.
    """
    collection.require_ours("images")
    if encoder is None:
        return collection.encoder("image", encoders)
    check_fingerprint(collection.name, "image", collection.vector("image"), encoder)
    return encoder


def classes_of(
    collection: Collection,
    labels: Labels | Sequence[str] | Classes,
    encoders: Mapping[str, Encoder],
    *,
    encoder: Encoder | None = None,
    cache: ClassCache | None = None,
) -> Classes:
    """Class embeddings by the encoder of the stored vectors, calibrated where the collection has a calibration.

    Classes that were embedded before are taken as they are, with the calibration that they carry. Raises what
    `image_encoder` and `embed_classes` raise.
    """
    if isinstance(labels, Classes):
        collection.require_ours("images")
        stored = collection.vector("image")
        if labels.fingerprint != stored.fingerprint:
            raise CollectionMismatch(collection.name, "image", stored=stored.encoder, given=labels.encoder)
        classes = labels
    else:
        classes = embed_classes(image_encoder(collection, encoders, encoder), labels, cache=cache)
    if classes.calibration is not None:
        return classes
    return classes.calibrated(load_calibration(collection.store, collection.name, classes))
