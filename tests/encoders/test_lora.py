"""LoRA adapters on image-text models, held against the same adapter under peft, not merged."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import checkpoints_clip as checkpoints
import checkpoints_lora as adapters
import numpy as np
import pytest
import torch
import transformers
from peft import IA3Config, LoHaConfig, PeftConfig, PromptTuningConfig
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Siglip2Model, SiglipModel

from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError, MissingDependency

# Before 5.23 transformers loads an adapter beside a model even where it is told to leave it out.
beside_its_model = pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23),
    reason="transformers 5.23 is the first that leaves it out",
)

BUILDERS: dict[str, Any] = {
    "siglip": (checkpoints.siglip2_folder, SiglipModel, 64),
    "naflex": (checkpoints.naflex_folder, Siglip2Model, 64),
    "clip": (checkpoints.clip_folder, CLIPModel, 77),
}
LINEAR = ["q_proj", "v_proj", "fc1"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {kind: build(root / kind) for kind, (build, _, _) in BUILDERS.items()}


def encoder_of(kind: str, model: object, adapter: object = None, *, dtype: str | None = None) -> ImageTextEncoder:
    family = "siglip" if kind == "naflex" else kind
    option = "" if adapter is None else f"?adapter={adapter}"
    encoder = load_encoder(f"{family}:{model}{option}", device="cpu", dtype=dtype, batch_size=2)
    assert isinstance(encoder, ImageTextEncoder)
    return encoder


def model_of(kind: str, folder: Path) -> Any:
    return BUILDERS[kind][1].from_pretrained(folder)


def plain_vectors(kind: str, folder: Path, model: Any) -> np.ndarray:
    """Texts, then pictures, through the model's own methods; the preparation is tested elsewhere."""
    tokenizer, length = AutoTokenizer.from_pretrained(folder), BUILDERS[kind][2]
    texts = [text if kind == "clip" else text.lower() for text in checkpoints.TEXTS]
    ids = tokenizer(texts, padding="max_length", max_length=length, padding_side="right", return_tensors="pt").input_ids
    processor, model = AutoImageProcessor.from_pretrained(folder, backend="pil"), getattr(model, "base_model", model)
    with torch.no_grad():
        rows = [model.get_text_features(input_ids=ids).pooler_output]
        inputs = [processor(images=[image], return_tensors="pt") for image in checkpoints.images()]
        rows += [model.get_image_features(**one).pooler_output for one in inputs]
    return functional.normalize(torch.cat(rows)).numpy()


def vectors(encoder: ImageTextEncoder) -> np.ndarray:
    return np.concatenate(
        [encoder.encode_text(checkpoints.TEXTS, role="query"), encoder.encode_image(checkpoints.images())]
    )


