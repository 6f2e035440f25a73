"""What every bench prints: one JSON line a measurement, with its level and where it was taken."""

from __future__ import annotations

import json
import os
import platform
import sys
from argparse import ArgumentParser
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["MISSED", "Lines", "arguments"]

MISSED = 3
"""Exit code of a bench that ran to its end and missed a level."""

_PACKAGES = (
    "mmembed",
    "numpy",
    "open_clip_torch",
    "pillow",
    "qdrant-edge-py",
    "sentence-transformers",
    "torch",
    "transformers",
)


class Lines:
    """Prints measurements, and writes the same lines to a file if one was asked for."""

    def __init__(self, bench: str, out: Path | None) -> None:
        self._bench = bench
        self._missed = False
        self._out = out
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("")

    def add(
        self,
        what: str,
        value: float,
        *,
        unit: str,
        at_most: float | None = None,
        at_least: float | None = None,
        **facts: object,
    ) -> None:
        """One measurement. `reached` is null where there is no level."""
        levels = [f"<= {at_most:g}"] if at_most is not None else []
        levels += [f">= {at_least:g}"] if at_least is not None else []
        reached = None
        if levels:
            reached = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
            self._missed |= not reached
        measured = {"what": what, "value": _rounded(value), "unit": unit, "level": ", ".join(levels) or None}
        line = json.dumps({"bench": self._bench, **measured, "reached": reached, **facts, **_where()})
        print(line, flush=True)
        if self._out is not None:
            with self._out.open("a") as stream:
                stream.write(line + "\n")

    def exit(self) -> None:
        """End the process: 0 if every level was reached, `MISSED` if not."""
        sys.exit(MISSED if self._missed else 0)


def arguments(description: str | None) -> ArgumentParser:
    """The options that every bench has."""
    parser = ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the lines to this file")
    return parser


def _rounded(value: float) -> float:
    return float(f"{value:.5g}") if abs(value) < 1e5 else float(round(value))


def _where() -> dict[str, Any]:
    """Where and with what: load is the machine's one-minute average, which ought to be ours alone."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in _PACKAGES},
    }
