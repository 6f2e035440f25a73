"""SigLIP 2 NaFlex in the `siglip` family, held against the library's own processor and model."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints_clip as checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoImageProcessor, Siglip2Model

from mmembed.encoders.families.towers import ImageTextEncoder
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError, SettingsError
from mmembed.ingest import ingest_images
from mmembed.stores import open_store
from mmembed.types import PixelEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.naflex_folder(tmp_path_factory.mktemp("naflex") / "naflex")


def encoder_of(
    folder: Path, options: str = "", *, dtype: str | None = None, size: int | None = None
) -> ImageTextEncoder:
    encoder = load_encoder(f"siglip:{folder}{options}", device="cpu", dtype=dtype, batch_size=size)
    assert isinstance(encoder, ImageTextEncoder)
    return encoder


def images() -> list[Image.Image]:
    """Portrait, landscape, square, and the extremes."""
    rng = np.random.default_rng(5)
    sizes = [(40, 30), (30, 90), (64, 64), (1, 1), (1, 3000), (3000, 1), (7, 500), (200, 31)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def plain_vectors(folder: Path, images: list[Image.Image], **settings: int) -> np.ndarray:
    """The library's processor and get_image_features, one picture at a time."""
    model = Siglip2Model.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        inputs = (processor(images=[image], return_tensors="pt", **settings) for image in images)
        rows = [model.get_image_features(**one).pooler_output for one in inputs]
    return functional.normalize(torch.cat(rows)).numpy()


def test_images_equal_the_librarys_plain_path(folder: Path) -> None:
    """Pictures of every shape, encoded in mixed batches, get the vectors of the plain path to 1e-5."""
    expected = plain_vectors(folder, images())
    assert np.abs(encoder_of(folder, size=3).encode_image(images()) - expected).max() < 1e-5
    assert np.abs(expected @ expected.T - np.eye(len(expected))).max() > 1e-3  # they do differ


def test_texts_equal_the_librarys_plain_path(folder: Path) -> None:
    """Texts are lower case, end with <eos> and are padded on the right to 64 tokens, without a mask."""
    tokenizer, model = Tokenizer.from_file(str(folder / "tokenizer.json")), Siglip2Model.from_pretrained(folder).eval()
    rows = [[*tokenizer.encode(t.lower(), add_special_tokens=False).ids[:63], 1] for t in checkpoints.TEXTS]
    ids = torch.tensor([row + [0] * (64 - len(row)) for row in rows])
    with torch.no_grad():
        expected = functional.normalize(
            torch.cat([model.get_text_features(i[None]).pooler_output for i in ids])
        ).numpy()
    assert np.abs(encoder_of(folder, size=2).encode_text(checkpoints.TEXTS, role="query") - expected).max() < 1e-5


def test_a_vector_does_not_depend_on_its_batch_mates(folder: Path) -> None:
    """A picture of few patches alone and beside one of many: the same vector."""
    encoder = encoder_of(folder)
    together = encoder.encode_image(images())
    alone = np.concatenate([encoder.encode_image([image]) for image in images()])
    assert np.abs(together - alone).max() < 1e-5


def test_the_fixture_shows_a_missing_mask(folder: Path) -> None:
    """Without its mask a picture's vector moves visibly, so the comparisons above would fail."""
    model = Siglip2Model.from_pretrained(folder).eval()
    inputs = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=[images()[3]], return_tensors="pt")
    with torch.no_grad():
        right = model.get_image_features(**inputs).pooler_output
        inputs["pixel_attention_mask"] = torch.ones_like(inputs["pixel_attention_mask"])
        wrong = model.get_image_features(**inputs).pooler_output
    assert float(functional.cosine_similarity(right, wrong)) < 0.99


def test_preprocessed_images_keep_their_shape_and_stay_small(folder: Path) -> None:
    """Pixels are float32 `(3, height, width)` of at most 24 patches, near the picture's own aspect ratio."""
    encoder = encoder_of(folder)
    assert isinstance(encoder, PixelEncoder)
    for image in images():
        pixels = encoder.preprocess_image(image)
        channels, height, width = pixels.shape
        assert (pixels.dtype, channels, height % 8, width % 8) == (np.float32, 3, 0, 0)
        assert pixels.flags["C_CONTIGUOUS"]
        assert height * width <= 24 * 8 * 8
    assert encoder.preprocess_image(Image.new("RGB", (600, 100))).shape == (3, 16, 96)


