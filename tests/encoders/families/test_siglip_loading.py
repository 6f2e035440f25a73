"""What the `siglip` and `clip` families refuse to load, and how they read the hub's cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import checkpoints_clip as checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.presets import PRESETS
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError, InvalidEmbedding


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    return {"siglip2": checkpoints.siglip2_folder(root / "siglip2"), "clip": checkpoints.clip_folder(root / "clip")}


def encoder_of(folder: Path) -> ImageTextEncoder:
    family = "clip" if folder.name.startswith("clip") else "siglip"
    encoder = load_encoder(f"{family}:{folder}", device="cpu")
    assert isinstance(encoder, ImageTextEncoder)
    return encoder


def test_a_checkpoint_of_the_other_family_is_refused(folders: dict[str, Path]) -> None:
    """A CLIP folder named as SigLIP gives the right name, and the other way round."""
    with pytest.raises(EncoderLoadError, match=f"write clip:{folders['clip']}"):
        load_encoder(f"siglip:{folders['clip']}", device="cpu")
    with pytest.raises(EncoderLoadError, match=f"write siglip:{folders['siglip2']}"):
        load_encoder(f"clip:{folders['siglip2']}", device="cpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("siglip:nobody/nothing", "nobody/nothing.*hub.*siglip:FOLDER"),
        ("clip:/nowhere/model", "not there"),
        ("siglip", "such as siglip:google/"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable hub and a missing folder say what was tried and what else to write."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderLoadError, match=says) as caught:
        load_encoder(name, device="cpu")
    assert "\n" not in str(caught.value)


def test_incomplete_or_foreign_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers would fill the gaps with random numbers: the error gives counts, or both shapes."""
    folder = Path(shutil.copytree(folders["siglip2"], tmp_path / "siglip"))
    state = load_file(folder / "model.safetensors")
    gone = {key: value for key, value in state.items() if "layers.1." not in key}
    save_file(gone, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderLoadError, match=f"lack {len(state) - len(gone)} of the {len(state)} parameters"):
        encoder_of(folder)
    larger = {**state, "text_model.head.weight": torch.zeros(48, 32)}
    save_file(larger, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderLoadError, match=r"text_model.head.weight of shape \[48, 32\].*needs \[32, 32\]"):
        encoder_of(folder)


def test_an_image_processor_of_another_size_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Pictures of a size that the model does not take are found out when loading, not in the first batch."""
    folder = Path(shutil.copytree(folders["siglip2"], tmp_path / "siglip"))
    config = json.loads((folder / "preprocessor_config.json").read_text())
    changed = {**config, "size": {"height": 48, "width": 48}}
    (folder / "preprocessor_config.json").write_text(json.dumps(changed))
    with pytest.raises(EncoderLoadError, match="48 x 48 pixels, the model takes 32 x 32"):
        encoder_of(folder)


def test_a_foreign_tokenizer_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Token ids beyond the model's vocabulary are found out when loading."""
    folder = Path(shutil.copytree(folders["siglip2"], tmp_path / "siglip"))
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] = {token: i if i < 4 else i + 1000 for token, i in tokenizer["model"]["vocab"].items()}
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(EncoderLoadError, match="where the model has 400"):
        encoder_of(folder)


def test_nan_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A model that returns NaN raises InvalidEmbedding instead of storing it."""
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "clip"))
    state = load_file(folder / "model.safetensors")
    state["text_projection.weight"].fill_(float("nan"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidEmbedding, match="NaN"):
        encoder_of(folder).encode_text(["a cat"], role="query")


def test_a_known_repository_is_read_at_its_pinned_revision(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of presets.py is the default, `?revision=` another one, and the specification says which."""
    preset = replace(PRESETS["siglip2-so400m"], dim=32)
    monkeypatch.setitem(PRESETS, "siglip2-so400m", preset)
    newer = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / f"models--{preset.model.replace('/', '--')}"
    for commit in (str(preset.revision), newer):
        shutil.copytree(folders["siglip2"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(newer)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = load_encoder("siglip2-so400m", device="cpu")
    assert encoder.spec.revision == preset.revision
    assert encoder.spec.licence == "Apache-2.0"
    assert encoder.spec.name == preset.encoder
    assert load_encoder(f"siglip2-so400m?revision={newer}", device="cpu").spec.revision == newer


def test_another_model_under_a_known_name_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of another dimension than the preset says is refused with both numbers."""
    preset = PRESETS["siglip2-so400m"]
    repository = tmp_path / f"models--{preset.model.replace('/', '--')}"
    shutil.copytree(folders["siglip2"], repository / "snapshots" / str(preset.revision))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderLoadError, match="vectors of 1152 dimensions, and this checkpoint makes 32"):
        load_encoder("siglip2-so400m", device="cpu")
