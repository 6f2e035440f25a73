"""What is known about a model before any of its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmembed.types import Distance, Kind, Modality

__all__ = ["GEMMA_TASKS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """One model under a short name. Empty is unknown, or as the model's own files say."""

    encoder: str  # the full name: "family:model"
    summary: str
    modalities: tuple[Modality, ...] = ("text",)
    kind: Kind = "dense"
    dim: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    context_length: int | None = None
    image_size: int | None = None
    distance: Distance = "cosine"
    query_prompt: str = ""  # "{task}" is replaced by the task's instruction
    document_prompt: str = ""
    own_prompts: bool = False  # the model's files say what leads its texts; the two prompts above say nothing
    task_prompts: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # task -> its query and document prompts
    pooling: str = ""  # "mean", "CLS", "last token", "last position", "end of text", "every token", "max"
    layer_norm: bool = False  # over the pooled vector, before it is cut
    min_versions: Mapping[str, str] = field(default_factory=dict)  # package -> the oldest that knows the model
    revision: str | None = None  # the commit of the model's repository that is loaded
    licence: str = ""
    commercial_use: bool = True
    remote_code: bool = False  # loads only with --trust-remote-code
    photographs: bool = True  # False: its pictures are drawings, so captions know more than it does

    @property
    def model(self) -> str:
        return self.encoder.partition(":")[2]


_GEMMA_DOCUMENT = "title: none | text: "
GEMMA_TASKS: Mapping[str, tuple[str, str]] = {
    "classification": (
        "task: classification | query: ",
        "task: classification | query: ",
    ),
    "clustering": ("task: clustering | query: ", "task: clustering | query: "),
    "similarity": (
        "task: sentence similarity | query: ",
        "task: sentence similarity | query: ",
    ),
    "question answering": ("task: question answering | query: ", _GEMMA_DOCUMENT),
    "fact checking": ("task: fact checking | query: ", _GEMMA_DOCUMENT),
    "code retrieval": ("task: code retrieval | query: ", _GEMMA_DOCUMENT),
}
"""EmbeddingGemma's, both editions: a symmetric task leads both sides alike, the others queries alone."""
