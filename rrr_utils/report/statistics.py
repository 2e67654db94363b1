"""Intervals and tests for accuracies of items in clusters: thin over numpy and scipy.

Items of one cluster (Countdown: the same multiset of numbers) are not independent: intervals resample whole clusters,
and tests flip the signs of whole clusters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES, FLIPS = 10_000, 20_000
CHUNK = 4_000_000  # numbers held at a time while resampling, so that 15,000 clusters need no more memory than 100


class Comparison(NamedTuple):
    """Mean of a minus mean of b over the same items; `a_only`, `b_only`: items where a is above b, and b above a."""

    difference: float
    ci_low: float
    ci_high: float
    p: float
    a_only: int
    b_only: int
    n: int
    clusters: int


def wilson(correct: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    return tuple(map(float, stats.binomtest(round(correct), n).proportion_ci(method="wilson")))


def cluster_sums(values: Sequence[float], clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of items of each cluster. Raises ValueError where a value has no cluster.

    >>> cluster_sums([1, 0, 1], ["a", "a", "b"])
    (array([1., 1.]), array([2, 1]))
    """
    if len(values) != len(clusters) or len(values) == 0:
        raise ValueError(f"{len(values)} values for {len(clusters)} clusters: one cluster for each value is needed")
    _, index, sizes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True, return_counts=True)
    return np.bincount(index, weights=np.asarray(values, dtype=float)), sizes


def cluster_bootstrap(values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95% interval of a mean, resampling clusters; Wilson's where every cluster is one item that is right or wrong.

    Where all items are right, or all wrong, resampling would give no width: there it is Wilson's for the clusters.
    """
    values = np.asarray(values, dtype=float)
    sums, sizes = cluster_sums(values, clusters)
    if np.isin(values, (0, 1)).all() and (len(sizes) == len(values) or values.min() == values.max()):
        return wilson(values.mean() * len(sizes), len(sizes))
    return _percentiles(sums, sizes, seed)


def _percentiles(sums: np.ndarray, sizes: np.ndarray, seed: int) -> tuple[float, float]:
    """The middle 95% of the means of resampled clusters."""
    # clusters of the same sum and size are interchangeable: what is drawn is how often each such pair comes up
    pairs, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    rng, means, chunk = np.random.default_rng(seed), [], max(1, CHUNK // len(pairs))
    for start in range(0, RESAMPLES, chunk):
        drawn = rng.multinomial(len(sizes), counts / len(sizes), size=min(chunk, RESAMPLES - start))
        means.append((drawn @ pairs[:, 0]) / (drawn @ pairs[:, 1]))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def sign_flip_p(sums: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test: the share of all sign flips with a total as far from zero.

    Of whole sums all 2^clusters flips count: clusters of the same size of sum give a binomial, and these are convolved.
    Other values go to `scipy.stats.permutation_test`, which takes all flips where they are few and else draws 20,000.

    >>> sign_flip_p(np.array([1, 1, 1]))  # 2 of 8 flips are as far out
    0.25
    """
    sums = sums[sums != 0]  # flipping a zero changes nothing
    if len(sums) == 0:
        return 1.0
    if not np.array_equal(sums, np.round(sums)) or np.abs(sums).sum() > CHUNK:
        how = {"permutation_type": "samples", "n_resamples": FLIPS, "batch": max(1, CHUNK // len(sums)), "rng": seed}
        return float(stats.permutation_test((sums,), lambda x, axis: x.sum(axis=axis), vectorized=True, **how).pvalue)
    weight = np.ones(1)  # weight[j]: probability that clusters with sums of 2j in all (of 2 x total) are positive
    for size, count in zip(*np.unique(np.abs(sums).astype(int), return_counts=True), strict=True):
        part = np.zeros(size * count + 1)
        part[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        weight = np.convolve(weight, part)
    totals = 2 * np.arange(len(weight)) - np.abs(sums).sum()
    p = weight[np.abs(totals) >= abs(sums.sum())].sum()
    return min(1.0, float(f"{p:.12g}"))  # the last digits are rounding


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Sequence[str], seed: int = 0) -> Comparison:
    """Difference of two means over the same items, with bootstrap interval, sign-flip p and McNemar's counts.

    >>> paired_difference([1, 1, 1, 0], [0, 0, 0, 0], ["a", "a", "b", "c"])[3:]
    (0.5, 3, 0, 4, 3)
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values: a paired comparison needs the same items on both sides")
    sums, sizes = cluster_sums(a - b, clusters)
    tests = float((a - b).mean()), *_percentiles(sums, sizes, seed), sign_flip_p(sums, seed)
    return Comparison(*tests, int((a > b).sum()), int((b > a).sum()), len(a), len(sums))
