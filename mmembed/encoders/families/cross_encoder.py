"""`cross-encoder`: a query and a candidate read together, through sentence-transformers.

    cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2     English texts, small
    cross-encoder:BAAI/bge-reranker-v2-m3                 texts in 100 languages
    cross-encoder:Qwen/Qwen3-VL-Reranker-2B               texts and pictures: a language model that says yes or no
    cross-encoder:./folder

Options: `revision=COMMIT`, `max_length=` tokens of a query and a candidate together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sentence_transformers import CrossEncoder

from mmembed.encoders.checkpoint import find_checkpoint
from mmembed.encoders.families.memory import in_smaller_batches
from mmembed.encoders.families.sentence_models import PlainText, load_model, read_layout, to_readable
from mmembed.encoders.lora import find_origin
from mmembed.encoders.lora_merge import build_adapted
from mmembed.encoders.registry import EncoderName, whole_number
from mmembed.errors import EncoderLoadError, UnsupportedModality
from mmembed.streams import check_several
from mmembed.types import LoadOptions, Modality

_EXAMPLE = "cross-encoder:cross-encoder/ms-marco-MiniLM-L6-v2"
_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 16, 64


class CrossEncoderReranker:
    """A `Reranker`; `load` makes one."""

    def __init__(self, name: str, model: CrossEncoder, run: LoadOptions) -> None:
        self.name = name
        images: tuple[Modality, ...] = ("image",) if model.supports(("image", "text")) else ()
        self.modalities: frozenset[Modality] = frozenset({"text", *images})
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.batch_size = run.batch_size or (_BATCH_SIZE_CPU if model.device.type == "cpu" else _BATCH_SIZE_GPU)
        self._model = model
        self._plain = PlainText(model.tokenizer)
        template: Any = getattr(model[0], "input_formatter", None)
        self._says_what = "message" in model.modalities and template.message_format == "structured"

    def score(self, query: str, candidates: Sequence[str | Image.Image]) -> npt.NDArray[np.float32]:
        """A query and n texts or upright pictures -> `(n,)`, higher is better.

        A score is the model's logit: for one trained to tell relevant from not the log-odds, of which a sigmoid
        makes a probability. It is not squeezed by one here, which makes all good candidates equal in float32.

        Raises:
            UnsupportedModality: a picture, for a model of texts.
        """
        check_several(candidates, "candidates")
        if "image" not in self.modalities and any(isinstance(candidate, Image.Image) for candidate in candidates):
            raise UnsupportedModality(self.name, "images", self.modalities)
        if not candidates:
            return np.empty(0, dtype=np.float32)
        pairs = [self._pair(query, candidate) for candidate in candidates]

        def run(batch_size: int) -> npt.NDArray[np.float32]:
            logits = self._model.predict(
                pairs, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
            return np.asarray(logits, dtype=np.float32)

        return in_smaller_batches(run, self.batch_size, name=f"reranker {self.name}")

    def _pair(self, query: str, candidate: str | Image.Image) -> Any:
        """What the model is to read, said to be text or picture where its library would guess from the string."""
        document = to_readable(candidate) if isinstance(candidate, Image.Image) else self._plain(candidate)
        if not self._says_what:
            return self._plain(query), document
        return {"text": self._plain(query)}, {"image" if isinstance(candidate, Image.Image) else "text": document}


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    max_length: str | None = None,
    adapter: str | None = None,
) -> CrossEncoderReranker:
    """Load `cross-encoder:MODEL`, a hub id or a folder.

    Args:
        revision: of the hub's repository; without it the latest.
        max_length: tokens of a query and a candidate together, special ones included; the longer is cut first.
        adapter: a LoRA adapter to merge, a folder or a hub id.

    Raises:
        EncoderLoadError: not there, incomplete, or no model that gives a pair one score.
    """
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLE)
    origin = find_origin(name, checkpoint, adapter, own=False)
    tokens = whole_number(origin.name, "max_length", max_length, least=8)
    kind, config = read_layout(checkpoint)
    architectures = config.get("architectures") or []
    classifies = kind is None and any(made.endswith("ForSequenceClassification") for made in architectures)
    if kind != "CrossEncoder" and not classifies:
        raise EncoderLoadError(
            f"{checkpoint.model} is a {kind or ' or '.join(architectures) or 'model of no architecture'}, which was "
            f"not saved as a model that scores pairs: name a cross-encoder, such as {_EXAMPLE}"
        )
    make = partial(CrossEncoder, max_length=tokens)
    model = build_adapted(origin, run, partial(load_model, make, checkpoint, run), on_gpu="bfloat16")
    if model.num_labels != 1:
        raise EncoderLoadError(
            f"{checkpoint.model} gives a pair {model.num_labels} scores, not 1: it sorts pairs into classes, so name a "
            f"reranker, such as {_EXAMPLE}"
        )
    return CrossEncoderReranker(str(origin.name), model, run)
