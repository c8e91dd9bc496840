"""Methods side by side on the selection set: at the budget asked for and over the curve of budgets."""

from collections.abc import Sequence
from typing import Final, TypeVar

from vitcop.calibrate.baselines import RIVALS
from vitcop.calibrate.data.image_clusters import clusters_by_id
from vitcop.calibrate.data.samples import Sample
from vitcop.calibrate.schedule.choices import named
from vitcop.calibrate.schedule.presets import controls, paper_schedule
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.calibrate.search.calibration import CurvePoint
from vitcop.calibrate.search.constraints import Constraint
from vitcop.calibrate.search.planning import Method, Planning, Scheduled
from vitcop.calibrate.stats.front import front_points
from vitcop.calibrate.work.measuring import Measuring
from vitcop.plugins.errors import InputError

M = TypeVar("M", bound=Method)

CHOSEN, PAPER = "chosen", "paper"
CONTROLS: Final = ("uniform", "random")


class Curve:
    """What is measured beside the chosen schedule.

    `overflowed` names what was left out because its logits were not finite.
    """

    def __init__(
        self,
        planning: Planning,
        measuring: Measuring,
        samples: Sequence[Sample],
        seed: int,
        *,
        searched: str,
        told: str,
    ) -> None:
        self.planning, self.measuring, self.seed = planning, measuring, seed
        self._clusters = clusters_by_id(samples)
        self._searched, self._told = searched, told
        self.overflowed: set[str] = set()

    def others(self, chosen: Schedule, budget: float) -> list[Method]:
        """The paper's schedule, the rivals that can meet the budget, and the controls of the chosen schedule."""
        if chosen.is_empty:
            return []
        schedules = {name: controls(chosen, name, seed=self.seed) for name in CONTROLS}
        paper = self._paper(budget)
        schedules |= {} if paper is None else {PAPER: paper}
        losses = self.measuring.losses(
            self._told, list(schedules.values()), answers=True, title=f"paper and controls at {budget:.3f}"
        )
        found = [Method(name, schedule, loss) for (name, schedule), loss in zip(schedules.items(), losses, strict=True)]
        planning = self.planning
        able = {
            name: counts
            for name, rule in RIVALS.items()
            if (counts := rule.layer_counts(planning.num_layers, planning.num_visual, budget)) is not None
        }
        losses = self.measuring.rivals(
            self._told,
            [(name, budget) for name in able],
            num_visual=planning.num_visual,
            title=f"other methods at {budget:.3f}",
        )
        found += [
            Method(name, None, loss, layer_counts=counts)
            for (name, counts), loss in zip(able.items(), losses, strict=True)
        ]
        return self._finite(found)

    def points(self, chosen: Scheduled, others: Sequence[Method], wanted: float) -> list[CurvePoint]:
        """The methods over budgets, largest first; what cannot meet a budget has no point there."""
        if chosen.schedule.is_empty:
            return []
        budgets = {wanted, *self.planning.settings.curve_budgets}
        asked = sorted((value for value in budgets if value * self.planning.num_visual >= 1), reverse=True)
        methods: list[tuple[str, float, Method]] = []
        for budget in asked:
            best, beside = (chosen, others) if budget == wanted else (self._best(budget), None)
            if best is None:
                continue
            beside = self.others(best.schedule, budget) if beside is None else beside
            methods += [(CHOSEN, budget, best), *((other.name, budget, other) for other in beside)]
        measured = [self.planning.measured(method, self._clusters) for _, _, method in methods]
        front = front_points(
            [item.budget for item in measured],
            [method.losses.by_id("kl") for _, _, method in methods],
            self._clusters,
            seed=self.seed,
        )
        return [
            CurvePoint(
                kind=kind,
                wanted=budget,
                measured=item,
                loss=point.loss,
                on_front=point.on_front,
                front_share=point.share,
            )
            for (kind, budget, _), item, point in zip(methods, measured, front, strict=True)
        ]

    def _best(self, budget: float) -> Scheduled | None:
        """The best of the starts on the set that is searched on, without a refinement."""
        constraint = Constraint(kind="budget", value=budget)
        try:
            sets = self.planning.starts(constraint, self.planning.settings.curve_sets)
        except InputError:
            return None
        schedules = [self.planning.schedule(choices) for choices in sets]
        found = self.measuring.losses(self._searched, schedules, title=f"schedules at {budget:.3f}")
        means = [losses.estimates()["kl"].mean if losses.is_finite else float("inf") for losses in found]
        best = min(range(len(sets)), key=means.__getitem__)
        losses = self.measuring.losses(self._told, [schedules[best]], answers=True, title=f"the best at {budget:.3f}")[
            0
        ]
        method = Scheduled(named(sets[best]), schedules[best], losses, sets[best])
        return next(iter(self._finite([method])), None)

    def _paper(self, budget: float) -> Schedule | None:
        try:
            return paper_schedule(
                self.planning.num_layers, self.planning.num_visual, budget, vision_score=self.planning.saliency
            )
        except InputError:
            return None

    def _finite(self, methods: Sequence[M]) -> list[M]:
        self.overflowed |= {method.name for method in methods if not method.losses.is_finite}
        return [method for method in methods if method.losses.is_finite]
