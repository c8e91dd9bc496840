"""Means, standard errors and paired bootstrap intervals.

Samples about one image are not independent, so whole images are resampled.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
MIN_GROUPS = 20
"""With samples of fewer images an interval is shown but nothing is judged by it: resampling so few says little, and of
one image nothing at all (its interval has no width)."""
_BLOCK = 200  # Resamples drawn at once, which bounds memory.


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean (of differences, where paired) with its percentile bootstrap interval over `count` samples."""

    mean: float
    low: float
    high: float
    count: int


def standard_error(values: Sequence[float] | np.ndarray, groups: Sequence[Hashable] | None = None) -> float:
    """Standard error of the mean; with `groups` (the image of each sample) the one that is robust to clusters.

    Without groups: s/√n. With them: √(g/(g−1)·Σ_groups (Σ residuals)²)/n, which is the same where every group has one
    sample. 0 for fewer than two samples or groups.
    """
    values = np.asarray(values, dtype=np.float64)
    sums, _ = _by_group(values - values.mean() if len(values) else values, groups)
    if len(sums) < 2:
        return 0.0
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values))


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile bootstrap interval of a mean, resampling groups (images) where given, samples otherwise."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return Interval(mean=0.0, low=0.0, high=0.0, count=0)
    means = resampled_means(values[:, None], groups, seed=seed, resamples=resamples)[:, 0]
    low, high = percentile_interval(means, confidence)
    return Interval(mean=float(values.mean()), low=low, high=high, count=len(values))


def percentile_interval(means: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """(low, high): what lies between leaves (1 − confidence) / 2 of the resampled means on either side."""
    edge = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [edge, 100 - edge])
    return float(low), float(high)


def resampled_means(
    columns: np.ndarray, groups: Sequence[Hashable] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> np.ndarray:
    """Means fp64 [resamples,M] of resampled samples: each resample draws as many groups as there are, with
    replacement, the same for all columns, so that what is seen between columns is paired.

    Args:
        columns: fp64 [N,M], M values of each of N samples, N at least 1.
    """
    pairs = [_by_group(column, groups) for column in columns.T]
    sums_MG, counts_G = np.stack([sums for sums, _ in pairs]), pairs[0][1]
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _BLOCK):
        chosen = rng.integers(len(counts_G), size=(min(_BLOCK, resamples - start), len(counts_G)))
        means.append((sums_MG[:, chosen].sum(axis=2) / counts_G[chosen].sum(axis=1)).T)
    return np.concatenate(means)


def paired_bootstrap(
    ours: Sequence[float] | np.ndarray,
    theirs: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of the mean of ours − theirs over the same samples in the same order."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return bootstrap_mean(ours - theirs, groups, seed=seed, resamples=resamples, confidence=confidence)


def _by_group(values: np.ndarray, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """(sum, count) of each group, in order of first appearance; each sample its own group where none are given."""
    if groups is None:
        return values, np.ones(len(values))
    assert len(groups) == len(values), (len(groups), len(values))
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(group, len(number)) for group in groups], dtype=np.int64)
    return np.bincount(index, weights=values, minlength=len(number)), np.bincount(index, minlength=len(number)).astype(
        float
    )
