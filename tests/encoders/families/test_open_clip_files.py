"""Files and folders that fine-tuning leaves behind, LoRA adapters, and such as are not what their name says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints_clip as checkpoints
import checkpoints_lora as adapters
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from mmembed.encoders.families.open_clip import load
from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.registry import parse_name
from mmembed.errors import EncoderLoadError
from mmembed.types import LoadOptions

WEIGHTS = "open_clip_model.safetensors"
CONFIGS = {"clip": checkpoints.OPEN_CLIP, "siglip": checkpoints.OPEN_CLIP_SIGLIP}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("open_clip")
    return {kind: checkpoints.open_clip_folder(root / kind, config) for kind, config in CONFIGS.items()}


@pytest.fixture
def architecture(tmp_path: Path) -> str:
    """A name for the small CLIP, as open_clip knows "ViT-B-32"."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "small-files.json").write_text(json.dumps(checkpoints.OPEN_CLIP))
    open_clip.add_model_config(tmp_path / "configs")
    return "small-files"


def encoder_of(name: str) -> ImageTextEncoder:
    parsed = parse_name(f"open_clip:{name}")
    return load(parsed, LoadOptions(device="cpu", batch_size=2), **parsed.options)


def vectors(encoder: ImageTextEncoder) -> np.ndarray:
    return np.concatenate(
        [encoder.encode_text(checkpoints.TEXTS, role="query"), encoder.encode_image(checkpoints.images())]
    )


def plain_vectors(folder: Path, adapted: torch.nn.Module) -> np.ndarray:
    """open_clip's own loop, one input at a time, through a model that carries an adapter."""
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    if hasattr(tokenizer, "tokenizer"):
        tokenizer.tokenizer.padding_side = "right"
    model: Any = adapted.base_model
    with torch.no_grad():
        rows = [model.encode_text(tokenizer([text])) for text in checkpoints.TEXTS]
        rows += [model.encode_image(preprocess(image)[None]) for image in checkpoints.images()]
    return functional.normalize(torch.cat(rows)).numpy()


