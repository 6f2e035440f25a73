"""Four kinds of search. The encoder is the one that the collection remembers.

| asked with | images collection | documents collection |
|---|---|---|
| text | text-to-image: `image`, and captions if most have one | text-to-text: `text` fused with `bm25` |
| a picture | image-to-image: `image` | image-to-text: `cross` |
| both, or less something | their weighted sum in the shared space | the same, by `cross` (texts alone: `text`) |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from qdrant_client import models

from mmembed.errors import InvalidQuery, UnreadableImage, UnsupportedModality
from mmembed.images import load_image, to_rgb
from mmembed.registry import check_fingerprint, load_remembered
from mmembed.types import (
    Contract,
    DenseArray,
    Embeddings,
    Encoder,
    Hit,
    Leg,
    LoadOptions,
    Ranking,
    SparseVector,
    Store,
    VectorContract,
)
from mmembed.vectors import l2_normalize

__all__ = ["ImageQuery", "search"]

ImageQuery: TypeAlias = Path | bytes | Image.Image
"""A picture: a file, the bytes of one, or one already decoded."""

_WEIGHTS = {"text": 1.0, "image": 1.0, "minus": 0.5}
_DEPTH = 100  # candidates of each ranking that is fused
_MOSTLY = 0.8
_MAX_CANDIDATES = 4096  # how deep to look for enough different documents


def search(
    store: Store,
    collection: str,
    *,
    text: str | None = None,
    image: ImageQuery | None = None,
    vector: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
    id: str | None = None,
    weights: Mapping[str, float] | None = None,
    minus: Sequence[str | ImageQuery] = (),
    vector_name: str | None = None,
    encoder: Encoder | None = None,
    task: str | None = None,
    filter: models.Filter | None = None,
    limit: int = 10,
    offset: int = 0,
    score_threshold: float | None = None,
    all_passages: bool = False,
    exact: bool = False,
    run: LoadOptions | None = None,
) -> list[Hit]:
    """The `limit` best hits, best first.

    Ask with `text`, `image`, both of them, `vector` or the `id` of a stored point. Of a document
    only the best passage is a hit, unless `all_passages`.

    Args:
        weights: of the parts of a mixed query: {"text": 1, "image": 1, "minus": 0.5} by default.
        minus: what the hits should not show, one by one: a str is a text; a Path, bytes or Image is a picture.
        vector_name: search by this vector alone, instead of by the one the query calls for.
        encoder: one that is already loaded; it must be the one the collection remembers. A
            collection that is not ours remembers none: there it is required for text and pictures.
        task: named task or instruction, for encoders that take one.
        score_threshold: lowest score of a hit. A fused score means nothing, so this searches by one vector.
        exact: compare with every vector instead of walking the search graph.

    Raises:
        InvalidQuery: nothing, or something contradictory, was asked.
        CollectionMismatch: `encoder` is not the one that made the vectors.
        UnsupportedModality, CollectionNotFound, StoreUnavailable.
    """
    if isinstance(minus, str | bytes):
        raise InvalidQuery("minus is a list of what to subtract, not one text or picture: write minus=[...]")
    query = _Query(text, image, vector, id, tuple(minus), {**_WEIGHTS, **(weights or {})}, task)
    _check(query, filter, limit=limit, offset=offset, score_threshold=score_threshold)
    if collection not in store.collections():
        store.contract(collection)  # raises CollectionNotFound, with the names there are
    contract = store.contract(collection)
    rankings = _rankings(
        store, collection, contract, query, vector_name, encoder, run, single=score_threshold is not None
    )
    best_only = contract is not None and contract.kind == "documents" and not all_passages
    kept = filter if id is None else _without(store, collection, id, filter, whole_document=best_only)
    wanted = limit + offset
    if wanted > _MAX_CANDIDATES:
        wanted = min(wanted, store.count(collection)) or 1  # some stores make room for all that are asked for
    hits = _fetch(store, collection, rankings, wanted, kept, score_threshold, exact=exact, best_only=best_only)
    if contract is not None and len(rankings) == 1 and isinstance(rankings[0], Leg):
        hits = _with_probabilities(hits, contract.vectors.get(rankings[0].vector_name), collection, query, encoder, run)
    return hits[offset : offset + limit]


@dataclass(frozen=True)
class _Query:
    text: str | None
    image: ImageQuery | None
    vector: Sequence[float] | npt.NDArray[np.floating[Any]] | None
    id: str | None
    minus: tuple[str | ImageQuery, ...]
    weights: Mapping[str, float]
    task: str | None

    @property
    def encoded(self) -> bool:
        return self.text is not None or self.image is not None or bool(self.minus)

    @property
    def pictures(self) -> bool:
        return self.image is not None or any(not isinstance(m, str) for m in self.minus)


def _check(
    query: _Query, filter: models.Filter | None, *, limit: int, offset: int, score_threshold: float | None
) -> None:
    """Raise InvalidQuery for a search that cannot be answered whatever the collection holds."""
    ways = [query.vector is not None, query.id is not None, query.encoded]
    if sum(ways) == 0:
        raise InvalidQuery("nothing to search for: give a text, a picture, a vector or the id of a point")
    if sum(ways) > 1:
        raise InvalidQuery("a vector, an id and words or pictures are three ways to ask: give one of them")
    if query.text is None and query.image is None and query.minus:
        raise InvalidQuery("there is only something to subtract: give a text or a picture to subtract it from")
    _check_parts(query)
    if limit < 1 or offset < 0:
        raise InvalidQuery(f"limit must be at least 1 and offset at least 0, not {limit} and {offset}")
    if score_threshold is not None and not math.isfinite(score_threshold):
        raise InvalidQuery(f"the score threshold is {score_threshold}: give a number")
    if filter is not None and not isinstance(filter, models.Filter):
        raise InvalidQuery(f"a filter is a qdrant_client.models.Filter, not a {type(filter).__name__}")


def _check_parts(query: _Query) -> None:
    """The same, for each text, picture and weight."""
    unknown = set(query.weights) - set(_WEIGHTS)
    if unknown:
        raise InvalidQuery(f"weights are of {', '.join(_WEIGHTS)}, not of {', '.join(sorted(unknown))}")
    for name, weight in query.weights.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise InvalidQuery(f"the weight of {name} is {weight!r}: give a number")
    texts = [part for part in (query.text, *query.minus) if isinstance(part, str)]
    if any(not text.strip() for text in texts):
        raise InvalidQuery("the text to search for, or to subtract, is empty")
    pictures = [
        *([query.image] if query.image is not None else []),
        *(m for m in query.minus if not isinstance(m, str)),
    ]
    for picture in pictures:
        if not isinstance(picture, Path | bytes | Image.Image):
            raise InvalidQuery(f"a picture is a pathlib.Path, the bytes of one or a PIL image, not {picture!r:.80}")


def _rankings(
    store: Store,
    collection: str,
    contract: Contract | None,
    query: _Query,
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
        return [Leg(name, _given_vector(query.vector, name, contract.vectors[name] if contract is not None else None))]
    if query.id is not None:
        return [_leg_of_point(store, collection, query.id, name)]
    made_by = _encoder_of(collection, name, contract, encoder, run)
    encoded = _encode(made_by, query)
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
    return [first, tuple(captions)]  # the captions count as one ranking, as much as the pictures


def _given_vector(
    vector: Sequence[float] | npt.NDArray[np.floating[Any]], name: str, contract: VectorContract | None
) -> DenseArray:
    """A vector as its user wrote it -> `(dim,)`, or `(windows, dim)` where the collection holds multivectors."""
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidQuery(f"the vector to search with is not a list of numbers ({exc})") from exc
    if not np.isfinite(array).all() or not array.any():
        raise InvalidQuery("the vector to search with is empty, all zeros, or holds NaN or infinity")
    if contract is None:
        return array
    if contract.kind == "sparse":
        raise InvalidQuery(f"vector {name!r} is sparse, and a list of numbers is dense: ask with a text")
    if contract.kind == "multi":
        array = np.atleast_2d(array)
    if array.ndim != (2 if contract.kind == "multi" else 1) or array.shape[-1] != contract.dim:
        raise InvalidQuery(f"vector {name!r} has {contract.dim} dimensions, and the one to search with {array.shape}")
    return array


def _mostly_captioned(store: Store, collection: str, contract: Contract) -> bool:
    """Whether captions may take part: where few pictures have one, those few would come up in every search."""
    if "caption" not in contract.vectors:
        return False
    captioned = models.Filter(must=[models.HasVectorCondition(has_vector="caption")])
    return store.count(collection, filter=captioned) >= _MOSTLY * store.count(collection)


def _default_vector(contract: Contract | None, query: _Query) -> str:
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


def _encode(encoder: Encoder, query: _Query) -> DenseArray | SparseVector:
    """The query as one vector: the weighted sum of its parts, less what is subtracted, of norm 1."""
    parts: list[tuple[float, DenseArray]] = []
    if query.text is not None:
        rows = encoder.encode_text([query.text], role="query", task=query.task)
        if encoder.spec.kind != "dense":
            if query.pictures or query.minus:
                raise InvalidQuery(f"{encoder.spec.kind} vectors of {encoder.spec.name} cannot be mixed or subtracted")
            return rows[0]
        parts.append((query.weights["text"], _row(rows)))
    if query.image is not None:
        parts.append((query.weights["image"], _encode_picture(encoder, query.image)))
    for part in query.minus:
        if isinstance(part, str):
            row = _row(encoder.encode_text([part], role="query", task=query.task))
        else:
            row = _encode_picture(encoder, part)
        parts.append((-query.weights["minus"], row))
    if len(parts) == 1:
        return parts[0][1]
    total = np.sum([weight * row for weight, row in parts], axis=0)
    if np.linalg.norm(total) < 1e-6:
        raise InvalidQuery("the parts of this query cancel out: change their weights")
    return l2_normalize(total)


def _encode_picture(encoder: Encoder, picture: ImageQuery) -> DenseArray:
    if "image" not in encoder.spec.modalities:
        raise UnsupportedModality(encoder.spec.name, "pictures", encoder.spec.modalities)
    if isinstance(picture, Image.Image):
        try:
            picture = to_rgb(ImageOps.exif_transpose(picture))
        except (OSError, SyntaxError, ValueError) as exc:  # Pillow decodes a file's pixels only now
            raise UnreadableImage(f"the picture to search with cannot be decoded ({exc})") from exc
    else:
        picture = load_image(picture, uri=str(picture) if isinstance(picture, Path) else "the picture to search with")
    return _row(encoder.encode_image([picture]))


def _row(embeddings: Embeddings) -> DenseArray:
    """The one dense embedding of a batch of one."""
    row: DenseArray = np.asarray(embeddings)[0]
    return row


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


def _without(
    store: Store, collection: str, id: str, filter: models.Filter | None, *, whole_document: bool
) -> models.Filter:
    """The filter, and not the point that was asked with, nor another passage of its document."""
    itself: models.Condition = models.HasIdCondition(has_id=[id])
    if whole_document:
        uri = str(store.retrieve(collection, [id])[0].payload["uri"])
        itself = models.FieldCondition(key="uri", match=models.MatchValue(value=uri))
    return models.Filter(must=[filter] if filter is not None else None, must_not=[itself])


def _fetch(
    store: Store,
    collection: str,
    rankings: Sequence[Ranking],
    wanted: int,
    filter: models.Filter | None,
    score_threshold: float | None,
    *,
    exact: bool,
    best_only: bool,
) -> list[Hit]:
    """The `wanted` best hits, fewer where there are no more; of a document its best passage, if `best_only`.

    Pages of one search neither overlap nor leave gaps. A fused score changes with the number of candidates that it
    is fused from: that number grows in the same steps for everybody, and what deeper steps find comes after.
    """
    fused = len(rankings) > 1
    limit, depth = (wanted * 4 if best_only else wanted + 1), _DEPTH
    found: dict[str, Hit] = {}
    while True:
        asked = min(limit, depth) if fused else limit
        hits = store.query(
            collection,
            rankings,
            limit=asked,
            filter=filter,
            score_threshold=score_threshold,
            exact=exact,
            depth=depth,
        )
        last = len(hits) < asked or asked >= max(_MAX_CANDIDATES, 4 * wanted)
        for hit in _settled(hits, last=last):
            found.setdefault(str(hit.payload["uri"]) if best_only else hit.id, hit)
        if last or len(found) >= wanted:
            return list(found.values())[:wanted]
        if asked == depth:
            depth *= 4
        limit = max(4 * limit, depth)


def _settled(hits: Sequence[Hit], *, last: bool) -> list[Hit]:
    """Hits of one score in the order of their ids: Qdrant gives them in any, and cuts the list off among them.

    Unless these are the `last`, those that share the lowest score are left for when all of them are there.
    """
    ordered = sorted(hits, key=lambda hit: (-hit.score, hit.id))
    return ordered if last else [hit for hit in ordered if hit.score > ordered[-1].score]


def _with_probabilities(
    hits: list[Hit],
    contract: VectorContract | None,
    collection: str,
    query: _Query,
    encoder: Encoder | None,
    run: LoadOptions | None,
) -> list[Hit]:
    """Add probabilities to scores between a text and pictures, the comparison that a scale was trained for.

    With a bias (SigLIP) each is an independent sigmoid; without one (CLIP) they are a softmax over
    the hits from the first to the last of this page: over all of these they sum to 1.
    """
    crosses = contract is not None and (contract.modality == "image") == (query.text is not None)
    one_sided = (query.text is None) != (query.image is None) and not query.minus
    if contract is None or not crosses or not one_sided or not hits:
        return hits
    encoder = encoder or load_remembered(collection, hits[0].vector_name or "", contract, run=run)
    if encoder.logit_scale is None:
        return hits
    logits = encoder.logit_scale * np.array([hit.score for hit in hits], dtype=np.float64)
    if encoder.logit_bias is not None:
        probabilities = 1 / (1 + np.exp(-(logits + encoder.logit_bias)))
    else:
        shares = np.exp(logits - logits.max())
        probabilities = shares / shares.sum()
    return [replace(hit, probability=float(p)) for hit, p in zip(hits, probabilities, strict=True)]
