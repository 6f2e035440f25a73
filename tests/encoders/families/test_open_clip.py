"""The `open_clip` family, held against plain open_clip."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints_clip as checkpoints
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from mmembed.encoders.families.open_clip import load
from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.registry import parse_name
from mmembed.errors import InvalidEmbedding
from mmembed.types import LoadOptions, PixelEncoder


def encoder_of(name: str, *, dtype: str | None = None, batch_size: int | None = None) -> ImageTextEncoder:
    parsed = parse_name(f"open_clip:{name}")
    return load(parsed, LoadOptions(device="cpu", dtype=dtype, batch_size=batch_size), **parsed.options)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.open_clip_folder(tmp_path_factory.mktemp("oc") / "clip", checkpoints.OPEN_CLIP)


@pytest.fixture(scope="session")
def coca_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.open_clip_folder(tmp_path_factory.mktemp("oc") / "coca", checkpoints.OPEN_CLIP_COCA)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.open_clip_folder(tmp_path_factory.mktemp("oc") / "siglip", checkpoints.OPEN_CLIP_SIGLIP)


def plain_vectors(name: str, texts: list[str], images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """open_clip's own loop, one input at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    if hasattr(tokenizer, "tokenizer"):
        tokenizer.tokenizer.padding_side = "right"
    model.eval()
    with torch.no_grad():
        text = [functional.normalize(model.encode_text(tokenizer([t])), dim=-1)[0].numpy() for t in texts]
        image = [functional.normalize(model.encode_image(preprocess(i)[None]), dim=-1)[0].numpy() for i in images]
    return np.stack(text), np.stack(image)


@pytest.mark.parametrize("kind", ["clip", "siglip", "coca"])
def test_vectors_equal_plain_open_clip(kind: str, request: pytest.FixtureRequest) -> None:
    """Texts and pictures get the vectors of open_clip's own loop, to 1e-5, in order."""
    folder = request.getfixturevalue(f"{kind}_folder")
    text, image = plain_vectors(f"local-dir:{folder}", checkpoints.TEXTS, checkpoints.images())
    encoder = encoder_of(str(folder), batch_size=2)
    assert np.abs(encoder.encode_text(checkpoints.TEXTS, role="query") - text).max() < 1e-5
    assert np.abs(encoder.encode_image(checkpoints.images()) - image).max() < 1e-5


@pytest.mark.parametrize("kind", ["clip", "siglip", "coca"])
def test_a_vector_does_not_depend_on_its_batch_mates(kind: str, request: pytest.FixtureRequest) -> None:
    """A text alone and beside longer ones, a picture alone and beside others: the same vector."""
    encoder = encoder_of(str(request.getfixturevalue(f"{kind}_folder")))
    together = encoder.encode_text(checkpoints.TEXTS, role="document")
    alone = np.concatenate([encoder.encode_text([text], role="query") for text in checkpoints.TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    together = encoder.encode_image(checkpoints.images())
    alone = np.concatenate([encoder.encode_image([image]) for image in checkpoints.images()])
    assert np.abs(together - alone).max() < 1e-5


def test_the_fixture_shows_wrong_padding(siglip_folder: Path) -> None:
    """Padding SigLIP texts to the longest instead of 64 moves a vector visibly, so the tests above would fail."""
    encoder = encoder_of(str(siglip_folder))
    model = open_clip.create_model(f"local-dir:{siglip_folder}").eval()
    ids = open_clip.get_tokenizer(f"local-dir:{siglip_folder}").tokenizer("a photo of a cat").input_ids
    text = model.text
    text.attn_mask = None
    text.positional_embedding = torch.nn.Parameter(text.positional_embedding[: len(ids)])
    with torch.no_grad():
        short = functional.normalize(model.encode_text(torch.tensor([ids])), dim=-1)[0].numpy()
    assert float(short @ encoder.encode_text(["a photo of a cat"], role="query")[0]) < 0.99


def test_shapes_norms_and_specification(siglip_folder: Path) -> None:
    """The specification says what the model's own configuration says; rows are float32 of norm 1."""
    encoder = encoder_of(str(siglip_folder))
    rows = encoder.encode_text(checkpoints.TEXTS, role="query")
    assert rows.dtype == np.float32
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert encoder.encode_text([], role="query").shape == (0, 32)
    assert encoder.encode_image([]).shape == (0, 32)
    spec = encoder.spec
    assert (spec.dim, spec.context_length, spec.image_size, spec.kind) == (32, 64, 32, "dense")
    assert spec.modalities == {"image", "text"}
    assert encoder.logit_bias == pytest.approx(-10)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert isinstance(encoder, PixelEncoder)


def test_a_model_without_bias_competes(clip_folder: Path) -> None:
    """CLIP has a scale and no bias, so that its probabilities are a softmax."""
    assert encoder_of(str(clip_folder)).logit_bias is None


def test_tokens_are_counted_before_truncation(clip_folder: Path, siglip_folder: Path) -> None:
    """count_tokens includes the special tokens and knows no limit; the longest text is truncated, not refused."""
    clip, siglip = encoder_of(str(clip_folder)), encoder_of(str(siglip_folder))
    assert clip.count_tokens("") == 2
    assert clip.count_tokens("a photo of a cat") == 7
    assert siglip.count_tokens("") == 1
    assert clip.count_tokens("cat " * 500) == 502
    assert siglip.count_tokens("cat " * 500) > 500
    long, cut = clip.encode_text(["cat " * 500, "cat " * 75], role="query")
    assert np.abs(long - cut).max() < 1e-6


def test_siglip_texts_are_canonicalised(siglip_folder: Path) -> None:
    """Letter case, punctuation and underscores do not change a SigLIP vector."""
    encoder = encoder_of(str(siglip_folder))
    one, other = encoder.encode_text(["Two_DOGS, running!", "two dogs running"], role="query")
    assert np.abs(one - other).max() < 1e-6


def test_a_lone_surrogate_is_encoded(clip_folder: Path, siglip_folder: Path) -> None:
    """A broken character, as file names may hold, gives a vector instead of an exception."""
    for folder in (clip_folder, siglip_folder):
        assert encoder_of(str(folder)).encode_text(["a \udcff cat"], role="query").shape[0] == 1


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "L", "CMYK"])
def test_colours_are_converted_before_resizing(mode: str, clip_folder: Path) -> None:
    """A picture of any mode is prepared like its RGB version on white."""
    encoder = encoder_of(str(clip_folder))
    rgb = checkpoints.images()[3]
    image = rgb.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(rgb.size))
    flat = Image.new("RGB", rgb.size, "white")
    flat.paste(image.convert("RGB"), mask=image.getchannel("A") if mode in ("RGBA", "LA") else None)
    assert np.abs(encoder.preprocess_image(image) - encoder.preprocess_image(flat)).max() < 0.04  # 2 of 255


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_open_clip_itself_resizes_first(mode: str, clip_folder: Path) -> None:
    """The order matters: open_clip's own transform gives palettes and transparency other pixels."""
    encoder = encoder_of(str(clip_folder))
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    image = checkpoints.images()[3].convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert np.abs(encoder.preprocess_image(image) - preprocess(image).numpy()).max() > 0.5


