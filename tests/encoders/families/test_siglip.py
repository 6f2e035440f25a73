"""The `siglip` and `clip` families, held against plain transformers calls written out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints_clip as checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel, SiglipModel, SiglipTokenizer

from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.registry import load_encoder
from mmembed.types import PixelEncoder

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "siglip2": checkpoints.siglip2_folder,
    "siglip1": checkpoints.siglip1_folder,
    "clip": checkpoints.clip_folder,
}
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    return {kind: build(root / kind) for kind, build in BUILDERS.items()}


def encoder_of(folder: Path, *, dtype: str | None = None, batch_size: int | None = None) -> ImageTextEncoder:
    family = "clip" if folder.name.startswith("clip") else "siglip"
    encoder = load_encoder(f"{family}:{folder}", device="cpu", dtype=dtype, batch_size=batch_size)
    assert isinstance(encoder, ImageTextEncoder)
    return encoder


def token_ids(kind: str, folder: Path, text: str) -> torch.Tensor:
    """`(1, context)` ids, made without our code and, where a tokenizer.json is there, without transformers."""
    if kind == "siglip1":
        tokenizer = SiglipTokenizer.from_pretrained(folder)
        return tokenizer(text, padding="max_length", max_length=64, truncation=True, return_tensors="pt").input_ids
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if kind == "clip":
        end = tokenizer.token_to_id("<|endoftext|>")
        ids = [tokenizer.token_to_id("<|startoftext|>"), *tokenizer.encode(text, add_special_tokens=False).ids, end]
        return torch.tensor([ids + [end] * (77 - len(ids))])
    ids = [*tokenizer.encode(text.lower(), add_special_tokens=False).ids[:63], 1]  # lower case, <eos>, <pad> = 0
    return torch.tensor([ids + [0] * (64 - len(ids))])


def plain_pixels(kind: str, image: Image.Image) -> torch.Tensor:
    """`(1, 3, 32, 32)` by Pillow and numpy: SigLIP squashes, CLIP resizes the shortest side and crops the centre."""
    if kind != "clip":
        squashed = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        return torch.from_numpy((squashed - 0.5) / 0.5).permute(2, 0, 1)[None]
    width, height = image.size
    short = min(width, height)
    size = (32 * width // short, 32 * height // short)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 32) // 2, (size[1] - 32) // 2
    crop = np.asarray(resized.crop((left, top, left + 32, top + 32)), dtype=np.float32) / 255
    return torch.from_numpy((crop - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1)[None]


def plain_vectors(kind: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """One input at a time through the model's own methods."""
    model = (CLIPModel if kind == "clip" else SiglipModel).from_pretrained(folder).eval()
    with torch.no_grad():
        texts = [model.get_text_features(token_ids(kind, folder, t)).pooler_output for t in checkpoints.TEXTS]
        images = [model.get_image_features(plain_pixels(kind, p)).pooler_output for p in checkpoints.images()]
    return functional.normalize(torch.cat(texts)).numpy(), functional.normalize(torch.cat(images)).numpy()


@pytest.mark.parametrize("kind", BUILDERS)
def test_vectors_equal_plain_transformers(kind: str, folders: dict[str, Path]) -> None:
    """Texts and pictures get the vectors of the model's own methods, to 1e-5, in order."""
    text, image = plain_vectors(kind, folders[kind])
    encoder = encoder_of(folders[kind], batch_size=2)
    assert np.abs(encoder.encode_text(checkpoints.TEXTS, role="query") - text).max() < 1e-5
    assert np.abs(encoder.encode_image(checkpoints.images()) - image).max() < 1e-5


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_vector_does_not_depend_on_its_batch_mates(kind: str, folders: dict[str, Path]) -> None:
    """A text alone and beside longer ones, a picture alone and beside others: the same vector."""
    encoder = encoder_of(folders[kind])
    together = encoder.encode_text(checkpoints.TEXTS, role="document")
    alone = np.concatenate([encoder.encode_text([text], role="query") for text in checkpoints.TEXTS])
    assert np.abs(together - alone).max() < 1e-5
    together = encoder.encode_image(checkpoints.images())
    alone = np.concatenate([encoder.encode_image([image]) for image in checkpoints.images()])
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("mistake", ["short padding", "left padding", "upper case", "start token, no end token"])
def test_the_fixture_shows_the_mistakes(mistake: str, folders: dict[str, Path]) -> None:
    """Each way to mis-tokenise SigLIP moves a vector visibly, so the comparison above would fail."""
    folder, text = folders["siglip2"], "two DOGS running"
    right = token_ids("siglip2", folder, text)
    ids = [int(i) for i in right[0] if i != 0]
    cased = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    wrong = {
        "short padding": ids,
        "left padding": [0] * (64 - len(ids)) + ids,
        "upper case": cased + [0] * (64 - len(cased)),
        "start token, no end token": [2, *ids[:-1]] + [0] * (64 - len(ids)),
    }[mistake]
    model = SiglipModel.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [model.get_text_features(ids).pooler_output for ids in (right, torch.tensor([wrong]))]
    assert float(functional.cosine_similarity(*rows)) < 0.99


@pytest.mark.parametrize("kind", BUILDERS)
def test_shapes_norms_and_specification(kind: str, folders: dict[str, Path]) -> None:
    """Rows are float32 of norm 1, an empty batch has none, and the specification is that of config.json."""
    encoder = encoder_of(folders[kind])
    dim, context = (24, 77) if kind == "clip" else (32, 64)
    rows = encoder.encode_text(checkpoints.TEXTS, role="query")
    assert rows.dtype == np.float32
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert encoder.encode_text([], role="query").shape == encoder.encode_image([]).shape == (0, dim)
    assert (encoder.spec.dim, encoder.spec.context_length, encoder.spec.image_size) == (dim, context, 32)
    assert encoder.spec.name == f"{'clip' if kind == 'clip' else 'siglip'}:{folders[kind]}"
    assert isinstance(encoder, PixelEncoder)


