"""`late`: late interaction, a vector for every token, compared by MaxSim; through sentence-transformers.

    late:vidore/colqwen2-v1.0-hf            pictures of pages: ColPali, ColQwen2, ColModernVBERT of transformers
    late:lightonai/GTE-ModernColBERT-v1     texts: ColBERT as saved by PyLate, Stanford or sentence-transformers
    late:./folder

Options: `revision=COMMIT`, `pool=N`, which merges the vectors of a document into about one in N.
The score of a query q with a document d is the sum over i of max over j of q_i . d_j (arXiv 2004.12832).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from mmembed.encoders.checkpoint import Checkpoint, find_checkpoint
from mmembed.encoders.families.memory import check_finite, in_smaller_batches
from mmembed.encoders.families.sentence_models import (
    PlainText,
    image_settings,
    load_model,
    module_settings,
    read_layout,
    to_readable,
    token_limit,
)
from mmembed.encoders.inputs import images_in, texts_in
from mmembed.encoders.lora import find_origin
from mmembed.encoders.lora_merge import build_adapted
from mmembed.encoders.prompts import check_task
from mmembed.encoders.registry import EncoderName, whole_number
from mmembed.encoders.tokens import TokenCounter
from mmembed.errors import EncoderLoadError, UnsupportedModality
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Modality, Role
from mmembed.vectors import l2_normalize

_EXAMPLES = "late:vidore/colqwen2-v1.0-hf for pages or late:lightonai/GTE-ModernColBERT-v1 for texts"
_SAVED_AS = ("MultiVectorEncoder", "ColBERT")  # by sentence-transformers and PyLate
_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 4, 16


class LateEncoder:
    """An `Encoder` of multivectors, `(tokens_i, dim)` each with rows of norm 1; `load` makes one."""

    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(self, spec: EncoderSpec, model: MultiVectorEncoder, run: LoadOptions, *, pool: int | None) -> None:
        self.spec = spec
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.batch_size = run.batch_size or (_BATCH_SIZE_CPU if model.device.type == "cpu" else _BATCH_SIZE_GPU)
        self._model = model
        self._pooling = None if pool is None else HierarchicalTokenPooling(pool_factor=pool)
        self._plain = PlainText(model.tokenizer)
        transformer: Any = model[0]
        # A retriever native to transformers reads pages: its processor writes every text as a query.
        self._text_role: Role = "query" if transformer.transformer_task == "retrieval" else "document"
        self._counter = TokenCounter(model.tokenizer)
        self._prefix = model.prompts.get("document") or ""
        self._frame: int | None = None  # tokens that the processor of a model of pages adds to a query and its prefix
        if self._text_role == "document":
            _take_turns(model)
        else:
            self._prefix = str(getattr(model.processor, "query_prefix", ""))
            framed = model.preprocess([{"text": "a"}], task="query")["input_ids"].shape[1]
            self._frame = framed - self._counter(f"{self._prefix}a", special=False)

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> list[DenseArray]:
        """n strings -> n arrays `(tokens_i, dim)`, led by the marker of their role.

        Raises:
            UnsupportedModality: texts as documents of a model of pages, which reads every text as a query.
            SettingsError: a task other than "retrieval", which is all that these models know.
        """
        check_task(self.spec.name, task)
        if role != self._text_role == "query":
            raise UnsupportedModality(self.spec.name, "texts as documents", ("pictures", "queries"))
        # As {"text": ...}: a bare string that looks like a link to a picture is taken for the picture.
        return self._encode([{"text": self._plain(text)} for text in texts_in(texts)], role)

    def encode_image(self, images: Sequence[Image.Image]) -> list[DenseArray]:
        """n upright pictures -> n arrays `(patches_i, dim)`. Raises UnsupportedModality for a model of texts."""
        if "image" not in self.spec.modalities:
            raise UnsupportedModality(self.spec.name, "images", self.spec.modalities)
        return self._encode([{"image": to_readable(image)} for image in images_in(images)], "document")

    def count_tokens(self, text: str) -> int:
        """Tokens of a document, of a query for a model of pages, with its marker and special ones; none cut off."""
        led = self._prefix + self._plain(text)
        if self._frame is not None:
            return self._frame + self._counter(led, special=False)
        return self._counter(led)

    def _encode(self, inputs: Sequence[Mapping[str, Any]], role: Role) -> list[DenseArray]:
        def run(batch_size: int) -> list[DenseArray]:
            settings: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False}
            if role == "query":
                tensors = self._model.encode_query(list(inputs), **settings)
            else:
                tensors = self._model.encode_document(list(inputs), token_pooling=self._pooling, **settings)
            # Normalised again: half precision leaves norms off by 1e-3, and merged vectors are shorter than 1.
            rows = (check_finite(tensor.float().cpu().numpy(), self.spec.name, self.dtype) for tensor in tensors)
            return [l2_normalize(row) for row in rows]

        return in_smaller_batches(run, self.batch_size, name=f"encoder {self.spec.name}") if inputs else []


def load(
    name: EncoderName,
    run: LoadOptions,
    *,
    revision: str | None = None,
    pool: str | None = None,
    adapter: str | None = None,
) -> LateEncoder:
    """Load `late:MODEL`, a hub id or a folder.

    Args:
        revision: of the hub's repository; a known model has its own.
        pool: documents keep about one vector in so many, the means of the most alike; queries keep all.
        adapter: a LoRA adapter to merge, a folder or a hub id.

    Raises:
        EncoderLoadError: not there, incomplete, or no late-interaction model: one would be made up.
    """
    checkpoint = find_checkpoint(name, revision=revision, example=_EXAMPLES)
    origin = find_origin(name, checkpoint, adapter, own=False)
    factor = whole_number(origin.name, "pool", pool, least=2)
    marker = _check_kind(checkpoint)
    make = partial(load_model, MultiVectorEncoder, checkpoint, run)
    model = build_adapted(origin, run, make, on_gpu="bfloat16")
    processor = model.processor
    ingredients = {
        **origin.ingredients(checkpoint.weight_files(marker)),
        "modules": module_settings(model),
        "prompts": model.prompts,
        "pictures": image_settings(processor),
        "page_prompts": [getattr(processor, key, None) for key in ("visual_prompt_prefix", "query_prefix")],
        "pool": factor,
    }
    modalities: tuple[Modality, ...] = ("image", "text") if model.supports("image") else ("text",)
    transformer: Any = model[0]
    spec = origin.spec(
        ingredients,
        kind="multi",
        dim=model.get_embedding_dimension(),
        modalities=modalities,
        context_length=token_limit(transformer.document_length or model.max_seq_length),
        revision=checkpoint.revision,
    )
    return LateEncoder(spec, model, run, pool=factor)


def _check_kind(checkpoint: Checkpoint) -> str:
    """The file that marks where the weights are, of a model whose projection to token vectors was trained."""
    kind, config = read_layout(checkpoint)
    if kind in _SAVED_AS:
        return "modules.json"
    architectures = config.get("architectures") or []
    if kind is None and any(name == "HF_ColBERT" or name.endswith("ForRetrieval") for name in architectures):
        return "config.json"
    raise EncoderLoadError(
        f"{checkpoint.model} is a {kind or ' or '.join(architectures) or 'model of no architecture'}, whose token "
        f"vectors were not trained to be compared: name a late-interaction model, such as {_EXAMPLES}"
    )


def _take_turns(model: MultiVectorEncoder) -> None:
    """Let one thread at a time make token ids, which is short; forward passes still run side by side.

    Queries and documents set the one tokenizer of a model of texts to their own length and padding before they use
    it, so that without this a query may be cut or padded as the document of another thread.
    """
    turn, preprocess = threading.Lock(), model.preprocess

    def in_turn(*args: Any, **options: Any) -> dict[str, Any]:
        with turn:
            return preprocess(*args, **options)

    model.preprocess = in_turn  # type: ignore[method-assign]
