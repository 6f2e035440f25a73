"""`RemoteEncoder`: an `Encoder` whose vectors are made by an HTTP API."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from mmembed.encoders.checkpoint import fingerprint
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.registry import EncoderName
from mmembed.encoders.remote.batches import (
    Ask,
    Cost,
    Limits,
    ask_fitting,
    data_uri,
    estimate_tokens,
    most_tokens,
    request_slices,
)
from mmembed.encoders.remote.calls import Api
from mmembed.encoders.remote.models import RemoteModel
from mmembed.encoders.remote.responses import rows_by_index, to_vectors
from mmembed.errors import InputError, UnsupportedModality
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role
from mmembed.vectors import truncate

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH_SIZE = 64
_PARALLEL_REQUESTS = 4  # of one batch: a free account is allowed no more by some


@dataclass(frozen=True)
class Request:
    """What is posted for one batch."""

    path: str  # below the API's address: "/embeddings"
    body: Mapping[str, object]


ImageRequest: TypeAlias = Callable[[Sequence[str]], Request]
"""n pictures as data URIs -> what is posted for them."""


class Dialect(Protocol):
    """What differs from API to API: how a batch is asked for, and where its rows stand in the answer.

    A subclass has the defaults below, which are those of most APIs.
    """

    rules: Mapping[str, object] = {}  # what else makes vectors comparable, for the fingerprint: JSON values

    def prompt(self, role: Role, task: str | None) -> str:
        """What is sent in front of a text; "" where the API itself knows about roles."""
        return ""

    def text_request(self, texts: Sequence[str], role: Role, task: str | None) -> Request:
        """n texts, none of them empty. Raises SettingsError for a task that the API does not know."""
        ...

    def rows(self, answer: Mapping[str, Any]) -> Sequence[object]:
        """One row for each input, in order: a list of numbers or base64 of little-endian float32."""
        return rows_by_index(answer)


class RemoteEncoder:
    """An `Encoder`; `remote_encoder` makes one."""

    dtype = "float32"
    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(
        self,
        spec: EncoderSpec,
        api: Api,
        dialect: Dialect,
        limits: Limits,
        *,
        width: int,
        batch_size: int | None,
        image_request: ImageRequest | None = None,
    ) -> None:
        self.spec = spec
        self.batch_size = batch_size or _BATCH_SIZE
        self._api = api
        self._dialect = dialect
        self._limits = limits
        self._width = width  # of what the API returns; spec.dim of it are kept
        self._most = batch_size  # inputs a request, where the user wants fewer than the API takes
        self._image_request = image_request

    def count_tokens(self, text: str) -> int:
        """An estimate that is mostly too high, since the vocabulary is the vendor's; see `remote.estimate_tokens`."""
        return estimate_tokens(text)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`, in as many requests as the API's limits ask for, up to four of them at once.

        An empty text is sent as a space, since most APIs refuse empty ones.

        Raises:
            SettingsError: the API knows no such task.
            InputError: more texts than fit into one request, where they must not be divided.
            EncoderRefused, EncoderUnavailable, InvalidEmbedding: see `Api.post`.
        """
        prompt = self._dialect.prompt(role, task)
        inputs = [prompt + text or " " for text in texts_in(texts)]
        longest = self.spec.context_length
        costs = [Cost(min(most_tokens(text), longest or most_tokens(text)), len(text.encode())) for text in inputs]
        groups = self._groups(inputs, costs, self._limits.texts)
        if role in self.spec.whole_call and len(groups) > 1:
            raise InputError(
                f"{len(inputs)} texts do not fit into one request to {self._api.host}, and {self.spec.name} reads all "
                f"texts of a call as one document: hand it fewer, or shorter ones"
            )

        def ask(some: Sequence[str]) -> DenseArray:
            return self._ask(self._dialect.text_request(some, role, task), n=len(some))

        if longest is None or not self._limits.refuses_long_texts:
            return self._gather(ask, groups)
        return self._gather(partial(ask_fitting, ask, longest=longest), groups)

    def encode_image(self, images: Sequence[Image]) -> DenseArray:
        """n pictures of any mode -> `(n, dim)`, sent as PNG, as JPEG where that is too large, and shrunk to the limits.

        Raises UnsupportedModality for a model without pictures, InputError for a picture that stays too large,
        otherwise as `encode_text`.
        """
        request = self._image_request
        if request is None:
            raise UnsupportedModality(self.spec.name, "images", self.spec.modalities)
        uris = [data_uri(image, limits=self._limits) for image in images_in(images)]
        rate = self._limits.pixels_a_token
        costs = [Cost(math.ceil(pixels / rate) if rate else 0, len(uri)) for uri, pixels in uris]
        groups = self._groups([uri for uri, _ in uris], costs, self._limits.images)
        return self._gather(lambda some: self._ask(request(some), n=len(some)), groups)

    def _groups(self, inputs: Sequence[str], costs: Sequence[Cost], most: int) -> list[Sequence[str]]:
        """Runs of inputs that one request may hold, of which it takes `most`."""
        slices = request_slices(costs, limits=self._limits, count=min(self._most or most, most))
        return [inputs[group] for group in slices]

    def _ask(self, request: Request, *, n: int) -> DenseArray:
        answer = self._api.post(request.path, request.body)
        rows = to_vectors(self._dialect.rows(answer), n=n, width=self._width, host=self._api.host)
        return truncate(rows, self.spec.dim or self._width)

    def _gather(self, ask: Ask, groups: Sequence[Sequence[str]]) -> DenseArray:
        """The rows of every group, in order; the first group that fails fails all."""
        if not groups:
            return np.empty((0, self.spec.dim or 0), dtype=np.float32)
        if len(groups) == 1:
            return ask(groups[0])
        pool = ThreadPoolExecutor(min(_PARALLEL_REQUESTS, len(groups)))
        try:
            return np.concatenate(list(pool.map(ask, groups)))
        finally:
            pool.shutdown(cancel_futures=True)


def remote_encoder(
    name: EncoderName,
    run: LoadOptions,
    *,
    api: Api,
    dialect: Dialect,
    limits: Limits,
    model: RemoteModel,
    dim: int | None,
    width: int | None = None,
    image_request: ImageRequest | None = None,
    whole_call: Collection[Role] = (),
) -> RemoteEncoder:
    """Put an encoder together; a model of unknown size is asked for one vector.

    Args:
        dim: of the vectors that come out.
        width: of those that the API returns, where they are cut to `dim` here; None: the same.
        image_request: None: the model has no pictures.
        whole_call: roles in which all texts of a call are one document, so that they must go into one request.
    """
    width = width or dim
    if width is None:
        request = dialect.text_request(["dimensions"], "document", None)
        rows = to_vectors(dialect.rows(api.post(request.path, request.body)), n=1, width=None, host=api.host)
        width = rows.shape[1]
    ingredients = {"api": name.family if api.own else api.host, "model": model.space or name.model, "dim": dim or width}
    spec = EncoderSpec(
        name=str(name),
        kind="dense",
        dim=dim or width,
        modalities=frozenset({"image", "text"} if image_request else {"text"}),
        fingerprint=fingerprint({**ingredients, **dialect.rules}),
        matryoshka_dims=model.dims,
        context_length=model.context_length,
        licence=model.licence,
        remote=True,  # `mmembed verify` allows for a server that computes in half precision
        whole_call=frozenset(whole_call),
    )
    size = run.batch_size
    return RemoteEncoder(spec, api, dialect, limits, width=width, batch_size=size, image_request=image_request)
