"""`cohere`: Cohere's Embed models, for texts and pictures in one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmembed.encoders.registry import EncoderName
from mmembed.encoders.remote import (
    Api,
    Limits,
    RemoteEncoder,
    RemoteModel,
    Request,
    known_model,
    remote_encoder,
    wanted_dim,
)
from mmembed.errors import InvalidEmbedding, SettingsError
from mmembed.types import LoadOptions, Role

HOME = "https://api.cohere.com/v2"
KEYS = ("CO_API_KEY", "COHERE_API_KEY")
LIMITS = Limits(
    texts=96, images=96, total_bytes=20_000_000, image_bytes=20_000_000, image_pixels=2_458_624
)  # beyond that many pixels Cohere shrinks a picture itself
V3_LIMITS = Limits(texts=96, images=1, image_bytes=5_000_000, image_pixels=2_458_624)

_V4 = (256, 512, 1024, 1536)
_V5 = (256, 512, 768, 1024, 1536, 2048)
MODELS = {
    "embed-v5.0-pro": RemoteModel(2048, dims=_V5, context_length=128_000, images=True, space="embed-v5.0"),
    "embed-v5.0-fast": RemoteModel(2048, dims=_V5, context_length=128_000, images=True, space="embed-v5.0"),
    "embed-v4.0": RemoteModel(1536, dims=_V4, context_length=128_000, images=True),
    "embed-multilingual-v3.0": RemoteModel(1024, context_length=512, images=True),
    "embed-english-v3.0": RemoteModel(1024, context_length=512, images=True),
    "embed-multilingual-light-v3.0": RemoteModel(384, context_length=512, images=True),
    "embed-english-light-v3.0": RemoteModel(384, context_length=512, images=True),
}

_RETRIEVAL: Mapping[Role, str] = {"query": "search_query", "document": "search_document"}
_TASKS = {"classification": "classification", "clustering": "clustering"} | {t: t for t in _RETRIEVAL.values()}


class CohereDialect:
    """The request of `POST /v2/embed`, where the role is an input type."""

    rules: Mapping[str, object] = {}

    def __init__(self, model: str, *, output_dimension: int | None) -> None:
        self.model = model
        self.output_dimension = output_dimension  # None: not asked for

    def prompt(self, role: Role, task: str | None) -> str:  # noqa: ARG002
        return ""

    def text_request(self, texts: Sequence[str], role: Role, task: str | None) -> Request:
        return self._request(_input_type(role, task), "texts", texts)

    def image_request(self, images: Sequence[str]) -> Request:
        return self._request("image", "images", images)

    def rows(self, answer: Mapping[str, Any]) -> Sequence[object]:
        embeddings = answer.get("embeddings")
        rows = embeddings.get("float") if isinstance(embeddings, dict) else None
        if not isinstance(rows, list):
            raise InvalidEmbedding('the answer has no list under "embeddings" and "float": it is not that of Cohere')
        return rows

    def _request(self, input_type: str, kind: str, inputs: Sequence[str]) -> Request:
        body: dict[str, object] = {"model": self.model, "input_type": input_type, kind: list(inputs)}
        if self.output_dimension is not None:
            body["output_dimension"] = self.output_dimension
        if kind == "texts":
            body["truncate"] = "END"
        return Request("/embed", {**body, "embedding_types": ["float"]})


def _input_type(role: Role, task: str | None) -> str:
    if task is None or task == "retrieval":
        return _RETRIEVAL[role]
    if task not in _TASKS:
        raise SettingsError(f"Cohere knows no task {task!r}: it has retrieval, {', '.join(sorted(_TASKS))}")
    return _TASKS[task]


def load(name: EncoderName, run: LoadOptions, *, dim: str | None = None, base_url: str | None = None) -> RemoteEncoder:
    """Load `cohere:MODEL`.

    Args:
        dim: fewer dimensions; for a model that is not known here, its size, which is otherwise asked for.
        base_url: another server that speaks this API, such as http://localhost:8000/v2. It gets no key but
            that of MMEMBED_API_KEYS.
    """
    api = Api.at(base_url, home=HOME, variables=KEYS)
    model = known_model(name, MODELS)
    size = wanted_dim(name, model, dim)
    sized = bool(model.dims) or model.dim is None  # v3 has one size, and refuses to be asked for it
    dialect = CohereDialect(name.model, output_dimension=size if sized else None)
    limits = V3_LIMITS if name.model.endswith("-v3.0") else LIMITS
    return remote_encoder(
        name,
        run,
        api=api,
        dialect=dialect,
        limits=limits,
        model=model,
        dim=size,
        image_request=dialect.image_request if model.images else None,
    )
