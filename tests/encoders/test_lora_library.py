"""LoRA adapters on the families that sentence-transformers carries and on BGE-M3, held against the adapter unmerged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints_lora as adapters
import checkpoints_sparse as sparse
import checkpoints_vlm as vlm
import numpy as np
import numpy.typing as npt
import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from transformers import AutoModel, AutoTokenizer

from mmembed.encoders.registry import load_encoder, load_reranker
from mmembed.errors import EncoderLoadError
from mmembed.types import SparseVector

TEXTS = ["a cat", "two dogs run over the hill", "Where is the harbour of the old town?"]
QUERY = "a small boat"
BERT, DECODER = ["query", "value"], ["q_proj", "v_proj"]
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """How a family's test model is built, and what its library computes with it."""

    build: Callable[[Path], Path]
    targets: Sequence[str]
    library: Callable[[str], Any]
    compute: Callable[[Any], Rows]


def flat(rows: Any) -> Rows:
    """Embeddings of any kind as one array: multivectors one below the other, sparse vectors over 4096 words."""
    if isinstance(rows, list) and isinstance(rows[0], SparseVector):
        wide = np.zeros((len(rows), 4096), dtype=np.float32)
        for row, vector in zip(wide, rows, strict=True):
            row[vector.indices] = vector.values
        return wide
    return np.concatenate([np.atleast_2d(np.asarray(row, dtype=np.float32)) for row in rows])


def dense(model: Any) -> Rows:
    texts, prompt = [{"text": text} for text in TEXTS], model.prompts["default"]
    return flat(model.encode_document(texts, prompt=prompt, normalize_embeddings=True, batch_size=1))


def words(model: Any) -> Rows:
    rows = model.encode_document(TEXTS, convert_to_sparse_tensor=False).numpy()
    return np.pad(rows, ((0, 0), (0, 4096 - rows.shape[1])))


def tokens(model: Any) -> Rows:
    return flat([row.cpu().numpy() for row in model.encode_query(TEXTS, batch_size=1)])


def scores(model: Any) -> Rows:
    return np.asarray(model.predict([(QUERY, text) for text in TEXTS], activation_fn=torch.nn.Identity()))


CASES = {
    "vlm": Case(vlm.build_qwen3_vl, DECODER, lambda folder: SentenceTransformer(folder, device="cpu"), dense),
    "splade": Case(sparse.build_splade, BERT, lambda folder: SparseEncoder(folder, device="cpu"), words),
    "late": Case(vlm.build_colqwen2, DECODER, lambda folder: MultiVectorEncoder(folder, device="cpu"), tokens),
    "cross-encoder": Case(vlm.build_cross_encoder, BERT, lambda folder: CrossEncoder(folder, device="cpu"), scores),
}


def ours(family: str, folder: Path, adapter: Path | None, **options: Any) -> tuple[Rows, str]:
    """What mmembed computes, and the name that it gives the model."""
    name = f"{family}:{folder}" + (f"?adapter={adapter}" if adapter else "")
    if family == "cross-encoder":
        reranker = load_reranker(name, device="cpu", **options)
        return reranker.score(QUERY, TEXTS), reranker.name
    encoder = load_encoder(name, device="cpu", **options)
    role = "query" if family == "late" else "document"
    return flat(encoder.encode_text(TEXTS, role=role)), encoder.spec.name  # type: ignore[arg-type]


@pytest.mark.parametrize("family", CASES)
def test_an_adapter_is_merged(family: str, tmp_path: Path) -> None:
    """`?adapter=` gives what the library computes with the adapter beside the weights, to 1e-5; the name has it."""
    case = CASES[family]
    folder = case.build(tmp_path / "model")
    model = case.library(str(folder))
    adapters.adapt(model.transformers_model, adapters.lora(target_modules=list(case.targets)), tmp_path / "lora")
    expected = case.compute(model)
    merged, name = ours(family, folder, tmp_path / "lora")
    assert np.abs(merged - expected).max() < 1e-5 * max(1.0, float(np.abs(expected).max()))
    assert name == f"{family}:{folder}?adapter={tmp_path}/lora"
    bare, _ = ours(family, folder, None)
    assert np.abs(bare - expected).max() > 1e-2  # the adapter does count
    half, _ = ours(family, folder, tmp_path / "lora", dtype="bfloat16")
    assert np.isfinite(half).all()


@pytest.mark.parametrize("output", ["dense", "colbert"])
def test_an_adapter_of_a_bge_m3_is_merged(output: str, tmp_path: Path) -> None:
    """Its outputs read the hidden states of the transformer with its adapter, not those of the bare one in use."""
    folder = sparse.build_bge_m3(tmp_path / "model")
    bare = load_encoder(f"bge-m3:{folder}?output={output}", device="cpu")
    plain = adapters.adapt(
        AutoModel.from_pretrained(folder), adapters.lora(target_modules=list(BERT)), tmp_path / "lora"
    )
    tokenizer, head = AutoTokenizer.from_pretrained(folder), torch.load(folder / "colbert_linear.pt")
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            (states,) = plain(**tokenizer(text, return_tensors="pt")).last_hidden_state
            if output == "colbert":
                states = torch.nn.functional.linear(states[1:], head["weight"], head["bias"])
            else:
                states = states[:1]
            expected.append(torch.nn.functional.normalize(states, dim=-1).numpy())
    encoder = load_encoder(f"bge-m3:{folder}?output={output}&adapter={tmp_path}/lora", device="cpu")
    assert np.abs(flat(encoder.encode_text(TEXTS, role="document")) - np.concatenate(expected)).max() < 1e-5
    assert np.abs(flat(bare.encode_text(TEXTS, role="document")) - np.concatenate(expected)).max() > 1e-2
    assert encoder.spec.fingerprint != bare.spec.fingerprint


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    """A BERT's adapter does not land on a decoder: said with what did not fit, before a vector is made."""
    model = SparseEncoder(str(sparse.build_splade(tmp_path / "bert")), device="cpu")
    adapters.adapt(
        model.transformers_model, adapters.lora(target_modules=BERT), tmp_path / "lora", base="somebody/bert"
    )
    folder = vlm.build_colqwen2(tmp_path / "late")
    with pytest.raises(EncoderLoadError, match=r"the adapter .*lora cannot be merged"):
        load_encoder(f"late:{folder}?adapter={tmp_path}/lora", device="cpu")
