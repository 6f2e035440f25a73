"""Texts and pictures to vectors, whoever asks: one outcome an input, from the cache or a shared forward pass.

embed (event loop), encoders() (threads) -> inputs.py: a key for each -> batching.py: a lane for each encoder
    -> passes.py: the encoder itself -> cache.py; orders.py: back to whoever waits
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

from mmembed.batching.batcher import STOPPING, Lane
from mmembed.batching.cache import Input, Key, VectorCache, picture_input, reads_as_one, text_input, texts_as_one
from mmembed.batching.encoder import ServedEncoders
from mmembed.batching.memory import Room
from mmembed.batching.options import BatchingOptions, EncoderSource, Observer
from mmembed.batching.waiting import Order, Outcome
from mmembed.errors import InvalidRequest, MmembedError, Overloaded, RequestTooLarge, SettingsError, UnsupportedModality
from mmembed.types import DenseArray, Encoder, Role, Vector
from mmembed.vectors import truncate

__all__ = ["Engine", "Made", "Wanted"]

_DIGEST_HERE = 256 * 1024  # bytes of content that are digested in the event loop: 0.3 ms
_LONGEST_TEXT = 1_000_000  # characters: a long book; a second of some tokenizers
_SPELLINGS = 1000  # of names that are kept: clients may write a name in any mixture of cases


@dataclass(frozen=True)
class Wanted:
    """One vector that a request wants."""

    encoder: str  # any spelling of a served name
    content: str | bytes  # str: a text; bytes: the bytes of a picture file, never a text
    role: Role = "document"
    task: str | None = None
    dim: int | None = None  # Matryoshka size, one of spec.matryoshka_dims or spec.dim; None: full


@dataclass(frozen=True)
class Made:
    vector: Vector  # (dim,), sparse, or (rows, dim); read-only
    tokens: int  # of a text, cut to the context length; 0 for a picture
    encoder: Encoder


class Engine:
    """Every encoder's lane, and the cache they share."""

    def __init__(self, encoders: EncoderSource, options: BatchingOptions, observer: Observer) -> None:
        self._source = encoders
        self._options = options
        self._observer = observer
        self._cache = VectorCache(int(options.cache_mb * 2**20))
        self._lanes: dict[int, Lane] = {}  # by the id of an encoder, which its lane keeps alive
        self._opening = threading.Lock()
        self._closed = False
        self._decoding = min(8, os.cpu_count() or 1)
        self.room = Room(2 * options.max_pixels)  # of pictures that are decoded outside the lanes
        self._decoders = ThreadPoolExecutor(self._decoding, thread_name_prefix="mmembed-decode")
        self._loaders = ThreadPoolExecutor(4, thread_name_prefix="mmembed-load")
        self._resolvers = ThreadPoolExecutor(4, thread_name_prefix="mmembed-resolve")
        self._known: dict[str, Encoder] = {}  # spelling -> encoder
        self._loading: dict[str, asyncio.Future[Encoder]] = {}  # served name -> one that is being loaded

    async def embed(self, wanted: Sequence[Wanted]) -> list[Made | MmembedError]:
        """One outcome an input, in order: a bad one is its error and the others are unharmed.

        Raises:
            RequestTooLarge: more inputs than `max_inputs`.
            Overloaded: too much waits already, or the service is stopping; nothing of the call is kept waiting.
            asyncio.CancelledError: the call was cancelled.
        """
        most = self._options.max_inputs
        if len(wanted) > most:
            raise RequestTooLarge(f"the request has {len(wanted)} inputs and at most {most} may be: divide it")
        names = dict.fromkeys(one.encoder for one in wanted)
        found = {name: await self._encoder(name) for name in names}
        if sum(len(one.content) for one in wanted) > _DIGEST_HERE:
            asked = await asyncio.to_thread(_inputs, wanted, found)
        else:
            asked = _inputs(wanted, found)
        outcomes = await self._outcomes([item for item in asked if isinstance(item, Input)])
        return [_made(one, item, outcomes) for one, item in zip(wanted, asked, strict=True)]

    def encoders(self) -> Mapping[str, Encoder]:
        """For code in threads: any spelling of a served name -> its encoder, by way of the lanes and the cache."""
        return ServedEncoders(self._source, self._lane)

    async def close(self) -> None:
        """Finish what was accepted, and take nothing new."""
        with self._opening:
            self._closed = True
            lanes = list(self._lanes.values())
        await asyncio.gather(*(asyncio.to_thread(lane.close) for lane in lanes))
        self._decoders.shutdown()
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def _outcomes(self, inputs: Sequence[Input]) -> dict[Key, Outcome]:
        """Hand each lane its inputs, equal ones once, and wait for all."""
        by_lane: defaultdict[Lane, dict[Key, Input]] = defaultdict(dict)
        for item in inputs:
            by_lane[self._lane(item.encoder)][item.key] = item
        loop = asyncio.get_running_loop()
        orders: list[Order] = []
        outcomes: dict[Key, Outcome] = {}
        try:
            for lane, some in by_lane.items():
                orders.append(lane.submit(some.values(), loop))
            for order in orders:
                outcomes |= await order.arrived()
        finally:
            for order in orders:
                order.drop()
        return outcomes

    async def _encoder(self, name: str) -> Encoder | MmembedError:
        """One that is loaded already, mostly; all who ask for one that is not wait for the same."""
        if name in self._known:
            return self._known[name]
        try:
            served = self._source.known(name)
            if served is None:
                loop = asyncio.get_running_loop()
                served = await loop.run_in_executor(self._resolvers, self._source.resolve, name)
            encoder = self._source.loaded().get(served) or await self._loaded(served)
        except MmembedError as exc:
            return exc
        if len(self._known) < _SPELLINGS:
            self._known[name] = encoder
        return encoder

    async def _loaded(self, served: str) -> Encoder:
        search = self._loading.get(served)
        if search is None:
            loop = asyncio.get_running_loop()
            search = self._loading[served] = loop.run_in_executor(self._loaders, self._source.encoder, served)
            search.add_done_callback(lambda _: self._loading.pop(served))
        return await asyncio.shield(search)

    def _lane(self, encoder: Encoder) -> Lane:
        lane = self._lanes.get(id(encoder))
        if lane is not None:
            return lane
        with self._opening:
            if self._closed:
                raise Overloaded(STOPPING, retry_after_seconds=5)
            if id(encoder) not in self._lanes:
                self._lanes[id(encoder)] = Lane(
                    encoder,
                    self._options,
                    cache=self._cache,
                    observer=self._observer,
                    decoders=self._decoders,
                    most_decoding=self._decoding,
                    on_the_way=self._on_the_way,
                )
            return self._lanes[id(encoder)]

    def _on_the_way(self) -> int:
        """Requests that have been admitted and wait in no lane: they may come to one."""
        return self._observer.in_flight - sum(lane.open for lane in list(self._lanes.values()))


