"""All that a search measures, as units of work: what it asks for here is done once, kept, and done by whoever is
there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitcop.calibrate.core.progress import Progress
from vitcop.calibrate.core.store import Store
from vitcop.calibrate.core.strict_json import read
from vitcop.calibrate.evaluate.evaluation import Losses
from vitcop.calibrate.evaluate.sensitivity import Row
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.observe.pieces import Observed
from vitcop.calibrate.schedule.choices import Choice
from vitcop.calibrate.schedule.cost import DecoderShape
from vitcop.calibrate.schedule.schedule import Schedule, VisionScore
from vitcop.calibrate.work.executors.base import Executor, Json
from vitcop.calibrate.work.performing import perform_all, unit
from vitcop.calibrate.work.units import cell_unit, losses_of, losses_unit, rows_of, targets_unit
from vitcop.plugins.errors import InputError
from vitcop.plugins.spec import Fraction


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a search must know of a model: depth, scores of its vision stage (all, and those worth trying), sizes."""

    num_layers: int
    vision_scores: tuple[VisionScore, ...]
    search_scores: tuple[VisionScore, ...]
    shape: DecoderShape


class BadSamplesError(InputError):
    """Samples that the original cannot answer: of set `name`, the reason by sample id."""

    def __init__(self, name: str, bad: dict[str, str]) -> None:
        first = next(iter(bad.values()))
        others = f" (and {len(bad) - 1} more samples)" if len(bad) > 1 else ""
        super().__init__(f"{first}{others}; --skip-bad leaves such samples out")
        self.name, self.bad = name, bad


class Measuring:
    """Measures over named sample sets.

    Args:
        base: what results depend on beside their units (`Job.base`).
        sets: digests of the parts of each set, by its name, in the order in which they are seen.
    """

    def __init__(
        self,
        executor: Executor,
        store: Store,
        base: Any,
        sets: Mapping[str, Sequence[str]],
        progress: Progress,
    ) -> None:
        self._executor, self._store, self._base, self._progress = executor, store, base, progress
        self._sets = sets

    def model(self) -> ModelFacts:
        """Facts of the model."""
        return read(ModelFacts, self._all([unit("model", self._base)], "the model")[0])

    def prompts(self, name: str) -> list[tuple[int, int]]:
        """(visual, other tokens) of each prompt of a set, whose targets are computed where they are not there. Raises
        BadSamplesError where the original cannot answer some."""
        parts = self._all([targets_unit(self._base, part) for part in self._sets[name]], f"original's answers, {name}")
        bad = {sample: reason for part in parts for sample, reason in part["bad"].items()}
        if bad:
            raise BadSamplesError(name, bad)
        return [pair for part in parts for pair in zip(part["visual"], part["text"], strict=True)]

    def original(self, name: str) -> Losses:
        """The unpruned model on a set."""
        units = [unit("original", self._base, part=part) for part in self._sets[name]]
        return Losses.joined(list(map(losses_of, self._all(units, "the original"))))

    def observation(self, name: str, check_share: float) -> Observation:
        """What the scores tell on a set."""
        units = [unit("observed", self._base, part=part, check_share=check_share) for part in self._sets[name]]
        return Observation.of([read(Observed, found) for found in self._all(units, "what the scores tell")])

    def table_units(
        self, name: str, cells: Sequence[Sequence[Choice]], *, num_visual: int, saliency: str, centers: Fraction
    ) -> list[Json]:
        """The work of a sensitivity table, cell by cell; what shards share."""
        geometry = {"num_visual": num_visual, "saliency": saliency, "centers": list(centers)}
        return [cell_unit(self._base, choices, self._sets[name], **geometry) for choices in cells]

    def table(self, units: Sequence[Json]) -> list[Row]:
        """Every choice alone."""
        return [row for result in self._all(units, "sensitivity") for row in rows_of(result)]

    def losses(
        self, name: str, schedules: Sequence[Schedule], *, answers: bool = False, title: str = "schedules"
    ) -> list[Losses]:
        """Of each schedule on a set; `answers` for task scores too."""
        parts = self._sets[name]
        units = [losses_unit(self._base, schedule, part, answers=answers) for schedule in schedules for part in parts]
        return self._by_set(units, len(parts), title)

    def rivals(
        self, name: str, asked: Sequence[tuple[str, float]], *, num_visual: int, title: str = "rivals"
    ) -> list[Losses]:
        """Of each (rule, budget) on a set, with task scores."""
        parts = self._sets[name]
        units = [
            unit("rival", self._base, name=rule, budget=budget, num_visual=num_visual, part=part)
            for rule, budget in asked
            for part in parts
        ]
        return self._by_set(units, len(parts), title)

    def _by_set(self, units: Sequence[Json], num_parts: int, title: str) -> list[Losses]:
        found = list(map(losses_of, self._all(units, title)))
        return [Losses.joined(found[i : i + num_parts]) for i in range(0, len(found), num_parts)]

    def _all(self, units: Sequence[Json], title: str) -> list[Json]:
        return perform_all(self._executor, units, store=self._store, progress=self._progress, title=title)
