"""PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): the same share is kept at the end of each of four stages.

Stages are quarters of the language model (layers 8, 16 and 24 of 32 in the paper). At the end of a stage the visual
tokens that the last prompt token pays the most attention to are kept, a share λ of those present: 0.5 in the paper,
here what the budget asks for. All tokens are in the first quarter, so that a budget below a quarter cannot be met.
"""

from bisect import bisect_left

from vitcop.calibrate.baselines.base import ScheduleRival
from vitcop.calibrate.schedule.budget import fractions, layer_mean
from vitcop.calibrate.schedule.schedule import Drop, Schedule

STAGES = 4


class PyramidDrop(ScheduleRival):
    name = "pyramiddrop"

    def schedule(self, num_layers: int, num_visual: int, budget: float) -> Schedule | None:
        if num_layers < STAGES:
            return None
        layers = [stage * num_layers // STAGES for stage in range(1, STAGES)]
        target = budget * num_visual

        def counts(share: float) -> tuple[int, ...]:
            return tuple(max(1, int(num_visual * share**stage + 0.5 + 1e-9)) for stage in range(STAGES))

        def mean(share: float) -> float:
            return layer_mean(num_layers, layers, counts(share))

        # The mean only rises with λ; each step lies where one of the counts rises by one.
        shares = sorted(
            {0.0, *(((k + 0.5) / num_visual) ** (1 / s) for s in range(1, STAGES) for k in range(num_visual))}
        )
        above = min(bisect_left(shares, target, key=mean), len(shares) - 1)
        best = min(shares[max(above - 1, 0)], shares[above], key=lambda share: (abs(mean(share) - target), share))
        if abs(mean(best) - target) > 1:
            return None
        keeps = fractions(counts(best), num_visual)[1:]
        return Schedule(
            num_layers=num_layers,
            drops=tuple(
                Drop(layer=layer, score="text_query", order="largest", keep=keep)
                for layer, keep in zip(layers, keeps, strict=True)
            ),
        )
