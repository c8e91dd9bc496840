"""The front of loss over cost: which points nothing else beats in both, and how sure that is. No torch."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitcop.calibrate.stats.intervals import Interval, percentile_interval, resampled_means
from vitcop.plugins.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One method or schedule among others.

    Args:
        cost: what it costs, in any unit that all points share (budget, FLOPs, seconds).
        loss: its mean loss with the 95 % interval, resampling clusters.
        on_front: whether no other point is at most as dear and at most as bad, and better in one of both.
        share: of the resamples in which it is on the front; the same resamples for all points.
    """

    cost: float
    loss: Interval
    on_front: bool
    share: float


def front_points(
    costs: Sequence[float], losses: Sequence[Mapping[str, float]], clusters: Mapping[str, Hashable], *, seed: int = 0
) -> list[FrontPoint]:
    """Every point with its interval, in the given order.

    Args:
        losses: of each point, the loss of each sample by id; lower is better.
        clusters: of each sample id.

    Raises InputError where the points were not measured on the same samples.
    """
    if not losses:
        return []
    ids = list(losses[0])
    if any(other.keys() != losses[0].keys() for other in losses):
        raise InputError("a front needs points that were measured on the same samples")
    columns = np.array([[other[sample] for other in losses] for sample in ids], dtype=np.float64)
    resampled_RP = resampled_means(columns, [clusters[sample] for sample in ids], seed=seed)
    cost_P, mean_P = np.array(costs, dtype=np.float64), columns.mean(axis=0)
    here, share_P = _unbeaten(cost_P, mean_P[None])[0], _unbeaten(cost_P, resampled_RP).mean(axis=0)
    found = []
    for point, cost in enumerate(costs):
        low, high = percentile_interval(resampled_RP[:, point])
        loss = Interval(mean=float(mean_P[point]), low=low, high=high, count=len(ids))
        found.append(FrontPoint(cost=cost, loss=loss, on_front=bool(here[point]), share=float(share_P[point])))
    return found


def _unbeaten(cost_P: np.ndarray, loss_RP: np.ndarray) -> np.ndarray:
    """bool [R,P]: which of P points no other beats, in each of R drawings of their losses."""
    kept_RP = np.ones(loss_RP.shape, dtype=bool)
    for point, cost in enumerate(cost_P):
        own_R1 = loss_RP[:, point : point + 1]
        beaten_RP = (cost_P < cost) & (loss_RP <= own_R1) | (cost_P == cost) & (loss_RP < own_R1)
        kept_RP[:, point] = ~beaten_RP.any(axis=1)
    return kept_RP