TARGETS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["attn"]},
    "feed-forward": {"target_modules": ["c_fc", "c_proj"]},
    "both": {"target_modules": ["attn", "c_fc", "c_proj"], "use_rslora": True},
    "pictures": {"target_modules": r"visual\..*\.(attn|c_fc)"},
    "DoRA": {"target_modules": ["c_fc", "c_proj"], "use_dora": True},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_is_merged(kind: str, target: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Texts and pictures get the vectors of the adapter under peft, to 1e-5: attention has no Linear to hook on."""
    model = open_clip.create_model(f"local-dir:{folders[kind]}")
    plain = adapters.adapt(model, adapters.lora(**TARGETS[target]), tmp_path / "lora")
    expected, base = plain_vectors(folders[kind], plain), encoder_of(str(folders[kind]))
    encoder = encoder_of(f"{folders[kind]}?adapter={tmp_path}/lora")
    assert np.abs(vectors(encoder) - expected).max() < 1e-5
    assert np.abs(vectors(base) - expected).max() > 0.01  # the adapter does count
    assert encoder.spec.fingerprint != base.spec.fingerprint
    assert encoder.spec.name == f"open_clip:{folders[kind]}?adapter={tmp_path}/lora"


def test_an_adapter_of_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """One trained on other layers or widths does not land: the error gives counts or both shapes."""
    wide = {**checkpoints.OPEN_CLIP, "text_cfg": {**checkpoints.OPEN_CLIP["text_cfg"], "width": 48}}
    adapters.adapt(checkpoints.open_clip_model(wide), adapters.lora(target_modules=["c_fc"]), tmp_path / "wide")
    with pytest.raises(EncoderLoadError, match=r"lora_\w.weight of shape \[\d+, \d+\], the model needs \[\d+, \d+\]"):
        encoder_of(f"{folders['clip']}?adapter={tmp_path}/wide")
    deep = {**checkpoints.OPEN_CLIP, "text_cfg": {**checkpoints.OPEN_CLIP["text_cfg"], "layers": 3}}
    adapters.adapt(checkpoints.open_clip_model(deep), adapters.lora(target_modules=["c_fc"]), tmp_path / "deep")
    with pytest.raises(EncoderLoadError, match=r"has 2 \(transformer.resblocks.2.mlp.c_fc.lora_A.weight is one\)"):
        encoder_of(f"{folders['clip']}?adapter={tmp_path}/deep")
    # peft would accept this one without a word: its forward never calls out_proj, but merging would add it
    adapters.adapt(
        checkpoints.open_clip_model(checkpoints.OPEN_CLIP), adapters.lora(target_modules=["out_proj"]), tmp_path / "out"
    )
    with pytest.raises(EncoderLoadError, match=r"attn\.out_proj, which PyTorch's attention does not call"):
        encoder_of(f"{folders['clip']}?adapter={tmp_path}/out")


def test_an_adapter_may_be_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    """An adapter that names its base is a model; peft writes no base for these models, and then the error says how."""
    model = open_clip.create_model(f"local-dir:{folders['clip']}")
    plain = adapters.adapt(model, adapters.lora(target_modules=["attn"]), tmp_path / "lora")
    with pytest.raises(EncoderLoadError, match=rf"names no base: write open_clip:MODEL\?adapter={tmp_path}/lora"):
        encoder_of(f"{tmp_path}/lora")
    adapters.change_config(tmp_path / "lora", base_model_name_or_path=str(folders["clip"]))
    encoder = encoder_of(f"{tmp_path}/lora")
    assert np.abs(vectors(encoder) - plain_vectors(folders["clip"], plain)).max() < 1e-5
    assert encoder.spec.name == f"open_clip:{tmp_path}/lora"
    by_option = encoder_of(f"{folders['clip']}?adapter={tmp_path}/lora")
    assert by_option.spec.fingerprint == encoder.spec.fingerprint
    with pytest.raises(EncoderLoadError, match="has an adapter of its own"):
        encoder_of(f"{tmp_path}/lora?adapter={tmp_path}/lora")


def test_an_adapter_names_a_repository(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody wrote down the hub's repository it was trained on, it goes on no other; on a folder it may."""
    model = open_clip.create_model(f"local-dir:{folders['clip']}")
    made = tmp_path / "lora"
    plain = adapters.adapt(model, adapters.lora(target_modules=["attn"]), made, base="org/right")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("org/right", "org/wrong"):
        adapters.to_cache(tmp_path / "cache", name, folders["clip"])
    expected = plain_vectors(folders["clip"], plain)
    for name in ("hf-hub:org/right", str(folders["clip"])):
        assert np.abs(vectors(encoder_of(f"{name}?adapter={made}")) - expected).max() < 1e-5
    with pytest.raises(EncoderLoadError, match=f"{made} was trained on org/right, not on .*org/wrong"):
        encoder_of(f"hf-hub:org/wrong?adapter={made}")


def _trainer(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What open_clip_train saves each epoch, from a run on several GPUs."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    return {"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": optimizer.state_dict()}


LAYOUTS: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], Any]]] = {
    "a trainer's": ("epoch_3.pt", _trainer),
    "bare": ("weights.pth", lambda state: state),
    "within state_dict": ("weights.bin", lambda state: {"state_dict": state}),
    "half precision": ("weights.pt", lambda state: {key: value.half() for key, value in state.items()}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_trainer_saved_loads(layout: str, architecture: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Checkpoints with a state_dict inside, the prefix of several GPUs, an optimizer: the same vectors."""
    name, pack = LAYOUTS[layout]
    torch.save(pack(load_file(folders["clip"] / WEIGHTS)), tmp_path / name)
    ours, known = vectors(encoder_of(f"{architecture}@{tmp_path}/{name}")), vectors(encoder_of(str(folders["clip"])))
    assert (ours * known).sum(axis=1).min() > (0.999 if layout == "half precision" else 1 - 1e-6)


def test_safetensors_of_a_fine_tuned_model_load(architecture: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The same weights as .safetensors, by file and in a folder of the library's own: the same vectors."""
    shutil.copy(folders["clip"] / WEIGHTS, tmp_path / "tuned.safetensors")
    loaded = encoder_of(f"{architecture}@{tmp_path}/tuned.safetensors")
    assert np.array_equal(vectors(loaded), vectors(encoder_of(str(folders["clip"]))))


class _Explosive:
    """Unpickling it makes a file: what a pickle must never get to do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.file), "w"))


def test_a_pickle_beside_safetensors_is_not_read(architecture: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """In a folder the .safetensors are taken; a pickled file by name is refused while the other stands beside it."""
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "both"))
    torch.save({"logit_scale": _Explosive(tmp_path / "boom")}, folder / "open_clip_pytorch_model.bin")
    known, loaded = encoder_of(str(folders["clip"])), encoder_of(str(folder))
    assert np.array_equal(vectors(loaded), vectors(known))
    assert loaded.spec.fingerprint == known.spec.fingerprint
    torch.save(load_file(folder / WEIGHTS), folder / "open_clip_model.pt")
    with pytest.raises(EncoderLoadError, match=rf"is pickled, and {folder}/{WEIGHTS} stands beside it: name that one"):
        encoder_of(f"{architecture}@{folder}/open_clip_model.pt")
    assert not (tmp_path / "boom").exists()


def test_a_pickle_runs_nothing(architecture: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A pickled file is read as tensors only; with anything else in it, it is refused unread."""
    state = load_file(folders["clip"] / WEIGHTS)
    torch.save({**state, "logit_scale": _Explosive(tmp_path / "boom")}, tmp_path / "evil.pt")
    with pytest.raises(EncoderLoadError, match=r"evil.pt cannot be loaded \(UnpicklingError"):
        encoder_of(f"{architecture}@{tmp_path}/evil.pt")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("gone", ["logit_scale", "logit_bias"])
def test_a_model_without_its_scale_is_refused(gone: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """open_clip takes 0 for a bias that is missing, and every label becomes probable."""
    for kind in CONFIGS if gone == "logit_scale" else ["siglip"]:
        folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
        state = load_file(folder / WEIGHTS)
        del state[gone]
        save_file(state, folder / WEIGHTS)
        with pytest.raises(EncoderLoadError, match=rf"(holds no {gone}|lacks 1 parameters .*\({gone} is one\))"):
            encoder_of(str(folder))


def test_another_dimension_than_promised_is_refused(
    architecture: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Weights of another embed_dim than the architecture's: the error gives both shapes, by file and by folder."""
    wide = {**checkpoints.OPEN_CLIP, "embed_dim": 48}
    file = checkpoints.open_clip_file(tmp_path / "wide.safetensors", wide)
    with pytest.raises(EncoderLoadError, match=r"of shape .*48.*, the architecture needs .*24"):
        encoder_of(f"{architecture}@{file}")
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "folder"))
    shutil.copy(file, folder / WEIGHTS)
    with pytest.raises(EncoderLoadError, match=r"of shape .*48.*, the architecture needs .*24"):
        encoder_of(str(folder))
