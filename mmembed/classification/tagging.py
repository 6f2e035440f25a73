"""Labels for a whole collection from the vectors that are stored already: no picture is opened, none is encoded.

Which labels a picture gets, where neither `threshold`, `top_k`, `best` nor a calibration with thresholds says:

| the encoder's probabilities | labels |
|---|---|
| a softmax (CLIP), or none at all | the best one |
| sigmoids, each for itself (SigLIP, or calibrated by Platt) | those of at least 0.5: several, or none |

A picture gets none where a background text is nearer to it than every label. `read -> score -> write` is one pass
that may be killed anywhere: each point carries under `labels_by` what decided its tags, and is left alone next time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models

from mmembed.classification.cache import ClassCache
from mmembed.classification.classes import Classes
from mmembed.classification.collection_classes import classes_of
from mmembed.classification.label_keys import check_label_key, tag_fragments, tagged
from mmembed.classification.labels import Labels
from mmembed.classification.scoring import Threshold
from mmembed.classification.tag_rules import Payloads, Rule, rule_of
from mmembed.collection import Collection, stacked
from mmembed.collection.conditions import has_value
from mmembed.collection.payload import TagKeys
from mmembed.encoders.pool import SHARED
from mmembed.errors import SettingsError
from mmembed.streams import batched
from mmembed.types import Encoder, Leg, Store, StoreQuery

_CELLS = 2**21  # of one comparison: many labels are compared with fewer points at a time


@dataclass
class TagReport:
    """Counts of points, growing while it runs."""

    tagged: int = 0  # got labels
    untagged: int = 0  # were looked at and show none of these
    unchanged: int = 0  # had these tags already
    removed: int = 0  # with `best`: lost the tags of another run
    per_label: Mapping[str, int] = field(default_factory=dict)  # at the end: points with the label, in label order
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Points dealt with so far."""
        return self.tagged + self.untagged + self.unchanged

    def as_json(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("tagged", "untagged", "unchanged", "removed")}
        return {**counts, "labels": dict(self.per_label), "seconds": round(self.seconds, 3)}


