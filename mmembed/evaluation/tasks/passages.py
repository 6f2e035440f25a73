"""Retrieval of texts as this product does it: cut into passages, searched by meaning and by words, the best counts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmembed.encoders.pool import Encoders
from mmembed.errors import InvalidTestSet, SettingsError
from mmembed.evaluation.corpus_index import NOTE, Indexed, OnProgress, may_write
from mmembed.evaluation.measures import MEASURES
from mmembed.evaluation.report import Report
from mmembed.evaluation.tasks.searches import measure_collection
from mmembed.evaluation.testset import Document, TestSet
from mmembed.ingest import IngestReport, ingest_documents
from mmembed.types import Encoder, Failure, Hit, Store

__all__ = ["evaluate_passages"]


def evaluate_passages(
    store: Store,
    collection: str,
    test_set: TestSet,
    *,
    encoder: Encoder,
    task: str | None = None,
    measures: Sequence[str] = MEASURES,
    on_progress: OnProgress | None = None,
) -> Report:
    """Index the corpus by `ingest_documents` and ask by `search`; other arguments as of `evaluate_retrieval`.

    Each document is a file of its own for the time of this call. Empty ones become failures, as empty files do, and
    are found by no search. Raises SettingsError for pictures, which have no passages, and what these two raise.
    """
    if any(document.image is not None for document in test_set.corpus.values()):
        raise SettingsError("the corpus holds pictures, which have no passages: leave --passages away")
    if not may_write(store, collection):
        raise InvalidTestSet(
            f"collection {collection!r} was not made by an evaluation, so no test set is indexed into it: name a "
            f"collection that is not there yet"
        )
    with tempfile.TemporaryDirectory(prefix="mmembed-") as temporary:
        documents = _write_files(Path(temporary).resolve(), test_set.corpus)

        def tell(report: IngestReport) -> None:
            _note(store, collection)
            if on_progress is not None:
                on_progress("documents", report.done, len(documents))

        done = ingest_documents(
            store, collection, [Path(temporary).resolve()], encoder=encoder, pictures_into=None, on_progress=tell
        )
    if not done.stored:
        raise InvalidTestSet(f"none of {len(documents):,} documents has a text: there are no passages to search")
    _forget_others(store, collection, documents)
    failures = tuple(Failure(documents.get(f.uri, f.uri), _bare(f.error)) for f in done.failures)

    def key(hit: Hit) -> str:
        return documents[str(hit.payload["uri"])]

    return measure_collection(
        store,
        collection,
        test_set.judged,
        test_set.qrels,
        key=key,
        name=encoder.spec.name,
        encoders=Encoders(loaded=[encoder]),
        query_task=task,
        task=f"retrieval by passages, {test_set.name}",
        documents=len(documents),
        measures=measures,
        warnings=(*test_set.warnings, *Indexed(collection, "", {}, failures).warnings),
        on_progress=on_progress,
    )


def _write_files(folder: Path, corpus: Mapping[str, Document]) -> dict[str, str]:
    """One text file a document -> uri of the file -> document."""
    documents = {}
    for number, (id, document) in enumerate(corpus.items()):
        file = folder / f"{number}.txt"
        file.write_text(f"{document.whole_text}\n", encoding="utf-8")
        documents[str(file)] = id
    return documents


def _note(store: Store, collection: str) -> None:
    contract = store.contract(collection)
    if contract is not None and NOTE not in contract.notes:
        store.set_note(collection, NOTE, {"holds": "passages"})


def _forget_others(store: Store, collection: str, documents: dict[str, str]) -> None:
    """Remove what an earlier run stored: its files are gone, and this one has taken over the vectors of equal texts."""
    points = store.scroll(collection, payload=["uri"])
    store.delete(collection, [point.id for point in points if point.payload["uri"] not in documents])


def _bare(error: str) -> str:
    """The sentence without the path of a file that is gone."""
    return error.rpartition(".txt: ")[2]
