"""Intervals and tests for accuracies of items in clusters: thin over numpy and scipy.

Items of one cluster (Countdown: the same multiset of numbers) are not independent: intervals resample whole clusters,
and tests flip the signs of whole clusters. Where several training seeds were evaluated on the same items (a row of
values each), intervals resample seeds as well: they are about the recipe, not about these seeds.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES, FLIPS = 10_000, 20_000
CHUNK = 4_000_000  # numbers held at a time while resampling, so that 15,000 clusters need no more memory than 100


class Comparison(NamedTuple):
    """Mean of a minus mean of b over the same items; `a_only`, `b_only`: items where a is above b, and b above a.

    Of several seeds, each item counts by its mean over them. p is about these seeds, the interval about any.
    """

    difference: float
    ci_low: float
    ci_high: float
    error: float  # standard error over clusters alone, as p is
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


def cluster_sums(values: Sequence, clusters: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values (a row for each seed, if several) and number of items of each cluster, or ValueError.

    >>> cluster_sums([1, 0, 1], ["a", "a", "b"])
    (array([1., 1.]), array([2, 1]))
    """
    values = np.asarray(values, dtype=float)
    if (n := values.shape[-1]) != len(clusters) or n == 0:
        raise ValueError(f"{n} values for {len(clusters)} clusters: one cluster for each value is needed")
    _, index, sizes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True, return_counts=True)
    sums = [np.bincount(index, weights=row) for row in np.atleast_2d(values)]
    return (sums[0] if values.ndim == 1 else np.array(sums)), sizes


def cluster_bootstrap(values: Sequence, clusters: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95% interval of a mean, resampling clusters; Wilson's where every cluster is one item that is right or wrong.

    `values`: a number for each item, or a row of them for each seed; then seeds are resampled with the clusters. Where
    all items are right, or all wrong, resampling would give no width: there it is Wilson's for the clusters.
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))
    sums, sizes = cluster_sums(values, clusters)
    single = len(values) == 1 and len(sizes) == values.shape[1]
    if np.isin(values, (0, 1)).all() and (single or values.min() == values.max()):
        return wilson(values.mean() * len(sizes), len(sizes))
    return _percentiles(sums, sizes, seed)


def _percentiles(sums: np.ndarray, sizes: np.ndarray, seed: int) -> tuple[float, float]:
    """The middle 95% of the means of resampled clusters and seeds. `sums`: seeds x clusters."""
    return _resampled(tuple(map(tuple, sums.tolist())), tuple(sizes.tolist()), seed)


@functools.lru_cache(maxsize=1024)  # where there is one seed, its cells are those of the mean over seeds
def _resampled(cluster_sums: tuple, cluster_sizes: tuple, seed: int) -> tuple[float, float]:
    sums, sizes = np.array(cluster_sums), np.array(cluster_sizes)
    # clusters of the same sum and size are interchangeable: what is drawn is how often each such pair comes up
    pairs, counts = np.unique(np.column_stack([sums.sum(axis=0), sizes]), axis=0, return_counts=True)
    rng, means, chunk = np.random.default_rng(seed), [], max(1, CHUNK // len(pairs))
    for start in range(0, RESAMPLES, chunk):
        drawn = rng.multinomial(len(sizes), counts / len(sizes), size=min(chunk, RESAMPLES - start))
        means.append((drawn @ pairs[:, 0]) / (drawn @ pairs[:, 1]) / len(sums))
    means = np.concatenate(means)
    if (count := len(sums)) > 1:
        # The seeds' deviations from their mean are resampled as they are: those in a draw of clusters would count the
        # chance of items twice. Means of S resampled seeds vary by (S - 1) / S too little, and from a few seeds their
        # spread is hardly known, so that Student's t takes the place of the normal's 1.96.
        apart = (sums.sum(axis=1) - sums.sum(axis=1).mean()) / sizes.sum()
        wider = stats.t.ppf(0.975, count - 1) / 1.96 * (count / (count - 1)) ** 0.5
        means = means + wider * apart[rng.integers(count, size=(len(means), count))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def detectable(error: float, tests: int = 1) -> float:
    """The smallest true difference that is seen with 80% power by a test at 5%, corrected for a number of tests.

    `error`: the difference's standard error; nan where that is 0.

    >>> round(detectable(0.01), 3), round(detectable(0.01, 10), 3)
    (0.028, 0.036)
    """
    reach = stats.norm.ppf(1 - 0.025 / tests) + stats.norm.ppf(0.8)
    return float(reach * error) if error > 0 else float("nan")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: the smallest times their number, the next times one less, never falling.

    >>> holm([0.01, 0.04, 0.5])
    [0.03, 0.08, 0.5]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(1, corrected)[np.argsort(order)].tolist()


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


def paired_difference(a: Sequence, b: Sequence, clusters: Sequence[str], seed: int = 0) -> Comparison:
    """Difference of two means over the same items, with bootstrap interval, sign-flip p and McNemar's counts.

    Either side may be a row for each seed (the k-th of both is the same seed); a single row goes with every seed.

    >>> paired_difference([1, 1, 1, 0], [0, 0, 0, 0], ["a", "a", "b", "c"])[4:]
    (0.5, 3, 0, 4, 3)
    """
    a, b = (np.atleast_2d(np.asarray(values, dtype=float)) for values in (a, b))
    if a.shape[1] != b.shape[1] or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(f"{a.shape} and {b.shape} values: a paired comparison needs the same items on both sides")
    sums, sizes = cluster_sums(a - b, clusters)
    total = (a - b).sum(axis=0)  # flips of a sum over seeds are those of the mean, and whole numbers stay whole
    count, off = len(sizes), sums.mean(axis=0) - (a - b).mean() * sizes
    error = (count / max(1, count - 1) * (off**2).sum()) ** 0.5 / sizes.sum()
    tests = float((a - b).mean()), *_percentiles(sums, sizes, seed), float(error), sign_flip_p(sums.sum(axis=0), seed)
    return Comparison(*tests, int((total > 0).sum()), int((total < 0).sum()), len(total), len(sizes))