def tag(
    store: Store,
    collection: str,
    labels: Labels | Sequence[str] | Classes,
    *,
    encoder: Encoder | None = None,
    key: str = "labels",
    threshold: Threshold | None = None,
    top_k: int | None = None,
    best: int | None = None,
    filter: models.Filter | None = None,
    batch_size: int = 1024,
    on_progress: Callable[[TagReport], None] | None = None,
    cache: ClassCache | None = None,
    encoders: Mapping[str, Encoder] | None = None,
) -> TagReport:
    """Write to every picture of a collection the labels that its stored vector calls for.

    The payload gets `labels`, a list, best first and empty for none of these; `labels_scores`, label to probability
    (to score, where there is none); and `labels_by`, which stands for labels, templates, encoder, calibration and
    thresholds. Afterwards `store.facet(collection, "labels")` counts, and a filter on `labels` finds.

    Done again it writes nothing but what is new; with anything else in `labels_by`, all. A picture that moved keeps its
    tags, one with other contents loses them. Many writes undo the search graph of an embedded store, which then
    compares with every vector: `store.optimize(collection)` builds it anew.

    Args:
        labels: those of `calibrate`, in any order and with the same templates and background, are calibrated.
        key: of the payload, in place of "labels".
        threshold, top_k: lowest probability (or score) that is written, of all labels or for each; and how many.
        best: search label by label and tag the nearest `best` pictures of each, instead of reading all vectors. These
            get the label whatever its probability, unless there is a threshold; what others have is removed.
        filter: tag these points alone.
        encoder, encoders, cache: as `search` and `embed_classes` take them.

    Raises:
        InvalidQuery, StoreError: `key` is in use for something else; the collection holds documents.
        CollectionMismatch, CollectionNotOurs, CollectionNotFound, InvalidLabels, SettingsError, UnsupportedModality.
    """
    started = time.perf_counter()
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size}: read at least 1 point at a time")
    # 1. what decides, and whether it can be written
    where, keys = Collection(store, collection), TagKeys.of(key)
    classes = classes_of(where, labels, SHARED if encoders is None else encoders, encoder=encoder, cache=cache)
    rule = rule_of(classes, keys, threshold, top_k, best)
    check_label_key(where, keys, tag_fragments(keys), of="tags")
    store.add_indexes(collection, {keys.labels: "keyword", keys.by: "keyword"})
    # 2. read, score, write
    report = TagReport()
    points = _Points(where, filter, max(1, min(batch_size, _CELLS // len(classes.embeddings))))
    for payloads in _tag_all(points, rule, report) if best is None else _tag_best(points, rule, report, best):
        store.set_payloads(collection, payloads)
        _add(report, payloads, keys, seconds=time.perf_counter() - started)
        if on_progress is not None:
            on_progress(report)
    # 3. count
    report.per_label = _per_label(points, rule)
    report.seconds = time.perf_counter() - started
    return report


def _add(report: TagReport, payloads: Payloads, keys: TagKeys, *, seconds: float) -> None:
    labels = [payload[keys.labels] for payload in payloads.values()]
    report.tagged += sum(map(bool, labels))
    report.untagged += labels.count([])
    report.removed += labels.count(None)
    report.seconds = seconds


def remove_tags(
    store: Store, collection: str, *, key: str = "labels", filter: models.Filter | None = None, batch_size: int = 1024
) -> int:
    """Remove what `tag` wrote under `key`; gives the number of points. Other payload, and the index, stay.

    Raises InvalidQuery, CollectionNotOurs, CollectionNotFound, and StoreError for a collection of documents.
    """
    where, keys = Collection(store, collection), TagKeys.of(key)
    where.require_ours("images")
    check_label_key(where, keys, tag_fragments(keys), of="tags")
    removed = 0
    points = store.scroll(collection, filter=_both(filter, tagged(keys)), payload=False, batch_size=batch_size)
    for ids in batched((point.id for point in points), batch_size):
        store.set_payload(collection, ids, dict.fromkeys(keys))
        removed += len(ids)
    return removed


# --- the two ways -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Points:
    """Of which points the tags are written, and how many are read at a time."""

    collection: Collection
    filter: models.Filter | None
    batch_size: int


def _tag_all(points: _Points, rule: Rule, report: TagReport) -> Iterator[Payloads]:
    """Read every vector that this rule has not decided upon yet."""
    collection, done = points.collection, has_value(rule.keys.by, rule.by)
    report.unchanged = collection.store.count(collection.name, filter=_both(points.filter, done))
    left = _both(points.filter, models.Filter(must_not=[done]))
    for some, vectors in collection.image_vectors(filter=left, batch_size=points.batch_size):
        yield rule.tags(some, vectors)


def _tag_best(points: _Points, rule: Rule, report: TagReport, best: int) -> Iterator[Payloads]:
    """Search label by label, and write what differs; then take their tags from all others."""
    store, name = points.collection.store, points.collection.name
    columns: dict[str, set[int]] = {}  # of the labels that a point is among the `best` of
    limit = min(best, store.count(name, filter=points.filter)) or 1  # some stores make room for all
    for column in range(len(rule.classes.names)):
        leg = Leg("image", rule.classes.embeddings[column])
        for hit in store.query(name, StoreQuery([leg], limit=limit, filter=points.filter)):
            columns.setdefault(hit.id, set()).add(column)
    due: set[str] = set()  # points that end with tags
    for ids in batched(sorted(columns), points.batch_size):
        found = store.retrieve(name, ids, vectors=["image"])
        if not found:  # deleted since they were found
            continue
        decided = rule.tags(found, stacked(found), columns)
        tags = {id: payload for id, payload in decided.items() if payload[rule.keys.labels]}
        same = {point.id for point in found if point.id in tags and tags[point.id].items() <= point.payload.items()}
        report.unchanged += len(same)
        due |= tags.keys()
        yield {id: tags[id] for id in tags.keys() - same}
    had_tags = _both(points.filter, tagged(rule.keys))
    rest = store.scroll(name, filter=had_tags, payload=False, batch_size=points.batch_size)
    for ids in batched((point.id for point in rest if point.id not in due), points.batch_size):
        yield {id: dict.fromkeys(rule.keys) for id in ids}


def _per_label(points: _Points, rule: Rule) -> dict[str, int]:
    """Label -> how many of the points have it by this rule."""
    store, name, names = points.collection.store, points.collection.name, rule.classes.names
    decided = _both(points.filter, has_value(rule.keys.by, rule.by))
    counts = dict(store.facet(name, rule.keys.labels, filter=decided, limit=len(names)))
    return {label: counts.get(label, 0) for label in names}


def _both(filter: models.Filter | None, condition: models.Filter | models.FieldCondition) -> models.Filter:
    return models.Filter(must=[condition] if filter is None else [filter, condition])
