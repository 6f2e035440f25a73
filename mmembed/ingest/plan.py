"""Which files need work: unchanged ones are skipped by stat, then by hash; copies and moves keep their vectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from qdrant_client import models

from mmembed.collection import Collection
from mmembed.collection.conditions import first_passages, has_any
from mmembed.collection.payload import OURS, RESERVED, id_of, tags_in
from mmembed.errors import InputError
from mmembed.ingest.gone import file_of, has_left
from mmembed.sources.files import FileState, file_state
from mmembed.sources.items import bytes_held, item_hash
from mmembed.streams import batched_by
from mmembed.types import Failure, Item, Modality, Payload

_BATCH = 256
_BATCH_BYTES = 64 * 2**20  # of content in memory
_RECENT = 4096


FROM_READING = ("width", "height", "format", "taken_at", "moved_from", "images", "page", "passages")
"""Payload keys that are found anew each time a file is read."""

Action = Literal["unchanged", "refresh", "reuse", "read"]


@dataclass(frozen=True)
class PlannedItem:
    """One file and what is to be done about it.

    unchanged: nothing. refresh: same contents, new caption or payload. reuse: the contents of the
    point `donor`, whose vectors are taken. read: decode and encode; a file that moved and whose old
    point lacks a vector has a `donor` too, which only goes.
    """

    item: Item
    id: str
    action: Action
    content_hash: str = ""
    state: FileState | None = None
    stored: Payload | None = None  # of the point that is there
    donor: str | None = None  # id of the point with the same contents
    moved: bool = False  # the donor's own file is gone

    def without_content(self) -> PlannedItem:
        """The same once it was read: what it held in memory is let go."""
        held = self.item.content is not None or self.item.text is not None
        return replace(self, item=replace(self.item, content=None, text=None)) if held else self

    def payload(self) -> Payload:
        """What every point of a file carries, beside what reading it adds."""
        item, state = self.item, self.state
        own: Payload = {"uri": item.uri, "content_hash": self.content_hash}
        if state is not None:
            own |= asdict(state)
        if item.source is not None:
            own["source"] = item.source
        # A manifest has the last word on a file; a bare folder has none, so what is known is kept.
        stored = self.stored or {}
        tags = tags_in(stored)
        known = dict(stored) if item.source is None else {}
        for key in (*FROM_READING, *tags):
            known.pop(key, None)
        if stored.get("content_hash") == self.content_hash:
            known |= tags
        if item.caption:
            own["caption"] = item.caption
        return {**known, **item.payload, **own}


def plan(
    collection: Collection,
    items: Iterable[Item | Failure],
    *,
    modality: Modality,
    vectors: Sequence[str] = (),
    roots: Sequence[Path] = (),
) -> Iterator[PlannedItem | Failure]:
    """Items in, the same items out in the same order, each with what is to be done.

    A stored file that lacks one of `vectors` is read again, and gives no other file its own. `roots` are
    the folders of this run: a file that vanished from there has moved. Reads the store a batch at a
    time, so memory does not grow with the number of files. Of two items with one id the later one wins.
    """
    number = 0 if modality == "text" else None  # a document is known by its first passage
    recent: OrderedDict[str, str] = OrderedDict()  # content hash -> the point that it will be read for
    for batch in batched_by(items, bytes_held, most=_BATCH, room=_BATCH_BYTES):
        ids = [id_of(item, number) if isinstance(item, Item) else "" for item in batch]
        points = collection.store.retrieve(collection.name, [id for id in ids if id])
        stored = {point.id: point.payload for point in points}
        lacking = _lacking(collection, stored, modality, vectors)
        looked = [
            _look(item, id, stored, lacking) if isinstance(item, Item) else item
            for item, id in zip(batch, ids, strict=True)
        ]
        fresh = [p.content_hash for p in looked if isinstance(p, PlannedItem) and p.action == "read"]
        donors = _donors(collection, fresh, modality, vectors)
        for entry in looked:
            if isinstance(entry, Failure) or entry.action != "read":
                yield entry
                continue
            says = entry.item.source or entry.item.caption or entry.item.payload
            if recent.get(entry.content_hash) == entry.id and not says:
                continue  # named before in this run: by a folder and a pattern, or by a manifest that says more
            planned = _with_donor(entry, donors.get(entry.content_hash, []), recent.get(entry.content_hash), roots)
            if planned.action == "read":
                recent[entry.content_hash] = entry.id
                if len(recent) > _RECENT:
                    recent.popitem(last=False)
            yield planned


def _lacking(
    collection: Collection, stored: Mapping[str, Payload], modality: Modality, vectors: Sequence[str]
) -> set[str]:
    """Ids of the stored points that lack one of `vectors`; the first passage of a document says which it has."""
    if not vectors or not stored:
        return set()
    if modality == "text":
        return {id for id, payload in stored.items() if not set(vectors) <= set(payload.get("vectors", []))}
    having = [models.HasVectorCondition(has_vector=name) for name in vectors]
    whole = models.Filter(must=[models.HasIdCondition(has_id=list(stored)), *having])
    return set(stored) - {point.id for point in collection.store.scroll(collection.name, filter=whole, payload=False)}


def _look(item: Item, id: str, stored: Mapping[str, Payload], lacking: Set[str]) -> PlannedItem | Failure:
    """Compare one file with its point, reading no more of it than is needed."""
    # a manifest's column called `width`, say, gives way to what is read from the file
    item = replace(item, payload={k: v for k, v in item.payload.items() if k not in RESERVED[item.modality]})
    old = stored.get(id)
    whole = old is not None and id not in lacking
    same_words = old is not None and _same_words(item, old)
    try:
        state = file_state(item.path) if item.path is not None else None
        if old is not None and state is not None and whole and same_words and asdict(state).items() <= old.items():
            return PlannedItem(item, id, "unchanged", old["content_hash"], state, old)
        digest = item_hash(item)
    except InputError as exc:
        return Failure(item.uri, str(exc))
    renamed = old is not None and item.modality == "text" and old.get("uri") != item.uri  # passages go by their uri
    if old is None or not whole or renamed or old.get("content_hash") != digest:
        return PlannedItem(item, id, "read", digest, state, old)
    return PlannedItem(item, id, "unchanged" if same_words and state is None else "refresh", digest, state, old)


def _same_words(item: Item, old: Payload) -> bool:
    """Whether a manifest or document says of the file what the point says; a bare folder says nothing."""
    said = {**item.payload, "uri": item.uri, **({"caption": item.caption} if item.caption else {})}
    if item.source is not None:
        said["source"] = item.source
        if any(key not in said for key in old.keys() - tags_in(old).keys() - OURS[item.modality]):
            return False  # it no longer says something that it said before
    return all(old.get(key) == value for key, value in said.items())


@dataclass(frozen=True)
class _Donor:
    """A stored point with the contents of a file that is to be read."""

    id: str
    path: str | None  # of its file; None: it came from memory
    whole: bool  # has every vector that this run makes


def _donors(
    collection: Collection, hashes: Sequence[str], modality: Modality, vectors: Sequence[str]
) -> dict[str, list[_Donor]]:
    """content hash -> the stored points that have it."""
    if not hashes:
        return {}
    found: dict[str, list[_Donor]] = {}
    same_contents = has_any("content_hash", sorted(set(hashes)))
    filter = models.Filter(must=[same_contents, first_passages()] if modality == "text" else [same_contents])
    keys = ["uri", "content_hash", "document", "vectors", "mtime_ns"]
    same = {p.id: p.payload for p in collection.store.scroll(collection.name, filter=filter, payload=keys)}
    lacking = _lacking(collection, same, modality, vectors)
    for id, payload in same.items():
        found.setdefault(payload["content_hash"], []).append(_Donor(id, file_of(payload), id not in lacking))
    return found


def _with_donor(planned: PlannedItem, same: Sequence[_Donor], recent: str | None, roots: Sequence[Path]) -> PlannedItem:
    others = sorted((donor for donor in same if donor.id != planned.id), key=lambda donor: not donor.whole)
    is_file = planned.item.path is not None or "document" in planned.item.payload  # what is in memory never moved
    gone = [donor for donor in others if is_file and has_left(donor.path, roots)]
    if gone and planned.stored is None:
        return replace(planned, action="reuse" if gone[0].whole else "read", donor=gone[0].id, moved=True)
    donor = others[0].id if others and others[0].whole else recent
    return planned if donor is None else replace(planned, action="reuse", donor=donor)
