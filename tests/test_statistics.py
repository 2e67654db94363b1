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


def of_seeds(rng: np.random.Generator, seeds: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong, seeds x 200 items in 40 clusters; seeds, clusters and each seed's clusters vary about 0.5."""
    rate = 0.5 + spread * rng.normal(size=(seeds, 1)) + 0.15 * rng.normal(size=40) + 0.1 * rng.normal(size=(seeds, 40))
    clusters = np.repeat(np.arange(40), 5)
    return (rng.random((seeds, 200)) < rate[:, clusters]).astype(float), clusters


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.03, 0.1])
def test_intervals_over_seeds_cover_the_mean_of_all_seeds_and_those_of_items_alone_do_not(seeds, spread, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng, covered, items_alone = np.random.default_rng(seeds), 0, 0
    for _ in range(250):
        values, clusters = of_seeds(rng, seeds, spread)
        low, high = statistics.cluster_bootstrap(values, clusters)
        covered += low <= 0.5 <= high
        low, high = statistics.cluster_bootstrap(values.mean(axis=0), clusters)
        items_alone += low <= 0.5 <= high
    assert 0.92 <= covered / 250 <= 0.995
    assert items_alone / 250 < {0.0: 1.0, 0.03: covered / 250, 0.1: 0.8}[spread]


def test_one_seed_is_resampled_by_items_only():
    values, clusters = of_seeds(np.random.default_rng(0), 1, 0.1)
    assert statistics.cluster_bootstrap(values, clusters) == statistics.cluster_bootstrap(values[0], clusters)
    both = [statistics.paired_difference(one, values[0] * 0, clusters) for one in (values, values[0])]
    assert both[0] == both[1]


def test_seeds_that_agree_leave_the_interval_of_items_and_those_that_do_not_widen_it():
    values, clusters = of_seeds(np.random.default_rng(0), 1, 0.1)
    alike = statistics.cluster_bootstrap(np.repeat(values, 3, axis=0), clusters)
    assert alike == pytest.approx(statistics.cluster_bootstrap(values[0], clusters), abs=1e-9)
    apart = np.array([values[0], np.zeros(200), np.ones(200)])
    low, high = statistics.cluster_bootstrap(apart, clusters)
    assert high - low > 1  # 3 seeds at 0, 0.5 and 1 say next to nothing


def test_a_pooled_difference_flips_clusters_of_the_mean_over_seeds():
    rng = np.random.default_rng(1)
    a, clusters = of_seeds(rng, 3, 0.0)
    b = of_seeds(rng, 1, 0.0)[0]
    test = statistics.paired_difference(a, b, clusters)
    mean = (a - b).mean(axis=0)
    sums = np.array([mean[clusters == c].sum() for c in range(40)])
    assert test.p == pytest.approx(statistics.sign_flip_p(np.round(3 * sums)))
    assert (test.a_only, test.b_only) == ((mean > 0).sum(), (mean < 0).sum())
    assert test.difference == pytest.approx(mean.mean()) and (test.n, test.clusters) == (200, 40)
    with pytest.raises(ValueError, match="same items on both sides"):
        statistics.paired_difference(a, a[:2], clusters)


def test_holm_is_the_textbooks_whatever_the_order():
    assert statistics.holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0] and statistics.holm([]) == []


def test_what_could_have_been_seen_is_seen_four_times_in_five(monkeypatch):
    """Two seeds on 100 clusters of two items: by the test that decides, Holm's smallest of ten included."""
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    monkeypatch.setattr(statistics, "FLIPS", 2000)
    rng, seen, told, clusters = np.random.default_rng(0), 0, [], np.repeat(np.arange(100), 2)
    for _ in range(200):  # the mean over seeds of a cluster varies by 1 around .36
        values = 0.36 + np.repeat(rng.normal(0, 1, 100), 2) + np.array([[1], [-1]])  # seeds differ, p is about these
        test = statistics.paired_difference(values, np.zeros(200), clusters)
        seen += 10 * test.p < 0.05
        told.append(statistics.detectable(test.error, 10))
    assert 0.72 < seen / 200 < 0.88 and np.mean(told) == pytest.approx(0.365, abs=0.01)
    assert np.isnan(statistics.detectable(0.0))


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
    assert statistics.paired_difference([1, 0], [1, 0], ["a", "b"])[:5] == (0.0, 0.0, 0.0, 0.0, 1.0)


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
