"""All benches, one after another, each in a process of its own: quick by default.

    python -m bench [--full] [--json FOLDER] [NAME ...]

Ends with 0 if every level was reached, 3 if one was missed, 1 if a bench broke.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

MISSED = 3
QUICK = {
    "startup": ["--rounds", "3"],
    "ingest": ["--small", "500", "--large", "2000", "--rounds", "3"],
    "cranfield": [],
    "open_clip_ingest": ["--images", "96", "--rounds", "3"],
    "edge": ["--points", "10000"],
    "tagging": ["--points", "10000"],
    "decoder": ["--queries", "64", "--texts", "64", "--rounds", "3", "--layers", "2"],
    "service": [
        *("--points", "2000", "--calls", "100", "--inputs", "128", "--requests", "1000", "--rounds", "3"),
        *("--many", "10000", "--load", "1000", "--loop-points", "10000"),
    ],
    "zero_shot": ["--images", "96", "--rounds", "3"],
}
NEEDS_DATA = {"cranfield"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the benches.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(QUICK)}; by default all")
    parser.add_argument("--full", action="store_true", help="with the sizes that the levels are stated for")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="also write NAME.jsonl into this folder")
    options = parser.parse_args()
    if unknown := set(options.names) - set(QUICK):
        parser.error(f"no bench {', '.join(sorted(unknown))}: there are {', '.join(QUICK)}")
    codes = [run(name, full=options.full, folder=options.json) for name in options.names or QUICK]
    broken = [code for code in codes if code not in (0, MISSED)]
    sys.exit(1 if broken else max(codes))


def run(name: str, *, full: bool, folder: Path | None) -> int:
    """Run one bench to its end: its exit code."""
    if name in NEEDS_DATA and not os.environ.get("MMEMBED_TEST_DATA"):
        print(f"{name}: not run, because MMEMBED_TEST_DATA does not name the folder of real data", file=sys.stderr)
        return 0
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *([] if full else QUICK[name])]
    out = folder / f"{name}.jsonl" if folder is not None else Path(os.devnull)
    out.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, out.open("w") as kept:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.write(line)
    return process.returncode


if __name__ == "__main__":
    main()
