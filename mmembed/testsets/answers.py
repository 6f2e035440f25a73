"""Answers of a chat model, kept as they come: what was paid for once is not asked again."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["PARTIAL", "Answers"]

PARTIAL = "queries.partial.jsonl"


class Answers:
    """Lines of {key, uri, queries} in the folder of a test set. A line that a stop cut short is asked again."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / PARTIAL
        self._kept: dict[str, list[str]] = {}
        text = self._file.read_text(encoding="utf-8", errors="replace") if self._file.exists() else ""
        self._whole = not text or text.endswith("\n")
        for line in text.split("\n"):  # not splitlines: a query may hold U+2028
            match _row(line):
                case {"key": str(key), "queries": [*queries]} if all(isinstance(query, str) for query in queries):
                    self._kept[key] = [str(query) for query in queries]

    def get(self, key: str) -> list[str] | None:
        return self._kept.get(key)

    def add(self, key: str, uri: str, queries: list[str]) -> None:
        """Keep one answer; on return it is in the file."""
        line = json.dumps({"key": key, "uri": uri, "queries": queries}, ensure_ascii=False)
        with self._file.open("a", encoding="utf-8", errors="replace") as stream:
            stream.write(("" if self._whole else "\n") + line + "\n")
        self._whole = True
        self._kept[key] = queries


def _row(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
