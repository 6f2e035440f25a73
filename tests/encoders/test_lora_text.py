"""LoRA adapters on text models, held against the same adapter under peft, not merged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints_lora as adapters
import checkpoints_text as checkpoints
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, MistralForCausalLM

from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError
from mmembed.types import Encoder

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "e5-mistral": checkpoints.build_e5_mistral,
    "qwen3": checkpoints.build_qwen3,
    "harrier": checkpoints.build_gemma3,
}
TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("decoders")
    return {family: build(root / family) for family, build in FAMILIES.items()}


def vectors(name: str, *, dtype: str | None = None) -> np.ndarray:
    rows = encoder_of(name, dtype=dtype).encode_text(checkpoints.TEXTS, role="document")
    assert isinstance(rows, np.ndarray)
    return rows


def encoder_of(name: str, *, dtype: str | None = None) -> Encoder:
    return load_encoder(name, device="cpu", dtype=dtype)


def plain_vectors(family: str, folder: Path, model: Any) -> np.ndarray:
    """One text at a time, the hidden state of its last token; E5-Mistral's tokenizer no longer sets that one."""
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), []
    for text in checkpoints.TEXTS:
        ids = [*tokenizer(text).input_ids, *([2] if family == "e5-mistral" else [])]
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([ids])).last_hidden_state[:, -1])
    return functional.normalize(torch.cat(rows).float()).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_merged(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Texts get the vectors of the adapter under peft, to 1e-5, by option and by folder alike."""
    model = AutoModel.from_pretrained(folders[family])
    plain = adapters.adapt(model, adapters.lora(target_modules=TARGETS), tmp_path / "lora")
    expected = plain_vectors(family, folders[family], plain.base_model)
    by_option = encoder_of(f"{family}:{folders[family]}?adapter={tmp_path}/lora")
    rows = by_option.encode_text(checkpoints.TEXTS, role="document")
    assert isinstance(rows, np.ndarray)
    assert np.abs(rows - expected).max() < 1e-5
    assert np.abs(vectors(f"{family}:{folders[family]}") - expected).max() > 0.1  # the adapter does count
    by_folder = encoder_of(f"{family}:{tmp_path}/lora")
    assert np.abs(vectors(f"{family}:{tmp_path}/lora") - expected).max() < 1e-5
    assert by_option.spec.name == f"{family}:{folders[family]}?adapter={tmp_path}/lora"
    assert by_folder.spec.name == f"{family}:{tmp_path}/lora"
    assert by_folder.spec.fingerprint == by_option.spec.fingerprint
    assert by_folder.spec.fingerprint != encoder_of(f"{family}:{folders[family]}").spec.fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_cast_after_merging(dtype: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Vectors are those of the merged model, saved in float32 and loaded in half precision, bit for bit."""
    # Casting the whole module would round the frequencies of the rotary positions as well.
    base = folders["e5-mistral"]
    plain = adapters.adapt(AutoModel.from_pretrained(base), adapters.lora(target_modules=TARGETS), tmp_path / "lora")
    shutil.copytree(base, tmp_path / "merged")
    plain.merge_and_unload().save_pretrained(tmp_path / "merged")
    ours = vectors(f"e5-mistral:{tmp_path}/lora", dtype=dtype)
    assert np.array_equal(ours, vectors(f"e5-mistral:{tmp_path}/merged", dtype=dtype))


def test_an_adapter_of_the_model_with_its_head_fits(folders: dict[str, Path], tmp_path: Path) -> None:
    """Trained on MistralForCausalLM, whose layers are named one level deeper, it lands on the layers all the same."""
    base = folders["e5-mistral"]
    model = MistralForCausalLM.from_pretrained(base)
    plain = adapters.adapt(model, adapters.lora(target_modules=TARGETS, task_type="CAUSAL_LM"), tmp_path / "lora")
    expected = plain_vectors("e5-mistral", base, plain.base_model.model.model)
    assert np.abs(vectors(f"e5-mistral:{base}?adapter={tmp_path}/lora") - expected).max() < 1e-5
    whole = adapters.lora(target_modules=TARGETS, modules_to_save=["lm_head"])
    adapters.adapt(MistralForCausalLM.from_pretrained(base), whole, tmp_path / "head")
    with pytest.raises(EncoderLoadError, match=r"has \d+ \(lm_head.weight is one\) for which the model has no place"):
        encoder_of(f"e5-mistral:{base}?adapter={tmp_path}/head")


def test_an_adapter_of_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """One of another family, by its shapes and by the folder it names."""
    adapters.adapt(
        AutoModel.from_pretrained(folders["qwen3"]), adapters.lora(target_modules=TARGETS), tmp_path / "lora"
    )
    with pytest.raises(EncoderLoadError, match=f"was trained on {folders['qwen3']}, not on {folders['e5-mistral']}"):
        encoder_of(f"e5-mistral:{folders['e5-mistral']}?adapter={tmp_path}/lora")
    adapters.change_config(tmp_path / "lora", base_model_name_or_path="../elsewhere/qwen3")
    adapters.change_weights(
        tmp_path / "lora", lambda state: {key: value for key, value in state.items() if "3." in key}
    )
    with pytest.raises(EncoderLoadError, match=r"lacks 18 \(layers.0\S+ is one\) of the weights"):
        encoder_of(f"e5-mistral:{folders['e5-mistral']}?adapter={tmp_path}/lora")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.build_bert(tmp_path_factory.mktemp("sentence") / "bert", pooling="mean")


SENTENCE = {
    "LoRA": adapters.lora(target_modules=["query", "value"]),
    "DoRA": adapters.lora(target_modules=["query", "dense"], use_dora=True),
}


@pytest.mark.parametrize("kind", SENTENCE)
def test_an_adapter_on_a_sentence_transformer_is_merged(kind: str, bert: Path, tmp_path: Path) -> None:
    """By option, and as the folder that SentenceTransformer.save_pretrained wrote, to 1e-5 of what was saved."""
    # sentence-transformers itself loads such a folder, and a DoRA in it without its magnitudes: nearly right.
    model = SentenceTransformer(str(bert), device="cpu")
    model.add_adapter(SENTENCE[kind])
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(str(tmp_path / "lora"))
    expected = model.encode(checkpoints.TEXTS, normalize_embeddings=True)
    by_option, by_folder = f"sentence:{bert}?adapter={tmp_path}/lora", f"sentence:{tmp_path}/lora"
    assert np.abs(vectors(by_option) - expected).max() < 1e-5
    assert np.abs(vectors(by_folder) - expected).max() < 1e-5
    assert np.abs(vectors(f"sentence:{bert}") - expected).max() > 0.01  # the adapter does count
    known, spec = encoder_of(f"sentence:{bert}").spec, encoder_of(by_option).spec
    assert spec.name == by_option
    assert spec.fingerprint == encoder_of(by_folder).spec.fingerprint != known.fingerprint


def test_a_sentence_transformer_refuses_what_does_not_land(bert: Path, tmp_path: Path) -> None:
    """Missing weights of an adapter are refused by option and by folder: the library would draw them at random."""
    model = SentenceTransformer(str(bert), device="cpu")
    model.add_adapter(SENTENCE["LoRA"])
    model.save_pretrained(str(tmp_path / "lora"))
    adapters.change_weights(tmp_path / "lora", lambda state: {k: v for k, v in state.items() if "layer.1." not in k})
    for name in (f"sentence:{bert}?adapter={tmp_path}/lora", f"sentence:{tmp_path}/lora"):
        with pytest.raises(EncoderLoadError, match=r"lacks 4 \(encoder.layer.1.attention"):
            encoder_of(name)
