"""Texts and images to vectors, whoever asks: one result an input, from the cache or a shared forward pass.

embed (event loop), encoders() (threads) -> cache.py: a key for each -> batcher.py: one for each encoder
    -> forward.py: the encoder itself -> cache.py; submission.py: back to whoever waits
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

from mmembed.batching.batcher import Batcher
from mmembed.batching.cache import (
    CacheKey,
    Content,
    Result,
    VectorCache,
    image_key,
    keys_as_one,
    reads_as_one,
    text_key,
)
from mmembed.batching.encoder import BatchedEncoders
from mmembed.batching.memory import PixelBudget
from mmembed.batching.options import STOPPING, BatchingOptions, EncoderSource, Observer
from mmembed.batching.submission import Submission
from mmembed.errors import InvalidRequest, MmembedError, Overloaded, RequestTooLarge, SettingsError, UnsupportedModality
from mmembed.types import DenseArray, Encoder, EncoderSpec, Role
from mmembed.vectors import truncate

_DIGEST_HERE = 256 * 1024  # bytes of content that are digested in the event loop: 0.3 ms
_LONGEST_TEXT = 1_000_000  # characters: a long book; a second of some tokenizers
_SPELLINGS = 1000  # of names that are kept: clients may write a name in any mixture of cases


@dataclass(frozen=True)
class EncodeRequest:
    """One vector that a client asks for."""

    encoder: str  # any spelling of a served name
    content: str | bytes  # str: a text; bytes: the bytes of an image file, never a text
    role: Role = "document"
    task: str | None = None
    dim: int | None = None  # Matryoshka size, one of spec.matryoshka_dims or spec.dim; None: full


class Engine:
    """A batcher for every encoder, and the cache that they share."""

    def __init__(self, encoders: EncoderSource, options: BatchingOptions, observer: Observer) -> None:
        self._source = encoders
        self._options = options
        self._observer = observer
        self._cache = VectorCache(int(options.cache_mb * 2**20))
        self._batchers: dict[int, Batcher] = {}  # by the id of an encoder, which its batcher keeps alive
        self._opening = threading.Lock()
        self._closed = False
        self._decoding = min(8, os.cpu_count() or 1)
        self.pixels = PixelBudget(2 * options.max_pixels)  # of images that are decoded outside the batchers
        self._decoders = ThreadPoolExecutor(self._decoding, thread_name_prefix="mmembed-decode")
        self._loaders = ThreadPoolExecutor(4, thread_name_prefix="mmembed-load")
        self._resolvers = ThreadPoolExecutor(4, thread_name_prefix="mmembed-resolve")
        self._known: dict[str, Encoder] = {}  # spelling -> encoder
        self._loading: dict[str, asyncio.Future[Encoder]] = {}  # served name -> one that is being loaded

    async def embed(self, requests: Sequence[EncodeRequest]) -> list[Result | MmembedError]:
        """One result a request, in order: a bad one is its error and the others are unharmed.

        Raises:
            RequestTooLarge: more requests than `max_inputs`.
            Overloaded: too much waits already, or the service is stopping; nothing of the call is kept waiting.
            asyncio.CancelledError: the call was cancelled.
        """
        most = self._options.max_inputs
        if len(requests) > most:
            raise RequestTooLarge(f"the request has {len(requests)} inputs and at most {most} are allowed: split it")
        names = dict.fromkeys(one.encoder for one in requests)
        encoders = {name: await self._encoder(name) for name in names}
        if sum(len(one.content) for one in requests) > _DIGEST_HERE:
            keys = await asyncio.to_thread(_keys, requests, encoders)
        else:
            keys = _keys(requests, encoders)
        wanted: defaultdict[Batcher, dict[CacheKey, Content]] = defaultdict(dict)  # equal inputs once
        for one, key in zip(requests, keys, strict=True):
            if isinstance(key, CacheKey):
                wanted[self._batcher(cast(Encoder, encoders[one.encoder]))][key] = one.content
        submissions: list[Submission] = []
        results: dict[CacheKey, Result | MmembedError] = {}
        try:
            for batcher, contents in wanted.items():
                submissions.append(batcher.submit(contents, asyncio.get_running_loop()))
            for submission in submissions:
                results |= await submission.arrived()
        finally:
            for submission in submissions:
                submission.drop()
        return [
            key if isinstance(key, MmembedError) else _in_size(results[key], one.dim)
            for one, key in zip(requests, keys, strict=True)
        ]

    def encoders(self) -> Mapping[str, Encoder]:
        """For code in threads: any spelling of a served name -> its encoder, by way of the batchers and the cache."""
        return BatchedEncoders(self._source, self._batcher)

    async def close(self) -> None:
        """Finish what was accepted, and take nothing new."""
        with self._opening:
            self._closed = True
            batchers = list(self._batchers.values())
        await asyncio.gather(*(asyncio.to_thread(batcher.close) for batcher in batchers))
        self._decoders.shutdown()
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)

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
        loading = self._loading.get(served)
        if loading is None:
            loop = asyncio.get_running_loop()
            loading = self._loading[served] = loop.run_in_executor(self._loaders, self._source.encoder, served)
            loading.add_done_callback(lambda _: self._loading.pop(served))
        return await asyncio.shield(loading)

    def _batcher(self, encoder: Encoder) -> Batcher:
        batcher = self._batchers.get(id(encoder))
        if batcher is not None:
            return batcher
        with self._opening:
            if self._closed:
                raise Overloaded(STOPPING, retry_after_seconds=5)
            if id(encoder) not in self._batchers:
                self._batchers[id(encoder)] = Batcher(
                    encoder,
                    self._options,
                    cache=self._cache,
                    observer=self._observer,
                    decoders=self._decoders,
                    most_decoding=self._decoding,
                    on_the_way=self._on_the_way,
                )
            return self._batchers[id(encoder)]

    def _on_the_way(self) -> int:
        """Requests that have been admitted and wait at no batcher: they may come to one."""
        return self._observer.in_flight - sum(batcher.open for batcher in list(self._batchers.values()))


def _keys(
    requests: Sequence[EncodeRequest], encoders: Mapping[str, Encoder | MmembedError]
) -> list[CacheKey | MmembedError]:
    """The key of each request, or why it cannot be encoded."""

    @cache
    def as_one(name: str, role: Role, task: str | None) -> Iterator[CacheKey]:
        """For the texts that are one document, those of as many as there could be."""
        return iter(keys_as_one(cast(Encoder, encoders[name]), len(requests), role=role, task=task))

    def key_of(one: EncodeRequest) -> CacheKey | MmembedError:
        encoder = encoders[one.encoder]
        if isinstance(encoder, MmembedError):
            return encoder
        if fault := _fault(encoder.spec, one):
            return fault
        if isinstance(one.content, bytes):
            return image_key(encoder, one.content)
        if reads_as_one(encoder, one.role):
            return next(as_one(one.encoder, one.role, one.task))
        return text_key(encoder, one.content, role=one.role, task=one.task)

    return [key_of(one) for one in requests]


def _fault(spec: EncoderSpec, one: EncodeRequest) -> MmembedError | None:
    modality, what = ("text", "texts") if isinstance(one.content, str) else ("image", "pictures")
    if modality not in spec.modalities:
        return UnsupportedModality(spec.name, what, spec.modalities)
    sizes = {spec.dim, *spec.matryoshka_dims} if spec.kind == "dense" else {spec.dim}
    if one.dim is not None and one.dim not in sizes:
        has = " or ".join(str(size) for size in sorted(size for size in sizes if size is not None))
        return SettingsError(
            f"encoder {spec.name!r} was asked for vectors of {one.dim} dimensions and has "
            f"{'those of ' + has if has else 'sparse ones'} only: ask for no size to get its own"
        )
    if isinstance(one.content, str) and len(one.content) > _LONGEST_TEXT:
        return InvalidRequest(
            f"the text has {len(one.content):,} characters and at most {_LONGEST_TEXT:,} are allowed: split it"
        )
    return None


def _in_size(result: Result | MmembedError, dim: int | None) -> Result | MmembedError:
    """The same, its vector cut to `dim` dimensions."""
    if isinstance(result, MmembedError) or dim is None or cast(DenseArray, result.vector).shape[-1] == dim:
        return result
    return replace(result, vector=truncate(cast(DenseArray, result.vector), dim))
