"""Which files need work: unchanged ones are skipped by stat, then by hash; copies and moves keep their vectors."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Literal

from qdrant_client import models

from mmembed.collection.payload import OURS, RESERVED, item_id, path_of, tags_in
from mmembed.errors import InputError
from mmembed.sources import FileState, content_hash, file_state
from mmembed.streams import batched
from mmembed.types import Failure, Item, Modality, Payload, Store

__all__ = [
    "FROM_READING",
    "Action",
    "Planned",
    "is_gone",
    "note_manifests",
    "plan",
    "remove_gone",
    "roots_of",
    "until_first_item",
]

_BATCH = 256
_RECENT = 4096


FROM_READING = ("width", "height", "format", "taken_at", "moved_from", "pictures", "page", "passages")
"""Payload keys that are found anew each time a file is read."""

Action = Literal["unchanged", "refresh", "reuse", "read"]


@dataclass(frozen=True)
class Planned:
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

    def payload(self) -> Payload:
        """What every point of a file carries, beside what reading it adds."""
        item, state = self.item, self.state
        own: Payload = {"uri": item.uri, "content_hash": self.content_hash}
        if state is not None:
            own |= {"size": state.size, "mtime_ns": state.mtime_ns}
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
    store: Store,
    collection: str,
    items: Iterable[Item | Failure],
    *,
    modality: Modality,
    vectors: Sequence[str] = (),
    roots: Sequence[Path] = (),
) -> Iterator[Planned | Failure]:
    """Items in, the same items out in the same order, each with what is to be done.

    A stored file that lacks one of `vectors` is read again, and gives no other file its own. `roots` are
    the folders of this run: a file that vanished from there has moved. Reads the store a batch at a
    time, so memory does not grow with the number of files.
    """
    items = (_without_reserved(item, modality) if isinstance(item, Item) else item for item in items)
    number = 0 if modality == "text" else None  # a document is known by its first passage
    recent: OrderedDict[str, str] = OrderedDict()  # content hash -> the point that it will be read for
    for batch in batched(items, _BATCH):
        ids = [item_id(modality, i.uri, number) for i in batch if isinstance(i, Item)]
        stored = {point.id: point.payload for point in store.retrieve(collection, ids)}
        lacking = _lacking(store, collection, stored, modality, vectors)
        looked = [
            _look(i, item_id(modality, i.uri, number), stored, lacking) if isinstance(i, Item) else i for i in batch
        ]
        fresh = [p.content_hash for p in looked if isinstance(p, Planned) and p.action == "read"]
        donors = _donors(store, collection, fresh, modality, vectors)
        for entry in looked:
            if isinstance(entry, Failure) or entry.action != "read":
                yield entry
                continue
            if recent.get(entry.content_hash) == entry.id and _is_bare(entry.item):
                continue  # named before in this run: by a folder and a pattern, or by a manifest that says more
            planned = _with_donor(entry, donors.get(entry.content_hash, []), recent.get(entry.content_hash), roots)
            if planned.action == "read":
                recent[entry.content_hash] = entry.id
                if len(recent) > _RECENT:
                    recent.popitem(last=False)
            yield planned


def _lacking(
    store: Store, collection: str, stored: Mapping[str, Payload], modality: Modality, vectors: Sequence[str]
) -> set[str]:
    """Ids of the stored points that lack one of `vectors`; the first passage of a document says which it has."""
    if not vectors or not stored:
        return set()
    if modality == "text":
        return {id for id, payload in stored.items() if not set(vectors) <= set(payload.get("vectors", []))}
    having = [models.HasVectorCondition(has_vector=name) for name in vectors]
    whole = models.Filter(must=[models.HasIdCondition(has_id=list(stored)), *having])
    return set(stored) - {point.id for point in store.scroll(collection, filter=whole, payload=False)}


def _look(item: Item, id: str, stored: Mapping[str, Payload], lacking: Set[str]) -> Planned | Failure:
    """Compare one file with its point, reading no more of it than is needed."""
    old = stored.get(id)
    whole = old is not None and id not in lacking
    same_words = old is not None and _same_words(item, old)
    try:
        state = file_state(item.path) if item.path is not None else None
        if old is not None and state is not None and whole and same_words and _same_state(state, old):
            return Planned(item, id, "unchanged", old["content_hash"], state, old)
        digest = _digest(item)
    except (InputError, OSError) as exc:
        return Failure(item.uri, _reason(exc))
    if old is None or not whole or old.get("content_hash") != digest:
        return Planned(item, id, "read", digest, state, old)
    return Planned(item, id, "unchanged" if same_words and state is None else "refresh", digest, state, old)


def _same_state(state: FileState, old: Payload) -> bool:
    return bool(old.get("size") == state.size and old.get("mtime_ns") == state.mtime_ns)


def _same_words(item: Item, old: Payload) -> bool:
    """Whether a manifest or document says of the file what the point says; a bare folder says nothing."""
    said = {**item.payload, **({"caption": item.caption} if item.caption else {})}
    if item.source is not None:
        said["source"] = item.source
        if any(key not in said for key in old.keys() - tags_in(old).keys() - OURS[item.modality]):
            return False  # it no longer says something that it said before
    return all(old.get(key) == value for key, value in said.items())


def _is_bare(item: Item) -> bool:
    return item.source is None and not item.caption and not item.payload


def _digest(item: Item) -> str:
    if item.path is not None:
        return content_hash(item.path)
    return hashlib.blake2b(item.content or b"", digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Donor:
    """A stored point with the contents of a file that is to be read."""

    id: str
    path: str
    whole: bool  # has every vector that this run makes


def _donors(
    store: Store, collection: str, hashes: Sequence[str], modality: Modality, vectors: Sequence[str]
) -> dict[str, list[_Donor]]:
    """content hash -> the stored points that have it."""
    if not hashes:
        return {}
    found: dict[str, list[_Donor]] = {}
    wanted = models.FieldCondition(key="content_hash", match=models.MatchAny(any=sorted(set(hashes))))
    head = [models.FieldCondition(key="passage", match=models.MatchValue(value=0))] if modality == "text" else []
    keys = ["uri", "content_hash", "document", "vectors"]
    same = {p.id: p.payload for p in store.scroll(collection, filter=models.Filter(must=[wanted, *head]), payload=keys)}
    lacking = _lacking(store, collection, same, modality, vectors)
    for id, payload in same.items():
        found.setdefault(payload["content_hash"], []).append(_Donor(id, path_of(payload), id not in lacking))
    return found


def _with_donor(planned: Planned, same: Sequence[_Donor], recent: str | None, roots: Sequence[Path]) -> Planned:
    others = sorted((donor for donor in same if donor.id != planned.id), key=lambda donor: not donor.whole)
    gone = [donor for donor in others if _has_left(donor.path, roots)]
    if gone and planned.stored is None:
        return replace(planned, action="reuse" if gone[0].whole else "read", donor=gone[0].id, moved=True)
    if others and others[0].whole:
        donor, moved = others[0].id, False
    elif recent is not None:
        donor, moved = recent, False
    else:
        return planned
    return replace(planned, action="reuse", donor=donor, moved=moved)


def _has_left(path: str, roots: Sequence[Path]) -> bool:
    """Whether a file was moved away, and is not on a disk or machine that is out of sight.

    Its folder is still there, or it was under a folder of this run.
    """
    return is_gone(path) and (Path(path).parent.is_dir() or _under(path, [str(root) for root in roots]))


def _without_reserved(item: Item, modality: Modality) -> Item:
    """A manifest's column called `width`, say, gives way to what is read from the file."""
    if not RESERVED[modality] & item.payload.keys():
        return item
    return replace(item, payload={k: v for k, v in item.payload.items() if k not in RESERVED[modality]})


