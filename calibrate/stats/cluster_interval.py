"""A mean over samples with its 95 % interval, samples of one picture taken together."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean and its two-sided 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], groups: Sequence[Hashable], *, least: float, most: float) -> "Interval":
        """Of at least one value.

        Student's t with one degree of freedom less than there are groups, and the standard error for clustered
        samples √(G / (G − 1) · Σ_g (Σ_{i in g} (x_i − mean))²) / n (Liang and Zeger 1986, for a mean). No resampling,
        so the same numbers always give the same interval. With a single group nothing is known: the whole range.

        Args:
            groups: name of the group of each value.
            least, most: the range of the quantity, which the interval does not leave.
        """
        from scipy.special import stdtrit

        x = np.asarray(values, dtype=np.float64)
        mean = float(x.mean())
        names, group_of = np.unique(np.asarray(groups), return_inverse=True)
        if len(names) < 2:
            return cls(mean, least, most)
        sums = np.bincount(group_of, weights=x - mean)
        error = float(np.sqrt(len(names) / (len(names) - 1) * (sums * sums).sum()) / len(x))
        reach = float(stdtrit(len(names) - 1, 0.975)) * error
        return cls(mean, max(least, mean - reach), min(most, mean + reach))
