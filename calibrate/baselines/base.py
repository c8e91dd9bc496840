"""What every rival looks like, and what those that a schedule can say have in common."""

from typing import TYPE_CHECKING, Any, Protocol

from vitcop.calibrate.run.runner import Runner
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionCache
from vitcop.calibrate.schedule.schedule import Schedule

if TYPE_CHECKING:
    from vitcop.calibrate.models.families import Family


class Rival(Protocol):
    """A rule that can be run at any budget it can meet."""

    name: str

    def layer_counts(self, num_layers: int, num_visual: int, budget: float) -> tuple[int, ...] | None:
        """Visual tokens present in each decoder layer, of `num_visual`; None where the rule cannot come within one
        token of the budget."""
        ...

    def runner(
        self, model: Any, family: "Family", vision: VisionCache | None, *, budget: float, num_visual: int
    ) -> Runner | None:
        """The model under this rule; None where it cannot meet the budget.

        Args:
            vision: shared between runners of one model; None runs the vision tower each time.
            num_visual: V that keep counts are made of; prompts with other V keep the same shares.
        """
        ...


class ScheduleRival:
    """A rule that a schedule can say."""

    name: str

    def schedule(self, num_layers: int, num_visual: int, budget: float) -> Schedule | None:
        """The schedule that meets the budget to within one token; None where there is none."""
        raise NotImplementedError

    def layer_counts(self, num_layers: int, num_visual: int, budget: float) -> tuple[int, ...] | None:
        schedule = self.schedule(num_layers, num_visual, budget)
        return None if schedule is None else schedule.layer_counts(num_visual)

    def runner(
        self, model: Any, family: "Family", vision: VisionCache | None, *, budget: float, num_visual: int
    ) -> Runner | None:
        schedule = self.schedule(family.num_layers, num_visual, budget)
        return None if schedule is None else ScheduledRunner(model, family, schedule, name=self.name, vision=vision)
