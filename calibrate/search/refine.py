"""Joint refinement: layers, rules and keep counts of a whole schedule at once, around the best sets by forecast.

About half of what is tried is proposed by optuna's tree-structured Parzen estimator, half differs in one parameter
from the best so far. Generations have a fixed size: one is asked for, measured in any order by any number of workers,
and told in the order in which it was asked. So what is tried depends on the seed and on the losses alone. Nothing is
kept here: a run that was interrupted is run again, asks for the same, and gets what the caller has measured already.
"""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitcop.calibrate.schedule.choices import Choice
from vitcop.calibrate.schedule.schedule import Schedule, check_seed
from vitcop.calibrate.search.refine_space import RefineSpace

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

ASKS = 40
"""For each place in a generation, how often the estimator is asked for something new that meets the constraint."""

Choices = tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """How much is tried: `generations` of `size` schedules each, after the starting points."""

    generations: int = 5
    size: int = 8
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One schedule that was measured.

    Args:
        loss: in nats; infinite where the logits were not finite.
        value: what was made least.
        generation: 0 for the starting points.
    """

    choices: Choices
    schedule: Schedule
    loss: float
    value: float
    generation: int


def refine(
    starts: Sequence[Sequence[Choice]],
    space: RefineSpace,
    *,
    fit: Callable[[Choices], Choices | None],
    schedule_of: Callable[[Choices], Schedule],
    evaluate: Callable[[Sequence[Schedule]], Sequence[float]],
    settings: RefineSettings,
    value: Callable[[Choices, float], float] | None = None,
) -> list[Tried]:
    """All that was tried, in the order in which it was asked for; the starting points first.

    Args:
        starts: sets of compatible choices, tried as they are once fitted. The space is widened to hold them.
        fit: choices with the counts that meet the constraint (`fit_counts`); None where they cannot.
        evaluate: losses of schedules, in their order; a schedule is never asked for twice. One call is one generation.
        value: what to make least, of choices and their loss; None is the loss.

    A generation is smaller than the others where the estimator finds nothing new, and the last where it finds nothing.
    """
    check_seed("seed", settings.seed)
    with _quiet():
        return _Refinement(space.with_sets(starts), fit, schedule_of, evaluate, settings, value).run(starts)


class _Refinement:
    """One run of `refine`."""

    def __init__(self, space, fit, schedule_of, evaluate, settings, value) -> None:
        self.space, self.fit, self.schedule_of, self.evaluate = space, fit, schedule_of, evaluate
        self.settings = settings
        self.value = value or (lambda choices, loss: loss)
        self.distributions = space.distributions()
        self.study = _study(settings.seed)
        self.stream = random.Random(settings.seed)
        self.seen: set[Schedule] = set()
        self.tried: list[Tried] = []

    def run(self, starts: Sequence[Sequence[Choice]]) -> list[Tried]:
        from optuna.trial import create_trial

        fitted = [choices for choices in map(self._new, map(tuple, starts)) if choices is not None]
        for item in self._measured(fitted, 0):
            self.study.add_trial(
                create_trial(
                    params=self.space.encode(item.choices), distributions=self.distributions, value=_told(item.value)
                )
            )
        for generation in range(1, self.settings.generations + 1):
            asked = self._ask()
            if not asked:
                break
            for (trial, _), item in zip(
                asked, self._measured([choices for _, choices in asked], generation), strict=True
            ):
                self.study.tell(trial, _told(item.value))
        return self.tried

    def _ask(self) -> "list[tuple[Trial, Choices]]":
        """A generation. What cannot be, or was tried, is forgotten at once, as if the estimator had not proposed it."""
        from optuna.trial import TrialState

        asked: list[tuple[Trial, Choices]] = []
        best = min(self.tried, key=lambda item: _told(item.value), default=None)
        for ask in range(ASKS * self.settings.size):
            if len(asked) == self.settings.size:
                break
            if best is not None and ask % 2:
                # In the study's queue, so that the estimator learns from it as well.
                self.study.enqueue_trial(self.space.neighbour(best.choices, self.stream))
            trial = self.study.ask(self.distributions)
            decoded = self.space.decode(trial.params)
            choices = None if decoded is None else self._new(decoded)
            if choices is None:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                asked.append((trial, choices))
        return asked

    def _new(self, choices: Choices) -> Choices | None:
        """Fitted; None where that cannot be, or the same schedule was tried before."""
        fitted = self.fit(choices)
        if fitted is None:
            return None
        schedule = self.schedule_of(fitted)
        if schedule in self.seen:
            return None
        self.seen.add(schedule)
        return fitted

    def _measured(self, sets: Sequence[Choices], generation: int) -> list[Tried]:
        schedules = [self.schedule_of(choices) for choices in sets]
        losses = list(self.evaluate(schedules)) if schedules else []
        found = [
            Tried(
                choices=choices,
                schedule=schedule,
                loss=loss,
                value=self.value(choices, loss),
                generation=generation,
            )
            for choices, schedule, loss in zip(sets, schedules, losses, strict=True)
        ]
        self.tried += found
        return found


def _told(value: float) -> float:
    """optuna takes no NaN."""
    return math.inf if math.isnan(value) else value


def _study(seed: int) -> "Study":
    import optuna

    with warnings.catch_warnings():
        # `multivariate` and `constant_liar` are called experimental before optuna 5, where both are the default.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Those of a generation that were asked for count as bad until they are told, so that the next lies elsewhere.
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler, direction="minimize")


@contextmanager
def _quiet() -> Iterator[None]:
    """optuna tells of every study on stderr."""
    import optuna

    held = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(held)
