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
from mmembed.collection.payload import OURS, RESERVED, id_of, said_in, tags_in
from mmembed.errors import InputError
from mmembed.ingest.gone import file_of, has_left
from mmembed.sources.files import FileState, file_state
from mmembed.sources.items import bytes_held, item_hash
from mmembed.streams import batched_by
from mmembed.types import Failure, Item, Modality, Payload

_BATCH = 256
_BATCH_BYTES = 64 * 2**20  # of content in memory
_RECENT = 4096


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
    origin: str | None = None  # uri of the donor
    inherited: Payload | None = None  # what was said of the contents where else they lie, or lay

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
        known, follows = self._known()
        if item.caption:
            own["caption"] = item.caption
        if follows := [key for key in follows if key not in item.payload and key not in own]:
            own["inherited"] = follows
        return {**known, **item.payload, **own}

    def _known(self) -> tuple[Payload, list[str]]:
        """What is known beside what is said now, and the keys of it that no manifest can forget by its silence.

        A manifest has the last word on a file; a bare folder has none, so what was said is kept. What was said of
        the contents follows them to another file.
        """
        if self.inherited is not None:
            return self.inherited, sorted(self.inherited.keys() - tags_in(self.inherited).keys())
        stored = self.stored or {}
        said, tags = said_in(stored, self.item.modality), tags_in(stored)
        follows = [key for key in stored.get("inherited", ()) if key in said]
        known = said if self.item.source is None else {key: said[key] for key in follows}
        if stored.get("content_hash") == self.content_hash:
            return {**known, **tags, **self._named_by(stored)}, follows
        return {key: value for key, value in {**known, **self._named_by(stored)}.items() if key not in tags}, follows

    def _named_by(self, stored: Payload) -> Payload:
        """The manifest that named it before, where none does now."""
        return {"source": stored["source"]} if self.item.source is None and "source" in stored else {}


def plan(
    collection: Collection | None,
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
    Without a collection nothing is stored yet.
    """
    number = 0 if modality == "text" else None  # a document is known by its first passage
    recent: OrderedDict[str, _Donor] = OrderedDict()  # content hash -> the point that it will be read for
    for batch in batched_by(items, bytes_held, most=_BATCH, room=_BATCH_BYTES):
        ids = [id_of(item, number) if isinstance(item, Item) else "" for item in batch]
        points = collection.store.retrieve(collection.name, [id for id in ids if id]) if collection else []
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
            before = recent.get(entry.content_hash)
            if before is not None and before.id == entry.id and not says:
                continue  # named before in this run: by a folder and a pattern, or by a manifest that says more
            planned = _with_donor(entry, donors.get(entry.content_hash, []), before, roots)
            if planned.action == "read":
                recent[entry.content_hash] = _donor(planned.id, planned.payload(), modality, whole=True)
                if len(recent) > _RECENT:
                    recent.popitem(last=False)
            yield planned


def _lacking(
    collection: Collection | None, stored: Mapping[str, Payload], modality: Modality, vectors: Sequence[str]
) -> set[str]:
    """Ids of the stored points that lack one of `vectors`; the first passage of a document says which it has."""
    if collection is None or not vectors or not stored:
        return set()
    if modality == "text":
        return {id for id, payload in stored.items() if not set(vectors) <= set(payload.get("vectors", []))}
    if not set(vectors) <= collection.require_ours().vectors.keys():  # a dry run does not add them
        return set(stored)
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
        lasting = {*tags_in(old), *old.get("inherited", ())}
        if any(key not in said for key in old.keys() - lasting - OURS[item.modality]):
            return False  # it no longer says something that it said before
    return all(old.get(key) == value for key, value in said.items())


@dataclass(frozen=True)
class _Donor:
    """A point with the contents of a file that is to be read."""

    id: str
    uri: str
    source: str | None
    said: Payload  # of the contents, tags among it
    path: str | None  # of its file; None: it came from memory
    whole: bool  # has every vector that this run makes


def _donor(id: str, payload: Payload, modality: Modality, *, whole: bool) -> _Donor:
    said = said_in(payload, modality)
    return _Donor(id, str(payload["uri"]), payload.get("source"), said, file_of(payload), whole)


def _donors(
    collection: Collection | None, hashes: Sequence[str], modality: Modality, vectors: Sequence[str]
) -> dict[str, list[_Donor]]:
    """content hash -> the stored points that have it."""
    if collection is None or not hashes:
        return {}
    found: dict[str, list[_Donor]] = {}
    same_contents = has_any("content_hash", sorted(set(hashes)))
    filter = models.Filter(must=[same_contents, first_passages()] if modality == "text" else [same_contents])
    same = {p.id: p.payload for p in collection.store.scroll(collection.name, filter=filter)}
    lacking = _lacking(collection, same, modality, vectors)
    for id, payload in same.items():
        found.setdefault(payload["content_hash"], []).append(_donor(id, payload, modality, whole=id not in lacking))
    return found


def _with_donor(
    planned: PlannedItem, same: Sequence[_Donor], recent: _Donor | None, roots: Sequence[Path]
) -> PlannedItem:
    others = sorted((donor for donor in same if donor.id != planned.id), key=lambda donor: not donor.whole)
    is_file = planned.item.path is not None or "document" in planned.item.payload  # what is in memory never moved
    gone = [donor for donor in others if is_file and has_left(donor.path, roots)]
    stored = planned.stored or {}
    if stored.get("content_hash") != planned.content_hash:
        planned = replace(planned, inherited=_inherited(planned.item, gone, others, recent))
    if gone and planned.stored is None:
        return replace(
            planned,
            action="reuse" if gone[0].whole else "read",
            donor=gone[0].id,
            moved=True,
            origin=gone[0].uri,
        )
    donor = others[0] if others and others[0].whole else recent
    return planned if donor is None else replace(planned, action="reuse", donor=donor.id, origin=donor.uri)


def _inherited(item: Item, gone: Sequence[_Donor], others: Sequence[_Donor], recent: _Donor | None) -> Payload | None:
    """What was said of the same contents, where it is most: at a place that they left, else at another; None: nothing.

    Who names both copies, one manifest or caller, says of each what it means.
    """
    before = [*others, *([recent] if recent is not None else [])]
    apart = [donor for donor in before if item.source is None or donor.source != item.source]
    for donors in (gone, apart):
        most = max((donor.said for donor in donors), key=len, default={})
        if most:
            return most
    return None
