"""The program `mmembed` in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmembed

DEMO = Path(mmembed.__file__).parent / "demo"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Program:
    """`mmembed` as a user of their own has it: a home that is empty at first, and a working directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data_home = root / "data"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MMEMBED_")},
            "HOME": str(root),
            "XDG_DATA_HOME": str(self.data_home),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
        }

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mmembed", *map(str, words)],
            cwd=self.root,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *words: str | Path, **environment: str) -> Result:
        child = self.start(*words, **environment)
        out, err = child.communicate(timeout=120)
        return Result(child.returncode, out, err)

    def fails(self, *words: str | Path, code: int = 1, **environment: str) -> str:
        """Run what must fail with one line on stderr and nothing on stdout; gives the line."""
        result = self(*words, **environment)
        assert (result.code, result.out) == (code, ""), result
        assert result.err.startswith("error: "), result.err
        assert result.err.count("\n") == 1, result.err
        return result.err
