"""What the sensitivity table says about sets of drops that were not measured, and how well it ranked those that were
measured later. No torch."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitcop.calibrate.schedule.choices import Choice, Rule


class LossCurves:
    """Loss over keep count of each rule in each layer, from drops that were measured alone.

    Args:
        losses: in nats, of each choice; those that are not finite are left out.
        num_visual: V, which a drop keeps without loss.
    """

    def __init__(self, losses: Mapping[Choice, float], num_visual: int) -> None:
        found: dict[tuple[int, Rule], dict[int, float]] = defaultdict(lambda: {num_visual: 0.0})
        for choice, loss in losses.items():
            if math.isfinite(loss):
                found[choice.layer, choice.rule][choice.keep] = loss
        self._curves = {place: sorted(points.items()) for place, points in found.items()}

    def loss(self, choice: Choice) -> float:
        """Between measured keep counts linear in log(keep). Below the least of them the last slope goes on, where it
        rises; infinite where the rule was not measured in that layer."""
        points = self._curves.get((choice.layer, choice.rule))
        if points is None:
            return math.inf
        counts = [count for count, _ in points]
        right = min(max(sum(count < choice.keep for count in counts), 1), len(counts) - 1)
        (low, low_loss), (high, high_loss) = points[right - 1], points[right]
        share = math.log(choice.keep / low) / math.log(high / low)
        if choice.keep < low and low_loss < high_loss:
            return low_loss
        return low_loss + share * (high_loss - low_loss)

    def forecast(self, choices: Iterable[Choice]) -> float:
        """Of a set: the sum over its choices."""
        return math.fsum(self.loss(choice) for choice in choices)


@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """How well forecasts ranked what was then measured.

    Args:
        num: schedules with a finite forecast and a finite measured loss.
        spearman: rank correlation, ties at their mean rank; None below two schedules, or where all of one side are
            equal.
        best_rank: place by forecast, from 1, of the one that measured best; None where `num` is 0.
        top_hits: of the n best by forecast the share that is among the n best measured, by n.
        bias: median of measured / forecast of those with a forecast above 0; None where there is none.
    """

    num: int
    spearman: float | None
    best_rank: int | None
    top_hits: dict[int, float]
    bias: float | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        hits = {str(n): share for n, share in self.top_hits.items()}
        return {
            "num": self.num,
            "spearman": self.spearman,
            "best_rank": self.best_rank,
            "top_hits": hits,
            "bias": self.bias,
        }


def rank_agreement(
    forecast: Sequence[float], measured: Sequence[float], *, tops: Sequence[int] = (1, 3, 5)
) -> RankAgreement:
    """Of schedules in the same order on both sides; ties of a best n go to the first. A top n of all is left out."""
    pairs = [(a, b) for a, b in zip(forecast, measured, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not pairs:
        return RankAgreement(num=0, spearman=None, best_rank=None, top_hits={}, bias=None)
    said, found = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    order_said, order_found = (np.argsort(side, kind="stable") for side in (said, found))
    a, b = _ranks(said), _ranks(found)
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a) * float(b @ b))
    ratios = found[said > 0] / said[said > 0]
    return RankAgreement(
        num=len(pairs),
        spearman=float(a @ b) / spread if spread else None,
        best_rank=int(np.flatnonzero(order_said == order_found[0])[0]) + 1,
        top_hits={n: len({*order_said[:n]} & {*order_found[:n]}) / n for n in tops if n < len(pairs)},
        bias=float(np.median(ratios)) if len(ratios) else None,
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 0; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[place]
