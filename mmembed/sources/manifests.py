"""Manifests: a .jsonl or .csv that names files and says more about each, as programs and spreadsheets write them."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import IO, Any, NoReturn
from urllib.parse import unquote

from mmembed.errors import UnreadableSource
from mmembed.sources.folders import FileKinds, bad_name, is_remote, not_local, printable
from mmembed.types import Failure, Item, Payload

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl"})

_OUR_COLUMNS = frozenset({"uri", "caption", "payload"})
_LIKE_URI = frozenset({"path", "file", "filename", "file_name", "filepath", "file_path", "image", "url"})
_SEP = re.compile(r'\ufeff?"?sep=(.)"?')
_FILE = re.compile(r"file:(?://(?:localhost(?=/))?)?([^/].*|/(?!/).*)$", re.IGNORECASE | re.DOTALL)
_NOT_UTF8 = re.compile(r"\w*[\udc80-\udcff][\w\udc80-\udcff]*")

_Row = tuple[int, Payload | ValueError]  # line number, and the columns or what is wrong with them


def read_manifest(path: str, kinds: FileKinds) -> Iterator[Item | Failure]:
    """Every line's item. Raises UnreadableSource where there is no line, or no column `uri`.

    JSON numbers keep their types, CSV values are strings; null and an empty CSV cell are no value. What spreadsheets
    write is read: UTF-16 with its mark, semicolons or tabs, a blank behind the comma, `URI` and `Caption`.
    """
    if failure := bad_name(path):
        yield failure
        return
    rows = _csv_rows if path.lower().endswith(".csv") else _jsonl_rows
    empty = True
    try:
        # a byte that is not UTF-8 becomes a surrogate, which spoils its line and not the file
        with open(path, encoding=_encoding(path), errors="surrogateescape", newline="") as stream:
            for number, row in rows(path, stream):
                empty = False
                yield _item(row, f"{path}: line {number}", path, kinds)
    except OSError as exc:
        raise UnreadableSource(f"{path}: cannot be read ({exc.strerror})") from exc
    except UnicodeError as exc:
        raise UnreadableSource(f"{path}: is not the UTF-16 that its first bytes promise: save it as UTF-8") from exc
    if empty:
        raise UnreadableSource(f"{path}: the manifest names nothing: write one line per file, with its uri")


def _encoding(path: str) -> str:
    """UTF-16 where the file begins with its mark, else UTF-8. Raises UnreadableSource for UTF-16 without one."""
    with open(path, "rb") as stream:
        start = stream.read(1024)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in start:
        raise UnreadableSource(f"{path}: holds bytes of zero, as UTF-16 without its mark does: save it as UTF-8")
    return "utf-8-sig"


def _delimiter(header: str) -> str:
    """The one under which the header has a column `uri`, else the one that makes most columns of it."""
    columns = {each: [_known(name) for name in next(csv.reader([header], delimiter=each), [])] for each in ",;\t|"}
    return max(columns, key=lambda each: ("uri" in columns[each], len(columns[each])))


def _known(column: str) -> str:
    """The name of a column without blanks around it, in lower case where it is one of ours."""
    name = column.strip()
    return name.lower() if name.lower() in _OUR_COLUMNS else name


def _csv_rows(path: str, stream: IO[str]) -> Iterator[_Row]:
    lines = iter(stream)
    header = next(lines, "")
    said = _SEP.fullmatch(header.strip())  # Excel's own line in front of the header
    skipped = 1 if said else 0
    header = next(lines, "") if said else header
    delimiter = said[1] if said else _delimiter(header)
    reader = csv.reader(chain([header], lines), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
    columns = [_known(column) for column in next(reader, [])] or None
    if columns is not None:
        _require_uri(path, columns)
    while columns is not None:
        try:
            cells = next(reader, None)
        except csv.Error as exc:
            yield reader.line_num + skipped, ValueError(str(exc))
            continue
        if cells is None:
            return
        if not any(cells):  # spreadsheets write lines of nothing but delimiters
            continue
        yield reader.line_num + skipped, _row(columns, cells)


def _row(columns: list[str], cells: list[str]) -> Payload | ValueError:
    if len(cells) != len(columns):
        return ValueError(f"{len(cells)} cells under {len(columns)} columns")
    row: Payload = {column: cell for column, cell in zip(columns, cells, strict=True) if cell != ""}
    if "" in row:
        return ValueError(f"{row['']!r} stands under a column without a name")
    row["uri"] = str(row.get("uri", "")).strip()
    try:
        return row | {"payload": _json(row["payload"])} if "payload" in row else row
    except ValueError as exc:
        return exc


def _jsonl_rows(path: str, stream: IO[str]) -> Iterator[_Row]:
    columns: set[str] = set()
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = _json(line)
        except ValueError as exc:
            yield number, exc
            continue
        row = {(key if _known(key) in row else _known(key)): value for key, value in row.items()}
        if not columns:
            columns = set(row)
            _require_uri(path, row)
        yield number, {key: value for key, value in row.items() if value is not None}


def _require_uri(path: str, columns: list[str] | Payload) -> None:
    if "uri" not in columns:
        found = ", ".join(map(printable, columns)) or "none"
        named = next((each for each in columns if each.strip().lower() in _LIKE_URI), None)
        advice = "add one" if named is None else f"call {named!r} so if it names the files"
        raise UnreadableSource(f"{path}: the manifest has no column 'uri' (its columns are {found}): {advice}")
    if twice := [column for column in dict.fromkeys(columns) if column and list(columns).count(column) > 1]:
        raise UnreadableSource(f"{path}: the manifest has two columns {printable(twice[0])!r}: name each but once")


def _json(text: str) -> Payload:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise ValueError("JSON nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _item(row: Payload | ValueError, where: str, manifest: str, kinds: FileKinds) -> Item | Failure:
    if isinstance(row, ValueError):
        return Failure(where, f"{where}: {row}", manifest)
    columns: dict[str, Any] = dict(row)
    uri, caption, nested = columns.pop("uri", None), columns.pop("caption", None), columns.pop("payload", {})
    if not isinstance(uri, str) or not uri.strip():
        return Failure(where, f"{where}: has no uri", manifest)
    if not isinstance(caption, str | None) or not isinstance(nested, dict):
        return Failure(where, f"{where}: a caption is a string and a payload a JSON object", manifest)
    payload = {**nested, **columns}
    text = json.dumps([uri, caption, payload], ensure_ascii=False)
    if printable(text) != text:
        return Failure(where, f"{where}: not valid UTF-8{_other_encoding(text)}", manifest)
    if is_remote(uri):
        return not_local(uri)
    try:
        path = _path(uri, os.path.dirname(manifest))
    except ValueError as exc:
        return Failure(where, f"{where}: {exc}", manifest)
    item = kinds.named(path)
    if isinstance(item, Failure):
        return Failure(item.uri, f"{where}: {item.error}", manifest)
    return replace(item, caption=caption or None, payload=payload, source=manifest)


def _other_encoding(text: str) -> str:
    """What a line holds in place of UTF-8, where bytes of it are in an older encoding."""
    broken = _NOT_UTF8.search(text)
    if broken is None:
        return ""
    seen = printable(broken[0])
    return f" (seen: {seen}; as Windows-1252 it would be {_as_windows(broken[0])}): save the manifest as UTF-8"


def _as_windows(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")


def _path(uri: str, folder: str) -> str:
    """The file that a manifest in `folder` means. Raises ValueError for one on another machine."""
    local = uri
    if uri.lower().startswith("file:"):
        address = _FILE.match(uri)
        if address is None:
            raise ValueError(f"{uri} is a file on another machine, or no address of one: write its path")
        local = unquote(address[1])
    path = os.path.abspath(os.path.join(folder, os.path.expanduser(local)))
    if "\\" in local and not os.path.lexists(path):  # as Windows writes paths
        return os.path.abspath(os.path.join(folder, local.replace("\\", "/")))
    return path