@pytest.mark.parametrize("kind", BUILDERS)
def test_an_adapter_is_merged(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Texts and pictures get the vectors of the adapter under peft, to 1e-5, by option and by folder alike."""
    plain = adapters.adapt(model_of(kind, folders[kind]), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    expected = plain_vectors(kind, folders[kind], plain)
    by_option = encoder_of(kind, folders[kind], tmp_path / "lora")
    assert np.abs(vectors(by_option) - expected).max() < 1e-5
    assert np.abs(vectors(encoder_of(kind, folders[kind])) - expected).max() > 0.1  # the adapter does count
    by_folder = encoder_of(kind, tmp_path / "lora")
    assert np.abs(vectors(by_folder) - expected).max() < 1e-5
    assert by_folder.spec.fingerprint == by_option.spec.fingerprint
    assert by_folder.spec.fingerprint != encoder_of(kind, folders[kind]).spec.fingerprint
    assert by_folder.spec.revision is None


KINDS: dict[str, PeftConfig] = {
    "DoRA": adapters.lora(target_modules=LINEAR, use_dora=True),
    "rank-stabilised": adapters.lora(target_modules=LINEAR, use_rslora=True),
    "other ranks": adapters.lora(target_modules=LINEAR, rank_pattern={"fc1": 2}, alpha_pattern={"fc1": 16}),
    "whole modules": adapters.lora(target_modules=["q_proj"], modules_to_save=["fc2"]),
    "biases": adapters.lora(target_modules=["q_proj"], bias="lora_only"),
    "all biases": adapters.lora(target_modules=["q_proj"], bias="all"),
    "embeddings": adapters.lora(target_modules=["q_proj", "token_embedding"]),
    "tokens": adapters.lora(target_modules=["q_proj"], trainable_token_indices={"token_embedding": [1, 5]}),
    "one tower": adapters.lora(target_modules=r"text_model\..*q_proj"),
    "pooling attention": adapters.lora(target_modules=["vision_model.head.attention"]),
    "LoHa": LoHaConfig(target_modules=LINEAR, init_weights=False),
    "IA3": IA3Config(target_modules=LINEAR, feedforward_modules=["fc1"], init_ia3_weights=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_can_be_merged_is(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Every kind of adapter that changes weights gives the vectors that it gives under peft, to 1e-5."""
    plain = adapters.adapt(model_of("siglip", folders["siglip"]), KINDS[kind], tmp_path / "adapter")
    expected = plain_vectors("siglip", folders["siglip"], plain)
    assert np.abs(vectors(encoder_of("siglip", tmp_path / "adapter")) - expected).max() < 1e-5
    assert np.abs(vectors(encoder_of("siglip", folders["siglip"])) - expected).max() > 1e-3


def test_an_adapter_that_transformers_wrote_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    """What `model.add_adapter` and `model.save_pretrained` leave behind is a folder like any other of peft's."""
    model = model_of("siglip", folders["siglip"]).eval()
    model.add_adapter(adapters.lora(target_modules=LINEAR))
    model.save_pretrained(tmp_path / "lora")
    expected = plain_vectors("siglip", folders["siglip"], model)
    assert np.abs(vectors(encoder_of("siglip", folders["siglip"], tmp_path / "lora")) - expected).max() < 1e-5


def test_half_precision_is_cast_after_merging(folders: dict[str, Path], tmp_path: Path) -> None:
    """In bfloat16 the vectors are those of the merged model, saved in float32 and loaded in bfloat16, bit for bit."""
    plain = adapters.adapt(
        model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora"
    )
    shutil.copytree(folders["siglip"], tmp_path / "merged")
    plain.merge_and_unload().save_pretrained(tmp_path / "merged")
    ours = encoder_of("siglip", folders["siglip"], tmp_path / "lora", dtype="bfloat16")
    expected = encoder_of("siglip", tmp_path / "merged", dtype="bfloat16")
    assert np.array_equal(vectors(ours), vectors(expected))


@beside_its_model
def test_an_adapter_beside_its_model_counts_once(folders: dict[str, Path], tmp_path: Path) -> None:
    """config.json and adapter_config.json in one folder are a model with its adapter, whoever would load it."""
    plain = adapters.adapt(
        model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora"
    )
    both = Path(shutil.copytree(folders["siglip"], tmp_path / "both"))
    for file in (tmp_path / "lora").iterdir():
        shutil.copy(file, both)
    encoder = encoder_of("siglip", both)
    assert np.abs(vectors(encoder) - plain_vectors("siglip", folders["siglip"], plain)).max() < 1e-5
    assert encoder.spec.fingerprint == encoder_of("siglip", folders["siglip"], tmp_path / "lora").spec.fingerprint
    with pytest.raises(EncoderLoadError, match="has an adapter of its own, beside"):
        encoder_of("siglip", both, tmp_path / "lora")


def test_files_that_are_not_loaded_do_not_count(folders: dict[str, Path], tmp_path: Path) -> None:
    """Weights of an adapter without its configuration, of another library, or pickled: the same fingerprint."""
    # Every *.safetensors of the folder used to be counted.
    folder = Path(shutil.copytree(folders["siglip"], tmp_path / "stray"))
    for name in ("adapter_model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "optimizer.pt"):
        (folder / name).write_bytes(b"nothing that anybody could read")
    known, stray = encoder_of("siglip", folders["siglip"]), encoder_of("siglip", folder)
    assert stray.spec.fingerprint == known.spec.fingerprint
    assert np.array_equal(vectors(stray), vectors(known))


def test_the_stored_name_is_valid_everywhere(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths of base and adapter become absolute, and the stored name loads the same encoder elsewhere."""
    adapters.adapt(model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    shutil.copytree(folders["siglip"], tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    encoder = encoder_of("siglip", "./base", "./lora")
    assert encoder.spec.name == f"siglip:{tmp_path}/base?adapter={tmp_path}/lora"
    monkeypatch.chdir(folders["siglip"])
    again = load_encoder(encoder.spec.name, device="cpu")
    assert again.spec == encoder.spec


def test_the_fingerprint_follows_the_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other weights or another scale make another fingerprint; another place, base path or order does not."""
    base = folders["siglip"]
    adapters.adapt(model_of("siglip", base), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    known = encoder_of("siglip", base, tmp_path / "lora").spec.fingerprint
    same = Path(shutil.copytree(tmp_path / "lora", tmp_path / "same"))
    adapters.change_config(same, base_model_name_or_path="/somewhere/else", target_modules=LINEAR[::-1])
    assert encoder_of("siglip", base, same).spec.fingerprint == known
    adapters.change_config(same, lora_alpha=16)
    assert encoder_of("siglip", base, same).spec.fingerprint != known
    other = Path(shutil.copytree(tmp_path / "lora", tmp_path / "other"))
    adapters.change_weights(other, lambda state: {key: 2 * value for key, value in state.items()})
    assert encoder_of("siglip", base, other).spec.fingerprint != known


def test_hub_ids_of_base_and_adapter_are_compared(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter of the hub goes on the hub's model that it names, by option or alone, and on no other."""
    model, made = model_of("siglip", folders["siglip"]), tmp_path / "lora"
    plain = adapters.adapt(model, adapters.lora(target_modules=LINEAR), made, base="org/right")
    expected = plain_vectors("siglip", folders["siglip"], plain)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, folder in {"org/right": folders["siglip"], "org/wrong": folders["siglip"], "org/lora": made}.items():
        adapters.to_cache(tmp_path / "cache", name, folder)
    encoder = encoder_of("siglip", "org/right", "org/lora")
    assert encoder.spec.name == "siglip:org/right?adapter=org/lora"
    assert np.abs(vectors(encoder) - expected).max() < 1e-5
    alone = encoder_of("siglip", "org/lora")
    assert np.abs(vectors(alone) - expected).max() < 1e-5
    assert (alone.spec.name, alone.spec.fingerprint) == ("siglip:org/lora", encoder.spec.fingerprint)
    assert alone.spec.revision == encoder.spec.revision == "a" * 40
    with pytest.raises(EncoderLoadError, match=r"org/lora was trained on org/right, not on org/wrong: put it on that"):
        encoder_of("siglip", "org/wrong", "org/lora")
    with pytest.raises(EncoderLoadError, match=r"org/nothing is neither in the Hugging Face cache.*\?adapter=FOLDER"):
        encoder_of("siglip", "org/right", "org/nothing")


def test_a_base_of_this_disk_is_compared_by_its_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    """A copy of the folder that the adapter names will do; one with other weights is refused with both names."""
    base = folders["siglip"]
    adapters.adapt(model_of("siglip", base), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    assert encoder_of("siglip", copied, tmp_path / "lora").spec.dim == 32
    other = checkpoints.siglip2_folder(tmp_path / "other", seed=1)
    with pytest.raises(EncoderLoadError, match=f"was trained on {base}, not on {other}"):
        encoder_of("siglip", other, tmp_path / "lora")


def _without(*parts: str) -> Any:
    return lambda state: {key: value for key, value in state.items() if not any(part in key for part in parts)}


def _with(key: str, value: torch.Tensor) -> Any:
    return lambda state: {**state, key: value}


B_OF_Q = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight"
WRONG_WEIGHTS: dict[str, tuple[Any, str]] = {
    "half of a pair": (_without("layers.0.self_attn.q_proj.lora_B"), r"lacks 2 \(text_model\S+lora_B.weight is one\)"),
    "a layer": (_without("layers.1."), r"lacks 12 \("),
    "too much": (_with("base_model.model.text_model.lm_head.weight", torch.zeros(2)), r"has 1 \(text_model.lm_head"),
    "another width": (_with(B_OF_Q, torch.zeros(48, 4)), r"q_proj.lora_B.weight of shape \[48, 4\].*needs \[32, 4\]"),
    "another rank": (_with(B_OF_Q, torch.zeros(32, 8)), r"of shape \[32, 8\], the model needs \[32, 4\]"),
    "not a number": (_with(B_OF_Q, torch.full((32, 4), torch.nan)), "cannot be merged.*NaN"),
}


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_weights_that_do_not_all_land_are_refused(wrong: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Missing, left over, of another shape or not finite: peft would warn at most; the error gives counts or shapes."""
    adapters.adapt(model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    change, says = WRONG_WEIGHTS[wrong]
    adapters.change_weights(tmp_path / "lora", change)
    with pytest.raises(EncoderLoadError, match=says) as caught:
        encoder_of("siglip", folders["siglip"], tmp_path / "lora")
    assert str(tmp_path / "lora") in str(caught.value)


WRONG_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no such layers": ({"target_modules": ["gate_proj"]}, "cannot be merged.*gate_proj"),
    "no such kind": ({"peft_type": "MAGIC"}, "is of kind 'MAGIC', unknown to peft: pip install -U peft"),
    "of a newer peft": ({"use_magic": True}, "says use_magic, which the installed peft does not know"),
}


@pytest.mark.parametrize("wrong", WRONG_CONFIGS)
def test_configurations_that_do_not_fit_are_refused(wrong: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Layers that the model has not, and kinds and settings that peft does not know, are said in one sentence."""
    adapters.adapt(model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    change, says = WRONG_CONFIGS[wrong]
    adapters.change_config(tmp_path / "lora", **change)
    with pytest.raises(EncoderLoadError, match=says):
        encoder_of("siglip", tmp_path / "lora")


def test_prompt_learning_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """What adds tokens instead of changing weights cannot be merged, and is not left out without a word."""
    adapters.adapt(model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "prompts")
    prompts = PromptTuningConfig(num_virtual_tokens=4, base_model_name_or_path=str(folders["siglip"]))
    prompts.save_pretrained(tmp_path / "prompts")
    with pytest.raises(EncoderLoadError, match=r"PROMPT_TUNING.*adds tokens or layers.*use LoRA"):
        encoder_of("siglip", tmp_path / "prompts")


def test_a_layer_that_is_never_called_must_be_untouched(folders: dict[str, Path], tmp_path: Path) -> None:
    """PyTorch's attention reads out_proj's weights: an untrained adapter there is nothing, a random one is refused."""
    target = adapters.lora(target_modules=["q_proj", "out_proj"])
    plain = adapters.adapt(model_of("siglip", folders["siglip"]), target, tmp_path / "lora")
    with pytest.raises(EncoderLoadError, match=r"vision_model.head.attention.out_proj, which PyTorch's attention"):
        encoder_of("siglip", tmp_path / "lora")
    key = "base_model.model.vision_model.head.attention.out_proj.lora_B.weight"
    adapters.change_weights(tmp_path / "lora", _with(key, torch.zeros(32, 4)))
    expected = plain_vectors("siglip", folders["siglip"], plain)
    assert np.abs(vectors(encoder_of("siglip", tmp_path / "lora")) - expected).max() < 1e-5


def test_pickled_and_absent_adapters_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """adapter_model.bin alone, no weights, no configuration, no folder: each is said."""
    adapters.adapt(model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    (tmp_path / "lora" / adapters.WEIGHTS).rename(tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(EncoderLoadError, match=r"only the pickled adapter_model.bin: save it again"):
        encoder_of("siglip", folders["siglip"], tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.bin").unlink()
    with pytest.raises(EncoderLoadError, match="holds no weights"):
        encoder_of("siglip", folders["siglip"], tmp_path / "lora")
    with pytest.raises(EncoderLoadError, match=r"has no adapter_config\.json, so it is not an adapter"):
        encoder_of("siglip", folders["siglip"], folders["clip"])
    with pytest.raises(EncoderLoadError, match=r"adapter \./nowhere is a folder that is not there"):
        encoder_of("siglip", folders["siglip"], "./nowhere")


@pytest.mark.parametrize(
    ("base", "says"), [("/gone/away", "an adapter of /gone/away, a folder that is not there"), (None, "names no base")]
)
def test_an_adapter_without_its_base_is_refused(
    base: str | None, says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """A folder that is an adapter of something unknown says how to name the model; on that model it then loads."""
    adapters.adapt(model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    adapters.change_config(tmp_path / "lora", base_model_name_or_path=base)
    with pytest.raises(EncoderLoadError, match=rf"{says}.*write siglip:MODEL\?adapter={re.escape(str(tmp_path))}"):
        encoder_of("siglip", tmp_path / "lora")
    assert encoder_of("siglip", folders["siglip"], tmp_path / "lora").spec.dim == 32


@beside_its_model
def test_a_missing_peft_is_said(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without peft an adapter is an error with the pip line, never the bare model."""
    adapters.adapt(model_of("siglip", folders["siglip"]), adapters.lora(target_modules=LINEAR), tmp_path / "lora")
    both = Path(shutil.copytree(folders["siglip"], tmp_path / "both"))
    shutil.copytree(tmp_path / "lora", both, dirs_exist_ok=True)
    monkeypatch.setitem(sys.modules, "peft", None)
    for folder in (tmp_path / "lora", both):
        with pytest.raises(MissingDependency, match=r"needs the package 'peft'.*pip install 'mmembed\[lora\]'"):
            encoder_of("siglip", folder)
