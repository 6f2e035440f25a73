"""What leads a text by its role and its task: instructions in words, and the prompts of models that know a few tasks.

Everybody's tasks are `retrieval`, `classification`, `clustering` and `similarity`; each model has its own words for
them, and may have further tasks. Retrieval has two sides, queries and documents, and is what every model does.
The others are symmetric: both sides are led alike, so that any two texts can be compared.

The table of instructions is that of E5-Mistral (microsoft/unilm, e5/utils.py, verbatim, slips included), under the
names of its data sets; Qwen3, harrier and multilingual-E5-instruct follow the same form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import cast

from mmembed.errors import SettingsError
from mmembed.types import Role

_SIMILARITY = ("similarity", "sts")
"""What models call similarity in their own prompts, in lower case."""


@lru_cache(maxsize=1)
def known_tasks() -> Mapping[str, str]:
    """Task name -> instruction: {"SciFact": "Given a scientific claim, ...", "retrieval": ...}."""
    table = _table()
    return {**table["asymmetric"], **table["symmetric"]}


def is_symmetric(task: str | None) -> bool:
    """Whether `task` leads documents as it leads queries. An instruction in words is for queries alone."""
    return task in _table()["symmetric"]


def query_prefix(template: str, task: str | None) -> str:
    """What stands before a query: `template` with the instruction of `task` for its "{task}".

    `task` is a name of `known_tasks()` or an instruction in words; None is a web search; "" is no prefix at all.

    >>> query_prefix("Instruct: {task}\\nQuery: ", "SciFact")
    'Instruct: Given a scientific claim, retrieve documents that support or refute the claim\\nQuery: '
    """
    if task == "":
        return ""
    tasks = known_tasks()
    instruction = tasks["retrieval"] if task is None else tasks.get(task, task)
    return template.replace("{task}", instruction)


def text_prefix(template: str, role: Role, task: str | None) -> str:
    """What stands before a text of an instructed model: before a document nothing, but for a symmetric task.

    >>> text_prefix("Instruct: {task}\\nQuery: ", "document", "STS")
    'Instruct: Retrieve semantically similar text.\\nQuery: '
    >>> text_prefix("Instruct: {task}\\nQuery: ", "document", "SciFact")
    ''
    """
    return query_prefix(template, task) if role == "query" or is_symmetric(task) else ""


def check_task(encoder: str, task: str | None) -> None:
    """Raise SettingsError for a task of an encoder without prompts: it would change nothing, and not say so."""
    if task not in (None, "", "retrieval"):
        raise SettingsError(f"encoder {encoder} knows no task {task!r}: it has retrieval alone, so leave it out")


@dataclass(frozen=True)
class Prompts:
    """What leads the texts of one model."""

    encoder: str  # its name, for errors
    roles: Mapping[Role, str]  # for retrieval; a "{task}" in the query's is replaced by an instruction
    tasks: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # known to mmembed: for queries, for documents
    own: Mapping[str, str] = field(default_factory=dict)  # named in the model's files: each leads both sides

    def lead(self, role: Role, task: str | None) -> str:
        """The prompt, "" for none.

        Args:
            task: None is retrieval; "" is no prompt; another is looked for in `tasks` and then in `own`. A model
                that follows instructions takes any name of `known_tasks()`, and other words as an instruction.

        Raises:
            SettingsError: the model knows no such task.
        """
        instructed = "{task}" in self.roles["query"]
        if instructed and (role == "query" or is_symmetric(task)):
            return query_prefix(self.roles["query"], task)
        if task == "":
            return ""
        if instructed or task is None or task == "retrieval":
            return self.roles[role]
        if task in self.tasks:
            queries, documents = self.tasks[task]
            return queries if role == "query" else documents
        return self._own_prompt(task)

    def _own_prompt(self, task: str) -> str:
        """That of the key called `task`, in any case: EmbeddingGemma's is "Clustering", and "STS" is its similarity."""
        if task in self.own:
            return self.own[task]
        called = _SIMILARITY if task == "similarity" else (task.lower(),)
        for key, prompt in self.own.items():
            if key.lower() in called:
                return prompt
        known = sorted({"retrieval", *self.tasks, *self.own})
        if known == ["retrieval"]:
            check_task(self.encoder, task)
        raise SettingsError(f"encoder {self.encoder} knows no task {task!r}: it has {', '.join(known)}")


def own_prompts(encoder: str, prompts: Mapping[str, str | None]) -> Prompts:
    """Those that a model's own files name, the sides of retrieval among them."""
    own = {key: value for key, value in prompts.items() if value}
    document = own.get("document") or own.get("passage") or ""
    return Prompts(encoder, {"query": own.get("query", ""), "document": document}, own=own)


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, str]]:
    text = files("mmembed.encoders").joinpath("e5_tasks.json").read_text("utf-8")
    return cast(dict[str, dict[str, str]], json.loads(text))
