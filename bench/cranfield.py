"""Retrieval on the Cranfield collection through mmembed: nDCG@10 of MiniLM, BM25 and their fusion.

    MMEMBED_TEST_DATA=FOLDER python bench/cranfield.py [--json OUT] [--abstracts 1400] [--queries 225]

Once with one vector an abstract (title and text joined by a space, truncated), which is how the reference figures
were made, and once as a user would: text files through `ingest_documents`, cut into passages, searched by `search`.
Judged 1 to 4 is relevant, judged -1 is not. Fewer abstracts or queries make other figures: then no level is set.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import ir_measures
from ir_measures import nDCG
from lines import Lines, arguments

from mmembed import (
    Contract,
    Encoder,
    Hit,
    Leg,
    Point,
    Store,
    StoreQuery,
    ingest_documents,
    load_encoder,
    open_store,
    search,
)
from mmembed.collection.prepare import vector_contract
from mmembed.evaluation.formats import cranfield as evaluation

DENSE, TOLERANCE, HYBRID = 0.3995, 0.0005, 0.43
ABSTRACTS, QUERIES = 1400, 225
COLLECTION = "abstracts"

Search = Callable[[str], list[Hit]]


@dataclass(frozen=True)
class Cranfield:
    abstracts: dict[str, tuple[str, str]]  # number -> title and text; two are empty
    queries: dict[str, str]
    qrels: list[ir_measures.Qrel]  # relevance 1 or 0


def read_cranfield(folder: Path, *, abstracts: int, queries: int) -> Cranfield:
    """The first `abstracts` and `queries`, and the judgements on both; queries are numbered by position from 1."""
    whole = evaluation.read_cranfield(folder)
    texts = {number: (document.title, document.text) for number, document in islice(whole.corpus.items(), abstracts)}
    asked = {number: query.text or "" for number, query in islice(whole.queries.items(), queries)}
    qrels = [
        ir_measures.Qrel(query, abstract, grade)
        for query in asked
        for abstract, grade in whole.qrels[query].items()
        if abstract in texts
    ]
    return Cranfield(texts, asked, qrels)


def ndcg(cranfield: Cranfield, found: Search, number_of: Callable[[Hit], str]) -> float:
    """Mean nDCG@10 over the queries that have a relevant abstract; ranks as the store gave them."""
    run = [
        ir_measures.ScoredDoc(query, number_of(hit), -rank)
        for query, text in cranfield.queries.items()
        for rank, hit in enumerate(found(text))
    ]
    value: float = ir_measures.calc_aggregate([nDCG @ 10], cranfield.qrels, run)[nDCG @ 10]
    return value


def index_whole(store: Store, cranfield: Cranfield, minilm: Encoder, bm25: Encoder) -> None:
    """One point an abstract, with the vectors `text` and `bm25`."""
    contract = Contract("documents", {"text": vector_contract(minilm, "text"), "bm25": vector_contract(bm25, "text")})
    store.create(COLLECTION, contract, indexes={"number": "keyword"})
    texts = [f"{title} {text}" for title, text in cranfield.abstracts.values()]
    rows, words = minilm.encode_text(texts, role="document"), bm25.encode_text(texts, role="document")
    store.upsert(
        COLLECTION,
        [
            Point(str(uuid.UUID(int=int(number))), {"text": row, "bm25": word}, {"number": number})
            for number, row, word in zip(cranfield.abstracts, rows, words, strict=True)
        ],
    )
    store.optimize(COLLECTION)


def whole_searches(store: Store, minilm: Encoder, bm25: Encoder) -> dict[str, Callable[[str, bool], list[Hit]]]:
    """Name of a search -> (text, exact) -> hits."""

    def legs(text: str, names: Sequence[str]) -> list[Leg]:
        made_by = {"text": minilm, "bm25": bm25}
        return [Leg(name, made_by[name].encode_text([text], role="query")[0]) for name in names]

    def ask(names: Sequence[str], text: str, exact: bool) -> list[Hit]:
        return store.query(COLLECTION, StoreQuery(legs(text, names), limit=10, exact=exact, depth=100, rrf_k=60))

    named = {"minilm": ["text"], "bm25": ["bm25"], "hybrid RRF k=60 depth 100": ["text", "bm25"]}
    return {what: partial(ask, names) for what, names in named.items()}


def measure_whole(lines: Lines, folder: Path, cranfield: Cranfield, minilm: Encoder, *, levels: bool) -> None:
    bm25 = load_encoder("bm25")
    store = open_store(f"edge:{folder / 'whole.mm'}")
    index_whole(store, cranfield, minilm, bm25)
    for what, ask in whole_searches(store, minilm, bm25).items():
        at_least = at_most = None
        if levels and what == "minilm":
            at_least, at_most = round(DENSE - TOLERANCE, 4), round(DENSE + TOLERANCE, 4)
        elif levels and what != "bm25":
            at_least = HYBRID
        for exact in (True, False):
            value = ndcg(cranfield, partial(_ask, ask, exact), lambda hit: str(hit.payload["number"]))
            name = f"{what}, one vector an abstract, {'exact' if exact else 'by the search graph'}"
            lines.add(name, value, unit="nDCG@10", at_least=at_least, at_most=at_most)
    store.close()


def _ask(ask: Callable[[str, bool], list[Hit]], exact: bool, text: str) -> list[Hit]:
    return ask(text, exact)


def measure_passages(lines: Lines, folder: Path, cranfield: Cranfield, minilm: Encoder) -> None:
    files = folder / "files"
    files.mkdir()
    for number, (title, text) in cranfield.abstracts.items():  # the two empty ones become failures
        (files / f"{number}.txt").write_text(f"{title} {text}\n")
    store = open_store(f"edge:{folder / 'passages.mm'}")
    report = ingest_documents(store, COLLECTION, [files], encoder=minilm, images_into=None)
    facts = {"documents": report.embedded, "failures": len(report.failures), "passages": store.count(COLLECTION)}
    for what, vector in (("minilm", "text"), ("bm25", "bm25"), ("hybrid", None)):
        found = partial(_search, store, vector, None if vector == "bm25" else minilm)
        value = ndcg(cranfield, found, lambda hit: Path(hit.payload["uri"]).stem)
        lines.add(f"{what}, text files through ingest_documents and search", value, unit="nDCG@10", **facts)
    store.close()


def _search(store: Store, vector: str | None, encoder: Encoder | None, text: str) -> list[Hit]:
    return search(store, COLLECTION, text=text, vector_name=vector, encoder=encoder, limit=10)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--abstracts", type=int, default=ABSTRACTS)
    parser.add_argument("--queries", type=int, default=QUERIES)
    options = parser.parse_args()
    data = os.environ.get("MMEMBED_TEST_DATA")
    if not data:
        parser.error("MMEMBED_TEST_DATA is not set: it names the folder that has text/cranfield in it")
    cranfield = read_cranfield(Path(data) / "text" / "cranfield", abstracts=options.abstracts, queries=options.queries)
    lines, minilm = Lines("cranfield", options.json), load_encoder("minilm")
    with tempfile.TemporaryDirectory() as temporary:
        whole = options.abstracts >= ABSTRACTS and options.queries >= QUERIES
        measure_whole(lines, Path(temporary), cranfield, minilm, levels=whole)
        measure_passages(lines, Path(temporary), cranfield, minilm)
    lines.exit()


if __name__ == "__main__":
    main()
