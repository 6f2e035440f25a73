"""Arithmetic on dense arrays."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import mmembed.vectors
from mmembed.errors import InvalidEmbedding
from mmembed.vectors import check_embeddings, l2_normalize, top_k, truncate


def test_docstring_examples_hold() -> None:
    """The worked 2x3 examples in the docstrings compute what they print."""
    results = doctest.testmod(mmembed.vectors)
    assert results.attempted >= 3
    assert results.failed == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_normalize_survives_extreme_scales(scale: float) -> None:
    """Squares of tiny and huge values neither vanish nor overflow."""
    rows = l2_normalize(np.array([[3.0, 4.0], [-1.0, 1.0]]) * scale)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [-(0.5**0.5), 0.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("bad", [[[0.0, 0.0]], [[np.nan, 1.0]], [[np.inf, 1.0]]])
def test_normalize_refuses_what_has_no_direction(bad: list[list[float]]) -> None:
    """Zeros, NaN and infinity raise instead of becoming vectors that never match."""
    with pytest.raises(InvalidEmbedding):
        l2_normalize(bad)


def test_normalize_takes_empty_batches() -> None:
    """A batch of nothing stays a batch of nothing."""
    assert l2_normalize(np.zeros((0, 4))).shape == (0, 4)


def test_truncated_vectors_have_norm_one() -> None:
    """Cutting a unit vector shortens it; truncate makes it whole again."""
    rows = truncate(l2_normalize(np.random.default_rng(0).standard_normal((5, 64))), 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="cannot cut vectors of 64 dimensions to 65"):
        truncate(np.ones((1, 64), dtype=np.float32), 65)


def test_top_k_agrees_with_sorting_in_python() -> None:
    """Against a naive oracle, ties included."""
    scores = np.random.default_rng(1).integers(0, 5, size=(20, 30)).astype(float)
    for row, found in zip(scores, top_k(scores, 7), strict=True):
        assert list(found) == sorted(range(30), key=lambda i: (-row[i], i))[:7]


def test_check_embeddings_names_what_is_wrong() -> None:
    """Wrong shape, wrong type, NaN and wrong norm are each refused with the numbers."""
    good = l2_normalize(np.ones((2, 3)))
    assert check_embeddings(good, n=2, dim=3, encoder="e") is good
    with pytest.raises(InvalidEmbedding, match=r"\(2, 3\) for 3 inputs, not float32 \(3, 3\)"):
        check_embeddings(good, n=3, dim=3, encoder="e")
    with pytest.raises(InvalidEmbedding, match="float64"):
        check_embeddings(good.astype(np.float64), n=2, dim=3, encoder="e")
    with pytest.raises(InvalidEmbedding, match="norm 2"):
        check_embeddings(good * np.float32(2), n=2, dim=3, encoder="e")
    with pytest.raises(InvalidEmbedding, match="NaN"):
        check_embeddings(good * np.float32(np.nan), n=2, dim=3, encoder="e")
