"""Where the project and the tests' own modules lie."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ROOT", "SUPPORT"]

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parent.parent
