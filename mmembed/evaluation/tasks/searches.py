"""Your own searches: a log, or a handful of judged queries, asked of a collection as its users ask it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL.Image import Image

from mmembed.collection import Collection
from mmembed.encoders.pool import SHARED
from mmembed.encoders.wrapper import RepeatedQueries
from mmembed.errors import InputError, InvalidTestSet
from mmembed.evaluation.comparison import UNASKED, DocumentScores, facts_of, measure_search
from mmembed.evaluation.corpus_index import OnStep, warning_of
from mmembed.evaluation.formats.lines import a_few
from mmembed.evaluation.formats.search_log import SearchLog
from mmembed.evaluation.measures import MEASURES, parse_measures
from mmembed.evaluation.report import Report
from mmembed.images import load_image
from mmembed.retrieval.api import search_collection
from mmembed.retrieval.query import Search
from mmembed.types import Encoder, Failure, Hit, Store


def evaluate_searches(
    store: Store,
    collection: str,
    log: SearchLog,
    *,
    encoder: Encoder | None = None,
    name: str | None = None,
    query_task: str | None = None,
    measures: Sequence[str] = MEASURES,
    encoders: Mapping[str, Encoder] | None = None,
    on_progress: OnStep | None = None,
) -> Report:
    """Ask `mmembed.search` every query of the log that has something relevant, as the collection's users do.

    What is relevant is named by uri, by the id of a point, or by a file name that only one uri has. What the
    collection does not hold stays relevant, and a warning counts it: no search can find it.

    Args:
        encoder: for a collection that is not ours; any other remembers its own, and this must be it.
        encoders: as `search` takes them.
        name: of the system in the report; None: the collection's.

    Raises:
        InvalidTestSet: a file name that several uris have.
        CollectionNotFound, CollectionMismatch, InvalidQuery, StoreUnavailable, as `search` does.
    """
    where = Collection(store, collection)
    contract = where.contract
    whole = contract is not None and contract.kind == "documents"
    qrels, absent = _resolved(where, log, whole=whole)
    if absent:
        lost = (
            f"collection {collection!r} does not hold {len(absent):,} of the relevant things, which stay relevant "
            f"and are found by no search: {a_few(absent)}"
        )
        log = replace(log, warnings=(*log.warnings, lost))
    queries = {id: query for id, query in log.queries.items() if any(g > 0 for g in qrels[id].values())}
    return measure_collection(
        where,
        replace(log, name=f"searches, {log.name}", queries=queries, qrels=qrels),
        document=lambda hit: str(hit.payload["uri"]) if whole else hit.id,
        documents=store.count(collection, filter=where.heads()),
        task=query_task,
        measures=measures,
        name=name or collection,
        encoder=encoder,
        encoders=encoders,
        on_progress=on_progress,
    )


def measure_collection(
    collection: Collection,
    log: SearchLog,
    *,
    document: Callable[[Hit], str],
    documents: int,
    task: str | None,
    name: str,
    measures: Sequence[str],
    encoder: Encoder | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    on_progress: OnStep | None = None,
) -> Report:
    """Ask `mmembed.search` each query of a log, all of which have something relevant; the report has the log's name.

    Hits count in the order in which they are shown: fused scores of one search are not always comparable.

    Args:
        document: what a hit is called in the judgements.
        documents: how many could be found.
        task: of the queries, for encoders that take one.
        name: of the system.
    """
    failures: list[Failure] = []
    once = RepeatedQueries(SHARED if encoders is None else encoders)
    repeated = once.of(encoder) if encoder is not None else None

    @lru_cache(maxsize=1)  # of the last query alone: a log may have thousands
    def image_of(id: str, file: Path) -> Image | None:
        try:
            return load_image(file, uri=file.name)
        except InputError as exc:
            failures.append(Failure(id, str(exc)))
            return None

    def search(id: str, limit: int, exact: bool) -> DocumentScores:
        query, filter = log.queries[id], log.filters.get(id)
        image = None if query.image is None else image_of(id, query.image)
        if query.image is not None and image is None:
            return {}
        whole = Search(text=query.text, image=image, task=task, filter=filter, limit=limit, exact=exact)
        hits = search_collection(collection, whole, encoder=repeated, encoders=once)
        return {document(hit): -float(place) for place, hit in enumerate(hits)}

    queries = list(log.queries)
    system = measure_search(name, search, queries, log.qrels, measures=measures, on_progress=on_progress)
    if encoder is None:  # that of the collection's first vector stands for all
        vectors = collection.require_ours().vectors
        encoder = collection.encoder(next(of for of in ("image", "text", *vectors) if of in vectors), once)
    return Report(
        task=log.name,
        systems=(system,),
        queries=len(queries),
        documents=documents,
        measures=parse_measures(measures),
        warnings=(*log.warnings, *warning_of(failures, UNASKED)),
        facts=facts_of(encoder, collection),
    )


def _resolved(collection: Collection, log: SearchLog, *, whole: bool) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Query -> what it should find, as hits are called, -> grade; and the names of what the collection lacks."""
    points = collection.store.scroll(collection.name, filter=collection.heads(), payload=["uri", "document_id"])
    by_uri: dict[str, str] = {}
    by_name: dict[str, set[str]] = {}
    ids: dict[str, str] = {}
    for point in points:
        uri = str(point.payload.get("uri", point.id))
        called = uri if whole else point.id
        by_uri[uri] = ids[point.id] = ids[str(point.payload.get("document_id", point.id))] = called
        by_name.setdefault(uri.rpartition("/")[2], set()).add(called)
    qrels: dict[str, dict[str, int]] = {}
    absent: dict[str, None] = {}
    for query, grades in log.qrels.items():
        resolved = qrels.setdefault(query, {})
        for named, grade in grades.items():
            found = by_uri.get(named) or ids.get(named) or by_uri.get(os.path.abspath(log.folder / named))
            if found is None and len(by_name.get(named, ())) > 1:
                raise InvalidTestSet(
                    f"{log.name}: {named!r} is relevant to a query, and collection {collection.name!r} has "
                    f"{len(by_name[named])} files of that name: write the whole path"
                )
            found = found or next(iter(by_name.get(named, ())), None)
            if found is None and grade > 0:
                absent.setdefault(named)
            resolved[found or named] = max(grade, resolved.get(found or named, grade))
    return qrels, list(absent)
