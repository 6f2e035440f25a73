"""The pipe between a store and the process that owns its shards: one request, one reply, in order.

qdrant_edge holds the interpreter's lock for the whole of a call, minutes for `optimize`. In a process of its
own it stops nobody. A frame is 8 bytes of length and what `frames.py` makes of a message.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, cast

from mmembed import errors
from mmembed.errors import StoreUnavailable
from mmembed.stores.edge.frames import pack, unpack

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("!Q")
_EXIT_SECONDS = 60  # for flushing the shards
_Requests: TypeAlias = "queue.SimpleQueue[tuple[bytes, Future[ShardReply]] | None]"  # None: no more


class Hello(NamedTuple):
    """The first frame: who opens the folder."""

    pid: int
    command: str
    wait_seconds: float
    free_margin_bytes: int


class ShardReply(NamedTuple):
    """`value` is the result, or what the exception that is called `error` is made of."""

    error: str | None
    value: Any


def send(pipe: io.FileIO, body: bytes) -> None:
    """Write one frame, of what `pack` made."""
    for part in (_LENGTH.pack(len(body)), body):
        rest = memoryview(part)
        while rest:
            rest = rest[pipe.write(rest) :]


def receive(pipe: io.FileIO) -> Any:
    """Read one frame. Raises EOFError where the other end is gone."""
    length = _exactly(pipe, _LENGTH.size)
    return unpack(_exactly(pipe, _LENGTH.unpack(length)[0]))


def _exactly(pipe: io.FileIO, size: int) -> bytearray:
    body = bytearray(size)
    rest = memoryview(body)
    while rest:
        read = pipe.readinto(rest)
        if not read:
            raise EOFError("the other end of the pipe is gone")
        rest = rest[read:]
    return body


class ShardPipe:
    """Starts the owner of `folder` and talks to it. Safe for threads; not usable after a fork.

    A thread of its own does the talking, so that Ctrl-C in a caller leaves no half-read reply behind.
    """

    def __init__(self, folder: Path, hello: Hello) -> None:
        self.folder = folder
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the pipe)
        self._gone = ""  # why, once it is
        self._died = False
        self._lock = threading.Lock()  # around asking whether it is gone and queueing
        self._requests: _Requests = queue.SimpleQueue()
        # the child imports this very mmembed, installed or not
        paths = (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))
        # -P: a file called numpy.py in the user's folder is not the numpy that is meant.
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "mmembed.stores.edge.process", str(folder)],
            bufsize=0,  # a buffer has a lock, which a fork may copy locked
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            process_group=0,  # Ctrl-C in the terminal is ours to answer, not its
        )
        self._to, self._from = cast(io.FileIO, self._child.stdin), cast(io.FileIO, self._child.stdout)
        self._finalizer = weakref.finalize(self, _shut, self._child, self._from, self._requests, self._stderr)
        talking = (self._to, self._from, self._requests)
        threading.Thread(target=_talk, args=talking, name="mmembed-edge", daemon=True).start()
        _PIPES.add(self)
        try:
            self._ask(hello)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process that owns the shards."""
        return self._child.pid

    @property
    def died(self) -> bool:
        """Whether that process ended by itself, without being closed here or left behind by a fork."""
        return self._died or (not self._gone and self._child.poll() is not None)

    def call(self, method: str, *arguments: object) -> Any:
        """Run one method of ShardFolder there. Raises what it raised, or StoreUnavailable if it is gone."""
        return self._ask((method, arguments))

    def close(self) -> None:
        """Flush, close and end the process; returns when it has ended."""
        with self._lock:
            self._gone = self._gone or "was closed"
        self._finalizer()

    def _ask(self, request: object) -> Any:
        body = pack(request)  # here, so that a value that cannot be sent is told to who gave it
        answer: Future[ShardReply] = Future()
        with self._lock:
            if self._gone:
                raise StoreUnavailable(f"the store edge:{self.folder} {self._gone}: open it again")
            self._requests.put((body, answer))
        try:
            reply = answer.result()
        except (EOFError, OSError) as exc:
            raise self.lost() from exc
        if reply.error is not None:
            raise getattr(errors, reply.error)(*reply.value)
        return reply.value

    def lost(self) -> StoreUnavailable:
        """Wait for the end of the process, which has come or is near, and log it once; what to raise."""
        try:
            code = self._child.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its end and hangs
            self._child.kill()
            code = self._child.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        with self._lock:
            if not self._gone:
                self._died = True
                self._gone = (
                    f"is gone, because the process {self.pid} that owned it {how} (everything acknowledged is kept)"
                )
                self._stderr.seek(0)
                said = self._stderr.read().decode(errors="replace")[-2000:]
                logger.error("edge:%s: process %d %s: %s", self.folder, self.pid, how, said)
        return StoreUnavailable(f"the store edge:{self.folder} {self._gone}: open it again")

    def _forget(self) -> None:
        """In a forked child: the pipe belongs to the parent, whose end must be the only one."""
        self._finalizer.detach()
        self._lock = threading.Lock()  # another thread may have held it
        self._gone = "was opened before this process was forked"
        self._child.returncode = 0  # not ours to wait for
        self._to.close()
        self._from.close()


def _talk(to: io.FileIO, from_: io.FileIO, requests: _Requests) -> None:
    """One request and its reply after another; at the end, closing its stdin tells the owner to flush and end."""
    while (item := requests.get()) is not None:
        body, answer = item
        try:
            send(to, body)
            answer.set_result(ShardReply(*receive(from_)))
        except BaseException as exc:  # it is raised where the answer is awaited
            answer.set_exception(exc)
    to.close()


def _shut(child: subprocess.Popen[bytes], from_: io.FileIO, requests: _Requests, stderr: IO[bytes]) -> None:
    requests.put(None)
    try:
        child.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        logger.warning("process %d is still writing its shards to disk and ends when it has", child.pid)
        child.returncode = 0  # left to end by itself
    from_.close()
    stderr.close()


def open_pipe_to(folder: Path) -> bool:
    """Whether this process has the folder open already."""
    pipes = [pipe for pipe in list(_PIPES) if pipe.folder == folder]
    return any(not pipe._gone and pipe._child.poll() is None for pipe in pipes)


_PIPES: weakref.WeakSet[ShardPipe] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pipe in list(_PIPES):
        pipe._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
