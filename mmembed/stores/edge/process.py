"""The process that owns the shards of one folder: `python -m mmembed.stores.edge.process FOLDER`.

It takes the folder's lock, answers requests from its stdin on its stdout, one at a time, and ends when its
stdin closes, which is what happens when the process that started it ends in whatever way.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import portalocker

from mmembed.errors import CollectionNotFound, InvalidQuery, MmembedError, StoreError, StoreFull
from mmembed.stores.edge.files import write_json
from mmembed.stores.edge.frames import pack
from mmembed.stores.edge.pipe import Hello, ShardReply, receive, send
from mmembed.stores.edge.shards import ShardFolder

_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(folder: Path) -> None:
    """Answer requests on stdin until it closes; then flush and end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take_over_pipes()
    hello = Hello(*receive(requests))
    lock = portalocker.Lock(folder / "lock", mode="a", timeout=hello.wait_seconds, check_interval=0.1)
    try:
        lock.acquire()
    except OSError as exc:
        send(replies, pack(ShardReply("StoreError", (_not_writable(folder, exc),))))
        return
    except portalocker.LockException:
        send(replies, pack(ShardReply("StoreUnavailable", (_held_by(folder, hello.wait_seconds),))))
        return
    try:
        _name_owner(folder, hello)
        shards = ShardFolder(folder, hello.free_margin_bytes)
    except OSError as exc:
        send(replies, pack(ShardReply("StoreError", (_not_writable(folder, exc),))))
        return
    send(replies, pack(ShardReply(None, os.getpid())))
    try:
        _serve(shards, requests, replies)
    finally:
        shards.close()


def _serve(shards: ShardFolder, requests: io.FileIO, replies: io.FileIO) -> None:
    while True:
        try:
            method, arguments = receive(requests)
        except EOFError:
            return
        try:
            reply = pack(ShardReply(None, getattr(shards, method)(*arguments)))
        except CollectionNotFound:
            names = shards.collections()
            reply = pack(ShardReply("CollectionNotFound", (arguments[0], names, f"edge:{shards.folder}")))
        except Exception as exc:  # qdrant_edge raises bare Exception: this is where it is translated
            error = exc if isinstance(exc, MmembedError) else _translated(exc)
            reply = pack(ShardReply(type(error).__name__, (str(error),)))
        try:
            send(replies, reply)
        except BrokenPipeError:  # the store is gone, and with it whoever asked
            return


def _translated(exc: Exception) -> MmembedError:
    text = str(exc)
    if "No space left" in text:
        return StoreFull(f"the disk is full ({text}): everything before it is stored; make room")
    if "Not existing vector name" in text:
        return InvalidQuery(f"the collection has no vector {text.rpartition(': ')[2]!r}: name another")
    if "Vector dimension error" in text or isinstance(exc, OSError):
        return StoreError(text)
    return StoreError(f"Qdrant Edge refused ({type(exc).__name__}: {text})")


def _take_over_pipes() -> tuple[io.FileIO, io.FileIO]:
    """The pipes for ourselves: whatever prints or reads from now on finds stderr and nothing."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return io.FileIO(requests, "rb"), io.FileIO(replies, "wb")


def _name_owner(folder: Path, hello: Hello) -> None:
    """Write down on whose behalf the folder is held. Where the disk is full it is held all the same."""
    try:
        write_json(folder / "owner.json", {"pid": hello.pid, "command": hello.command})
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        (folder / "owner.json").unlink(missing_ok=True)  # of the one before


def _not_writable(folder: Path, exc: OSError) -> str:
    reason = exc.strerror or str(exc)
    if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"the folder {folder} cannot be written ({reason}), as a store has to be: let this user write to it"
    if exc.errno in _FULL:
        return f"the disk of the folder {folder} is full ({reason}): make room on it, what is stored is kept"
    return f"the folder {folder} cannot be opened as a store ({reason}): mend it, or choose another"


def _held_by(folder: Path, waited_seconds: float) -> str:
    try:
        owner: Any = json.loads((folder / "owner.json").read_text(encoding="utf-8"))
        holder = f"process {owner['pid']} ({owner['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        holder = "another process"
    return (
        f"edge:{folder} is in use by {holder}, and was still after {waited_seconds:g} seconds: an embedded store "
        f"serves one process at a time, so end that one, or use a Qdrant server"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
