"""Learn from a few labelled pictures, without training the encoder: its vectors, and Qdrant's search, are all it takes.

Read in this order: split.py -> tip_adapter.py -> probe.py -> classifier.py -> learning.py.
"""

from mmembed.classification.few_shot.classifier import FewShotClassifier, FewShotNote, load_few_shot
from mmembed.classification.few_shot.learning import FewShotReport, Measured, Prediction, learn_few_shot
from mmembed.classification.few_shot.split import stratified_split
from mmembed.classification.few_shot.tip_adapter import Neighbours, find_neighbours, tip_logits

__all__ = [
    "FewShotClassifier",
    "FewShotNote",
    "FewShotReport",
    "Measured",
    "Neighbours",
    "Prediction",
    "find_neighbours",
    "learn_few_shot",
    "load_few_shot",
    "stratified_split",
    "tip_logits",
]
