"""How long mmembed takes to start: seconds of fresh processes, interpreter included, median of seven.

    python bench/startup.py [--json OUT] [--rounds 7]

The three commands take turns, so that another job on the machine slows all of them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from lines import Lines, arguments

HEAVY = ("torch", "transformers", "sentence_transformers", "open_clip", "fastapi", "qdrant_edge", "qdrant_client")
LOADED = f"import json, sys, mmembed, mmembed.cli; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
IMPORT = "import time; began = time.perf_counter(); import mmembed; print(time.perf_counter() - began)"


def seconds_of(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def import_seconds() -> float:
    """Of the import alone, without the interpreter's own start."""
    return float(subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True).stdout)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    lines = Lines("startup", options.json)
    mmembed = str(Path(sysconfig.get_path("scripts")) / "mmembed")
    commands = {
        "import mmembed": ([sys.executable, "-c", "import mmembed"], 0.3),
        "mmembed --help": ([mmembed, "--help"], 0.6),
        "mmembed encoders": ([mmembed, "encoders"], 0.6),
    }
    taken: dict[str, list[float]] = {what: [] for what in commands}
    alone = []
    for _ in range(options.rounds):
        alone.append(import_seconds())
        for what, (command, _) in commands.items():
            taken[what].append(seconds_of(command))
    for what, (_, level) in commands.items():
        seconds = taken[what]
        lines.add(what, statistics.median(seconds), unit="s", at_most=level, worst=round(max(seconds), 4))
    lines.add("import mmembed, without the interpreter", statistics.median(alone), unit="s", at_most=0.3)
    heavy = json.loads(subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True).stdout)
    lines.add("heavy packages loaded by the import and the command line", len(heavy), unit="packages", at_most=0)
    lines.exit()


if __name__ == "__main__":
    main()
