"""A test set of one's own, without judgements: queries made from what a collection holds, and relevant to it.

    sampling.py    what a collection holds, and a sample of it
    queries.py     captions and headings as queries; which are the same, and which are none
    chat.py        queries from a chat model: what it is asked, and its answers, kept as they come
    corpus.py      what can be judged, and what can not
    round_trip.py  a query that does not find what it was made from is dropped
    making.py      from the sample to the queries that are kept
    files.py       corpus.jsonl, queries.jsonl, qrels/test.tsv: what `mmembed eval` reads

The corpus is all of the collection, not the sample alone: among a hundred documents nearly everything is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mmembed.collection import Collection
from mmembed.encoders.pool import SHARED
from mmembed.errors import InvalidTestSet, SettingsError
from mmembed.evaluation.corpus_index import OnStep
from mmembed.evaluation.testsets.chat import Chat
from mmembed.evaluation.testsets.corpus import read_corpus
from mmembed.evaluation.testsets.files import check_folder, write_files
from mmembed.evaluation.testsets.making import Making, QueriesFrom, way_of
from mmembed.evaluation.testsets.round_trip import RoundTrip
from mmembed.types import Encoder, Failure, Store

__all__ = ["Chat", "RoundTrip", "TestSetReport", "make_test_set"]

_AS_USERS_SEARCH = RoundTrip()


@dataclass(frozen=True)
class TestSetReport:
    """What was written, and what became of the rest."""

    folder: Path
    documents: int  # or pictures, in the corpus
    sampled: int
    queries: int
    judgements: int
    dropped: Mapping[str, int]  # queries, by reason: "not found again", "copied", "too long", "too common", "empty"
    failures: tuple[Failure, ...]


def make_test_set(
    store: Store,
    collection: str,
    folder: Path,
    *,
    queries_from: QueriesFrom = "auto",
    sample: int = 100,
    queries_each: int = 2,
    seed: int = 0,
    round_trip: RoundTrip | None = _AS_USERS_SEARCH,
    caption_key: str = "caption",
    encoders: Mapping[str, Encoder] | None = None,
    on_progress: OnStep | None = None,
) -> TestSetReport:
    """Sample documents or pictures, make queries for them, keep those that find them again, write a BEIR folder.

    A query is relevant to what it was made from, to copies of that under other names, and, where it is a caption or a
    heading, to everything that has the same. The same seed draws the same contents, wherever their files lie; answers
    of a chat model are kept in the folder, and a second run asks only for those that are missing.

    Args:
        queries_from: a chat model, "captions" of pictures, "headings" of documents; "auto": what the collection has.
        sample: at most so many documents or pictures.
        round_trip: how queries are filtered; None: not at all. With captions, unless it names a vector, it is by
            the vector `image`: by the captions themselves each would find its own.
        caption_key, encoders: the payload key with the caption of a picture; as for `search`.
        on_progress: called with what is being done, how much of it is done and how much there is.

    Raises:
        InvalidTestSet, InvalidQuery: no queries could be made, or none was kept; there is no vector to filter by.
        SettingsError: the folder is a file or holds another test set, or a number makes no sense.
        EncoderRefused, EncoderUnavailable: the chat model's server turns every request down, or does not answer.
    """
    if sample < 1 or queries_each < 1:
        raise SettingsError(f"a sample of {sample} with {queries_each} queries each is none: give 1 or more")
    # 1. what there is, and how queries are made of it
    where = Collection(store, collection)
    way = way_of(queries_from, where)
    if round_trip is not None:
        if way == "captions" and round_trip.vector_name is None:
            round_trip = RoundTrip("image", round_trip.first)
        round_trip.check(where)
    check_folder(folder)
    corpus = read_corpus(where, folder, caption_key=caption_key)
    # 2. queries for a sample of it, and those that find it again
    making = Making(corpus, way, sample, queries_each, seed, on_progress)
    if not making.drawn:
        raise InvalidTestSet(making.nothing(collection, caption_key))
    queries = making.candidates(folder)
    if round_trip is not None:
        finds = partial(round_trip.finds, where, encoders=SHARED if encoders is None else encoders)
        queries = making.filtered(queries, finds)
    if not queries:
        raise InvalidTestSet(making.none_left(collection))
    # 3. the files
    encoder_names = {name: vector.encoder for name, vector in where.require_ours().vectors.items()}
    facts = {"collection": collection, "encoders": encoder_names, **making.facts()}
    facts["round_trip"] = round_trip and asdict(round_trip)
    write_files(folder, corpus.sources, corpus.images, queries, facts)
    judged, failures = sum(len(query.uris) for query in queries), (*corpus.failures, *making.failures)
    documents, sampled = len(corpus.sources), len(making.drawn)
    return TestSetReport(folder, documents, sampled, len(queries), judged, dict(making.dropped), failures)
