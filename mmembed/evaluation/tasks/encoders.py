"""Two encoders on your own searches: the files of a collection, indexed anew by each for the time of a measurement."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmembed.collection import Collection
from mmembed.collection.payload import OURS
from mmembed.encoders.pool import Encoders
from mmembed.errors import InvalidTestSet
from mmembed.evaluation.corpus_index import OnStep, ingest_progress
from mmembed.evaluation.formats.search_log import SearchLog
from mmembed.evaluation.measures import MEASURES
from mmembed.evaluation.report import Report
from mmembed.evaluation.tasks.searches import evaluate_searches
from mmembed.ingest import ingest_documents, ingest_images
from mmembed.stores import open_store
from mmembed.types import Encoder, Store


def evaluate_encoders(
    store: Store,
    collection: str,
    log: SearchLog,
    encoders: Iterable[Encoder],
    *,
    query_task: str | None = None,
    measures: Sequence[str] = MEASURES,
    on_progress: OnStep | None = None,
) -> list[Report]:
    """A report of each encoder: the collection's files in a temporary store, with their captions and payloads.

    What has no file any more, as pictures inside documents have none, is left out and counted. Raises InvalidTestSet
    where no file is there, CollectionNotOurs, and what indexing and `evaluate_searches` raise.
    """
    reports = []
    with tempfile.TemporaryDirectory(prefix="mmembed-eval-") as folder:
        files = _files_of(Collection(store, collection), Path(folder) / "files.jsonl")
        with closing(open_store(f"edge:{Path(folder) / 'store.mm'}")) as anew:
            for number, encoder in enumerate(encoders, 1):
                _index(Collection(anew, f"{collection}-{number}"), files, encoder, on_progress)
                report = evaluate_searches(
                    anew,
                    f"{collection}-{number}",
                    log,
                    name=encoder.spec.name,
                    encoders=Encoders(loaded=[encoder]),
                    query_task=query_task,
                    measures=measures,
                    on_progress=on_progress,
                )
                reports.append(replace(report, warnings=(*files.warnings, *report.warnings)))
    return reports


@dataclass(frozen=True)
class _Files:
    kind: Literal["images", "documents"]
    manifest: Path
    count: int
    warnings: tuple[str, ...]


def _files_of(collection: Collection, manifest: Path) -> _Files:
    """Write a manifest of the collection's files, with what other manifests had said of them."""
    contract = collection.require_ours()
    ours = OURS["image" if contract.kind == "images" else "text"] | {"caption", "thumbnail"}
    there = gone = 0
    with manifest.open("w", encoding="utf-8") as lines:
        for point in collection.store.scroll(collection.name, filter=collection.heads()):
            uri = str(point.payload["uri"])
            if not Path(uri).is_file():
                gone += 1
                continue
            there += 1
            payload = {key: value for key, value in point.payload.items() if key not in ours}
            row = {"uri": uri, "caption": point.payload.get("caption"), "payload": payload}
            lines.write(json.dumps({key: value for key, value in row.items() if value}) + "\n")
    if not there:
        raise InvalidTestSet(
            f"collection {collection.name!r} names {gone:,} files and none of them exists any more, so nothing can be "
            f"indexed again: compare two collections that exist"
        )
    lost = (
        f"{gone:,} of {there + gone:,} things in {collection.name!r} have no file that could be indexed again: left out"
    )
    return _Files(contract.kind, manifest, there, (lost,) if gone else ())


def _index(anew: Collection, files: _Files, encoder: Encoder, on_progress: OnStep | None) -> None:
    tell = ingest_progress(on_progress, f"files, {encoder.spec.name}", files.count)
    store, name = anew.store, anew.name
    if files.kind == "images":
        report = ingest_images(store, name, [files.manifest], encoder=encoder, on_progress=tell)
    else:
        report = ingest_documents(store, name, [files.manifest], encoder=encoder, images_into=None, on_progress=tell)
    if not report.stored:
        raise InvalidTestSet(
            f"none of the {files.count:,} files could be indexed again ({report.failures[0].error}): look at them"
        )
