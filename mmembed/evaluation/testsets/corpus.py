"""All that a test set can judge: every document or picture of a collection that can stand in its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from mmembed.collection import Collection
from mmembed.errors import InputError
from mmembed.evaluation.formats.beir import breaks_rows
from mmembed.evaluation.testsets.files import image_file, images_inside
from mmembed.evaluation.testsets.queries import query_key
from mmembed.evaluation.testsets.sampling import QuerySource, read_sources
from mmembed.types import Failure

_UNWRITABLE = (
    "is left out: a tab or another control character in a name breaks the rows of judgements, so rename the file and "
    "index it again"
)


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
    read = read_sources(collection, caption_key=caption_key)
    sources = [source for source in read if not breaks_rows(source.uri)]
    failures = [Failure(source.uri, f"{source.uri!r} {_UNWRITABLE}") for source in read if breaks_rows(source.uri)]
    if collection.require_ours().kind == "documents":
        return Corpus(tuple(sources), {}, tuple(failures))
    images: dict[str, Path] = {}
    inside = lru_cache(maxsize=1)(images_inside)  # the pictures of one document follow one another
    for source in sources:
        try:
            images[source.uri] = image_file(source, folder, inside)
        except InputError as exc:
            failures.append(Failure(source.uri, str(exc)))
    return Corpus(tuple(source for source in sources if source.uri in images), images, tuple(failures))