def test_scale_and_bias_are_the_models(folders: dict[str, Path]) -> None:
    """The scale is the multiplier itself; SigLIP has a bias, CLIP none."""
    siglip, clip = encoder_of(folders["siglip2"]), encoder_of(folders["clip"])
    assert siglip.logit_scale == pytest.approx(100)
    assert siglip.logit_bias == pytest.approx(-12)
    assert clip.logit_scale == pytest.approx(np.exp(2.6592), rel=1e-4)
    assert clip.logit_bias is None


def test_gemmas_start_token_is_replaced_by_an_end_token(folders: dict[str, Path], tmp_path: Path) -> None:
    """A tokenizer.json with `<bos> $A` gives the vectors of one with `$A <eos>`: what SigLIP 2 was trained on."""
    folder = checkpoints.siglip2_folder(tmp_path / "gemma", frame="<bos> $A")
    # transformers 5 ignores add_eos_token of tokenizer_config.json, so that every text would lose its end token.
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids[0] == 2
    expected, encoder = encoder_of(folders["siglip2"]), encoder_of(folder)
    texts = [*checkpoints.TEXTS, "cat " * 200]
    ours, theirs = (e.encode_text(texts, role="query") for e in (encoder, expected))
    assert np.abs(ours - theirs).max() < 1e-6
    assert encoder.spec.fingerprint == expected.spec.fingerprint


def test_tokens_are_counted_before_truncation(folders: dict[str, Path]) -> None:
    """count_tokens includes the special tokens and knows neither padding nor limit, even from several threads."""
    assert [encoder_of(folders[kind]).count_tokens("") for kind in BUILDERS] == [1, 1, 2]
    encoder = encoder_of(folders["siglip2"])
    assert encoder.count_tokens("cat " * 500) > 500
    texts = ["a photo of a cat", "cat " * 80] * 20
    with ThreadPoolExecutor(4) as pool:
        counts = pool.map(encoder.count_tokens, texts)
        rows = list(pool.map(lambda text: encoder.encode_text([text], role="query")[0], texts))
    assert list(counts) == [encoder.count_tokens(text) for text in texts]
    assert np.abs(np.stack(rows) - encoder.encode_text(texts, role="query")).max() < 1e-5


@pytest.mark.parametrize("kind", BUILDERS)
def test_letter_case_does_not_matter(kind: str, folders: dict[str, Path]) -> None:
    """Upper and lower case give one vector in all three families."""
    one, other = encoder_of(folders[kind]).encode_text(["Two DOGS running", "two dogs running"], role="query")
    assert np.abs(one - other).max() < 1e-6


def test_a_lone_surrogate_is_encoded(folders: dict[str, Path]) -> None:
    """A broken character, as file names may hold, gives a vector instead of an exception."""
    for folder in folders.values():
        assert encoder_of(folder).encode_text(["a \udcff cat"], role="query").shape[0] == 1


@pytest.mark.parametrize("mode", ["RGBA", "P", "1"])
def test_colours_are_converted_before_resizing(mode: str, folders: dict[str, Path]) -> None:
    """What is transparent becomes white, and palettes become colours, before any resizing."""
    encoder = encoder_of(folders["siglip2"])
    image = checkpoints.images()[0].convert(mode)
    if mode == "RGBA":
        image.putalpha(0)
    flat = Image.new("RGB", image.size, "white") if mode == "RGBA" else image.convert("RGB")
    expected = plain_pixels("siglip2", flat)[0].numpy()
    assert np.abs(encoder.preprocess_image(image) - expected).max() < 1e-6


def test_preprocessing_runs_in_threads(folders: dict[str, Path]) -> None:
    """Pixels made in four threads and encoded together equal encode_image."""
    encoder = encoder_of(folders["clip"])
    images = checkpoints.images() * 4
    with ThreadPoolExecutor(4) as pool:
        pixels = list(pool.map(encoder.preprocess_image, images))
    assert all(p.shape == (3, 32, 32) and p.dtype == np.float32 for p in pixels)
    assert np.abs(encoder.encode_pixels(pixels) - encoder.encode_image(images)).max() < 1e-6


def test_half_precision_stays_close(folders: dict[str, Path]) -> None:
    """bfloat16 gives nearly the same vectors of norm 1, the same scale and the same fingerprint."""
    full, half = encoder_of(folders["siglip2"]), encoder_of(folders["siglip2"], dtype="bfloat16")
    rows = half.encode_image(checkpoints.images())
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert (rows * full.encode_image(checkpoints.images())).sum(axis=1).min() > 0.99
    assert (half.dtype, half.logit_scale, half.spec.fingerprint) == (
        "bfloat16",
        full.logit_scale,
        full.spec.fingerprint,
    )


def test_the_fingerprint_follows_the_vectors(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other weights or another preparation of pictures make another fingerprint; another place does not."""
    known = encoder_of(folders["siglip2"]).spec.fingerprint
    assert encoder_of(checkpoints.siglip2_folder(tmp_path / "same")).spec.fingerprint == known
    assert encoder_of(checkpoints.siglip2_folder(tmp_path / "other", seed=1)).spec.fingerprint != known
    processor = tmp_path / "same" / "preprocessor_config.json"
    config = json.loads(processor.read_text())
    processor.write_text(json.dumps({**config, "image_mean": [0.4, 0.4, 0.4]}))
    assert encoder_of(tmp_path / "same").spec.fingerprint != known
