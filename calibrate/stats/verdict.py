"""Which of two methods is better on the same samples, and how sure that is.

Intervals are 95 % percentile bootstrap intervals of a mean difference, resampling clusters of samples (images): what
all samples of an image share is no evidence of its own. No torch.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vitcop.calibrate.stats.intervals import MIN_GROUPS, paired_bootstrap
from vitcop.plugins.errors import InputError

Measure = Literal["kl", "top1", "exact", "score"]
Verdict = Literal["better", "worse", "level"]

LOWER_IS_BETTER = {"kl": True, "top1": False, "exact": False, "score": False}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method held against a reference.

    Args:
        name: of the method.
        measure: kl (nats), top1, exact or score (shares of 1).
        difference: mean of (the method − the reference) over the samples that both have.
        low, high: its 95 % interval.
        num: samples compared.
        num_clusters: clusters (images) that they come from.
        verdict: of the method: "better" or "worse" than the reference where the interval lies on one side of 0, else
            "level"; always "level" with fewer than `MIN_GROUPS` clusters.
    """

    name: str
    measure: Measure
    difference: float
    low: float
    high: float
    num: int
    num_clusters: int
    verdict: Verdict


def compare(
    name: str,
    method: Mapping[str, float],
    reference: Mapping[str, float],
    clusters: Mapping[str, Hashable],
    *,
    measure: Measure,
    seed: int = 0,
) -> Comparison:
    """Hold a method against a reference, sample by sample.

    Args:
        method, reference: value of each sample (`Losses.by_id`).
        clusters: of each sample (`clusters_by_id`).

    Raises InputError where they do not have the same samples, have none, or a value is not finite.
    """
    if method.keys() != reference.keys():
        raise InputError(f"{name}: measured on other samples than what it is compared with")
    if not reference:
        raise InputError(f"{name}: no sample has a {measure} to compare")
    ids = list(reference)
    theirs, ours = (np.array([values[sample] for sample in ids], dtype=np.float64) for values in (method, reference))
    if not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
        raise InputError(f"{name}: a {measure} is not finite, so there is no mean to compare")
    groups = [clusters[sample] for sample in ids]
    found = paired_bootstrap(theirs, ours, groups, seed=seed)
    num_clusters = len(set(groups))
    return Comparison(
        name=name,
        measure=measure,
        difference=found.mean,
        low=found.low,
        high=found.high,
        num=found.count,
        num_clusters=num_clusters,
        verdict=_verdict(found.low, found.high, measure) if num_clusters >= MIN_GROUPS else "level",
    )


def _verdict(low: float, high: float, measure: Measure) -> Verdict:
    if low <= 0 <= high:
        return "level"
    return "better" if (high < 0) == LOWER_IS_BETTER[measure] else "worse"
