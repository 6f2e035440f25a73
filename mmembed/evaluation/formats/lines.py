"""The lines of a UTF-8 text file, plain or gzipped, each with where it is, and what to say of a wrong one."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from mmembed.errors import InvalidTestSet, UnreadableSource

__all__ = ["Line", "first_of", "rows_of", "text_lines", "wrong"]


class Line(NamedTuple):
    """`number` counts from 1."""

    file: Path
    number: int
    text: str


def wrong(line: Line, what: str) -> InvalidTestSet:
    """The error that says where."""
    return InvalidTestSet(f"{line.file}, line {line.number}: {what}")


def text_lines(file: Path) -> Iterator[Line]:
    """The lines that are not blank, without their ends. Raises UnreadableSource where the file cannot be read."""
    try:
        with _opened(file) as lines:
            for number, text in enumerate(lines, 1):
                if text.strip():
                    yield Line(file, number, text.rstrip("\r\n"))
    except UnicodeDecodeError as exc:
        raise UnreadableSource(f"{file} is not UTF-8 text ({exc.reason}): save it as UTF-8") from exc
    except (OSError, EOFError, zlib.error) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise UnreadableSource(f"{file} cannot be read ({reason}): name a text file, plain or .gz") from exc


def _opened(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="\n")
    return file.open(encoding="utf-8-sig", newline="\n")


def rows_of(file: Path) -> Iterator[tuple[Line, dict[str, Any]]]:
    """The JSON objects of a file that has one a line."""
    for line in text_lines(file):
        try:
            row = json.loads(line.text)
        except ValueError as exc:
            raise wrong(line, "not JSON: each line is one object, as in JSONL") from exc
        if not isinstance(row, dict):
            raise wrong(line, f"a JSON {type(row).__name__}, not an object: each line is one object, as in JSONL")
        yield line, row


def first_of(folder: Path, *names: str) -> Path | None:
    """The first of these files that is in the folder, plain or with .gz appended."""
    candidates = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((file for file in candidates if file.is_file()), None)
