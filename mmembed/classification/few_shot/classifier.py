"""What was learnt from a few pictures of each label, kept beside the collection whose points are those pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from qdrant_client import models

from mmembed.classification.calibration_fit import column_numbers, note_key
from mmembed.classification.classes import Classes
from mmembed.classification.few_shot.probe import fit_probe, probe_logits
from mmembed.classification.few_shot.split import Split
from mmembed.classification.few_shot.tip_adapter import find_neighbours, tip_logits
from mmembed.classification.scoring import score
from mmembed.collection import Collection, stacked
from mmembed.collection.conditions import has_value
from mmembed.errors import InvalidSample
from mmembed.types import DenseArray, Store
from mmembed.vectors import softmax

FewShotWay: TypeAlias = Literal["tip-adapter", "probe"]

WAYS: tuple[FewShotWay, ...] = ("tip-adapter", "probe")


@dataclass(frozen=True)
class FewShotNote:
    """What a collection keeps: numbers that were chosen; the pictures themselves are its points."""

    names: tuple[str, ...]
    key: str  # payload key of the label; `split_key(key)` says which part a point belongs to
    alpha: float
    beta: float
    temperature: float  # of the logits of Tip-Adapter
    strength: float  # C of the probe
    probe_temperature: float  # of its logits
    limit: int  # neighbours of Tip-Adapter
    best: FewShotWay  # of the validation part

    @classmethod
    def from_json(cls, value: Any) -> FewShotNote:
        """What `asdict` gave. Raises InvalidSample for anything else."""
        try:
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as exc:
            raise InvalidSample("what was learnt cannot be read: learn it again") from exc


@dataclass(frozen=True, eq=False)
class LabelledPart:
    """Points of one part, in the order of their ids."""

    ids: list[str]
    vectors: DenseArray  # (n, dim)
    truth: npt.NDArray[np.intp]  # (n,) column of the label


@dataclass(frozen=True, eq=False)
class FewShotClassifier:
    """`(n, dim)` vectors of pictures -> `(n, labels)` probabilities, in the order of the labels of `classes`."""

    collection: Collection
    classes: Classes
    note: FewShotNote
    way: FewShotWay

    def __call__(self, vectors: DenseArray) -> npt.NDArray[np.float64]:
        temperature = self.note.probe_temperature if self.way == "probe" else self.note.temperature
        return softmax(self.logits(vectors) / temperature)

    def logits(self, vectors: DenseArray) -> npt.NDArray[np.float64]:
        """`(n, labels)`: those of Tip-Adapter, or of the probe."""
        names, note = self.classes.names, self.note
        if self.way == "probe":
            return probe_logits(self._probe, vectors, len(names))
        where = in_part(note.key, "train")
        found = find_neighbours(self.collection, vectors, names, key=note.key, filter=where, limit=note.limit)
        cosines = score(self.classes, vectors)[:, : len(names)]
        return tip_logits(cosines, found, alpha=note.alpha, beta=note.beta)

    @cached_property
    def _probe(self) -> Any:
        train = read_part(self.collection, self.classes.names, key=self.note.key, part="train")
        return fit_probe(train.vectors, train.truth, strength=self.note.strength)


def load_few_shot(
    store: Store, collection: str, classes: Classes, *, way: FewShotWay | Literal["best"] = "best"
) -> FewShotClassifier | None:
    """What `learn_few_shot` left in the collection for these labels, in any order, and this encoder; else None.

    The probe is fitted again, to the stored vectors of its training pictures, when it is first asked.
    """
    where = Collection(store, collection)
    stored = where.note(note_key("few_shot", classes.fingerprint, classes.labels.key))
    if stored is None:
        return None
    note = FewShotNote.from_json(stored)
    return FewShotClassifier(where, classes, note, note.best if way == "best" else way)


def split_key(key: str) -> str:
    """The payload key beside `key` that says which part a point belongs to."""
    return f"{key}_split"


def in_part(key: str, part: Split) -> models.Filter:
    return models.Filter(must=[has_value(split_key(key), part)])


def read_part(collection: Collection, names: Sequence[str], *, key: str, part: Split) -> LabelledPart:
    """The points of `part`, with their stored vectors. Raises InvalidSample for a label that is not among `names`."""
    blocks = collection.image_vectors(filter=in_part(key, part), payload=[key])
    points = [point for some, _ in blocks for point in some]
    if not points:
        raise InvalidSample(f"collection {collection.name!r} has no picture left of the part {part!r}: learn again")
    truth = column_numbers(names, [point.payload[key] for point in points])
    return LabelledPart([point.id for point in points], stacked(points), truth)