def is_gone(path: str) -> bool:
    """True only if the file is certainly not there; a folder that cannot be looked into proves nothing."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def remove_gone(
    store: Store, collection: str, roots: Sequence[Path], manifests: Mapping[str, set[str]], *, modality: Modality
) -> list[tuple[str, str]]:
    """Delete the points of files that are gone: under `roots`, or no longer in a manifest; gives (id, uri).

    `manifests` maps each manifest that was read to the uris it names. One with a line that could not be
    read has dropped nothing: the line may name any file.
    """
    torn = {name for name, uris in manifests.items() if any(uri.startswith(f"{name}: line ") for uri in uris)}
    prefixes = tuple(str(root) for root in roots)
    heads = None
    if modality == "text":
        heads = models.Filter(must=[models.FieldCondition(key="passage", match=models.MatchValue(value=0))])
    gone = []
    for point in store.scroll(collection, filter=heads, payload=["uri", "document", "source"]):
        uri, source = str(point.payload["uri"]), str(point.payload.get("source"))
        dropped = source in manifests and source not in torn and uri not in manifests[source]
        looked_for = _under(uri, prefixes) or source in manifests
        if dropped or (looked_for and is_gone(path_of(point.payload))):
            gone.append((point.id, uri))
    for some in batched(gone, _BATCH):
        if modality == "image":
            store.delete(collection, [id for id, _ in some])
        else:  # each uri is that of many passages
            condition = models.FieldCondition(key="uri", match=models.MatchAny(any=[uri for _, uri in some]))
            store.delete_where(collection, models.Filter(must=[condition]))
    return gone


def _under(uri: str, prefixes: Sequence[str]) -> bool:
    return any(uri == prefix or uri.startswith((prefix.rstrip("/") + "/", prefix + "#")) for prefix in prefixes)


def note_manifests(items: Iterable[Item | Failure], manifests: dict[str, set[str]]) -> Iterator[Item | Failure]:
    """Pass items on, writing down which uris each manifest names, those of failures included."""
    for item in items:
        if item.source is not None:
            manifests.setdefault(item.source, set()).add(item.uri)
        yield item


def until_first_item(items: Iterator[Item | Failure]) -> list[Item | Failure]:
    """Take entries up to the first that is not a Failure: no Item in the list means that there is none at all."""
    taken: list[Item | Failure] = []
    for entry in items:
        taken.append(entry)
        if isinstance(entry, Item):
            break
    return taken


def roots_of(sources: Sequence[str | Path]) -> list[Path]:
    """The absolute folders and files of a run; of a pattern, the folder before its first wildcard."""
    roots = []
    for source in sources:
        parts = Path(os.path.abspath(Path(source).expanduser())).parts
        fixed = list(takewhile(lambda part: not set(part) & set("*?["), parts))
        path = Path(*parts)
        roots.append(path if path.exists() else Path(*fixed))
    return roots


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"cannot be read: {exc.strerror}"
    return str(exc)
