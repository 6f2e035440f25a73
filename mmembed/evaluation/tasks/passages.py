"""Retrieval of texts as this product does it: cut into passages, searched by meaning and by words, the best counts."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmembed.collection import Collection
from mmembed.encoders.pool import Encoders
from mmembed.errors import InvalidTestSet, SettingsError
from mmembed.evaluation.corpus_index import NOTE, IndexedCorpus, OnStep, may_write
from mmembed.evaluation.formats.search_log import SearchLog
from mmembed.evaluation.measures import MEASURES
from mmembed.evaluation.report import Report
from mmembed.evaluation.tasks.searches import measure_collection
from mmembed.evaluation.testset import CorpusDocument, TestSet
from mmembed.ingest import IngestReport, ingest_documents
from mmembed.types import Encoder, Failure, Store


def evaluate_passages(
    store: Store,
    collection: str,
    test_set: TestSet,
    *,
    encoder: Encoder,
    task: str | None = None,
    measures: Sequence[str] = MEASURES,
    on_progress: OnStep | None = None,
) -> Report:
    """Index the corpus by `ingest_documents` and ask by `search`; other arguments as of `evaluate_retrieval`.

    Each document is a file of its own for the time of this call. Empty ones become failures, as empty files do, and
    are found by no search. Raises SettingsError for pictures, which have no passages, and what these two raise.
    """
    if any(document.image is not None for document in test_set.corpus.values()):
        raise SettingsError("the corpus holds pictures, which have no passages: measure it whole")
    where = Collection(store, collection)
    if not may_write(where):
        raise InvalidTestSet(
            f"collection {collection!r} was not made by an evaluation, so no test set is indexed into it: name a "
            f"collection that is not there yet"
        )
    with tempfile.TemporaryDirectory(prefix="mmembed-") as temporary:
        documents = _write_files(Path(temporary).resolve(), test_set.corpus)

        def tell(report: IngestReport) -> None:
            if where.contract is not None and where.note(NOTE) is None:
                store.set_note(collection, NOTE, {"holds": "passages"})
            if on_progress is not None:
                on_progress("documents", report.done, len(documents))

        done = ingest_documents(
            store, collection, [Path(temporary).resolve()], encoder=encoder, images_into=None, on_progress=tell
        )
    if not done.stored:
        raise InvalidTestSet(f"none of {len(documents):,} documents has a text: there are no passages to search")
    # what an earlier run stored: its files are gone, and this one has taken over the vectors of equal texts
    points = store.scroll(collection, payload=["uri"])
    store.delete(collection, [point.id for point in points if point.payload["uri"] not in documents])
    failures = tuple(  # each a sentence without the path of its file, which is gone
        Failure(documents.get(f.uri, f.uri), f.error.rpartition(".txt: ")[2]) for f in done.failures
    )
    warnings = (*test_set.warnings, *IndexedCorpus(where, "", {}, failures).warnings)
    name = f"retrieval by passages, {test_set.name}"
    return measure_collection(
        where,
        SearchLog(name, Path(), test_set.judged, test_set.qrels, warnings=warnings),
        document=lambda hit: documents[str(hit.payload["uri"])],
        documents=len(documents),
        task=task,
        measures=measures,
        name=encoder.spec.name,
        encoders=Encoders(loaded=[encoder]),
        on_progress=on_progress,
    )


def _write_files(folder: Path, corpus: Mapping[str, CorpusDocument]) -> dict[str, str]:
    """One text file a document -> uri of the file -> document."""
    documents = {}
    for number, (id, document) in enumerate(corpus.items()):
        file = folder / f"{number}.txt"
        file.write_text(f"{document.whole_text}\n", encoding="utf-8")
        documents[str(file)] = id
    return documents
