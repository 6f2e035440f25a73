"""What one of mteb's tasks is called in mmembed: the role and the task that `encode_text` is given.

Retrieval and reranking have two sides, and mteb says which one it encodes. In all other tasks both sides are alike
(mteb names none), so that every text is led as a query of a symmetric task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from mmembed.encoders.prompts import known_tasks
from mmembed.errors import SettingsError
from mmembed.types import Encoder, Role

TaskMetadata: TypeAlias = Any  # mteb's own, which is imported only where it runs

_OF_TYPE: Mapping[str, tuple[str, ...]] = {  # symmetric types of task, each with what models call it, best first
    "BitextMining": ("BitextMining", "similarity"),
    "Classification": ("classification",),
    "Clustering": ("clustering",),
    "MultilabelClassification": ("classification",),
    "PairClassification": ("similarity",),
    "Regression": ("classification",),
    "STS": ("STS", "similarity"),
    "Summarization": ("Summarization", "similarity"),
}
_FAMILIES = ("CQADupstack", "MIRACL")  # many data sets, one instruction
_VARIANT = re.compile(r"^Nano|(HardNegatives)?(\.v\d+)?$")  # of a data set: smaller, or cleaned


def role_of(prompt_type: str | None) -> Role:
    """mteb's "query", "document" or None (a symmetric task, or the labels of a zero-shot one) -> the role."""
    return "document" if prompt_type == "document" else "query"


def accepted_task(encoder: Encoder, metadata: TaskMetadata, role: Role, own: Mapping[str, str]) -> str | None:
    """The `task` that leads `encoder`'s texts in this task of mteb's: the first one that it knows.

    In order: what `own` has for the name of the task; the name, where E5-Mistral's table of instructions has it; the
    kind of a symmetric task; the instruction that mteb gives for the task; and for a model without any prompt for a
    symmetric task none at all.

    Raises SettingsError where `own` names a task that the encoder does not know.
    """
    if metadata.name in own:
        encoder.encode_text([], role=role, task=own[metadata.name])
        return own[metadata.name]
    return next((task for task in _candidates(metadata, role) if _accepts(encoder, role, task)), None)


def _candidates(metadata: TaskMetadata, role: Role) -> Iterator[str]:
    instructions, kinds = known_tasks(), _OF_TYPE.get(metadata.type, ())
    # what the table may have a data set under: "CQADupstackGamingRetrieval", "SciFact.v2", "NanoNQRetrieval"
    families = [family for family in _FAMILIES if metadata.name.startswith(family)]
    plain = _VARIANT.sub("", metadata.name)
    names = (metadata.name, *families, plain, plain.removesuffix("Retrieval"))
    yield from (name for name in names if name in instructions)
    yield from (kind for kind in kinds if kind[0].isupper())  # those that E5-Mistral instructs by their kind alone
    prompt = metadata.prompt
    own = prompt.get(role) if isinstance(prompt, Mapping) else prompt
    if own:
        yield str(own)
    if kinds:
        yield from (kinds[-1], "")


def _accepts(encoder: Encoder, role: Role, task: str) -> bool:
    """Asked with no texts: every encoder looks at the task first."""
    try:
        encoder.encode_text([], role=role, task=task)
    except SettingsError:
        return False
    return True
