"""Intervals and tests of significance, held against scipy's, and against what they promise on random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mmembed.errors import InvalidTestSet
from mmembed.statistics import Interval, bootstrap_intervals, differences, randomisation_test


def test_interval_is_scipys() -> None:
    """Both ends are those of scipy's percentile bootstrap, within what 9,999 draws leave open."""
    rng = np.random.default_rng(1)
    columns = np.stack([rng.random(80), rng.integers(0, 2, 80), rng.normal(size=80)], axis=1)
    for column, interval in zip(columns.T, bootstrap_intervals(columns), strict=True):
        theirs = stats.bootstrap((column,), np.mean, method="percentile", n_resamples=9999, rng=2)
        assert interval is not None
        tolerance = 0.1 * theirs.standard_error
        assert interval == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)


def test_interval_holds_the_truth_95_times_of_100() -> None:
    """Of 400 samples of 100 from a known distribution, about 95 % have intervals around its mean."""
    samples = np.random.default_rng(2).random((100, 400))  # each column a sample of mean 0.5
    intervals = bootstrap_intervals(samples, resamples=999)
    assert 0.91 <= np.mean([i is not None and i.low <= 0.5 <= i.high for i in intervals]) <= 0.98


def test_interval_of_equal_values_has_no_width() -> None:
    """Where every query has the same value, both ends are that value to the last bit."""
    values = np.stack([np.full(37, 0.1), np.zeros(37), np.full(37, 1 / 3)], axis=1)
    assert bootstrap_intervals(values) == [Interval(0.1, 0.1), Interval(0.0, 0.0), Interval(1 / 3, 1 / 3)]


def test_one_query_has_no_interval() -> None:
    """One query, or none, says nothing about how others would do: None."""
    assert bootstrap_intervals(np.array([[0.3, 0.4]])) == [None, None]
    assert bootstrap_intervals(np.empty((0, 1))) == [None]


def test_two_queries_span_both() -> None:
    """Of two queries with 0 and 1, resampled means are 0, 0.5 or 1: the interval reaches from 0 to 1."""
    assert bootstrap_intervals(np.array([[0.0], [1.0]])) == [Interval(0.0, 1.0)]


def test_seed_decides() -> None:
    """The same seed gives the same interval and p; another seed, others."""
    values = np.random.default_rng(3).normal(0.1, 1, size=(50, 1))
    assert bootstrap_intervals(values, seed=4) == bootstrap_intervals(values, seed=4)
    assert bootstrap_intervals(values, seed=4) != bootstrap_intervals(values, seed=5)
    assert randomisation_test(values[:, 0], seed=4) == randomisation_test(values[:, 0], seed=4)
    assert randomisation_test(values[:, 0], seed=4) != randomisation_test(values[:, 0], seed=5)


def test_a_column_does_not_depend_on_its_neighbours() -> None:
    """The interval of a column is the same alone and beside others: all share the same draws."""
    columns = np.random.default_rng(5).random((60, 3))
    (alone,) = bootstrap_intervals(columns[:, 1:2])
    assert alone == pytest.approx(bootstrap_intervals(columns)[1], abs=1e-12)


def test_many_queries_are_drawn_in_blocks() -> None:
    """With more queries than are resampled at once, the interval is still that of the central limit theorem."""
    values = np.random.default_rng(6).random((10_000, 1))
    (interval,) = bootstrap_intervals(values, resamples=999)
    half = 1.96 * values.std() / 100
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half)


def scipy_p(paired: np.ndarray, *, seed: int = 0) -> float:
    test = stats.permutation_test((paired,), np.mean, permutation_type="samples", n_resamples=9999, rng=seed)
    return float(test.pvalue)


def test_few_queries_are_tested_exactly() -> None:
    """Up to 13 queries every assignment of signs counts: p is scipy's exact one, ties included."""
    rng = np.random.default_rng(7)
    for queries in range(2, 14):
        paired = rng.integers(-3, 6, queries) / 10
        assert randomisation_test(paired) == pytest.approx(scipy_p(paired), abs=1e-12), paired
    assert randomisation_test(np.array([0.1, 0.2, 0.3])) == 0.25


def test_many_queries_are_tested_by_random_signs() -> None:
    """Beyond that p is scipy's, within what 9,999 random assignments leave open, whatever its size."""
    rng = np.random.default_rng(8)
    seen = []
    for mean in (0.0, 0.1, 0.2, 0.3, 0.5):
        paired = rng.normal(mean, 1, size=100)
        ours, theirs = randomisation_test(paired), scipy_p(paired, seed=9)
        assert ours == pytest.approx(theirs, abs=5 * np.sqrt(theirs * (1 - theirs) / 9999) + 2e-4)
        seen.append(ours)
    assert min(seen) < 0.01 < 0.3 < max(seen)


def test_agreement_on_every_query_is_no_difference() -> None:
    """Where two systems are equal on all queries p is 1; queries on which they agree change no p."""
    assert randomisation_test(np.zeros(50)) == 1.0
    assert randomisation_test(np.array([])) == 1.0
    told = np.array([0.1, 0.2, -0.05, 0.4])
    assert randomisation_test(np.concatenate([np.zeros(100), told])) == randomisation_test(told)


def test_one_query_proves_nothing() -> None:
    """One query on which two systems differ has p 1, however large the difference."""
    assert randomisation_test(np.array([0.9])) == 1.0


def test_p_is_never_zero() -> None:
    """A difference beyond doubt has the smallest p that the number of assignments allows."""
    assert randomisation_test(np.full(200, 0.5)) == pytest.approx(1 / 10_000)
    assert randomisation_test(np.full(13, 0.1)) == 2 / 2**13


def test_direction_does_not_matter() -> None:
    """The test is two-sided: exchanging the systems leaves p as it is."""
    paired = np.random.default_rng(10).normal(0.2, 1, size=60)
    assert randomisation_test(paired) == randomisation_test(-paired)


@pytest.mark.parametrize("queries", [10, 40])
def test_false_positives(queries: int) -> None:
    """Of 300 pairs of equally good systems about 5 % are told apart at 0.05, by the exact test and the random one."""
    rng = np.random.default_rng(11)
    found = [randomisation_test(rng.random(queries) - rng.random(queries), resamples=1999) for _ in range(300)]
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.085


def test_power() -> None:
    """A real difference of half a standard deviation on 100 queries is found nearly always."""
    rng = np.random.default_rng(12)
    found = [randomisation_test(rng.normal(0.5, 1, size=100), resamples=999) for _ in range(50)]
    assert np.mean(np.array(found) < 0.05) > 0.95


def test_differences_are_paired_by_query() -> None:
    """Whatever the order, each query is compared with itself; other queries are refused."""
    assert differences({"a": 1.0, "b": 0.5}, {"b": 0.25, "a": 0.0}).tolist() == [1.0, 0.25]
    with pytest.raises(InvalidTestSet, match="they share 1 of 2 and 2"):
        differences({"a": 1.0, "b": 0.5}, {"a": 1.0, "c": 0.5})
