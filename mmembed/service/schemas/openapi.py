"""What the OpenAPI says of every route alike: which errors there are, and the shape of each."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]

TAGS = [
    {"name": "search", "description": "Find pictures and passages by words, by picture, by both."},
    {"name": "labels", "description": "Say which of some labels a picture shows."},
    {"name": "index", "description": "Add and remove pictures and documents."},
    {"name": "embeddings", "description": "Vectors, as OpenAI's and Cohere's clients ask for them."},
    {"name": "Qdrant inference", "description": "The back end that a self-hosted Qdrant asks for vectors."},
    {"name": "about", "description": "What is served, and whether it is well."},
]
_SENTENCE = "no collection 'imags' in the store: did you mean 'images'?"
_ERRORS: dict[int | str, str] = {
    400: "The request is malformed, or asks for what cannot be; the sentence says what.",
    401: "No key, or one that is not known.",
    403: "The key lacks the scope, or a page of another origin asks.",
    404: "No such collection or point.",
    408: "The request did not arrive in time.",
    413: "More bytes or inputs than are taken at once.",
    429: "Too much is waiting: try again after `Retry-After` seconds.",
    503: "The store or an encoder is not there now.",
    "default": "Any other error.",
}


def our_errors() -> Responses:
    return _documented(_object(error=_text(_SENTENCE), type=_text("CollectionNotFound")))


def openai_errors() -> Responses:
    error = _object(message=_text(_SENTENCE), type=_text("invalid_request_error"), code=_text("CollectionNotFound"))
    error["properties"]["param"] = {"type": "null"}
    return _documented(_object(error=error))


def cohere_errors() -> Responses:
    return _documented(_object(message=_text(_SENTENCE)))


def _documented(schema: dict[str, Any]) -> Responses:
    content = {"application/json": {"schema": schema}}
    return {status: {"description": text, "content": content} for status, text in _ERRORS.items()}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


def _text(example: str) -> dict[str, Any]:
    return {"type": "string", "examples": [example]}
