"""All that a test set can judge: every document or picture of a collection that can stand in its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmembed.collection import Collection
from mmembed.evaluation.testsets.files import corpus_files, unwritable
from mmembed.evaluation.testsets.queries import query_key
from mmembed.evaluation.testsets.sampling import QuerySource, read_sources
from mmembed.types import Failure


@dataclass(frozen=True)
class Corpus:
    sources: tuple[QuerySource, ...]
    images: Mapping[str, Path]  # the file of each picture, by uri; none for documents
    failures: tuple[Failure, ...]  # what is left out, and why

    @cached_property
    def copies(self) -> Mapping[str, frozenset[str]]:
        """uri -> the uris of everything with the same contents, itself among them."""
        same: dict[str, set[str]] = defaultdict(set)
        for source in self.sources:
            same[source.content_hash or source.uri].add(source.uri)
        return {source.uri: frozenset(same[source.content_hash or source.uri]) for source in self.sources}

    def saying(self, texts_of: Callable[[QuerySource], list[str]]) -> Mapping[str, set[str]]:
        """Query key -> the uris of all that have this caption or heading, sampled or not."""
        uris: dict[str, set[str]] = defaultdict(set)
        for source in self.sources:
            for text in texts_of(source):
                uris[query_key(text)].add(source.uri)
        return uris


def read_corpus(collection: Collection, folder: Path, *, caption_key: str) -> Corpus:
    """Read the collection; pictures inside documents are taken out of them, into `folder`."""
    failures: list[Failure] = []
    sources: list[QuerySource] = []
    for source in read_sources(collection, caption_key=caption_key):
        problem = unwritable(source)
        if problem is None:
            sources.append(source)
        else:
            failures.append(problem)
    if collection.require_ours().kind == "documents":
        return Corpus(tuple(sources), {}, tuple(failures))
    images: dict[str, Path] = {}
    for source, file in corpus_files(sources, folder):
        if isinstance(file, Failure):
            failures.append(file)
        else:
            images[source.uri] = file
    return Corpus(tuple(source for source in sources if source.uri in images), images, tuple(failures))