def _inputs(wanted: Sequence[Wanted], encoders: Mapping[str, Encoder | MmembedError]) -> list[Input | MmembedError]:
    """What a lane is handed for each input, or why it cannot be encoded."""
    asked: list[Input | MmembedError] = []
    together: defaultdict[tuple[str, Role, str | None], list[int]] = defaultdict(list)
    for place, one in enumerate(wanted):
        encoder = encoders[one.encoder]
        item = encoder if isinstance(encoder, MmembedError) else _input(encoder, one)
        asked.append(item)
        if isinstance(item, Input) and isinstance(one.content, str) and reads_as_one(item.encoder, one.role):
            together[one.encoder, one.role, one.task].append(place)
    for (name, role, task), places in together.items():
        texts = [cast(str, wanted[place].content) for place in places]
        inputs = texts_as_one(cast(Encoder, encoders[name]), texts, role=role, task=task)
        for place, whole in zip(places, inputs, strict=True):
            asked[place] = whole
    return asked


def _input(encoder: Encoder, one: Wanted) -> Input | MmembedError:
    spec = encoder.spec
    if ("text" if isinstance(one.content, str) else "image") not in spec.modalities:
        what = "texts" if isinstance(one.content, str) else "pictures"
        return UnsupportedModality(spec.name, what, spec.modalities)
    sizes = {spec.dim, *spec.matryoshka_dims} if spec.kind == "dense" else {spec.dim}
    if one.dim is not None and one.dim not in sizes:
        has = " or ".join(str(size) for size in sorted(size for size in sizes if size is not None))
        return SettingsError(
            f"encoder {spec.name!r} was asked for vectors of {one.dim} dimensions and has "
            f"{'those of ' + has if has else 'sparse ones'} only: ask for no size to get its own"
        )
    if isinstance(one.content, str):
        if len(one.content) > _LONGEST_TEXT:
            return InvalidRequest(
                f"the text has {len(one.content):,} characters and at most {_LONGEST_TEXT:,} may be: divide it"
            )
        return text_input(encoder, one.content, role=one.role, task=one.task)
    return picture_input(encoder, one.content)


def _made(one: Wanted, item: Input | MmembedError, outcomes: Mapping[Key, Outcome]) -> Made | MmembedError:
    if isinstance(item, MmembedError):
        return item
    outcome = outcomes[item.key]
    if isinstance(outcome, MmembedError):
        return outcome
    vector = outcome.vector
    if one.dim is not None and one.dim != item.encoder.spec.dim:
        vector = truncate(cast(DenseArray, vector), one.dim)
    return Made(vector, outcome.tokens, item.encoder)
