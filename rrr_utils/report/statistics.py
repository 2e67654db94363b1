"""Intervals and tests for accuracies whose items come in clusters: thin over numpy and scipy.

Items of one cluster (Countdown: the same multiset of numbers) are not independent, so intervals resample whole
clusters and tests flip the signs of whole clusters. Items are shared by all cells of a model, so cells are compared
item by item. Covered: Wilson, the cluster bootstrap, the sign-flip test, McNemar's counts. Not covered: which cells
are compared (`cells.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
FLIPS = 20_000
#: numbers held at a time while resampling, so that 15,000 clusters need no more memory than 100
CHUNK = 4_000_000


class Interval(NamedTuple):
    """The two ends of a 95% interval."""

    low: float
    high: float


class Comparison(NamedTuple):
    """Mean of a minus mean of b over the same items."""

    difference: float
    ci_low: float
    ci_high: float
    p: float
    a_only: int
    b_only: int
    n: int
    clusters: int


def wilson(correct: float, n: int) -> Interval:
    """Wilson's 95% interval of a share.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    low, high = stats.binomtest(round(correct), n).proportion_ci(method="wilson")
    return Interval(float(low), float(high))


def cluster_sums(values: Sequence[float], clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of items in each cluster.

    >>> cluster_sums([1, 0, 1], ["a", "a", "b"])
    (array([1., 1.]), array([2, 1]))
    """
    if len(values) != len(clusters) or len(values) == 0:
        raise ValueError(f"{len(values)} values for {len(clusters)} clusters: one cluster for each value is needed")
    _, index, sizes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True, return_counts=True)
    return np.bincount(index, weights=np.asarray(values, dtype=float)), sizes


def cluster_bootstrap(values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> Interval:
    """95% interval of a mean, resampling clusters; Wilson's where every cluster is one item that is right or wrong.

    Where every item has the same value no resample differs, and an interval of no width would claim to know what it
    cannot: there it is Wilson's for as many items as there are clusters.
    """
    values = np.asarray(values, dtype=float)
    sums, sizes = cluster_sums(values, clusters)
    binary = bool(np.isin(values, (0, 1)).all())
    if binary and len(sizes) == len(values):
        return wilson(values.sum(), len(values))
    if binary and values.min() == values.max():
        return wilson(values[0] * len(sizes), len(sizes))
    return _percentiles(sums, sizes, seed)


def _percentiles(sums: np.ndarray, sizes: np.ndarray, seed: int) -> Interval:
    """The middle 95% of the means of resampled clusters."""
    # clusters of the same sum and size are interchangeable: what is drawn is how often each such pair comes up
    pairs, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    rng, means, chunk = np.random.default_rng(seed), [], max(1, CHUNK // len(pairs))
    for start in range(0, RESAMPLES, chunk):
        drawn = rng.multinomial(len(sizes), counts / len(sizes), size=min(chunk, RESAMPLES - start))
        means.append((drawn @ pairs[:, 0]) / (drawn @ pairs[:, 1]))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(low), float(high))


def sign_flip_p(sums: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test: how likely is a total as far from zero, were each sign a coin's.

    Differences of right and wrong have whole sums, and for these the distribution over *all* 2^clusters flips is
    computed: clusters of the same size of sum give a binomial, and independent parts are convolved. Other values go
    to `scipy.stats.permutation_test`, which enumerates the flips where they are few and else draws 20,000.

    >>> sign_flip_p(np.array([1, 1, 1]))  # 2 of 8 flips are as far out
    0.25
    """
    sums = sums[sums != 0]  # flipping a zero changes nothing
    if len(sums) == 0:
        return 1.0
    if not np.array_equal(sums, np.round(sums)) or np.abs(sums).sum() > CHUNK:
        test = stats.permutation_test(
            (sums,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True,
            n_resamples=FLIPS, batch=max(1, CHUNK // len(sums)), rng=seed,
        )  # fmt: skip
        return float(test.pvalue)
    weight = np.ones(1)  # weight[j]: probability that clusters with sums of 2j in all (of 2 x total) are positive
    for size, count in zip(*np.unique(np.abs(sums).astype(int), return_counts=True), strict=True):
        part = np.zeros(size * count + 1)
        part[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        weight = np.convolve(weight, part)
    totals = 2 * np.arange(len(weight)) - np.abs(sums).sum()
    p = weight[np.abs(totals) >= abs(sums.sum())].sum()
    return min(1.0, float(f"{p:.12g}"))  # the last digits are rounding


def mcnemar(a: Sequence[float], b: Sequence[float]) -> tuple[int, int]:
    """McNemar's counts: items where a is above b, and where b is above a.

    >>> mcnemar([1, 1, 0, 0], [1, 0, 1, 0])
    (1, 1)
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return int((a > b).sum()), int((b > a).sum())


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Sequence[str], seed: int = 0) -> Comparison:
    """Difference of two means over the same items, with a cluster-bootstrap interval and the sign-flip p.

    >>> paired_difference([1, 1, 1, 0], [0, 0, 0, 0], ["a", "a", "b", "c"])[3:]
    (0.5, 3, 0, 4, 3)
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values: a paired comparison needs the same items on both sides")
    sums, sizes = cluster_sums(a - b, clusters)
    low, high = _percentiles(sums, sizes, seed)
    return Comparison(float((a - b).mean()), low, high, sign_flip_p(sums, seed), *mcnemar(a, b), len(a), len(sums))


def difference_of_differences(
    own_a: Sequence[float],
    blind_a: Sequence[float],
    own_b: Sequence[float],
    blind_b: Sequence[float],
    clusters: Sequence[str],
    seed: int = 0,
) -> Comparison:
    """How much more a gains from its own reflection over a blind retry than b does."""
    gain_a, gain_b = np.subtract(own_a, blind_a, dtype=float), np.subtract(own_b, blind_b, dtype=float)
    return paired_difference(gain_a, gain_b, clusters, seed)
