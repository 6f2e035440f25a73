"""`voyage`: Voyage AI's models, for texts, and for texts and pictures in one space."""

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
    rows_by_index,
    wanted_dim,
)
from mmembed.errors import SettingsError
from mmembed.types import LoadOptions, Role

HOME = "https://api.voyageai.com/v1"
KEYS = ("VOYAGE_API_KEY",)
TOKENS = {  # of all texts of a request
    "voyage-4-large": 120_000,
    "voyage-4": 320_000,
    "voyage-4-lite": 1_000_000,
    "voyage-3.5": 320_000,
    "voyage-3.5-lite": 1_000_000,
    "voyage-multimodal-3.5": 320_000,
    "voyage-multimodal-3": 320_000,
}
_LEAST_TOKENS = 120_000

_DIMS = (256, 512, 1024, 2048)
_SIZED = RemoteModel(1024, dims=_DIMS, context_length=32_000)
_VOYAGE_4 = RemoteModel(1024, dims=_DIMS, context_length=32_000, space="voyage-4")
MODELS = {
    "voyage-multimodal-3.5": RemoteModel(1024, dims=_DIMS, context_length=32_000, images=True),
    "voyage-multimodal-3": RemoteModel(1024, context_length=32_000, images=True),
    "voyage-4-large": _VOYAGE_4,
    "voyage-4": _VOYAGE_4,
    "voyage-4-lite": _VOYAGE_4,
    "voyage-3.5": _SIZED,
    "voyage-3.5-lite": _SIZED,
    "voyage-3-large": _SIZED,
    "voyage-code-3": _SIZED,
    "voyage-finance-2": RemoteModel(1024, context_length=32_000),
    "voyage-law-2": RemoteModel(1024, context_length=16_000),
}

_UNPROMPTED = ("classification", "clustering", "similarity", "")


class VoyageDialect:
    """The requests of `POST /embeddings` and, for models with pictures, `POST /multimodalembeddings`."""

    rules: Mapping[str, object] = {}

    def __init__(self, model: str, *, multimodal: bool, output_dimension: int | None) -> None:
        self.model = model
        self.multimodal = multimodal
        self.output_dimension = output_dimension  # None: not asked for

    def prompt(self, role: Role, task: str | None) -> str:  # noqa: ARG002
        return ""  # Voyage puts its own before a text, by input_type

    def text_request(self, texts: Sequence[str], role: Role, task: str | None) -> Request:
        input_type = _input_type(role, task)
        if self.multimodal:
            return self._request([_content({"type": "text", "text": text}) for text in texts], input_type)
        return self._request(list(texts), input_type)

    def image_request(self, images: Sequence[str]) -> Request:
        contents = [_content({"type": "image_base64", "image_base64": uri}) for uri in images]
        return self._request(contents, "document")

    def rows(self, answer: Mapping[str, Any]) -> Sequence[object]:
        return rows_by_index(answer)

    def _request(self, inputs: Sequence[object], input_type: str | None) -> Request:
        path, key = ("/multimodalembeddings", "inputs") if self.multimodal else ("/embeddings", "input")
        body: dict[str, object] = {key: inputs, "model": self.model, "truncation": True, "encoding_format": "base64"}
        if input_type is not None:
            body["input_type"] = input_type
        if self.output_dimension is not None:
            body["output_dimension"] = self.output_dimension
        return Request(path, body)


def _content(part: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    return {"content": [part]}


def _input_type(role: Role, task: str | None) -> Role | None:
    if task is None or task == "retrieval":
        return role
    if task not in _UNPROMPTED:
        raise SettingsError(f"Voyage knows no task {task!r}: it has retrieval, {', '.join(filter(None, _UNPROMPTED))}")
    return None


def load(name: EncoderName, run: LoadOptions, *, dim: str | None = None, base_url: str | None = None) -> RemoteEncoder:
    """Load `voyage:MODEL`.

    Args:
        dim: another size; for a model that is not known here, its size, which is otherwise asked for.
        base_url: another server that speaks this API. It gets no key but that of MMEMBED_API_KEYS.
    """
    api = Api.at(base_url, home=HOME, variables=KEYS)
    multimodal = "multimodal" in name.model  # the names of Voyage's models say which address takes them
    model = known_model(name, MODELS, other=RemoteModel(images=multimodal))
    size = wanted_dim(name, model, dim)
    sized = bool(model.dims) or model.dim is None
    limits = Limits(
        texts=1000,
        images=1000,
        tokens=TOKENS.get(name.model, _LEAST_TOKENS),
        total_bytes=20_000_000,
        image_bytes=20_000_000,
        image_pixels=16_000_000,
        pixels_a_token=560,
    )
    dialect = VoyageDialect(name.model, multimodal=multimodal, output_dimension=size if sized else None)
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
