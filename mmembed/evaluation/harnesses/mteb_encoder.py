"""An encoder as mteb 2.x calls one: `mteb.evaluate(MtebEncoder("minilm"), tasks)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, TypeAlias, get_args

import numpy as np

from mmembed.encoders.registry import load_encoder
from mmembed.errors import MissingDependency, SettingsError, UnsupportedModality
from mmembed.evaluation.harnesses.mteb_tasks import TaskMetadata, accepted_task, role_of
from mmembed.images import upright_rgb
from mmembed.types import DenseArray, Embeddings, Encoder, Role
from mmembed.vectors import check_embeddings, l2_normalize

Batch: TypeAlias = Mapping[str, Any]
"""One batch of mteb's: lists of equal length under "text", "image" or both."""

_UNKNOWN = (  # mteb asks for these as well
    *("loader", "release_date", "languages", "n_parameters", "memory_usage_mb", "open_weights"),
    *("public_training_code", "public_training_data", "use_instructions", "training_datasets"),
)
_MODEL_TYPES: Mapping[str, Any] = {"dense": "dense", "sparse": "sparse", "multi": "late-interaction"}


class MtebEncoder:
    """mteb's EncoderProtocol: texts led by role and task, pictures, and both fused as MIEB fuses them.

    Dense encoders only; a sparse or multivector one is measured by `QdrantSearch`.

    Args:
        encoder: an encoder, or a name for `load_encoder`.
        tasks: mteb's name of a task -> the `task` for `encode_text`, where it is not the one that mmembed would
            choose: {"SciFact": "Given a claim, find the abstract of a paper that settles it"}.

    Raises:
        MissingDependency: mteb is not installed.
        SettingsError: the encoder is not dense.
    """

    def __init__(self, encoder: Encoder | str, *, tasks: Mapping[str, str] | None = None) -> None:
        self.encoder = load_for_mteb(encoder)
        self.tasks = dict(tasks or {})
        spec = self.encoder.spec
        if spec.kind != "dense":
            raise SettingsError(
                f"encoder {spec.name} makes {spec.kind} vectors, and mteb compares dense ones: "
                f"search with it by QdrantSearch({spec.name!r})"
            )
        self.mteb_model_meta = model_meta(self.encoder)

    def encode(
        self,
        inputs: Iterable[Batch],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # a text is encoded alike in every split and subset
        hf_subset: str,
        prompt_type: str | None = None,
        batch_size: int | None = None,  # of `inputs`; the encoder has its own
        show_progress_bar: bool = False,
        precision: str | None = None,
    ) -> DenseArray:
        """mteb's batches -> `(n, dim)`, in order.

        Raises:
            SettingsError: `precision` asks for anything but float32.
            UnsupportedModality: the encoder can read nothing of what a batch holds.
        """
        if precision not in (None, "float32"):
            raise SettingsError(
                f"encoder {self.encoder.spec.name} was asked for {precision} vectors, but returns float32 alone: leave "
                f"precision out, and measure quantization with QdrantSearch on a quantized collection"
            )
        role = role_of(prompt_type)
        task = accepted_task(self.encoder, task_metadata, role, self.tasks)
        rows = [np.zeros((0, self.encoder.spec.dim or 0), dtype=np.float32)]
        rows += [np.asarray(encode_batch(self.encoder, batch, role=role, task=task)) for batch in inputs]
        return np.concatenate(rows)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """`(n, dim)` and `(m, dim)` -> a torch tensor `(n, m)` of cosines, or dot products where trained for them."""
        from mteb.similarity_functions import cos_sim, dot_score

        return (dot_score if self.encoder.spec.distance == "dot" else cos_sim)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """`(n, dim)` and `(n, dim)` -> a torch tensor `(n,)`; see `similarity`."""
        from mteb.similarity_functions import pairwise_cos_sim, pairwise_dot_score

        pairwise = pairwise_dot_score if self.encoder.spec.distance == "dot" else pairwise_cos_sim
        return pairwise(embeddings1, embeddings2)


def load_for_mteb(encoder: Encoder | str) -> Encoder:
    """`encoder`, loaded where it is a name. Raises MissingDependency without mteb, before anything is loaded."""
    if find_spec("mteb") is None:
        raise MissingDependency("running mteb's tasks", "mteb", "mmembed[harnesses]")
    return load_encoder(encoder) if isinstance(encoder, str) else encoder


def encode_batch(encoder: Encoder, batch: Batch, *, role: Role, task: str | None) -> Embeddings:
    """One batch of mteb's -> n embeddings. What the encoder has no tower for is left out where there is more.

    Text and picture of one input are fused as MIEB does it (Xiao et al. 2025), by the sum of both, here of unit rows;
    the sum is of norm 1 again, which changes no cosine.

    Raises:
        UnsupportedModality: nothing in the batch can be read.
        SettingsError: both text and picture, of an encoder whose vectors do not add up.
    """
    spec = encoder.spec
    found: list[Embeddings] = []
    if "text" in batch and "text" in spec.modalities:
        found.append(encoder.encode_text(list(batch["text"]), role=role, task=task))
    if "image" in batch and "image" in spec.modalities:
        found.append(encoder.encode_image([upright_rgb(image) for image in batch["image"]]))
    if not found:
        there = [key for key in ("text", "image", "audio", "video") if key in batch]
        raise UnsupportedModality(spec.name, " and ".join(there) or "an empty batch", spec.modalities)
    if spec.kind != "dense":
        if len(found) > 1:
            raise SettingsError(
                f"encoder {spec.name} makes {spec.kind} vectors, of which those of a text and of its picture cannot be "
                f"added up: this task needs a dense encoder"
            )
        return found[0]
    dense = [check_embeddings(np.asarray(rows), n=len(rows), dim=spec.dim, encoder=spec.name) for rows in found]
    return dense[0] if len(dense) == 1 else l2_normalize(dense[0] + dense[1])


def model_meta(encoder: Encoder, experiment: Mapping[str, Any] | None = None) -> Any:
    """mteb's ModelMeta of an encoder: "mmembed/minilm", so that results never pass for another implementation's.

    mteb keeps results by name and revision, so where a model has no revision its fingerprint stands for it.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import Licenses

    spec = encoder.spec
    licence = (spec.licence or "").lower()
    return ModelMeta(
        **dict.fromkeys(_UNKNOWN),
        name=f"mmembed/{spec.name.replace('/', '__')}",
        revision=spec.revision or spec.fingerprint,
        max_tokens=spec.context_length,
        embed_dim=spec.dim,
        license=licence if licence in get_args(Licenses) else None,
        framework=[],
        similarity_fn_name=ScoringFunction("MaxSim" if spec.kind == "multi" else spec.distance),
        modalities=sorted(spec.modalities, reverse=True),
        model_type=[_MODEL_TYPES[spec.kind]],
        experiment_kwargs=dict(experiment) if experiment else None,
    )
