"""The embedded default encoder, with its real weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmembed.demo import PICTOGRAMS
from mmembed.encoders.registry import load_encoder
from mmembed.errors import EncoderLoadError
from mmembed.images import load_image
from mmembed.types import Encoder, PixelEncoder

# First 8 values of embeddings, computed where the weights were trained.
REFERENCE = {
    "images": {
        "1f63f.png": [0.06409, 0.03592, -0.01388, 0.00452, 0.01786, 0.02647, 0.03719, -0.02556],
        "1f382.png": [0.01103, 0.07664, -0.07915, -0.05284, -0.0024, 0.04047, 0.03699, 0.03062],
    },
    "texts": {
        "sad cat": [-0.00201, 0.1492, -0.02682, 0.00586, -0.00605, 0.00395, 0.02076, 0.04854],
        "rocket": [0.01307, 0.06322, 0.00028, -0.02069, -0.01748, 0.03009, 0.03905, 0.02867],
        "a picture of pizza": [-0.00654, 0.02262, -0.02885, -0.04157, -0.01967, -0.02183, -0.01514, -0.05685],
        "birthday cake": [-0.03998, 0.15817, -0.01112, -0.05041, 0.02638, -0.00565, 0.00517, 0.04211],
    },
}


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    return load_encoder("tiny", device="cpu")


def test_embeddings_equal_the_training_code(tiny: Encoder) -> None:
    """Pictures and texts come out as where the weights were trained, to 1e-4."""
    for name, values in REFERENCE["images"].items():
        image = load_image(PICTOGRAMS / name, uri=name)
        np.testing.assert_allclose(np.asarray(tiny.encode_image([image]))[0, :8], values, atol=1e-4)
    rows = np.asarray(tiny.encode_text(list(REFERENCE["texts"]), role="query"))
    np.testing.assert_allclose(rows[:, :8], list(REFERENCE["texts"].values()), atol=1e-4)


def test_a_vector_does_not_depend_on_its_batch(tiny: Encoder) -> None:
    """Alone or beside others, in any order, the same text and picture have the same vector of norm 1."""
    texts = ["cat", "", "a very long name " * 20, "birthday cake", "日本"]
    together = np.asarray(tiny.encode_text(texts, role="document"))
    alone = np.concatenate([np.asarray(tiny.encode_text([text], role="query")) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    images = [Image.new("RGB", size, colour) for size, colour in [((1, 1), "red"), ((300, 20), "blue")]]
    assert isinstance(tiny, PixelEncoder)
    through_pool = tiny.encode_pixels([tiny.preprocess_image(image) for image in images])
    np.testing.assert_allclose(np.asarray(tiny.encode_image(images)), through_pool, atol=1e-6)
    np.testing.assert_allclose(np.asarray(tiny.encode_image(images[::-1]))[::-1], through_pool, atol=1e-6)


def test_empty_batches_are_empty(tiny: Encoder) -> None:
    """Nothing in, nothing out, of the right width."""
    assert np.asarray(tiny.encode_text([], role="query")).shape == (0, 256)
    assert np.asarray(tiny.encode_image([])).shape == (0, 256)


def test_it_finds_the_pictograms_it_ships_with(tiny: Encoder) -> None:
    """Of 300 pictograms the right one is first for at least half of their names (0.53 of 1,446 in its model card)."""
    rows = list(csv.DictReader((PICTOGRAMS / "pictograms.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 300
    images = [load_image(PICTOGRAMS / row["uri"], uri=row["uri"]) for row in rows]
    scores = (
        np.asarray(tiny.encode_text([r["label"] for r in rows], role="query")) @ np.asarray(tiny.encode_image(images)).T
    )
    assert (scores.argmax(axis=1) == np.arange(300)).mean() >= 0.5


def test_figures_of_its_model_card(tiny: Encoder, data: Path) -> None:
    """All 1,905 Twemoji by their labels: hit_rate@1 0.468 and hit_rate@10 0.800, to a hundredth."""
    labels = json.loads((data / "twemoji" / "labels.json").read_text())
    images = [load_image(data / "twemoji" / name, uri=name) for name in labels]
    scores = np.asarray(tiny.encode_text(list(labels.values()), role="query")) @ np.asarray(tiny.encode_image(images)).T
    own = scores[np.arange(len(scores)), np.arange(len(scores))]
    ranks = (scores > own[:, None]).sum(axis=1)
    assert (ranks < 1).mean() == pytest.approx(0.468, abs=0.01)
    assert (ranks < 10).mean() == pytest.approx(0.800, abs=0.01)


def test_scale_and_card(tiny: Encoder) -> None:
    """It carries a softmax scale, no bias, and its card."""
    assert tiny.logit_scale == pytest.approx(38.6, abs=0.1)
    assert tiny.logit_bias is None
    assert tiny.spec.modalities == {"image", "text"}
    assert tiny.count_tokens("birthday cake") <= 4
    with pytest.raises(EncoderLoadError):
        load_encoder("tiny:other")
