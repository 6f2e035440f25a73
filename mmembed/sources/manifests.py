"""Manifests: a .jsonl or .csv that names files and says more about each."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Any, NoReturn
from urllib.parse import unquote

from mmembed.errors import UnreadableSource
from mmembed.sources.folders import FileKinds, bad_name, is_remote, not_local, printable
from mmembed.types import Failure, Item, Payload

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl"})

_Row = tuple[int, Payload | ValueError]  # line number, and the columns or what is wrong with them


def read_manifest(path: str, kinds: FileKinds) -> Iterator[Item | Failure]:
    """Every line's item. Raises UnreadableSource where there is no line, or no column `uri`.

    JSON numbers keep their types, CSV values are strings; null and an empty CSV cell are no value.
    """
    if failure := bad_name(path):
        yield failure
        return
    rows = _csv_rows if path.lower().endswith(".csv") else _jsonl_rows
    empty = True
    try:
        # a byte that is not UTF-8 becomes a surrogate, which spoils its line and not the file
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            for number, row in rows(path, stream):
                empty = False
                yield _item(row, f"{path}: line {number}", path, kinds)
    except OSError as exc:
        raise UnreadableSource(f"{path}: cannot be read ({exc.strerror})") from exc
    if empty:
        raise UnreadableSource(f"{path}: the manifest names nothing: write one line per file, with its uri")


def _csv_rows(path: str, stream: IO[str]) -> Iterator[_Row]:
    reader = csv.reader(stream, strict=True)
    columns = next(reader, None)
    if columns is not None:
        _require_uri(path, columns)
    while columns is not None:
        try:
            cells = next(reader, None)
        except csv.Error as exc:
            yield reader.line_num, ValueError(str(exc))
            continue
        if cells is None:
            return
        if len(cells) > len(columns) or 0 < len(cells) < len(columns):
            yield reader.line_num, ValueError(f"{len(cells)} cells under {len(columns)} columns")
        elif cells:
            row: Payload = {column: cell for column, cell in zip(columns, cells, strict=True) if cell != ""}
            try:
                if "payload" in row:
                    row["payload"] = _json(row["payload"])
            except ValueError as exc:
                yield reader.line_num, exc
            else:
                yield reader.line_num, row


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
        if not columns:
            columns = set(row)
            _require_uri(path, row)
        yield number, {key: value for key, value in row.items() if value is not None}


def _require_uri(path: str, columns: list[str] | Payload) -> None:
    if "uri" not in columns:
        found = ", ".join(map(printable, columns)) or "none"
        raise UnreadableSource(f"{path}: the manifest has no column 'uri' (its columns are {found}): add one")


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
        return Failure(where, f"{where}: not valid UTF-8", manifest)
    if is_remote(uri):
        return not_local(uri)
    local = unquote(uri[len("file://") :]) if uri.lower().startswith("file://") else uri
    path = os.path.abspath(os.path.join(os.path.dirname(manifest), os.path.expanduser(local)))
    item = kinds.named(path)
    if isinstance(item, Failure):
        return Failure(item.uri, f"{where}: {item.error}", manifest)
    return replace(item, caption=caption or None, payload=payload, source=manifest)
