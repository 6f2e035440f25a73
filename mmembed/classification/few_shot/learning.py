"""A folder-per-class -> a collection that has learnt: index, label, split, choose, compare with zero-shot, keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.classification.cache import ClassCache
from mmembed.classification.calibration_fit import column_numbers, note_key
from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.few_shot.classifier import (
    WAYS,
    FewShotClassifier,
    FewShotNote,
    LabelledPart,
    in_part,
    read_part,
    split_key,
)
from mmembed.classification.few_shot.probe import choose_probe, fit_probe, probe_logits, probe_temperature
from mmembed.classification.few_shot.split import PARTS, Split, stratified_split
from mmembed.classification.few_shot.tip_adapter import choose_tip, find_neighbours, tip_logits
from mmembed.classification.fitting import fit_temperature
from mmembed.classification.label_keys import check_label_key, tagged
from mmembed.classification.labels import Labels
from mmembed.classification.measures import accuracy_at, mean_per_class_recall
from mmembed.classification.scoring import logits, score
from mmembed.collection import Collection
from mmembed.collection.payload import TagKeys, item_id
from mmembed.errors import InvalidSample
from mmembed.ingest import ingest_images
from mmembed.sources.labelled import LabelledImage
from mmembed.statistics import bootstrap_intervals
from mmembed.types import Encoder, Failure, Payload, Point, Store

_MAX_NEIGHBOURS = 1024


@dataclass(frozen=True)
class FewShotReport:
    """What was chosen, how each way does on the test pictures, and what became of every one of them."""

    images: Mapping[Split, int]  # in each part
    measured: tuple[Measured, ...]
    chosen: FewShotNote
    outcomes: tuple[Prediction, ...]
    failures: tuple[Failure, ...]


def learn_few_shot(
    store: Store,
    collection: str,
    images: Sequence[LabelledImage],
    *,
    encoder: Encoder,
    labels: Labels | Sequence[str] | None = None,
    shots: int | None = None,
    key: str = "class",
    neighbours: int | None = None,
    cache: ClassCache | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> FewShotReport:
    """Index labelled pictures, learn from a part of them, and compare with zero-shot on another.

    Tip-Adapter takes the training points as its keys; its alpha and beta, and the C of a logistic probe, are chosen
    on a validation part; the test part decides nothing. What was chosen is kept in the collection: `load_few_shot`.
    Of copies of a picture one takes part, and none where they have different labels: these are failures.

    Args:
        images: of `read_class_folders`; those of no label are left out.
        labels: what zero-shot reads, and the order of probabilities; None: the names of the folders.
        shots: training pictures of each label; None: half of them.
        key: payload key that gets the label; `KEY_split` gets train, validation or test.
        neighbours: keys that vote on a picture; None: all, 1024 at most.
        workers, seed: threads that decode; chance of the split and of the intervals.

    Raises:
        InvalidSample: fewer than two labels, too few pictures of one, or a label that is not among `labels`.
        InvalidQuery: `key` is in use for something else.
        CollectionMismatch: the collection is of another encoder. And what `ingest_images` and `embed_classes` raise.
    """
    where = Collection(store, collection)
    known = [image for image in images if image.label is not None]
    # 1. what cannot be is refused before anything is written
    truth = [image.label for image in known if image.label is not None]
    stratified_split(truth, shots=shots)
    tags = [tagged(TagKeys.of(key.removesuffix(suffix))) for suffix in ("", "_scores", "_by")]  # none of their three
    check_label_key(where, [key, split_key(key)], models.Filter(should=[*tags]), of="labels")
    classes = embed_classes(encoder, labels if labels is not None else sorted(set(truth)), cache=cache)
    column_numbers(classes.names, truth)
    # 2. index, label, split
    report = ingest_images(store, collection, [p.path for p in known], encoder=encoder, workers=workers)
    if not report.stored:
        first = report.failures[0].error if report.failures else "there are none"
        raise InvalidSample(f"no picture of the folder can be read ({first}): give pictures of each label")
    unclear = _mark(where, known, key=key, shots=shots, seed=seed)
    train, validation, test = (read_part(where, classes.names, key=key, part=part) for part in PARTS)
    # 3. choose, compare, keep
    limit = neighbours or min(len(train.ids), _MAX_NEIGHBOURS)
    note = _choose(where, classes, train, validation, key=key, limit=limit)
    by_way = {ZERO_SHOT: logits(classes, score(classes, test.vectors)[:, : len(classes.names)])}
    by_way |= {way: FewShotClassifier(where, classes, note, way).logits(test.vectors) for way in WAYS}
    measured, outcomes = compare_ways(by_way, test.truth, names=classes.names, ids=test.ids, seed=seed)
    store.set_note(collection, note_key("few_shot", classes.fingerprint, classes.labels.key), asdict(note))
    sizes: dict[Split, int] = {"train": len(train.ids), "validation": len(validation.ids), "test": len(test.ids)}
    return FewShotReport(sizes, measured, note, outcomes, (*report.failures, *unclear))


def _mark(
    collection: Collection, images: Sequence[LabelledImage], *, key: str, shots: int | None, seed: int
) -> list[Failure]:
    """Write label and part to each point, and take the part from those of an earlier run; gives what has no part."""
    store, name = collection.store, collection.name
    labels = {item_id("image", str(image.path)): str(image.label) for image in images}
    distinct, unclear = _distinct(store.retrieve(name, sorted(labels)), labels)
    parts = stratified_split([labels[id] for id in distinct], shots=shots, seed=seed)
    store.add_indexes(name, {key: "keyword", split_key(key): "keyword"})
    marks: dict[str, Payload] = {
        point.id: {split_key(key): None}
        for part in PARTS
        for point in store.scroll(name, filter=in_part(key, part), payload=False)
    }
    marks |= {id: {key: labels[id], split_key(key): part} for id, part in zip(distinct, parts, strict=True)}
    store.set_payloads(name, marks)
    return unclear


def _distinct(points: Sequence[Point], labels: Mapping[str, str]) -> tuple[list[str], list[Failure]]:
    """One point of each picture, whose copies would be learnt from and tested on; failures for contradictions."""
    copies: dict[str, list[Point]] = {}
    for point in points:
        copies.setdefault(point.payload["content_hash"], []).append(point)
    distinct, unclear = [], []
    for _, same in sorted(copies.items()):  # whatever folder they lie in, the same pictures get the same parts
        named = sorted({labels[point.id] for point in same})
        if len(named) == 1:
            distinct.append(same[0].id)
            continue
        why = f"the same picture has the labels {', '.join(named)}: leave it in one folder"
        unclear += [Failure(point.payload["uri"], f"{point.payload['uri']}: {why}") for point in same]
    return distinct, unclear


def _choose(
    collection: Collection,
    classes: Classes,
    train: LabelledPart,
    validation: LabelledPart,
    *,
    key: str,
    limit: int,
) -> FewShotNote:
    """What does best on the validation part."""
    n_labels = len(classes.names)
    where = in_part(key, "train")
    neighbours = find_neighbours(collection, validation.vectors, classes.names, key=key, filter=where, limit=limit)
    cosines = score(classes, validation.vectors)[:, :n_labels]
    tip = choose_tip(cosines, neighbours, validation.truth)
    voted = tip_logits(cosines, neighbours, alpha=tip.alpha, beta=tip.beta)
    seen, unseen = (train.vectors, train.truth), (validation.vectors, validation.truth)
    strength, probe_accuracy = choose_probe(seen, unseen, n_labels)
    fitted = fit_probe(train.vectors, train.truth, strength=strength)
    return FewShotNote(
        names=classes.names,
        key=key,
        alpha=tip.alpha,
        beta=tip.beta,
        temperature=fit_temperature(voted, validation.truth),
        strength=strength,
        probe_temperature=probe_temperature(probe_logits(fitted, validation.vectors, n_labels), validation.truth),
        limit=limit,
        best="tip-adapter" if tip.accuracy >= probe_accuracy else "probe",
    )


# --- the ways to name the same test pictures, side by side ---

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Measured:
    """One way, on the test part."""

    name: str
    accuracy: float
    low: float  # of the 95 % interval of the accuracy
    high: float
    mean_per_class_recall: float
    p_value: float | None  # that it differs from zero-shot by chance; None for zero-shot itself


@dataclass(frozen=True)
class Prediction:
    """One test picture."""

    id: str
    label: str
    predicted: Mapping[str, str]  # by each way


def compare_ways(
    logits: Mapping[str, npt.NDArray[np.float64]],
    truth: npt.NDArray[np.integer],
    *,
    names: Sequence[str],
    ids: Sequence[str],
    seed: int = 0,
) -> tuple[tuple[Measured, ...], tuple[Prediction, ...]]:
    """`(n, labels)` logits of each way, zero-shot among them -> what is measured of each, and of each picture."""
    right = {way: accuracy_at(scores, truth, 1) for way, scores in logits.items()}
    intervals = bootstrap_intervals(np.stack(list(right.values()), axis=1), seed=seed)
    measured = []
    for (way, scores), interval in zip(logits.items(), intervals, strict=True):
        assert interval is not None  # of two labels at least there is a test picture each
        recall = mean_per_class_recall(scores, truth)
        p_value = None if way == ZERO_SHOT else paired_p(right[ZERO_SHOT], right[way])
        measured.append(Measured(way, float(right[way].mean()), *interval, recall, p_value))
    best = {way: scores.argmax(axis=1) for way, scores in logits.items()}
    outcomes = tuple(
        Prediction(id, names[truth[row]], {way: names[columns[row]] for way, columns in best.items()})
        for row, id in enumerate(ids)
    )
    return tuple(measured), outcomes


def paired_p(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """McNemar's exact test, two-sided: pictures that only one of the two names right are a coin's throws."""
    from scipy.stats import binomtest

    only_first, only_second = int((first > second).sum()), int((second > first).sum())
    thrown = only_first + only_second
    return float(binomtest(only_first, thrown, 0.5).pvalue) if thrown else 1.0