def test_preprocessing_runs_in_threads(clip_folder: Path) -> None:
    """Pixels made in four threads and encoded together equal encode_image."""
    encoder = encoder_of(str(clip_folder))
    images = checkpoints.images() * 4
    with ThreadPoolExecutor(4) as pool:
        pixels = list(pool.map(encoder.preprocess_image, images))
    assert all(p.shape == (3, 32, 32) and p.dtype == np.float32 for p in pixels)
    assert np.abs(encoder.encode_pixels(pixels) - encoder.encode_image(images)).max() < 1e-6


def test_half_precision_stays_close(siglip_folder: Path) -> None:
    """bfloat16 gives nearly the same vectors of norm 1, and the same scale: it is read before the cast."""
    full, half = encoder_of(str(siglip_folder)), encoder_of(str(siglip_folder), dtype="bfloat16")
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")
    assert half.logit_scale == full.logit_scale
    rows = half.encode_image(checkpoints.images())
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert (rows * full.encode_image(checkpoints.images())).sum(axis=1).min() > 0.99
    assert half.spec.fingerprint == full.spec.fingerprint


def test_nan_weights_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    """A model that returns NaN raises InvalidEmbedding instead of storing it."""
    folder = tmp_path / "nan"
    shutil.copytree(clip_folder, folder)
    state = load_file(folder / "open_clip_model.safetensors")
    state["visual.proj"].fill_(float("nan"))
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(InvalidEmbedding, match="NaN"):
        encoder_of(str(folder)).encode_image(checkpoints.images())


def test_the_fingerprint_follows_the_vectors(clip_folder: Path, tmp_path: Path) -> None:
    """Other weights, another activation or another preparation of pictures: another fingerprint."""
    seen = {encoder_of(str(clip_folder)).spec.fingerprint}
    other = checkpoints.open_clip_folder(tmp_path / "weights", checkpoints.OPEN_CLIP, seed=1)
    seen.add(encoder_of(str(other)).spec.fingerprint)
    for key, change in {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"resize_mode": "squash"}}.items():
        folder = tmp_path / key
        shutil.copytree(clip_folder, folder)
        config = json.loads((folder / "open_clip_config.json").read_text())
        config[key].update(change)
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        seen.add(encoder_of(str(folder)).spec.fingerprint)
    assert len(seen) == 4


def test_a_full_size_vit_b_32_is_loaded_from_a_file(tmp_path: Path) -> None:
    """The real ViT-B-32, 151 million parameters with random weights, goes through `ViT-B-32@FILE`."""
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
    noise = 0.02 * torch.randn(1 << 20).half()  # repeated, since drawing 151 million numbers takes seconds
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    state = {key: noise.repeat(1 + n.numel() // len(noise))[: n.numel()].view(n).clone() for key, n in shapes.items()}
    torch.save(state, tmp_path / "b32.pt")
    encoder = encoder_of(f"ViT-B-32@{tmp_path}/b32.pt")
    assert (encoder.spec.dim, encoder.spec.image_size, encoder.spec.context_length) == (512, 224, 77)
    assert encoder.encode_image(checkpoints.images()[:1]).shape == (1, 512)
    assert encoder.encode_text(["a cat"], role="query").shape == (1, 512)
