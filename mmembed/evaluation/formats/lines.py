"""The lines of a UTF-8 text file, plain or gzipped, each with where it is, and what to say of a wrong one."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from mmembed.errors import InvalidTestSet, UnreadableSource

_T = TypeVar("_T")


class TextLine(NamedTuple):
    """`number` counts from 1."""

    file: Path
    number: int
    text: str


def wrong(line: TextLine, what: str) -> InvalidTestSet:
    """The error that says where."""
    return InvalidTestSet(f"{line.file}, line {line.number}: {what}")


def text_lines(file: Path) -> Iterator[TextLine]:
    """The lines that are not blank, without their ends. Raises UnreadableSource where the file cannot be read."""
    try:
        opened: Callable[..., IO[str]] = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, text in enumerate(lines, 1):
                if text.strip():
                    yield TextLine(file, number, text.rstrip("\r\n"))
    except UnicodeDecodeError as exc:
        raise UnreadableSource(f"{file} is not UTF-8 text ({exc.reason}): save it as UTF-8") from exc
    except (OSError, EOFError, zlib.error) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise UnreadableSource(f"{file} cannot be read ({reason}): name a text file, plain or .gz") from exc


def rows_of(file: Path) -> Iterator[tuple[TextLine, dict[str, Any]]]:
    """The JSON objects of a file that has one a line."""
    for line in text_lines(file):
        try:
            row = json.loads(line.text)
        except ValueError as exc:
            raise wrong(line, "not JSON: each line is one object, as in JSONL") from exc
        if not isinstance(row, dict):
            raise wrong(line, f"a JSON {type(row).__name__}, not an object: each line is one object, as in JSONL")
        yield line, row


# --- small files that people write by hand: .jsonl and .csv with the same rows ---


def whole_file(file: Path, what: str) -> str:
    """The text of a small file that is `what`. Raises InvalidTestSet where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise InvalidTestSet(f"{file.name}: cannot be read ({exc.strerror}): name {what}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidTestSet(f"{file.name}: is not UTF-8 (byte {exc.start}): convert it") from exc


def parsed_rows(
    file: Path,
    text: str,
    columns: tuple[str, str],
    of_json: Callable[[Any], _T],
    of_csv: Callable[[Any], _T],
    what: str,
) -> Iterator[_T]:
    """Each line of JSONL by `of_json`, or by the file's name each row of CSV by `of_csv`.

    What these raise as ValueError, KeyError or TypeError says why a line is not `what`, and becomes InvalidTestSet.
    """
    number = 0
    try:
        if file.suffix.lower() == ".csv":
            reader = csv.DictReader(io.StringIO(text), strict=True)
            if text.strip() and not set(columns) <= set(reader.fieldnames or ()):
                found = ", ".join(reader.fieldnames or ())
                raise InvalidTestSet(f"{file.name}: has the columns {found}: it needs {' and '.join(columns)}")
            for row in reader:
                number = reader.line_num
                yield of_csv(row)
            return
        for number, line in enumerate(text.split("\n"), 1):  # noqa: B007  for the error; JSON may hold U+2028
            if line.strip():
                yield of_json(json.loads(line))
    except (csv.Error, ValueError, KeyError, TypeError) as exc:
        raise InvalidTestSet(f"{file.name}: line {number} is not {what} ({exc}): correct it") from exc


def a_few(names: Sequence[str], most: int = 3) -> str:
    """The first of them: "a, b, c, ..."."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def first_of(folder: Path, *names: str) -> Path | None:
    """The first of these files that is in the folder, plain or with .gz appended."""
    candidates = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((file for file in candidates if file.is_file()), None)
