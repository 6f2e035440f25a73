"""Your own searches: a log, or a handful of judged queries, asked of a collection as its users ask it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from PIL.Image import Image
from qdrant_client.models import Filter

from mmembed.collection import Collection
from mmembed.encoders.pool import SHARED
from mmembed.encoders.wrapper import RepeatedQueries
from mmembed.errors import InvalidQuery, InvalidTestSet
from mmembed.evaluation.compare import Found, facts_of, measure_search
from mmembed.evaluation.corpus_index import OnProgress, load_pictures
from mmembed.evaluation.formats.search_log import SearchLog
from mmembed.evaluation.measures import MEASURES, Qrels, parse_measures
from mmembed.evaluation.report import Report
from mmembed.evaluation.testset import Query
from mmembed.retrieval.api import search as search_collection
from mmembed.types import Contract, Encoder, Failure, Hit, Store

__all__ = ["evaluate_searches", "measure_collection"]

_SHOWN = 3


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
    on_progress: OnProgress | None = None,
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
    contract = store.contract(collection)
    qrels, absent = _resolved(store, collection, contract, log)
    warnings = list(log.warnings)
    if absent:
        warnings.append(
            f"collection {collection!r} does not hold {len(absent):,} of the relevant things, which stay relevant "
            f"and are found by no search: {', '.join(absent[:_SHOWN])}{', ...' if len(absent) > _SHOWN else ''}"
        )
    whole = contract is not None and contract.kind == "documents"
    return measure_collection(
        store,
        collection,
        {id: query for id, query in log.queries.items() if any(g > 0 for g in qrels[id].values())},
        qrels,
        key=lambda hit: str(hit.payload["uri"]) if whole else hit.id,
        filters=log.filters,
        name=name or collection,
        encoder=encoder,
        query_task=query_task,
        task=f"searches, {log.name}",
        documents=store.count(collection, filter=Collection(store, collection).heads()),
        measures=measures,
        encoders=encoders,
        warnings=tuple(warnings),
        on_progress=on_progress,
    )


def measure_collection(
    store: Store,
    collection: str,
    queries: Mapping[str, Query],
    qrels: Qrels,
    *,
    key: Callable[[Hit], str],
    task: str,
    documents: int,
    measures: Sequence[str],
    filters: Mapping[str, Filter] | None = None,
    name: str | None = None,
    encoder: Encoder | None = None,
    query_task: str | None = None,
    encoders: Mapping[str, Encoder] | None = None,
    warnings: tuple[str, ...] = (),
    on_progress: OnProgress | None = None,
) -> Report:
    """Ask `mmembed.search` each query; `key` says which document a hit is.

    Hits count in the order in which they are shown: fused scores of one search are not always comparable.
    """
    failures: list[Failure] = []
    pictures: dict[str, Image | None] = {}  # of the last query alone: a log may have thousands
    once = RepeatedQueries(SHARED if encoders is None else encoders)
    given = once.of(encoder) if encoder is not None else None

    def search(id: str, limit: int, exact: bool) -> Found:
        if id not in pictures:
            pictures.clear()
            pictures[id] = _picture(id, queries[id], failures)
        if queries[id].image is not None and pictures[id] is None:
            return {}
        hits = search_collection(
            store,
            collection,
            text=queries[id].text,
            image=pictures[id],
            encoder=given,
            encoders=once,
            task=query_task,
            filter=(filters or {}).get(id),
            limit=limit,
            exact=exact,
        )
        return {key(hit): -float(place) for place, hit in enumerate(hits)}

    measured = encoder or _remembered(Collection(store, collection), once)
    system = measure_search(
        name or measured.spec.name, search, list(queries), qrels, measures=measures, on_progress=on_progress
    )
    if failures:
        warnings = (*warnings, f"{len(failures):,} queries cannot be asked and count 0: {failures[0].error}")
    return Report(
        task=task,
        systems=(system,),
        queries=len(queries),
        documents=documents,
        measures=parse_measures(measures),
        warnings=warnings,
        facts=facts_of(measured, collection, store.count(collection)),
    )


def _picture(id: str, query: Query, failures: list[Failure]) -> Image | None:
    """Of a query that has one; None, and a failure, where it cannot be read."""
    return dict(load_pictures({id: query.image}, failures)).get(id) if query.image is not None else None


def _remembered(collection: Collection, encoders: Mapping[str, Encoder]) -> Encoder:
    """The encoder of the collection's first vector, for the facts of the report."""
    contract = collection.contract
    if contract is None:
        raise InvalidQuery(
            f"collection {collection.name!r} was not made by mmembed and does not say which encoder made its vectors: "
            f"name it (--encoder)"
        )
    vector = next(name for name in ("image", "text", *contract.vectors) if name in contract.vectors)
    return collection.encoder(vector, encoders)


def _resolved(
    store: Store, collection: str, contract: Contract | None, log: SearchLog
) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Query -> what it should find, as hits are called, -> grade; and the names of what the collection lacks."""
    documents = contract is not None and contract.kind == "documents"
    by_uri: dict[str, str] = {}
    by_name: dict[str, set[str]] = {}
    ids: dict[str, str] = {}
    for point in store.scroll(collection, filter=Collection(store, collection).heads(), payload=["uri", "document_id"]):
        uri = str(point.payload.get("uri", point.id))
        called = uri if documents else point.id
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
                    f"{log.name}: {named!r} is relevant to a query, and collection {collection!r} has "
                    f"{len(by_name[named])} files of that name: write the whole path"
                )
            found = found or next(iter(by_name.get(named, ())), None)
            if found is None and grade > 0:
                absent.setdefault(named)
            known = resolved.get(found or named)
            resolved[found or named] = grade if known is None else max(grade, known)
    return qrels, list(absent)
