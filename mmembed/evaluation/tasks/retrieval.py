"""Retrieval of documents by queries: a corpus, queries and judgements, as BEIR, TREC and mteb have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmembed.collection import Collection
from mmembed.evaluation.comparison import UNASKED, DocumentScores, facts_of, measure_search
from mmembed.evaluation.corpus_index import IndexedCorpus, OnStep, encode_inputs, index_corpus, warning_of
from mmembed.evaluation.measures import MEASURES, parse_measures
from mmembed.evaluation.report import Report
from mmembed.evaluation.testset import TestSet
from mmembed.types import Encoder, Failure, Leg, Store, StoreQuery, Vector


def evaluate_retrieval(
    store: Store,
    collection: str,
    test_set: TestSet,
    *,
    encoder: Encoder,
    task: str | None = None,
    measures: Sequence[str] = MEASURES,
    on_progress: OnStep | None = None,
) -> Report:
    """One vector a document and one a query, as mteb and BEIR have it; see `index_corpus` for how and what raises.

    Args:
        collection: made where it is not there, kept, and taken up again by the next run.
        task: named task or instruction of the queries, for encoders that take one.
    """
    indexed = index_corpus(Collection(store, collection), test_set.corpus, encoder=encoder, on_progress=on_progress)
    failures: list[Failure] = []
    queries = encode_inputs(encoder, test_set.judged, failures, role="query", task=task)
    return measure_indexed(
        indexed,
        test_set,
        queries,
        encoder=encoder,
        task=f"retrieval, {test_set.name}",
        measures=measures,
        failures=failures,
        on_progress=on_progress,
    )


def measure_indexed(
    indexed: IndexedCorpus,
    test_set: TestSet,
    queries: Mapping[str, Vector],
    *,
    encoder: Encoder,
    task: str,
    measures: Sequence[str],
    failures: Sequence[Failure] = (),
    on_progress: OnStep | None = None,
) -> Report:
    """Search an indexed corpus by the vectors of the queries; a query without one finds nothing and counts 0."""
    where = indexed.collection

    def search(query: str, limit: int, exact: bool) -> DocumentScores:
        if query not in queries:
            return {}
        legs = [Leg(indexed.vector_name, queries[query])]
        hits = where.store.query(where.name, StoreQuery(legs, limit=limit, exact=exact))
        return {document: hit.score for hit in hits for document in indexed.documents.get(hit.id, (hit.id,))}

    judged = list(test_set.judged)
    system = measure_search(
        encoder.spec.name, search, judged, test_set.qrels, measures=measures, on_progress=on_progress
    )
    return Report(
        task=task,
        systems=(system,),
        queries=len(judged),
        documents=len(test_set.corpus),
        measures=parse_measures(measures),
        warnings=(*test_set.warnings, *indexed.warnings, *warning_of(failures, UNASKED)),
        facts=facts_of(encoder, where),
    )