def test_preprocessing_runs_in_threads(folder: Path) -> None:
    """Pixels made in four threads and encoded together equal encode_image."""
    encoder = encoder_of(folder)
    many = images() * 4
    with ThreadPoolExecutor(4) as pool:
        pixels = list(pool.map(encoder.preprocess_image, many))
    assert np.abs(encoder.encode_pixels(pixels) - encoder.encode_image(many)).max() < 1e-6


def test_max_patches_is_an_option(folder: Path) -> None:
    """`?max_patches=` equals the processor's max_num_patches, and is part of the name and of the fingerprint."""
    known, finer = encoder_of(folder), encoder_of(folder, "?max_patches=100")
    expected = plain_vectors(folder, images(), max_num_patches=100)
    assert np.abs(finer.encode_image(images()) - expected).max() < 1e-5
    assert np.abs(finer.encode_image(images()) - known.encode_image(images())).max() > 1e-3
    assert finer.spec.name == f"siglip:{folder}?max_patches=100"
    assert finer.spec.fingerprint != known.spec.fingerprint
    assert encoder_of(folder, "?max_patches=24").spec.fingerprint == known.spec.fingerprint


@pytest.mark.parametrize("wrong", ["0", "-4", "many", "100000"])
def test_a_senseless_max_patches_is_refused(wrong: str, folder: Path) -> None:
    """What is no sensible number of patches is a SettingsError that gives the range."""
    with pytest.raises(SettingsError, match=rf"max_patches={wrong}: give a whole number from 16 to 4096"):
        encoder_of(folder, f"?max_patches={wrong}")


def test_a_fixed_resolution_has_no_patches_to_choose(tmp_path: Path) -> None:
    """A SigLIP of one picture size refuses the option instead of ignoring it."""
    with pytest.raises(SettingsError, match="fixed resolution, 32 pixels a side: leave"):
        encoder_of(checkpoints.siglip2_folder(tmp_path / "square"), "?max_patches=64")


def test_the_specification_is_that_of_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    """No image size, since pictures keep their aspect ratio; scale and bias are read; other weights are told apart."""
    encoder = encoder_of(folder)
    spec = encoder.spec
    assert (spec.dim, spec.context_length, spec.image_size, spec.kind) == (32, 64, None, "dense")
    assert encoder.logit_scale == pytest.approx(100)
    assert encoder.logit_bias == pytest.approx(-12)
    assert encoder.encode_image([]).shape == (0, 32)
    assert encoder_of(checkpoints.naflex_folder(tmp_path / "other", seed=1)).spec.fingerprint != spec.fingerprint
    half = encoder_of(folder, dtype="bfloat16")
    assert (half.encode_image(images()) * encoder.encode_image(images())).sum(axis=1).min() > 0.98
    assert half.spec.fingerprint == spec.fingerprint


def test_a_foreign_image_processor_is_refused(folder: Path, tmp_path: Path) -> None:
    """A processor of another patch size, or of squares, is found out when loading."""
    for number, change in enumerate([{"patch_size": 16}, {"image_processor_type": "SiglipImageProcessor"}]):
        other = Path(shutil.copytree(folder, tmp_path / str(number)))
        file = other / "preprocessor_config.json"
        config = {key: value for key, value in json.loads(file.read_text()).items() if key != "patch_size"}
        file.write_text(json.dumps({**config, **change}))
        with pytest.raises(EncoderLoadError, match=r"makes patches of (16|no) pixels, the model takes 8"):
            encoder_of(other)


def test_images_of_every_shape_are_indexed(folder: Path, tmp_path: Path) -> None:
    """Files of different aspect ratios go through the indexing threads in one batch and get the plain vectors."""
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images()):
        image.save(tmp_path / "photos" / f"{number}.png")
    store = open_store(":memory:")
    report = ingest_images(store, "images", [tmp_path / "photos"], encoder=encoder_of(folder))
    assert (report.embedded, report.failures) == (len(images()), [])
    points = sorted(store.scroll("images", vectors=["image"]), key=lambda point: str(point.payload["uri"]))
    stored = np.stack([np.asarray(point.vectors["image"]) for point in points])
    assert np.abs(stored - plain_vectors(folder, images())).max() < 1e-5
    store.close()
