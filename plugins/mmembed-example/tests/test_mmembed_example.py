"""`colours` against histograms that can be counted by eye."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmembed import Encoder, load_encoder
from mmembed.errors import EncoderLoadError
from mmembed.testing import check_encoder

AXES = ["black", "white", "red", "lime", "blue", "yellow", "magenta", "cyan"]


@pytest.fixture(scope="module")
def colours() -> Encoder:
    return load_encoder("colours")


def halves(left: str, right: str) -> Image.Image:
    image = Image.new("RGB", (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


def test_a_text_that_names_an_axis_is_that_axis(colours: Encoder) -> None:
    """Each of the eight colours has a coordinate of its own, as a word and as a picture."""
    np.testing.assert_allclose(colours.encode_text(AXES, role="query"), np.eye(8), atol=1e-6)
    images = [Image.new("RGB", (7, 90), colour) for colour in AXES]
    np.testing.assert_allclose(colours.encode_image(images), np.eye(8), atol=1e-6)


def test_squares_are_shares(colours: Encoder) -> None:
    """A picture half red and half white is a half of each; orange is 65% yellow, and grey as black as white."""
    (image,) = np.asarray(colours.encode_image([halves("red", "white")])) ** 2
    assert dict(zip(AXES, image.round(2).tolist(), strict=True)) == dict.fromkeys(AXES, 0.0) | {
        "red": 0.5,
        "white": 0.5,
    }
    orange, grey = np.asarray(colours.encode_text(["an orange cat", "gray"], role="query")) ** 2
    assert orange[[2, 5]] == pytest.approx([0.35, 0.65], abs=0.01)
    assert grey[[0, 1]] == pytest.approx([0.5, 0.5], abs=0.01)


def test_words_find_images_of_their_colours(colours: Encoder) -> None:
    """Of six plain pictures each text finds the one that it describes."""
    texts = ["a red wall", "blue sea", "dark green wood", "white snow", "Yellow!", "a pink and a purple flower"]
    shown = ["#b43228", "#1e508c", "#143c1e", "#f0f5fa", "#dcc828", "#c878c8"]
    images = colours.encode_image([Image.new("RGB", (40, 30), colour) for colour in shown])
    scores = np.asarray(colours.encode_text(texts, role="query")) @ np.asarray(images).T
    assert scores.argmax(axis=1).tolist() == list(range(6))


def test_two_words_can_name_one_colour(colours: Encoder) -> None:
    """ "dark blue" is darker than "blue", because darkblue is a colour too."""
    dark, plain = np.asarray(colours.encode_text(["dark blue", "blue"], role="query"))
    assert dark[0] > plain[0] == 0


@pytest.mark.parametrize("text", ["", "   ", "a dog on a beach", "日本語", "x" * 10_000])
def test_a_text_without_colours_is_every_colour(colours: Encoder, text: str) -> None:
    """No colour is preferred where none was asked for, and there is still a direction."""
    np.testing.assert_allclose(colours.encode_text([text], role="document"), np.full((1, 8), 8**-0.5), atol=1e-6)


def test_rows_are_of_norm_1_and_know_nothing_of_their_neighbours(colours: Encoder) -> None:
    """(n, 8) float32 in order, the same alone as in a batch; an empty batch is (0, 8)."""
    images = [halves("navy", "tomato"), Image.new("L", (1, 1), 77), Image.new("RGB", (300, 2), "olive")]
    together = np.asarray(colours.encode_image(images))
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for row, image in zip(together, images, strict=True):
        np.testing.assert_array_equal(row, np.asarray(colours.encode_image([image]))[0])
    for nothing in (colours.encode_image([]), colours.encode_text([], role="query")):
        assert np.shape(nothing) == (0, 8)


def test_roles_are_alike(colours: Encoder) -> None:
    """A colour is the same whether it is asked for or described."""
    texts = ["light blue", "crimson and gold"]
    np.testing.assert_array_equal(colours.encode_text(texts, role="query"), colours.encode_text(texts, role="document"))


def test_the_name_takes_no_model(colours: Encoder) -> None:
    """`colours:large` is refused in one sentence instead of being loaded as `colours`."""
    assert colours.spec.name == "colours"
    with pytest.raises(EncoderLoadError, match="'colours' has no models"):
        load_encoder("colours:large")


def test_tokens_are_words(colours: Encoder) -> None:
    """Long texts are counted in words."""
    assert [colours.count_tokens(text) for text in ("", "a red wall", "red-and-white")] == [0, 3, 3]


def test_it_is_right(colours: Encoder) -> None:
    """What every encoder must do, whatever it encodes."""
    report = check_encoder(colours, load=load_encoder)
    assert report.ok, report
