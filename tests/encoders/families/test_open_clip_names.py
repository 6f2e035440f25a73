"""What names of the `open_clip` family stand for: tags, files, folders, repositories, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import checkpoints_clip as checkpoints
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional

from mmembed.encoders.families.open_clip import load
from mmembed.encoders.families.open_clip_recipe import quick_gelu, resolve
from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.presets import PRESETS
from mmembed.encoders.registry import load_encoder, parse_name
from mmembed.errors import EncoderError, EncoderLoadError, UnknownEncoder
from mmembed.types import LoadOptions

CONTRADICTORY = ("roberta-ViT-B-32", "laion2b_s12b_b32k")


def encoder_of(name: str) -> ImageTextEncoder:
    parsed = parse_name(f"open_clip:{name}")
    return load(parsed, LoadOptions(device="cpu"), **parsed.options)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.open_clip_folder(tmp_path_factory.mktemp("oc") / "clip", checkpoints.OPEN_CLIP)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.open_clip_folder(tmp_path_factory.mktemp("oc") / "siglip", checkpoints.OPEN_CLIP_SIGLIP)


@pytest.fixture
def architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights, with the architectures `small` and `small-siglip` known to open_clip for one test."""
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "small.json").write_text(json.dumps(checkpoints.OPEN_CLIP))
    (configs / "small-siglip.json").write_text(json.dumps(checkpoints.OPEN_CLIP_SIGLIP))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(configs)
    return tmp_path


def test_every_tag_gets_the_activation_it_was_trained_with() -> None:
    """For all 196 pairs the activation we ask for is the tag's; open_clip's default is another for 28 of them."""
    pairs = open_clip.list_pretrained()
    defaults = {pair: bool(open_clip.get_model_config(pair[0]).get("quick_gelu", False)) for pair in pairs}
    tags = {pair: bool(open_clip.get_pretrained_cfg(*pair).get("quick_gelu", False)) for pair in pairs}
    assert len(pairs) == 196
    assert sum(defaults[pair] != tags[pair] for pair in pairs) == 28
    assert [pair for pair in pairs if defaults[pair] and not tags[pair]] == [CONTRADICTORY]
    assert all(quick_gelu(*pair) == tags[pair] for pair in pairs if pair != CONTRADICTORY)


def test_the_contradictory_tag_is_refused() -> None:
    """Where the architecture says QuickGELU and the tag GELU nobody knows: the error names the way round."""
    with pytest.raises(EncoderLoadError, match=r"contradictory.*hf-hub:laion/"):
        encoder_of("/".join(CONTRADICTORY))


