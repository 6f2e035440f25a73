"""Which vectors of a collection answer a query, and the encoder that the collection remembers for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.contract import check_fingerprint
from mmembed.encoders.encoding import encode_texts
from mmembed.encoders.presets import PRESETS
from mmembed.errors import InvalidQuery
from mmembed.retrieval.query import Query, encode_query, given_vector
from mmembed.types import Contract, Encoder, Leg, Ranking, Store

__all__ = ["Asked", "rankings_of"]

_MOSTLY = 0.8


@dataclass(frozen=True)
class Asked:
    """The vector comparisons that answer a query: several rankings are fused, then `late` orders the candidates."""

    rankings: list[Ranking]
    late: Leg | None = None


def rankings_of(
    store: Store,
    collection: str,
    contract: Contract | None,
    query: Query,
    vector_name: str | None,
    encoder: Encoder | None,
    encoders: Mapping[str, Encoder],
    *,
    single: bool,
    late: bool,
) -> Asked:
    """What answers the query: one ranking where it is `single`, no late stage unless `late`."""
    name = vector_name if vector_name is not None else _default_vector(contract, query)
    if contract is not None and name not in contract.vectors:
        raise InvalidQuery(
            f"collection {collection!r} has no vector {name!r}, only {', '.join(sorted(contract.vectors))}"
            + (": index it again with --cross-encoder to find its texts by picture" if name == "cross" else "")
        )
    if query.vector is not None:
        vector = given_vector(query.vector, name, contract.vectors[name] if contract is not None else None)
        return Asked([Leg(name, vector)])
    if query.id is not None:
        return Asked([_leg_of_point(store, collection, query.id, name)])
    made_by = _encoder_of(Collection(store, collection), name, contract, encoder, encoders)
    if contract is not None and vector_name is None and not single and query.is_one_text:
        return _of_one_text(store, collection, contract, query, made_by, encoders, late=late)
    encoded = encode_query(made_by, query)
    if contract is not None and contract.vectors[name].kind == "multi" and made_by.spec.kind == "dense":
        encoded = np.atleast_2d(np.asarray(encoded))  # (dim,) -> one window, (1, dim)
    return Asked([Leg(name, encoded)])


def _of_one_text(
    store: Store,
    collection: str,
    contract: Contract,
    query: Query,
    made_by: Encoder,
    encoders: Mapping[str, Encoder],
    *,
    late: bool,
) -> Asked:
    """Every vector of the collection that words can be compared with, the text encoded once where they share it."""
    names = [_default_vector(contract, query)]
    if contract.kind == "documents":
        names += [name for name in ("bm25", "sparse") if name in contract.vectors]
        if "sparse" in names and not _mostly_has(store, collection, contract, "sparse"):
            names.remove("sparse")
    elif _mostly_has(store, collection, contract, "caption"):
        names += [name for name in ("caption", "caption_bm25") if name in contract.vectors]  # the first is added first
    last = ["late"] if late and _mostly_has(store, collection, contract, "late") else []
    every = [*names, *last]
    further = [Collection(store, collection).encoder(name, encoders) for name in every[1:]]
    legs = _encode(query, [made_by, *further], every)
    return Asked(_rankings(contract, legs[: len(names)]), legs[-1] if last else None)


def _encode(query: Query, encoders: Sequence[Encoder], names: Sequence[str]) -> list[Leg]:
    """One leg for each encoder; a task is a matter of the first alone."""
    assert query.text is not None
    first, *further = encoders
    text = [query.text]
    if query.task is None:
        rows = encode_texts(encoders, text, role="query")
    else:
        rows = [first.encode_text(text, role="query", task=query.task), *encode_texts(further, text, role="query")]
    return [Leg(name, row[0]) for name, row in zip(names, rows, strict=True)]


def _rankings(contract: Contract, legs: Sequence[Leg]) -> list[Ranking]:
    """Which of the legs count, and how: each alike, but for captions, which are one ranking together."""
    first, *others = legs
    if contract.kind == "documents" or not others:
        return list(legs)
    preset = PRESETS.get(contract.vectors["image"].encoder)
    if preset is not None and not preset.photographs:
        return [*others]  # measured on photographs: its ranking is noise that drowns theirs
    return [first, tuple(others)]  # the captions count as one ranking, as much as the pictures


def _mostly_has(store: Store, collection: str, contract: Contract, name: str) -> bool:
    """Whether a vector that points may lack takes part: those few that have it would come up in every search."""
    if name not in contract.vectors:
        return False
    having = models.Filter(must=[models.HasVectorCondition(has_vector=name)])
    return store.count(collection, filter=having) >= _MOSTLY * store.count(collection)


def _default_vector(contract: Contract | None, query: Query) -> str:
    if contract is None:
        return ""  # the unnamed vector
    if contract.kind == "images":
        return "image"
    return "cross" if query.pictures else "text"


def _encoder_of(
    collection: Collection,
    name: str,
    contract: Contract | None,
    encoder: Encoder | None,
    encoders: Mapping[str, Encoder],
) -> Encoder:
    if contract is None:
        if encoder is None:
            raise InvalidQuery(
                f"collection {collection.name!r} was not made by mmembed and does not say which encoder made its "
                f"vectors: name it with --encoder, and the vector with --using"
            )
        return encoder
    vector = contract.vectors[name]
    if encoder is None:
        return collection.encoder(name, encoders)
    check_fingerprint(collection.name, name, vector, encoder)
    return encoder


def _leg_of_point(store: Store, collection: str, id: str, name: str) -> Leg:
    found = store.retrieve(collection, [id], vectors=[name] if name else True, payload=False)
    if not found:
        raise InvalidQuery(f"collection {collection!r} has no point {id!r}")
    if name not in found[0].vectors:
        raise InvalidQuery(f"point {id!r} of collection {collection!r} has no vector {name!r}")
    return Leg(name, found[0].vectors[name])
