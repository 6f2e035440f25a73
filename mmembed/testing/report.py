"""What a check found, and what all of them did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class Fault(Exception):
    """Raised within a check: the encoder is wrong, and how."""


class NotJudged(Exception):
    """Raised within a check: it cannot tell, and why."""


@dataclass(frozen=True)
class Check:
    """One line of a report."""

    name: str
    outcome: Literal["passed", "fault", "skipped"]
    found: str  # what was measured, what is wrong, or why nothing was judged
    why: str  # what goes wrong with an encoder that fails it


@dataclass(frozen=True)
class EncoderReport:
    """What `check_encoder` found, in the order in which it looked."""

    encoder: str  # its name
    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome == "fault")

    @property
    def ok(self) -> bool:
        """No fault, and something was judged."""
        return not self.faults and any(check.outcome == "passed" for check in self.checks)

    def __str__(self) -> str:
        """For an assertion that fails: the faults, a line each."""
        lines = [f"{check.name}: {check.found} ({check.why})" for check in self.faults]
        return "\n".join([f"{self.encoder}: {len(self.faults)} faults in {len(self.checks)} checks", *lines])
