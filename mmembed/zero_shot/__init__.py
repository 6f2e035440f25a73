"""What is in this picture? Labels that no model was trained for, by comparing pictures with words.

Read in this order: labels.py -> templates.py -> classes.py -> probabilities.py -> pictures.py.
"""

from __future__ import annotations

from mmembed.zero_shot.cache import ClassCache
from mmembed.zero_shot.classes import Classes, embed_classes
from mmembed.zero_shot.labels import Label, Labels, labels_of, parse_labels, read_labels
from mmembed.zero_shot.pictures import Classified, classify
from mmembed.zero_shot.probabilities import LabelScore, Verdict, decide, probabilities, score
from mmembed.zero_shot.templates import OPENAI_80, PLAIN, SIMPLE_7, TEMPLATES, read_templates

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
