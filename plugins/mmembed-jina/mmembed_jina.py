"""`jina`: Jina AI's models by its API, for texts, and for texts and pictures in one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmembed.encoders import (
    Api,
    Dialect,
    EncoderName,
    Limits,
    LoadOptions,
    RemoteEncoder,
    RemoteModel,
    Request,
    Role,
    SettingsError,
    known_model,
    remote_encoder,
    wanted_dim,
)

HOME = "https://api.jina.ai/v1"
KEYS = ("JINA_API_KEY",)
LIMITS = Limits(texts=128, images=16)
LATE_LIMITS = Limits(texts=1024)

_NC = "CC-BY-NC-4.0"  # of the weights; the API has terms of its own
_TO_1024, _TO_768 = (32, 64, 128, 256, 512, 768, 1024), (32, 64, 128, 256, 512, 768)
MODELS = {
    "jina-embeddings-v5-omni-small": RemoteModel(1024, _TO_1024, 32_768, images=True, licence=_NC),
    "jina-embeddings-v5-omni-nano": RemoteModel(768, _TO_768, 8192, images=True, licence=_NC),
    "jina-embeddings-v5-text-small": RemoteModel(1024, _TO_1024, 32_768, licence=_NC),
    "jina-embeddings-v5-text-nano": RemoteModel(768, _TO_768, 8192, licence=_NC),
    "jina-embeddings-v4": RemoteModel(2048, (128, 256, 512, 1024, 2048), 32_768, images=True, licence=_NC),
    "jina-clip-v2": RemoteModel(1024, (64, 128, 256, 512, 768, 1024), 8192, images=True, licence=_NC),
    "jina-embeddings-v3": RemoteModel(1024, _TO_1024, 8192, licence=_NC),
    "jina-embeddings-v2-base-en": RemoteModel(768, context_length=8192, licence="Apache-2.0"),
}
LATE_CHUNKING = ("jina-embeddings-v3", "jina-embeddings-v4")  # of the table; they pool by the mean

_RETRIEVAL = {"retrieval": ("retrieval.query", "retrieval.passage")}
_SIMILARITY = {"similarity": ("text-matching", "text-matching")}
_LABELS = {"classification": ("classification", "classification")}
TASKS: Mapping[str, Mapping[str, tuple[str, str]]] = {  # how a name starts -> task -> its words for query and document
    "jina-embeddings-v5": _RETRIEVAL | _SIMILARITY | _LABELS | {"clustering": ("clustering", "clustering")},
    "jina-embeddings-v4": _RETRIEVAL | _SIMILARITY | {"code": ("code.query", "code.passage")},
    "jina-embeddings-v3": _RETRIEVAL | _SIMILARITY | _LABELS | {"clustering": ("separation", "separation")},
    "jina-clip-v2": {"retrieval": ("retrieval.query", "")},
    "jina-embeddings-v2": {"retrieval": ("", "")},
}


class JinaDialect(Dialect):
    """The request of `POST /embeddings`, where the role is part of the task."""

    def __init__(self, model: str, *, dimensions: int | None, multimodal: bool, late_chunking: bool) -> None:
        self.model = model
        self.dimensions = dimensions  # None: not asked for
        self.multimodal = multimodal
        self.late_chunking = late_chunking
        self.tasks = next((tasks for start, tasks in TASKS.items() if model.startswith(start)), _RETRIEVAL)
        self.rules: Mapping[str, object] = {"late_chunking": True} if late_chunking else {}

    def text_request(self, texts: Sequence[str], role: Role, task: str | None) -> Request:
        late = self.late_chunking and role == "document"
        inputs = [{"text": text} for text in texts] if self.multimodal else list(texts)
        return self._request(inputs, self._task(role, task), late=late)

    def image_request(self, images: Sequence[str]) -> Request:
        inputs = [{"image": uri.partition(",")[2]} for uri in images]
        return self._request(inputs, self._task("document", None), late=False)

    def _request(self, inputs: Sequence[object], task: str, *, late: bool) -> Request:
        body: dict[str, object] = {"model": self.model, "input": inputs}
        if task:
            body["task"] = task
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        if late:
            body["late_chunking"] = True
        # With late chunking nothing may be cut off: the last passages would be left without a vector of their own.
        return Request("/embeddings", {**body, "truncate": not late, "embedding_type": "base64", "normalized": True})

    def _task(self, role: Role, task: str | None) -> str:
        if task == "":
            return ""
        own = {word for words in self.tasks.values() for word in words if word}
        if task in own:
            return str(task)
        if (task or "retrieval") not in self.tasks:
            raise SettingsError(f"{self.model} knows no task {task!r}: it has {', '.join(sorted({*self.tasks, *own}))}")
        return self.tasks[task or "retrieval"][0 if role == "query" else 1]


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    dim: str | None = None,
    late_chunking: str = "false",
    base_url: str | None = None,
) -> RemoteEncoder:
    """Load `jina:MODEL`.

    Args:
        dim: fewer dimensions; for a model that is not known here, its size, which is otherwise asked for.
        late_chunking: "true": the documents of one call to `encode_text` are the passages of one document, in order.
        base_url: another server that speaks this API. It gets no key but that of MMEMBED_API_KEYS.
    """
    api = Api.at(base_url, home=HOME, variables=KEYS)
    if late_chunking not in ("true", "false"):
        raise SettingsError(f"encoder {str(name)!r}: late_chunking is true or false, not {late_chunking!r}")
    late = late_chunking == "true"
    if late and name.model in MODELS and name.model not in LATE_CHUNKING:
        raise SettingsError(f"{name.model} has no late chunking: use {' or '.join(LATE_CHUNKING)}")
    model = known_model(name, MODELS)
    size = wanted_dim(name, model, dim)
    sized = bool(model.dims) or model.dim is None
    dialect = JinaDialect(name.model, dimensions=size if sized else None, multimodal=model.images, late_chunking=late)
    limits = LATE_LIMITS if late else LIMITS
    return remote_encoder(
        name,
        run,
        api=api,
        dialect=dialect,
        limits=limits,
        model=model,
        dim=size,
        image_request=dialect.image_request if model.images else None,
        whole_call=frozenset({"document"}) if late else frozenset(),
    )
