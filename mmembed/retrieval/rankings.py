"""Which vectors of a collection answer a query, and the encoder that the collection remembers for them."""

from __future__ import annotations

import numpy as np
from qdrant_client import models

from mmembed.errors import InvalidQuery
from mmembed.presets import PRESETS
from mmembed.registry import check_fingerprint, load_remembered
from mmembed.retrieval.query import Query, encode_query, given_vector
from mmembed.types import Contract, Encoder, Leg, LoadOptions, Ranking, Store

__all__ = ["rankings_of"]

_MOSTLY = 0.8


def rankings_of(
    store: Store,
    collection: str,
    contract: Contract | None,
    query: Query,
    vector_name: str | None,
    encoder: Encoder | None,
    run: LoadOptions | None,
    *,
    single: bool,
) -> list[Ranking]:
    """The vector comparisons that answer the query; several are fused."""
    name = vector_name if vector_name is not None else _default_vector(contract, query)
    if contract is not None and name not in contract.vectors:
        raise InvalidQuery(
            f"collection {collection!r} has no vector {name!r}, only {', '.join(sorted(contract.vectors))}"
            + (": index it again with --cross-encoder to find its texts by picture" if name == "cross" else "")
        )
    if query.vector is not None:
        return [Leg(name, given_vector(query.vector, name, contract.vectors[name] if contract is not None else None))]
    if query.id is not None:
        return [_leg_of_point(store, collection, query.id, name)]
    made_by = _encoder_of(collection, name, contract, encoder, run)
    encoded = encode_query(made_by, query)
    if contract is not None and contract.vectors[name].kind == "multi" and made_by.spec.kind == "dense":
        encoded = np.atleast_2d(np.asarray(encoded))  # (dim,) -> one window, (1, dim)
    first = Leg(name, encoded)
    if contract is None or vector_name is not None or single or query.pictures or query.minus or query.text is None:
        return [first]
    if contract.kind == "documents":
        return [first, _text_leg(collection, "bm25", contract, query.text, run)]
    if not _mostly_captioned(store, collection, contract):
        return [first]
    captions = [_text_leg(collection, leg, contract, query.text, run) for leg in ("caption", "caption_bm25")]
    preset = PRESETS.get(contract.vectors["image"].encoder)
    if preset is not None and not preset.photographs:
        return [*captions]  # measured on photographs: its ranking is noise that drowns theirs
    return [first, tuple(captions)]  # the captions count as one ranking, as much as the pictures


def _mostly_captioned(store: Store, collection: str, contract: Contract) -> bool:
    """Whether captions may take part: where few pictures have one, those few would come up in every search."""
    if "caption" not in contract.vectors:
        return False
    captioned = models.Filter(must=[models.HasVectorCondition(has_vector="caption")])
    return store.count(collection, filter=captioned) >= _MOSTLY * store.count(collection)


def _default_vector(contract: Contract | None, query: Query) -> str:
    if contract is None:
        return ""  # the unnamed vector
    if contract.kind == "images":
        return "image"
    return "cross" if query.pictures else "text"


def _encoder_of(
    collection: str, name: str, contract: Contract | None, encoder: Encoder | None, run: LoadOptions | None
) -> Encoder:
    if contract is None:
        if encoder is None:
            raise InvalidQuery(
                f"collection {collection!r} was not made by mmembed and does not say which encoder made its "
                f"vectors: name it with --encoder, and the vector with --using"
            )
        return encoder
    remembered = contract.vectors[name]
    if encoder is None:
        return load_remembered(collection, name, remembered, run=run)
    check_fingerprint(collection, name, remembered, encoder)
    return encoder


def _text_leg(collection: str, name: str, contract: Contract, text: str, run: LoadOptions | None) -> Leg:
    encoder = load_remembered(collection, name, contract.vectors[name], run=run)
    return Leg(name, encoder.encode_text([text], role="query")[0])


def _leg_of_point(store: Store, collection: str, id: str, name: str) -> Leg:
    found = store.retrieve(collection, [id], vectors=[name] if name else True, payload=False)
    if not found:
        raise InvalidQuery(f"collection {collection!r} has no point {id!r}")
    if name not in found[0].vectors:
        raise InvalidQuery(f"point {id!r} of collection {collection!r} has no vector {name!r}")
    return Leg(name, found[0].vectors[name])
