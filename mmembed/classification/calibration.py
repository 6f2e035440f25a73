"""From a small labelled sample: probabilities that mean what they say, and a threshold for each label.

Temperature (Guo et al. 2017) where labels compete in a softmax, Platt's line (Platt 1999) for each label where each is
decided alone. What was fitted is kept beside the collection, for one encoder and one set of labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mmembed.classification.measures import ReliabilityBin, error_of
from mmembed.errors import InvalidSample, UnreadableSource
from mmembed.vectors import Floats, sigmoid, softmax

Method: TypeAlias = Literal["temperature", "platt"]


@dataclass(frozen=True)
class Calibration:
    """What a labelled sample says about the logits of one encoder for one set of labels."""

    method: Method
    fingerprint: str  # of the encoder
    labels_key: str  # of `Labels.key`
    names: tuple[str, ...]
    temperature: float | None = None
    platt: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # p = sigmoid(a * logit + b)
    shared: tuple[float, float] | None = None  # the line of all labels together
    borrowed: tuple[str, ...] = ()  # labels with too few pictures for a line of their own: `shared` is theirs
    thresholds: Mapping[str, float] = field(default_factory=dict)  # on the calibrated probability; {}: none
    rule: str | None = None  # "precision>=0.9"
    unreached: tuple[str, ...] = ()  # labels whose rule no threshold satisfies: they are never given
    images: int = 0
    before: tuple[ReliabilityBin, ...] = ()  # of the encoder's own probabilities
    after: tuple[ReliabilityBin, ...] = ()  # cross-validated: of pictures that the fit had not seen

    @property
    def ece_before(self) -> float | None:
        """Expected calibration error of the encoder's own probabilities; None where it has none."""
        return error_of(self.before) if self.before else None

    @property
    def ece_after(self) -> float:
        """The same, cross-validated, after calibration."""
        return error_of(self.after)

    def apply(self, logits: Floats, names: Sequence[str]) -> Floats:
        """`(n, m)` logits, of labels `names` first and background after them -> `(n, m)` probabilities.

        In a softmax background competes like labels; decided alone, it takes the line of all labels together.
        """
        if self.temperature is not None:
            return softmax(np.asarray(logits, dtype=np.float64) / self.temperature)
        assert self.shared is not None  # Platt has both
        others = [self.shared] * (logits.shape[1] - len(names))
        lines = np.array([self.platt.get(name, self.shared) for name in names] + others)  # (m, 2)
        return sigmoid(logits * lines[:, 0] + lines[:, 1])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, about 100 bytes a label and 3 KB for the reliability bins."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """What `to_json` gave. Raises InvalidSample for anything else."""
        try:
            calibration = TypeAdapter(cls).validate_python(value)
        except ValidationError as exc:
            raise InvalidSample("not a calibration of mmembed (fit one), or a damaged one: fit it again") from exc
        temperature, lines = calibration.temperature, calibration.shared
        if not ((temperature or 0) > 0 if calibration.method == "temperature" else lines is not None):
            raise InvalidSample("this calibration is damaged: fit it again")
        return calibration


def write_calibration(file: Path, calibration: Calibration) -> None:
    """As JSON. Raises UnreadableSource where the file cannot be written."""
    try:
        file.write_text(json.dumps(calibration.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as exc:
        raise UnreadableSource(f"{file}: cannot be written ({exc.strerror})") from exc


def read_calibration(file: Path) -> Calibration:
    """What `write_calibration` wrote. Raises UnreadableSource, and InvalidSample for a file of another kind."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UnreadableSource(f"{file}: cannot be read ({exc.strerror})") from exc
    except ValueError as exc:
        raise InvalidSample(f"{file}: not JSON, so not a calibration: fit one") from exc
    return Calibration.from_json(value)
