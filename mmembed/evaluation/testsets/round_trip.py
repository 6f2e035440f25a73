"""The round trip: a query is worth keeping only if a search with it comes back to what it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mmembed.errors import InvalidQuery
from mmembed.evaluation.testsets.queries import Candidate
from mmembed.retrieval.api import search
from mmembed.types import Encoder, Store

__all__ = ["RoundTrip"]


@dataclass(frozen=True)
class RoundTrip:
    """Exact search, no graph: a query is dropped for what it says, never for what the index loses.

    What a vector cannot find is dropped, so the test set favours the encoder of that vector. Filter by one that is
    not among those to be compared, such as `bm25`, or do not filter at all.

    Args:
        vector_name: search by this vector alone; None: as users search, by all that take part.
        first: the source must be among so many hits.
    """

    vector_name: str | None = None
    first: int = 10

    def check(self, store: Store, collection: str) -> None:
        """Raise InvalidQuery where the collection has no such vector, or `first` is none."""
        contract = store.contract(collection)
        names = sorted(contract.vectors) if contract is not None else []
        if self.vector_name is not None and self.vector_name not in names:
            raise InvalidQuery(
                f"queries cannot be filtered by the vector {self.vector_name!r}, which collection {collection!r} has "
                f"not: it has {', '.join(names)}"
            )
        if self.first < 1:
            raise InvalidQuery(f"a source cannot be among the first {self.first} hits: give 1 or more")

    def kept(
        self,
        store: Store,
        collection: str,
        queries: Iterable[Candidate],
        *,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> Iterator[tuple[Candidate, bool]]:
        """Each query, and whether any of its sources is found."""
        for query in queries:
            hits = search(
                store,
                collection,
                text=query.text,
                vector_name=self.vector_name,
                limit=self.first,
                exact=True,
                encoders=encoders,
            )
            yield query, any(str(hit.payload["uri"]) in query.uris for hit in hits)
