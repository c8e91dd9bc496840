"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): one drop early in the language model.

After layer K = 2 (of 32 in the paper; the same depth here) the visual tokens that the last prompt token pays the most
attention to in that layer are kept to the end. All tokens are in the first layers, so that a budget below their share
cannot be met.
"""

from vitcop.calibrate.baselines.base import ScheduleRival
from vitcop.calibrate.schedule.budget import fractions, solve_counts
from vitcop.calibrate.schedule.presets import PAPER_LAYERS
from vitcop.calibrate.schedule.schedule import Drop, Schedule

DROP_AFTER = 2
"""K of the paper, on `PAPER_LAYERS` layers."""


class FastV(ScheduleRival):
    name = "fastv"

    def schedule(self, num_layers: int, num_visual: int, budget: float) -> Schedule | None:
        layer = max(1, DROP_AFTER * num_layers // PAPER_LAYERS)
        if layer >= num_layers:
            return None
        counts = solve_counts(num_layers, budget * num_visual, num_visual, (layer,), (1.0,))
        if counts is None:
            return None
        keep = fractions(counts, num_visual)[1]
        return Schedule(
            num_layers=num_layers, drops=(Drop(layer=layer, score="text_query", order="largest", keep=keep),)
        )
