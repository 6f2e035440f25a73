"""The round trip: a query is worth keeping only if a search with it comes back to what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmembed.collection import Collection
from mmembed.errors import InvalidQuery
from mmembed.evaluation.testsets.queries import Candidate
from mmembed.retrieval.api import search_collection
from mmembed.retrieval.query import Search
from mmembed.types import Encoder


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

    def check(self, collection: Collection) -> None:
        """Raise InvalidQuery where the collection has no such vector, or `first` is none."""
        if self.vector_name is not None:
            collection.vector(self.vector_name)
        if self.first < 1:
            raise InvalidQuery(f"a source cannot be among the first {self.first} hits: give 1 or more")

    def finds(self, collection: Collection, query: Candidate, encoders: Mapping[str, Encoder]) -> bool:
        """Whether a search for it comes back to any of its sources."""
        search = Search(text=query.text, vector_name=self.vector_name, limit=self.first, exact=True)
        hits = search_collection(collection, search, encoder=None, encoders=encoders)
        return any(str(hit.payload["uri"]) in query.uris for hit in hits)
