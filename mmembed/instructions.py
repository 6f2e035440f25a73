"""Instructions of instructed encoders: what a query is for, in the words they were trained on.

The table is that of E5-Mistral (microsoft/unilm, e5/utils.py, verbatim, slips included); Qwen3, harrier
and multilingual-E5-instruct follow the same form. Four plain words stand beside the names of data sets:
retrieval, classification, clustering, similarity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files

__all__ = ["known_tasks", "query_prefix"]


@lru_cache(maxsize=1)
def known_tasks() -> Mapping[str, str]:
    """Task name -> instruction: {"SciFact": "Given a scientific claim, ...", "retrieval": ...}."""
    tasks: dict[str, str] = json.loads(files("mmembed.encoders").joinpath("e5_tasks.json").read_text("utf-8"))
    return tasks


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
