"""What is in this picture? Labels that no model was trained for, by comparing pictures with words.

Read in this order: labels.py -> templates.py -> classes.py -> probabilities.py -> zero_shot.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmembed.classification.cache import ClassCache
from mmembed.classification.classes import Classes, embed_classes
from mmembed.classification.labels import Label, Labels, labels_of, parse_labels, read_labels
from mmembed.classification.scoring import LabelScore, Verdict, decide, probabilities, score
from mmembed.classification.templates import OPENAI_80, PLAIN, SIMPLE_7, TEMPLATES, read_templates
from mmembed.classification.zero_shot import Classified, classify

__all__ = [
    "OPENAI_80",
    "PLAIN",
    "SIMPLE_7",
    "TEMPLATES",
    "ClassCache",
    "Classes",
    "Classified",
    "Label",
    "LabelScore",
    "Labels",
    "Verdict",
    "classify",
    "decide",
    "embed_classes",
    "labels_of",
    "parse_labels",
    "probabilities",
    "read_labels",
    "read_templates",
    "score",
]

_PARTS = ("few_shot",)  # packages of their own, loaded when they are first used


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"mmembed.classification.{name}")
    raise AttributeError(f"module 'mmembed.classification' has no attribute {name!r}")
