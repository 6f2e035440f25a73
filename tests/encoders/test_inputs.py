"""What encoders and verbs are given: brought in order or refused, never guessed."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints_clip import OPEN_CLIP, open_clip_folder, siglip1_folder
from checkpoints_sparse import build_bge_m3, build_splade
from checkpoints_text import build_bert, build_qwen3
from checkpoints_vlm import build_colbert, build_colqwen2, build_cross_encoder, build_qwen3_vl
from PIL import ExifTags, Image

import mmembed
from mmembed.batching.cache import prepare_image, prepared_key
from mmembed.classification import classify
from mmembed.classification.sample import embed_sample
from mmembed.encoders import images_in
from mmembed.encoders.encoding import encode_images, encode_texts
from mmembed.errors import InputError, NotAList, UnreadableImage
from mmembed.evaluation.measures import parse_measures
from mmembed.images import load_image
from mmembed.testing.images import unconverted_images
from mmembed.testing.vectors import distance, split_rows
from mmembed.types import Encoder

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "open_clip": lambda folder: open_clip_folder(folder, OPEN_CLIP),
    "siglip": siglip1_folder,
    "vlm": build_qwen3_vl,
    "late": build_colbert,
    "pages": build_colqwen2,
    "sentence": lambda folder: build_bert(folder, pooling="mean"),
    "qwen3": build_qwen3,
    "bge-m3": build_bge_m3,
    "splade": build_splade,
}
WEIGHTLESS = ["tiny", "fake", "fake?kind=multi", "fake?kind=sparse"]


@pytest.fixture(scope="module", params=[*WEIGHTLESS, *BUILDERS])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    name = request.param
    if name in BUILDERS:
        folder = BUILDERS[name](tmp_path_factory.mktemp("models") / name)
        name = f"{'late' if name == 'pages' else name}:{folder}"
    return mmembed.load_encoder(name, device="cpu")


def test_a_bare_string_is_no_list_of_texts(encoder: Encoder) -> None:
    """A str, bytes, a path or nothing in place of a list is refused in one sentence, as is a text that is none."""
    for bare in ("two parrots", b"two parrots", Path("two parrots"), None, {"two": "parrots"}):
        with pytest.raises(NotAList, match="texts are wanted in a list"):
            encoder.encode_text(bare, role="query")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one of them is a bytes"):
        encoder.encode_text(["two", b"parrots"], role="query")  # type: ignore[list-item]


def test_every_mode_has_the_vector_of_what_it_shows(encoder: Encoder) -> None:
    """Transparency, palettes, 16 bit, CMYK and EXIF are in order before an encoder looks, or it has no images."""
    if "image" not in encoder.spec.modalities:
        with pytest.raises(mmembed.MmembedError):
            encoder.encode_image([Image.new("RGB", (8, 8))])
        return
    tried = unconverted_images()
    assert {"LA", "RGBA", "P", "L", "I;16", "CMYK", "RGB, turned by EXIF"} <= tried.keys()
    for mode, (image, shows) in tried.items():
        one, other = (split_rows(encoder.encode_image([own]), 1, encoder.spec.kind)[0] for own in (image, shows))
        assert distance(one, other) < 1e-6, mode
        if isinstance(encoder, mmembed.PixelEncoder):
            assert np.array_equal(encoder.preprocess_image(image), encoder.preprocess_image(shows)), mode
    for bare in (Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), dtype=np.uint8), b"GIF89a"):
        with pytest.raises(NotAList, match="images are wanted in a list"):
            encoder.encode_image(bare)  # type: ignore[arg-type]
    for no_image in ("cat.jpg", b"GIF89a", Path("cat.jpg"), None):
        with pytest.raises(UnreadableImage, match="is no image"):
            encoder.encode_image([no_image])  # type: ignore[list-item]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_one_function_for_files_and_memory(orientation: int) -> None:
    """A file half transparent and turned is the same image read from disk, opened by Pillow, or given to an encoder."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    (opened,) = images_in([Image.open(stream)])
    read = load_image(stream.getvalue(), uri="a.png")
    assert np.array_equal(np.asarray(opened), np.asarray(read))
    assert opened.size == ((9, 14) if orientation > 4 else (14, 9))
    assert opened.info == {}
    assert np.array_equal(np.asarray(images_in([opened])[0]), np.asarray(opened))  # once in order, it stays so


def test_a_cache_tells_palettes_apart() -> None:
    """Images of equal bytes and another palette are two images, for an encoder without preprocessing too."""
    encoder = mmembed.load_encoder("fake?kind=multi")
    red, blue = (Image.new("P", (4, 4)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    one, other = (prepared_key(encoder, prepare_image(encoder, image)) for image in (red, blue))
    assert one != other


def test_a_reranker_takes_a_list(tmp_path: Path) -> None:
    """A bare candidate would be scored letter by letter."""
    reranker = mmembed.load_reranker(f"cross-encoder:{build_cross_encoder(tmp_path / 'model')}", device="cpu")
    with pytest.raises(NotAList, match="candidates are wanted in a list"):
        reranker.score("a", "bc")


def _verbs(store: mmembed.Store, encoder: Encoder) -> dict[str, Callable[[Any], object]]:
    return {
        "ingest_images": lambda bare: mmembed.ingest_images(store, "images", bare, encoder=encoder),
        "ingest_images exclude": lambda bare: mmembed.ingest_images(store, "i", [], encoder=encoder, exclude=bare),
        "ingest_documents": lambda bare: mmembed.ingest_documents(store, "documents", bare, encoder=encoder),
        "classify": lambda bare: list(classify(bare, ["cat"], encoder=encoder)),
        "labels": lambda bare: list(classify([], bare, encoder=encoder)),
        "encode_images": lambda bare: list(encode_images(bare, encoder)),
        "encode_texts": lambda bare: encode_texts([encoder], bare, role="query"),
        "embed_sample": lambda bare: embed_sample(bare, encoder),
        "search minus": lambda bare: mmembed.search(store, "images", text="cat", minus=bare),
        "search positive": lambda bare: mmembed.search(store, "images", positive=bare),
        "search negative": lambda bare: mmembed.search(store, "images", negative=bare),
        "search_several": lambda bare: mmembed.search_several(store, bare, mmembed.Search(text="cat")),
        "measures": parse_measures,
    }


@pytest.mark.parametrize("verb", [*_verbs(None, None)])  # type: ignore[arg-type]
def test_verbs_that_take_lists_refuse_one_thing(verb: str, tmp_path: Path) -> None:
    """One text, or the bytes of one, where several are wanted is refused before anything is done."""
    with closing(mmembed.open_store(f"edge:{tmp_path / 'store'}")) as store:
        call = _verbs(store, mmembed.load_encoder("fake"))[verb]
        for bare in ("images", b"images", bytearray(b"images")):
            with pytest.raises(InputError, match=r"wanted in a list|is a list|is \d+, not a text"):
                call(bare)
        assert list(store.collections()) == []
