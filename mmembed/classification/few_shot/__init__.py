"""Learn from a few labelled pictures, without training the encoder: its vectors, and Qdrant's search, are all it takes.

Read in this order: split.py -> keys.py -> tip.py -> probe.py -> learning.py -> compared.py -> adapter.py.
"""

from mmembed.classification.few_shot.adapter import Adapter, FewShotNote, load_adapter
from mmembed.classification.few_shot.learning import FewShotReport, Measured, Outcome, learn_few_shot
from mmembed.classification.few_shot.split import stratified_split
from mmembed.classification.few_shot.tip_adapter import Neighbours, find_neighbours, tip_logits

__all__ = [
    "Adapter",
    "FewShotNote",
    "FewShotReport",
    "Measured",
    "Neighbours",
    "Outcome",
    "find_neighbours",
    "learn_few_shot",
    "load_adapter",
    "stratified_split",
    "tip_logits",
]
