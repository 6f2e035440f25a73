"""`openai`: OpenAI's embeddings, and every server that speaks the same API: vLLM, TEI, infinity, llama.cpp, Ollama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmembed.encoders import (
    Api,
    Dialect,
    EncoderName,
    Limits,
    LoadOptions,
    Preset,
    Prompts,
    RemoteEncoder,
    RemoteModel,
    Request,
    Role,
    known_model,
    preset_of_model,
    remote_encoder,
    wanted_dim,
)

HOME = "https://api.openai.com/v1"
KEYS = ("OPENAI_API_KEY",)
LIMITS = Limits(texts=2048, tokens=300_000, refuses_long_texts=True)
SERVER_LIMITS = Limits(texts=32, refuses_long_texts=True)  # the least that a common server takes

MODELS = {
    "text-embedding-3-small": RemoteModel(1536, dims=(256, 512, 768, 1024, 1536), context_length=8192),
    "text-embedding-3-large": RemoteModel(3072, dims=(256, 512, 768, 1024, 1536, 2048, 3072), context_length=8192),
    "text-embedding-ada-002": RemoteModel(1536, context_length=8192),
}


class OpenAIDialect(Dialect):
    """The request of `POST /embeddings`, and the prompts of models that were trained with some."""

    def __init__(self, model: str, *, dimensions: int | None, query: str, document: str, preset: Preset | None) -> None:
        self.model = model
        self.dimensions = dimensions  # None: not asked for
        self.prompts = Prompts(model, {"query": query, "document": document}, preset.task_prompts if preset else {})
        self.rules: Mapping[str, object] = {"prompts": [query, document]}

    def prompt(self, role: Role, task: str | None) -> str:
        """What leads a text of the role; raises SettingsError for a task that the model does not know."""
        return self.prompts.lead(role, task)

    def text_request(self, texts: Sequence[str], role: Role, task: str | None) -> Request:
        body: dict[str, object] = {"model": self.model, "input": list(texts)}
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        return Request("/embeddings", {**body, "encoding_format": "base64"})


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    dim: str | None = None,
    base_url: str | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
) -> RemoteEncoder:
    """Load `openai:MODEL`.

    Args:
        dim: fewer dimensions; for a model that is not known here, its size, which is otherwise asked for.
        base_url: another server, such as http://localhost:8000/v1. It gets no key but that of MMEMBED_API_KEYS.
        query_prompt: what stands before a query; "{task}" in it is replaced by the task's instruction.
        document_prompt: what stands before a document.
    """
    # 1. Which server, and what is known of the model: from the table, or as a model of the hub behind a server.
    api = Api.at(base_url, home=HOME, variables=KEYS)
    preset = None if name.model in MODELS else preset_of_model(name.model)
    model = known_model(name, MODELS, other=_of_the_hub(preset))
    size = wanted_dim(name, model, dim)
    # 2. OpenAI's models shorten their vectors themselves; those of a server are cut here.
    shortens = name.model.startswith("text-embedding-3-")
    dialect = OpenAIDialect(
        name.model,
        dimensions=size if shortens else None,
        query=query_prompt if query_prompt is not None else preset.query_prompt if preset else "",
        document=document_prompt if document_prompt is not None else preset.document_prompt if preset else "",
        preset=preset,
    )
    return remote_encoder(
        name,
        run,
        api=api,
        dialect=dialect,
        limits=LIMITS if api.own else SERVER_LIMITS,
        model=model,
        dim=size,
        width=size if shortens else model.dim,
    )


def _of_the_hub(preset: Preset | None) -> RemoteModel:
    if preset is None:
        return RemoteModel()
    return RemoteModel(
        preset.dim, dims=preset.matryoshka_dims, context_length=preset.context_length, licence=preset.licence
    )
