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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from qdrant_client import models

from mmembed.classification.cache import ClassCache
from mmembed.classification.classes import Classes
from mmembed.classification.labels import Labels
from mmembed.classification.probabilities import Threshold
from mmembed.classification.tag_rules import Payloads, Rule, classes_of, rule_of
from mmembed.collection import Collection, stacked
from mmembed.collection.payload import TagKeys, check_key, is_empty
from mmembed.errors import SettingsError
from mmembed.types import Encoder, Leg, Store

__all__ = ["TagReport", "remove_tags", "tag"]

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

    Done again it writes nothing but what is new; with anything else in `labels_by`, all. A picture that was indexed
    with other contents has lost its tags; one that moved has kept them. Many writes undo the search graph of an
    embedded store, which then compares with every vector: `store.optimize(collection)` builds it anew.

    Args:
        labels: those of `calibrate`, in any order and with the same templates and background, are calibrated.
        encoder: that made the vectors; None: the one that the collection remembers.
        key: of the payload, in place of "labels".
        threshold: lowest probability (or score) of a label that is written: of all, or for each label.
        top_k: labels of one picture, at most.
        best: search label by label and tag the nearest `best` pictures of each, instead of reading all vectors. These
            get the label whatever its probability, unless there is a threshold; what others have is removed.
        filter: tag these points alone.
        cache: of class embeddings.
        encoders: as `search` takes them.

    Raises:
        InvalidQuery: the collection holds documents, or `key` is in use for something else.
        CollectionMismatch, CollectionNotOurs, CollectionNotFound, InvalidLabels, SettingsError, UnsupportedModality.
    """
    started = time.perf_counter()
    if best is not None and best < 1:
        raise SettingsError(f"best is {best}: the nearest pictures of a label are at least 1")
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size}: read at least 1 point at a time")
    # 1. what decides, and whether it can be written
    keys = TagKeys.of(key)
    classes = classes_of(store, collection, labels, encoder=encoder, cache=cache, encoders=encoders)
    rule = rule_of(classes, keys, threshold, top_k, best)
    check_key(store, collection, keys)
    store.add_indexes(collection, {keys.labels: "keyword", keys.by: "keyword"})
    # 2. read, score, write
    report = TagReport()
    where = _Where(store, collection, filter, max(1, min(batch_size, _CELLS // len(classes.embeddings))))
    for payloads in _tag_all(where, rule, report) if best is None else _tag_best(where, rule, report, best):
        store.set_payloads(collection, payloads)
        report.tagged += sum(1 for payload in payloads.values() if payload[keys.labels])
        report.untagged += sum(1 for payload in payloads.values() if payload[keys.labels] == [])
        report.removed += sum(1 for payload in payloads.values() if payload[keys.labels] is None)
        report.seconds = time.perf_counter() - started
        if on_progress is not None:
            on_progress(report)
    # 3. count
    counts = dict(store.facet(collection, key, filter=_both(filter, _by(keys, rule.by)), limit=len(classes.names)))
    report.per_label = {name: counts.get(name, 0) for name in classes.names}
    report.seconds = time.perf_counter() - started
    return report


def remove_tags(
    store: Store, collection: str, *, key: str = "labels", filter: models.Filter | None = None, batch_size: int = 1024
) -> int:
    """Remove what `tag` wrote under `key`; gives the number of points. Other payload, and the index, stay.

    Raises InvalidQuery, CollectionNotOurs, CollectionNotFound.
    """
    Collection(store, collection).require_ours("images")
    keys = TagKeys.of(key)
    check_key(store, collection, keys)
    removed = 0
    tagged = store.scroll(collection, filter=_both(filter, _tagged(keys)), payload=False, batch_size=batch_size)
    for ids in _chunks((point.id for point in tagged), batch_size):
        store.set_payload(collection, ids, dict.fromkeys(keys))
        removed += len(ids)
    return removed


# --- the two ways -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Where:
    store: Store
    collection: str
    filter: models.Filter | None
    batch_size: int


def _tag_all(where: _Where, rule: Rule, report: TagReport) -> Iterator[Payloads]:
    """Read every vector that this rule has not decided upon yet."""
    done = _by(rule.keys, rule.by)
    report.unchanged = where.store.count(where.collection, filter=_both(where.filter, done))
    left = _both(where.filter, models.Filter(must_not=[done]))
    for points, vectors in Collection(where.store, where.collection).image_vectors(
        filter=left, batch_size=where.batch_size
    ):
        yield rule.tags(points, vectors)


def _tag_best(where: _Where, rule: Rule, report: TagReport, best: int) -> Iterator[Payloads]:
    """Search label by label, and write what differs; then take their tags from all others."""
    store, collection = where.store, where.collection
    columns = _nearest(where, rule, best)
    due: set[str] = set()  # points that end with tags
    for ids in _chunks(sorted(columns), where.batch_size):
        points = store.retrieve(collection, ids, vectors=["image"])
        if not points:  # deleted since they were found
            continue
        decided = rule.tags(points, stacked(points), columns)
        tags = {id: payload for id, payload in decided.items() if payload[rule.keys.labels]}
        same = {point.id for point in points if point.id in tags and tags[point.id].items() <= point.payload.items()}
        report.unchanged += len(same)
        due |= tags.keys()
        yield {id: tags[id] for id in tags.keys() - same}
    some = _both(where.filter, _tagged(rule.keys))
    tagged = store.scroll(collection, filter=some, payload=False, batch_size=where.batch_size)
    for ids in _chunks((point.id for point in tagged if point.id not in due), where.batch_size):
        yield {id: dict.fromkeys(rule.keys) for id in ids}


def _nearest(where: _Where, rule: Rule, best: int) -> dict[str, set[int]]:
    """Point -> the columns of the labels that it is among the `best` of."""
    columns: dict[str, set[int]] = {}
    limit = min(best, where.store.count(where.collection, filter=where.filter)) or 1  # some stores make room for all
    for column in range(len(rule.classes.names)):
        leg = Leg("image", rule.classes.embeddings[column])
        for hit in where.store.query(where.collection, [leg], limit=limit, filter=where.filter):
            columns.setdefault(hit.id, set()).add(column)
    return columns


def _chunks(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    ids = iter(ids)
    while chunk := list(islice(ids, size)):
        yield chunk


# --- filters ------------------------------------------------------------------------------------


def _tagged(keys: TagKeys) -> models.Filter:
    return models.Filter(must_not=[is_empty(keys.by)])


def _by(keys: TagKeys, by: str) -> models.FieldCondition:
    return models.FieldCondition(key=keys.by, match=models.MatchValue(value=by))


def _both(filter: models.Filter | None, condition: models.Filter | models.FieldCondition) -> models.Filter:
    return models.Filter(must=[condition] if filter is None else [filter, condition])
