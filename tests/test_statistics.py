"""Intervals and tests against hand-computed values, plain resampling and exact enumeration."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from rrr_utils.report import statistics


def test_wilson_is_the_textbooks():
    assert statistics.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert statistics.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_where_every_cluster_is_one_item_the_interval_is_wilsons():
    assert statistics.cluster_bootstrap([1, 1, 0, 0], list("abcd")) == statistics.wilson(2, 4)


def test_items_that_are_all_alike_leave_an_interval_as_wide_as_the_clusters_are_few():
    low, high = statistics.cluster_bootstrap([1] * 100, ["a"] * 50 + ["b"] * 50)
    assert (low, high) == statistics.wilson(2, 2) and low < 0.5


def test_bootstrap_is_seeded_and_equals_plain_resampling_of_clusters():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 40, 300)
    values = (rng.random(300) < 0.2 + 0.5 * (clusters % 2)).astype(float)
    got = statistics.cluster_bootstrap(values, clusters, seed=1)
    assert (
        got
        == statistics.cluster_bootstrap(values, clusters, seed=1)
        != statistics.cluster_bootstrap(values, clusters, seed=2)
    )
    groups = [values[clusters == c] for c in np.unique(clusters)]
    drawn = [np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))]).mean() for _ in range(4000)]
    assert got == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.01)


def test_bootstrap_covers_the_true_mean_where_items_of_a_cluster_go_together():
    rng, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(120):
        rates = rng.beta(2, 3, 60)  # each cluster has a rate of its own: mean 0.4
        clusters = np.repeat(np.arange(60), 8)
        values = (rng.random(480) < rates[clusters]).astype(float)
        low, high = statistics.cluster_bootstrap(values, clusters)
        covered += low <= 0.4 <= high
        low, high = statistics.wilson(values.sum(), 480)
        naive += low <= 0.4 <= high
    assert 106 <= covered <= 120
    assert naive < covered - 6  # what ignoring clusters would have claimed


def test_values_and_clusters_must_match():
    with pytest.raises(ValueError, match="one cluster for each value"):
        statistics.cluster_bootstrap([1, 0], ["a"])
    with pytest.raises(ValueError, match="same items on both sides"):
        statistics.paired_difference([1, 0], [1], ["a", "b"])


def enumerated(sums: np.ndarray) -> float:
    totals = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=len(sums))]
    return float(np.mean([t >= abs(sums.sum()) - 1e-9 for t in totals]))


@pytest.mark.parametrize("seed", range(15))
def test_sign_flip_p_is_the_share_of_all_flips(seed):
    sums = np.random.default_rng(seed).integers(-4, 6, 11).astype(float)
    assert statistics.sign_flip_p(sums) == pytest.approx(enumerated(sums), abs=1e-12)
    if (sums != 0).any():
        exact = permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=10**5)
        assert statistics.sign_flip_p(sums) == pytest.approx(exact.pvalue, abs=1e-12)


def test_sums_that_are_not_whole_go_to_scipy():
    sums = np.random.default_rng(3).normal(0.3, 1, 9)
    assert statistics.sign_flip_p(sums) == pytest.approx(enumerated(sums))


def test_sign_flip_p_of_many_clusters_agrees_with_random_flips():
    sums = np.random.default_rng(5).integers(-3, 4, 150).astype(float) + (np.arange(150) % 8 == 0)
    random = permutation_test(
        (sums,), lambda x, axis: x.sum(axis), permutation_type="samples", n_resamples=9999, vectorized=True, rng=0
    )
    assert statistics.sign_flip_p(sums) == pytest.approx(random.pvalue, abs=0.015)


def test_nothing_differs_then_p_is_one():
    assert statistics.sign_flip_p(np.zeros(5)) == 1.0
    assert statistics.paired_difference([1, 0], [1, 0], ["a", "b"])[:4] == (0.0, 0.0, 0.0, 1.0)


def test_fifteen_thousand_items_take_no_time():
    rng, began = np.random.default_rng(0), time.time()
    a, b, clusters = rng.random(15_000) < 0.45, rng.random(15_000) < 0.1, rng.integers(0, 9_000, 15_000)
    test = statistics.paired_difference(a, b, clusters)
    assert test.p < 1e-9 and test.ci_low < 0.35 < test.ci_high and time.time() - began < 5


def test_paired_difference_counts_as_mcnemar_does():
    a, b = [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]
    test = statistics.paired_difference(a, b, list("vwxyz"))
    assert (test.difference, test.a_only, test.b_only, test.n, test.clusters) == (pytest.approx(0.2), 2, 1, 5, 5)
    assert test.p == 1.0  # of the 8 flips of three ones, all are as far from 0 as 1


def test_clusters_count_not_items():
    one_each = statistics.paired_difference([1] * 12, [0] * 12, range(12))
    together = statistics.paired_difference([1] * 12, [0] * 12, [k // 4 for k in range(12)])
    assert one_each.p == pytest.approx(2 / 2**12) and together.p == pytest.approx(2 / 2**3)
