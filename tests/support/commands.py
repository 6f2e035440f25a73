"""Python and mmembed, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def python(*arguments: str, on: Path | None = None, status: int = 0, cwd: Path | None = None) -> str:
    """What a new Python prints: stdout, or stderr where it is expected to fail."""
    path = os.pathsep.join(filter(None, [str(on or ""), os.environ.get("PYTHONPATH")]))
    command, environment = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def mmembed(*arguments: str, on: Path | None = None, status: int = 0, cwd: Path | None = None) -> str:
    return python("-m", "mmembed", *arguments, on=on, status=status, cwd=cwd)