@pytest.mark.parametrize("activation", [False, True])
def test_a_tag_is_loaded_with_its_activation_and_preprocessing(
    activation: bool, architectures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of a tag run with the tag's activation and statistics, not with the architecture's."""
    weights = checkpoints.open_clip_file(architectures / "w.safetensors", checkpoints.OPEN_CLIP)
    tag = {**checkpoints.PREPROCESS_SIGLIP, "quick_gelu": activation, "file": str(weights), "url": "", "hf_hub": ""}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"mine": tag})
    encoder = encoder_of("small/mine")
    assert encoder.spec.name == "open_clip:small/mine"
    model = checkpoints.open_clip_model(checkpoints.OPEN_CLIP, quick_gelu=activation).eval()
    other = checkpoints.open_clip_model(checkpoints.OPEN_CLIP, quick_gelu=not activation).eval()
    image = checkpoints.images()[0]
    squashed = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    pixels = torch.from_numpy((squashed - 0.5) / 0.5).permute(2, 0, 1)[None]  # (1, 3, 32, 32)
    with torch.no_grad():
        right, wrong = (functional.normalize(m.encode_image(pixels), dim=-1)[0].numpy() for m in (model, other))
    assert np.abs(encoder.encode_image([image])[0] - right).max() < 1e-5
    assert np.abs(right - wrong).max() > 1e-3


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_a_file_is_loaded_into_its_architecture(suffix: str, architectures: Path, clip_folder: Path) -> None:
    """Weights of any format equal the folder they came from, and the name keeps the absolute path."""
    weights = checkpoints.open_clip_file(architectures / f"w@1{suffix}", checkpoints.OPEN_CLIP)
    encoder = encoder_of(f"small@{weights}")
    assert encoder.spec.name == f"open_clip:small@{weights}"
    expected = encoder_of(str(clip_folder)).encode_text(checkpoints.TEXTS, role="query")
    assert np.abs(encoder.encode_text(checkpoints.TEXTS, role="query") - expected).max() < 1e-6


def test_relative_paths_become_absolute(
    architectures: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection remembers a path that is valid from everywhere, for files and for folders."""
    checkpoints.open_clip_file(architectures / "w.pt", checkpoints.OPEN_CLIP)
    shutil.copytree(clip_folder, architectures / "model")
    monkeypatch.chdir(architectures)
    assert encoder_of("small@w.pt").spec.name == f"open_clip:small@{architectures}/w.pt"
    for name in ("model", "./model", "@model", f"@{architectures}/model"):
        assert encoder_of(name).spec.name == f"open_clip:{architectures}/model"


def test_a_file_is_prepared_as_the_tags_of_its_architecture_agree(
    architectures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file brings no preprocessing: its statistics are those of the architecture's tags, not open_clip's default."""
    weights = checkpoints.open_clip_file(architectures / "w.safetensors", checkpoints.OPEN_CLIP)
    assert encoder_of(f"small@{weights}").preprocess_image(checkpoints.images()[0]).min() < -1.5
    tag = {**checkpoints.PREPROCESS_SIGLIP, "url": "", "hf_hub": ""}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"one": tag, "two": tag})
    pixels = encoder_of(f"small@{weights}").preprocess_image(checkpoints.images()[0])
    squashed = checkpoints.images()[0].resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(pixels - (np.asarray(squashed).transpose(2, 0, 1) / 127.5 - 1)).max() < 1e-6


def test_a_file_whose_tags_disagree_needs_one_of_them(architectures: Path) -> None:
    """The weights of ViT-L-14 were trained on two kinds of statistics: the user says which, nothing is guessed."""
    weights = checkpoints.open_clip_file(architectures / "w.safetensors", checkpoints.OPEN_CLIP)
    with pytest.raises(EncoderLoadError, match=r"different ways.*like=TAG"):
        encoder_of(f"ViT-L-14@{weights}")
    with pytest.raises(UnknownEncoder, match="laion2b_s32b_b82k"):
        encoder_of(f"ViT-L-14@{weights}?like=laion2b_s32b_b82")
    with pytest.raises(EncoderLoadError, match="like is for"):
        encoder_of("ViT-L-14/openai?like=openai")


def test_a_siglip2_file_is_prepared_like_siglip2(tmp_path: Path) -> None:
    """Weights of the real ViT-B-32-SigLIP2-256 are fed squashed pictures between -1 and 1, as its only tag says."""
    (tmp_path / "w.safetensors").touch()
    recipe = resolve(parse_name(f"open_clip:ViT-B-32-SigLIP2-256@{tmp_path}/w.safetensors"))
    half = (0.5, 0.5, 0.5)
    assert recipe.preprocessing == {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}
    assert open_clip.get_model_config("ViT-B-32-SigLIP2-256")["text_cfg"]["tokenizer_kwargs"]["clean"] == "canonicalize"


def test_like_gives_a_file_its_tags_settings(architectures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`?like=TAG` loads a file exactly as that tag would be."""
    weights = checkpoints.open_clip_file(architectures / "w.safetensors", checkpoints.OPEN_CLIP)
    tag = {**checkpoints.PREPROCESS_SIGLIP, "quick_gelu": True, "file": str(weights), "url": "", "hf_hub": ""}
    plain = {**tag, "quick_gelu": False, "mean": (0.1, 0.1, 0.1)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"quick": tag, "plain": plain})
    like = encoder_of(f"small@{weights}?like=quick")
    assert like.spec.fingerprint == encoder_of("small/quick").spec.fingerprint
    assert like.spec.fingerprint != encoder_of("small/plain").spec.fingerprint


def test_a_text_tower_takes_its_tokenizer_from_a_folder(architectures: Path, siglip_folder: Path) -> None:
    """`?tokenizer=FOLDER` stands in for the tokenizer on the hub, and the name keeps its absolute path."""
    weights = checkpoints.open_clip_file(architectures / "w.safetensors", checkpoints.OPEN_CLIP_SIGLIP)
    tokenizer = checkpoints.gemma_tokenizer(architectures / "tokenizer")
    with pytest.raises(EncoderLoadError, match=r"\?tokenizer=FOLDER.*nowhere/to-be-found"):
        encoder_of(f"small-siglip@{weights}")
    encoder = encoder_of(f"small-siglip@{weights}?tokenizer={tokenizer}")
    assert encoder.spec.name == f"open_clip:small-siglip@{weights}?tokenizer={tokenizer}"
    expected = encoder_of(str(siglip_folder)).encode_text(checkpoints.TEXTS, role="query")
    assert np.abs(encoder.encode_text(checkpoints.TEXTS, role="query") - expected).max() < 1e-6


def test_a_tokenizer_without_end_token_is_refused(architectures: Path) -> None:
    """SigLIP texts end with the end-of-text token; Gemma's own tokenizer, which sets a start token, is refused."""
    weights = checkpoints.open_clip_file(architectures / "w.safetensors", checkpoints.OPEN_CLIP_SIGLIP)
    tokenizer = checkpoints.gemma_tokenizer(architectures / "tokenizer", frame="<bos> $A")
    with pytest.raises(EncoderLoadError, match="end-of-text token 1"):
        encoder_of(f"small-siglip@{weights}?tokenizer={tokenizer}")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("ViT-B-32", UnknownEncoder, "add one of its tags.*laion2b_s34b_b79k.*ViT-B-32@FILE"),
        ("ViT-B-33/openai", UnknownEncoder, "did you mean 'open_clip:ViT-B-32/openai'"),
        ("ViT-B-32/laion2b_s34b_b78k", UnknownEncoder, "did you mean 'open_clip:ViT-B-32/laion2b_s34b_b79k'"),
        ("zzz", UnknownEncoder, "no encoder 'open_clip:zzz': a name is"),
        ("", UnknownEncoder, "ARCHITECTURE/TAG"),
        ("ViT-Z@weights.pt", UnknownEncoder, "no encoder"),
        ("ViT-B-32@/nowhere/weights.pt", EncoderLoadError, "/nowhere/weights.pt does not exist"),
        ("ViT-B-32@/", EncoderLoadError, "/ is a folder"),
        ("/nowhere/model", EncoderLoadError, "/nowhere/model does not exist"),
        ("hf-hub:nobody/nothing", EncoderLoadError, "nobody/nothing could not be downloaded.*FOLDER"),
        ("ViT-B-32/laion2b_s34b_b79k", EncoderLoadError, "laion/CLIP-ViT-B-32.*downloaded.*ARCHITECTURE@FILE"),
        ("ViT-B-32/laion2b_s34b_b79k?tokenizer=/nowhere", EncoderLoadError, "downloaded|not a folder"),
        ("ViT-B-32/laion2b_s34b_b79k?colour=blue", EncoderError, "tokenizer"),
    ],
)
def test_a_bad_name_says_what_to_do(
    name: str, error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown names give the nearest, missing files and an unreachable hub give the alternatives, in one line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(error, match=says) as caught:
        load_encoder(f"open_clip:{name}", device="cpu")
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(architectures: Path) -> None:
    """The error gives both shapes; position embeddings are not stretched to fit in silence."""
    wider = copy.deepcopy(checkpoints.OPEN_CLIP)
    wider["embed_dim"] = 40
    weights = checkpoints.open_clip_file(architectures / "wider.pt", wider)
    with pytest.raises(EncoderLoadError, match=r"\[32, 40\], the architecture needs \[32, 24\]"):
        encoder_of(f"small@{weights}")
    larger = copy.deepcopy(checkpoints.OPEN_CLIP)
    larger["vision_cfg"]["image_size"] = 64
    weights = checkpoints.open_clip_file(architectures / "larger.pt", larger)
    with pytest.raises(EncoderLoadError, match=r"positional_embedding of shape \[65, 32\].*needs \[17, 32\]"):
        encoder_of(f"small@{weights}")
    with pytest.raises(EncoderLoadError, match=r"positional_embedding of shape \[77, 32\].*needs \[77, 512\]"):
        encoder_of(f"ViT-B-32@{weights}")
    torch.save({"a": torch.zeros(2), "logit_scale": torch.zeros(())}, architectures / "alien.pt")
    with pytest.raises(EncoderLoadError, match=r"lacks \d\d parameters .*\(positional_embedding is one\) and has 1 of"):
        encoder_of(f"small@{architectures}/alien.pt")


def test_a_pickle_that_would_run_code_is_refused(architectures: Path) -> None:
    """Pickled weights hold tensors only: anything else in them is refused before it runs."""
    torch.save({"state_dict": Path("x")}, architectures / "evil.pt")
    with pytest.raises(EncoderLoadError, match="cannot be loaded"):
        encoder_of(f"small@{architectures}/evil.pt")


def test_a_folder_without_weights_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    """open_clip would run such a folder on random weights."""
    shutil.copy(clip_folder / "open_clip_config.json", tmp_path)
    with pytest.raises(EncoderLoadError, match="beside weights"):
        encoder_of(str(tmp_path))


def test_a_repository_in_the_cache_is_loaded(
    clip_folder: Path, siglip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf-hub:org/name` is read from the hub's cache and remembers the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(clip_folder, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = encoder_of("hf-hub:org/name")
    assert encoder.spec.name == "open_clip:hf-hub:org/name"
    assert encoder.spec.revision == commit
    assert encoder.spec.fingerprint == encoder_of(str(clip_folder)).spec.fingerprint
    assert encoder_of(f"hf-hub:org/name?revision={commit}").spec.revision == commit
    assert encoder.spec.fingerprint != encoder_of(str(siglip_folder)).spec.fingerprint


def test_presets_agree_with_open_clip() -> None:
    """Width, context and picture size of every preset are those of its architecture, and its tag exists."""
    rows = [preset for preset in PRESETS.values() if preset.encoder.startswith("open_clip:")]
    assert len(rows) >= 4
    for preset in rows:
        architecture, _, tag = preset.model.partition("/")
        config = open_clip.get_model_config(architecture)
        assert tag in open_clip.list_pretrained_tags_by_model(architecture)
        assert (preset.dim, preset.context_length, preset.image_size) == (
            config["embed_dim"],
            config["text_cfg"].get("context_length", 77),
            config["vision_cfg"]["image_size"],
        )


def test_a_text_tower_of_the_hub_needs_its_configuration(architectures: Path) -> None:
    """Some architectures ask the hub for a text tower's configuration: the error says so, and which."""
    weights = checkpoints.open_clip_file(architectures / "w.safetensors", checkpoints.OPEN_CLIP)
    with pytest.raises(EncoderLoadError, match="its text tower, xlm-roberta-base on the hub"):
        encoder_of(f"xlm-roberta-base-ViT-B-32@{weights}")
