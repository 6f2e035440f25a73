"""What came of an index run, or of one batch of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from mmembed.types import Failure

ItemOutcome: TypeAlias = Literal["embedded", "unchanged", "moved", "copied"]


@dataclass(frozen=True)
class PlannedChange:
    """One thing that a run would do."""

    action: Literal["embed", "move", "copy", "remove"]
    uri: str
    origin: str | None = None  # of a move or a copy, where its vectors lie


@dataclass
class IngestReport:
    """Counts of files: pictures, or whole documents however many passages each became."""

    embedded: int = 0  # read, encoded and stored
    unchanged: int = 0  # as they were: neither decoded nor encoded
    moved: int = 0  # at another path than before; their vectors were kept
    copied: int = 0  # same contents as another file, which is still there; its vectors were reused
    removed: int = 0  # gone from the disk and, with sync, from the collection
    held_back: int = 0  # gone from the disk, and not removed by sync for a reason that `warnings` give
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    passed_over: Counter[str] = field(
        default_factory=Counter
    )  # files of other kinds, by suffix; lock files, stores ...
    warnings: list[str] = field(default_factory=list)  # sentences: what sync held back, and how to insist
    to_remove: int = 0  # counted before the first removal
    planned: list[PlannedChange] | None = None  # of a dry run, which did nothing
    images: IngestReport | None = None  # of the pictures inside documents

    @classmethod
    def of(
        cls, outcomes: Sequence[ItemOutcome], failures: list[Failure], images: IngestReport | None = None
    ) -> IngestReport:
        """Outcomes, one a thing, counted."""
        report = cls(failures=failures, images=images)
        for outcome in outcomes:
            setattr(report, outcome, getattr(report, outcome) + 1)
        return report

    def add(self, batch: IngestReport) -> None:
        """Count what came of a batch."""
        for outcome in get_args(ItemOutcome):
            setattr(self, outcome, getattr(self, outcome) + getattr(batch, outcome))
        self.failures += batch.failures
        if self.images is not None and batch.images is not None:
            self.images.add(batch.images)

    @property
    def done(self) -> int:
        """Files dealt with so far, failures included."""
        return self.stored + len(self.failures)

    @property
    def stored(self) -> int:
        """Files that the collection holds after this run."""
        return self.embedded + self.unchanged + self.moved + self.copied

    def all_failures(self) -> list[Failure]:
        return [*self.failures, *(self.images.all_failures() if self.images else [])]

    def as_json(self) -> dict[str, Any]:
        counts: dict[str, Any] = {
            **{outcome: getattr(self, outcome) for outcome in get_args(ItemOutcome)},
            "removed": self.removed,
            "held_back": self.held_back,
            "failures": [{"uri": f.uri, "error": f.error} for f in self.failures],
            "seconds": round(self.seconds, 3),
            "passed_over": dict(self.passed_over.most_common()),
            "warnings": self.warnings,
        }
        if self.planned is not None:
            counts["planned"] = [{k: v for k, v in asdict(change).items() if v is not None} for change in self.planned]
        if self.images is not None:
            counts["images"] = self.images.as_json()
        return counts


OnReport: TypeAlias = Callable[[IngestReport], None]
"""Called with the growing report of an index run, after each batch."""
