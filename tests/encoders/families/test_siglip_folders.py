"""Folders that fine-tuning leaves behind, and such as are not what their name says, as `siglip` and `clip`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import checkpoints_clip as checkpoints
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPProcessor, SiglipModel, SiglipProcessor

from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError

KINDS = ["siglip", "clip"]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    return {"siglip": checkpoints.siglip2_folder(root / "siglip"), "clip": checkpoints.clip_folder(root / "clip")}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def encoder_of(kind: str, folder: Path) -> ImageTextEncoder:
    encoder = load_encoder(f"{kind}:{folder}", device="cpu")
    assert isinstance(encoder, ImageTextEncoder)
    return encoder


def same_vectors(one: ImageTextEncoder, other: ImageTextEncoder) -> bool:
    texts = [encoder.encode_text(checkpoints.TEXTS, role="query") for encoder in (one, other)]
    images = [encoder.encode_image(checkpoints.images()) for encoder in (one, other)]
    return np.array_equal(*texts) and np.array_equal(*images)


def copy_of(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def test_what_a_processor_saved_loads(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """model.save_pretrained and processor.save_pretrained, which nests the image processor in processor_config.json."""
    model, processor = (SiglipModel, SiglipProcessor) if kind == "siglip" else (CLIPModel, CLIPProcessor)
    model.from_pretrained(folders[kind]).save_pretrained(tmp_path)
    images = AutoImageProcessor.from_pretrained(folders[kind], backend="pil")
    processor(image_processor=images, tokenizer=AutoTokenizer.from_pretrained(folders[kind])).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    known, loaded = encoder_of(kind, folders[kind]), encoder_of(kind, tmp_path)
    assert same_vectors(loaded, known)
    assert loaded.spec.fingerprint == known.spec.fingerprint


def test_what_sentence_transformers_saved_loads(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The folder of SentenceTransformer.save_pretrained, with its modules.json, is the same encoder."""
    SentenceTransformer(str(folders[kind]), device="cpu").save_pretrained(str(tmp_path / "st"))
    known, loaded = encoder_of(kind, folders[kind]), encoder_of(kind, tmp_path / "st")
    assert same_vectors(loaded, known)
    assert loaded.spec.fingerprint == known.spec.fingerprint


def test_the_layout_of_older_sentence_transformers_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    """A CLIP in 0_CLIPModel beside modules.json is found there, and the stored name says so."""
    copy_of(folders["clip"], tmp_path / "0_CLIPModel")
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}])
    )
    loaded = encoder_of("clip", tmp_path)
    assert same_vectors(loaded, encoder_of("clip", folders["clip"]))
    assert loaded.spec.name == f"clip:{tmp_path}/0_CLIPModel"


def test_shards_are_one_model(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A model saved in several files gives the same vectors; each file counts, and files beside them do not."""
    folder = copy_of(folders[kind], tmp_path / "shards")
    (folder / WEIGHTS).unlink()
    model = SiglipModel if kind == "siglip" else CLIPModel
    model.from_pretrained(folders[kind]).save_pretrained(folder, max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    loaded = encoder_of(kind, folder)
    assert same_vectors(loaded, encoder_of(kind, folders[kind]))
    (folder / "model-00009-of-00009.safetensors").write_bytes(b"left over from another run")
    assert encoder_of(kind, folder).spec.fingerprint == loaded.spec.fingerprint
    changed = {key: value + 1 for key, value in load_file(shards[-1]).items()}
    save_file(changed, shards[-1], metadata={"format": "pt"})
    assert encoder_of(kind, folder).spec.fingerprint != loaded.spec.fingerprint


def test_weights_in_half_precision_load(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """What a run in bfloat16 saved is read into float32 and stays close."""
    folder = copy_of(folders[kind], tmp_path / "half")
    model = SiglipModel if kind == "siglip" else CLIPModel
    model.from_pretrained(folders[kind], dtype=torch.bfloat16).save_pretrained(folder)
    known, loaded = encoder_of(kind, folders[kind]), encoder_of(kind, folder)
    assert loaded.dtype == "float32"
    rows = [encoder.encode_text(checkpoints.TEXTS, role="query") for encoder in (known, loaded)]
    assert (rows[0] * rows[1]).sum(axis=1).min() > 0.99


class _Explosive:
    """Unpickling it makes a file: what a pickle must never get to do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.file), "w"))


def test_a_pickle_beside_safetensors_is_not_read(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """model.safetensors is taken, and a pytorch_model.bin beside it neither unpickled nor counted."""
    folder = copy_of(folders[kind], tmp_path / "both")
    torch.save({"logit_scale": _Explosive(tmp_path / "boom")}, folder / "pytorch_model.bin")
    known, loaded = encoder_of(kind, folders[kind]), encoder_of(kind, folder)
    assert same_vectors(loaded, known)
    assert loaded.spec.fingerprint == known.spec.fingerprint
    assert not (tmp_path / "boom").exists()


def test_a_pickle_alone_runs_nothing(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """pytorch_model.bin is read as tensors only: honest ones load, anything else is refused unread."""
    folder = copy_of(folders[kind], tmp_path / "pickled")
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert same_vectors(encoder_of(kind, folder), encoder_of(kind, folders[kind]))
    torch.save({**state, "logit_scale": _Explosive(tmp_path / "boom")}, folder / "pytorch_model.bin")
    with pytest.raises(EncoderLoadError, match=r"hold more than tensors.*give them as \.safetensors"):
        encoder_of(kind, folder)
    assert not (tmp_path / "boom").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)["logit_scale"].close()
    assert (tmp_path / "boom").exists()  # so the pickle was as dangerous as it looks


@pytest.mark.parametrize("gone", ["logit_scale", "logit_bias"])
def test_a_model_without_its_scale_is_refused(gone: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers would make one up, and every probability with it."""
    for kind in KINDS if gone == "logit_scale" else ["siglip"]:
        folder = copy_of(folders[kind], tmp_path / kind)
        state = load_file(folder / WEIGHTS)
        del state[gone]
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(EncoderLoadError, match=f"lack 1 of the {len(state) + 1} parameters, {gone} for one"):
            encoder_of(kind, folder)


def test_another_dimension_than_promised_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A config.json of another width: the error gives both, of the projection or of the first weights."""
    clip = copy_of(folders["clip"], tmp_path / "clip")
    config = json.loads((clip / "config.json").read_text())
    (clip / "config.json").write_text(json.dumps({**config, "projection_dim": 48}))
    with pytest.raises(EncoderLoadError, match=r"projection.weight of shape \[24, 32\], config.json needs \[48, 32\]"):
        encoder_of("clip", clip)
    siglip = copy_of(folders["siglip"], tmp_path / "siglip")
    config = json.loads((siglip / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 64
    (siglip / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderLoadError, match=r"of shape \[32.*\], config.json needs \[.*64.*\]"):
        encoder_of("siglip", siglip)


def test_towers_of_two_dimensions_are_refused(tmp_path: Path) -> None:
    """A SigLIP whose texts are projected to another width than its pictures cannot compare them."""
    folder = checkpoints.siglip2_folder(tmp_path / "uneven")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["projection_size"] = 16
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / WEIGHTS)
    for part in ("weight", "bias"):
        state[f"text_model.head.{part}"] = state[f"text_model.head.{part}"][:16].clone()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(EncoderLoadError, match="its pictures get 32 dimensions and its texts 16"):
        encoder_of("siglip", folder)
