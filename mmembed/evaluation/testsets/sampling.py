"""What a collection holds, as what a test set is made of: whole documents or pictures, and a sample of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from mmembed.collection import Collection
from mmembed.types import Payload

_T = TypeVar("_T")

_LONGEST_OVERLAP = 600  # characters that neighbouring passages may share
_SHORTEST_OVERLAP = 12  # fewer are the same by chance


@dataclass(frozen=True)
class SourcePassage:
    text: str
    headings: tuple[str, ...]  # from the outermost


@dataclass(frozen=True)
class QuerySource:
    """One document, or one picture: what a search finds, and so what is judged."""

    uri: str
    title: str = ""
    passages: tuple[SourcePassage, ...] = ()  # in reading order; a picture has none
    caption: str = ""
    content_hash: str | None = None
    inside: str | None = None  # the document that a picture was taken out of

    @property
    def lot(self) -> str:
        """What it is drawn by: its contents, wherever they lie."""
        return self.content_hash or self.uri


def read_sources(collection: Collection, *, caption_key: str = "caption") -> list[QuerySource]:
    """Everything in the collection, sorted by uri; all texts are held in memory.

    Args:
        caption_key: the payload key that says what a picture shows.
    """
    read = [
        *("uri", "title", "text", "headings", "passage", "content_hash", "document"),
        *([caption_key] if caption_key else []),
    ]
    kind, points = collection.require_ours().kind, collection.store.scroll(collection.name, payload=read)
    if kind == "images":
        found = (_image(point.payload, caption_key) for point in points if point.payload)
        return sorted(found, key=lambda source: source.uri)
    passages: dict[str, list[Payload]] = defaultdict(list)
    for point in points:
        passages[str(point.payload["uri"])].append(point.payload)
    return [_document(uri, passages[uri]) for uri in sorted(passages)]


def _image(payload: Payload, caption_key: str) -> QuerySource:
    caption = payload.get(caption_key)
    return QuerySource(
        str(payload["uri"]),
        caption=caption if isinstance(caption, str) else "",
        content_hash=payload.get("content_hash"),
        inside=payload.get("document"),
    )


def _document(uri: str, payloads: list[Payload]) -> QuerySource:
    payloads.sort(key=lambda payload: int(payload["passage"]))
    passages = tuple(SourcePassage(str(p["text"]), tuple(map(str, p.get("headings") or ()))) for p in payloads)
    first = payloads[0]
    return QuerySource(uri, str(first.get("title") or ""), passages, content_hash=first.get("content_hash"))


def whole_text(source: QuerySource) -> str:
    """The text of a document, put together again from its passages: headings where they change, overlaps once."""
    if not source.passages:
        return ""
    first = source.passages[0]
    parts = [*first.headings[-1:], first.text]
    for before, after in pairwise(source.passages):
        if after.headings == before.headings:
            parts.append(after.text[_overlap(before.text, after.text) :])
        else:
            parts += [*after.headings[-1:], after.text]
    return "\n".join(part for part in parts if part)


def _overlap(before: str, after: str) -> int:
    """How many characters at the end of one passage stand again at the beginning of the next."""
    longest = min(len(before), len(after), _LONGEST_OVERLAP)
    return next((n for n in range(longest, _SHORTEST_OVERLAP - 1, -1) if before.endswith(after[:n])), 0)


def chosen(among: Iterable[tuple[str, _T]], number: int, *, seed: int) -> list[_T]:
    """`number` of these by chance, each with the name that it is drawn by; all of them where there are no more.

    The same seed chooses the same again. A larger number adds to those of a smaller one, and what joins or leaves
    the collection changes hardly anything else: each is drawn by its own name.
    """

    def draw(pair: tuple[str, _T]) -> tuple[bytes, str]:
        seeded = f"{seed}\0{pair[0]}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(seeded, digest_size=16).digest(), pair[0]

    return [thing for _, thing in sorted(among, key=draw)[:number]]
