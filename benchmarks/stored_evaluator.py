"""An evaluator that keeps what it measured in its store, where an interrupted benchmark goes on from."""

from typing import Any

from vitcop.calibrate.core.digests import key_of
from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses, Part
from vitcop.calibrate.run.runner import Runner
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.schedule import Schedule


class StoredEvaluator(Evaluator):
    """Results are stored under what makes a runner differ from others of the model, as JSON."""

    def __init__(self, *args: Any, base: Any, **kwargs: Any) -> None:
        super().__init__(*args, base=base, **kwargs)
        self.base = [base, self.settings.batch_size, self.settings.max_new_tokens, self.settings.top_k]

    def measure(self, schedule: Schedule, part: Part, *, answers: bool = False) -> Losses:
        runner = ScheduledRunner(self.model, self.family, schedule, vision=self.vision, prefixes=self.prefixes)
        return self.measured(schedule.plain(), runner, part, answers=answers)

    def measured(self, key: Any, runner: Runner, part: Part, *, answers: bool = False) -> Losses:
        """As `measure_runner`, or what the store has."""
        name = "loss-" + key_of(self.base, part.digest, key, answers, self.settings.metric)
        losses = Losses.from_json(self.store.get(name))
        if losses is None:
            losses = self.measure_runner(runner, part, answers=answers)
            self.store.put(name, losses.to_json())
        return losses
