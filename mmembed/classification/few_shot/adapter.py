"""What was learnt from a few pictures of each label, kept beside the collection whose points are those pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from mmembed.classification.calibration_fit import column_numbers
from mmembed.classification.few_shot.probe import fit_probe, probe_logits
from mmembed.classification.few_shot.split import Part
from mmembed.classification.few_shot.tip_adapter import find_neighbours, has_value, tip_logits
from mmembed.classification.probabilities import score
from mmembed.errors import InvalidSample
from mmembed.types import DenseArray, Store
from mmembed.vectors import softmax

if TYPE_CHECKING:
    from mmembed.classification.classes import Classes

__all__ = [
    "WAYS",
    "Adapter",
    "FewShotNote",
    "LabelledPart",
    "Way",
    "load_adapter",
    "note_key",
    "read_part",
    "split_key",
]

Way: TypeAlias = Literal["tip-adapter", "probe"]

WAYS: tuple[Way, ...] = ("tip-adapter", "probe")


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
    best: Way  # of the validation part

    @classmethod
    def from_json(cls, value: Any) -> FewShotNote:
        """What `asdict` gave. Raises InvalidSample for anything else."""
        try:
            note = cls(**{**value, "names": tuple(value["names"])})
        except (KeyError, TypeError) as exc:
            raise InvalidSample("what was learnt cannot be read: learn it anew with `mmembed few-shot`") from exc
        return note


@dataclass(frozen=True, eq=False)
class LabelledPart:
    """Points of one part, in the order of their ids."""

    ids: list[str]
    vectors: DenseArray  # (n, dim)
    truth: npt.NDArray[np.intp]  # (n,) column of the label


@dataclass(frozen=True, eq=False)
class Adapter:
    """`(n, dim)` vectors of pictures -> `(n, labels)` probabilities, in the order of the labels of `classes`."""

    store: Store
    collection: str
    classes: Classes
    note: FewShotNote
    way: Way

    def __call__(self, vectors: DenseArray) -> npt.NDArray[np.float64]:
        temperature = self.note.probe_temperature if self.way == "probe" else self.note.temperature
        return softmax(self.logits(vectors) / temperature)

    def logits(self, vectors: DenseArray) -> npt.NDArray[np.float64]:
        """`(n, labels)`: those of Tip-Adapter, or of the probe."""
        names, note = self.classes.names, self.note
        if self.way == "probe":
            return probe_logits(self._probe, vectors, len(names))
        where = in_part(note.key, "train")
        found = find_neighbours(
            self.store, self.collection, vectors, names, key=note.key, filter=where, limit=note.limit
        )
        cosines = score(self.classes, vectors)[:, : len(names)]
        return tip_logits(cosines, found, alpha=note.alpha, beta=note.beta)

    @cached_property
    def _probe(self) -> Any:
        train = read_part(self.store, self.collection, self.classes.names, key=self.note.key, part="train")
        return fit_probe(train.vectors, train.truth, strength=self.note.strength)


def load_adapter(
    store: Store, collection: str, classes: Classes, *, way: Way | Literal["best"] = "best"
) -> Adapter | None:
    """What `learn_few_shot` left in the collection for these labels, in any order, and this encoder; else None.

    The probe is fitted again, to the stored vectors of its training pictures, when it is first asked.
    """
    contract = store.contract(collection)
    kept = contract.notes.get(note_key(classes)) if contract is not None else None
    if kept is None:
        return None
    note = FewShotNote.from_json(kept)
    return Adapter(store, collection, classes, note, note.best if way == "best" else way)


def save_note(store: Store, collection: str, classes: Classes, note: FewShotNote) -> None:
    store.set_note(collection, note_key(classes), asdict(note))


def note_key(classes: Classes) -> str:
    return f"few_shot:{classes.fingerprint[:16]}:{classes.labels.key[:16]}"


def split_key(key: str) -> str:
    """The payload key beside `key` that says which part a point belongs to."""
    return f"{key}_split"


def in_part(key: str, part: Part) -> models.Filter:
    return models.Filter(must=[has_value(split_key(key), part)])


def read_part(store: Store, collection: str, names: Sequence[str], *, key: str, part: Part) -> LabelledPart:
    """The points of `part`, with their stored vectors. Raises InvalidSample for a label that is not among `names`."""
    points = list(store.scroll(collection, filter=in_part(key, part), vectors=["image"], payload=[key]))
    rows = [point.vectors["image"] for point in points]
    if not rows:
        raise InvalidSample(f"collection {collection!r} has no picture left of the part {part!r}: learn anew")
    truth = column_numbers(names, [point.payload[key] for point in points])
    return LabelledPart([point.id for point in points], np.stack(rows).astype(np.float32, copy=False), truth)
