"""From a sensitivity table to whole schedules: what sets of drops are forecast to lose and to cost, which are the best
under a constraint, and which keep counts use up what it allows. No torch."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise

from vitcop.calibrate.evaluate.evaluation import Losses
from vitcop.calibrate.evaluate.sensitivity import Row
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, schedule_of
from vitcop.calibrate.schedule.cost import DecoderShape, prefill_cost
from vitcop.calibrate.schedule.latency import CostTable
from vitcop.calibrate.schedule.presets import paper_layers, paper_schedule
from vitcop.calibrate.schedule.schedule import Schedule, VisionScore, VisionStage
from vitcop.calibrate.search.calibration import Measured
from vitcop.calibrate.search.constraints import Constraint, CostModel, flops_cost, kv_cost, token_cost
from vitcop.calibrate.search.fit_counts import fit_counts
from vitcop.calibrate.search.forecast import LossCurves
from vitcop.calibrate.search.rules import CENTERS, merge_rules
from vitcop.calibrate.search.sets import best_sets
from vitcop.plugins.errors import InputError

MERGED_FROM = (2.0, 3.0)
"""Tokens at LLM input of schedules that merge, in units of the mean over all layers."""

USED = 0.85
"""The best sets use at least this share of what the constraint allows, where there are such: keep counts come
from a coarse ladder, and are fitted afterwards."""


@dataclass(frozen=True)
class Method:
    """Something measured: a schedule or a rival's rule, its losses, the choices it was made of, and for a rule that no
    schedule says its visual tokens in each layer."""

    name: str
    schedule: Schedule | None
    losses: Losses
    choices: tuple[Choice, ...] = ()
    layer_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scheduled(Method):
    """One that a schedule says."""

    schedule: Schedule


def merge_layers(num_layers: int) -> tuple[int, ...]:
    """Before which layers merges are tried: the first, and the paper's. Later ones have paid for what they merge."""
    return tuple(sorted({1, paper_layers(num_layers)[0]})) if num_layers > 2 else ()


class Planning:
    """What is known of one model and sample set.

    Args:
        saliency: vision score that is carried where nothing else names one.
        cost_table: measured times of a target, or None.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_visual: int,
        text_tokens: int,
        shape: DecoderShape,
        saliency: VisionScore,
        settings: CalibrationSettings,
        cost_table: CostTable | None,
    ) -> None:
        self.num_layers, self.num_visual, self.text_tokens = num_layers, num_visual, text_tokens
        self.shape, self.saliency, self.settings, self.cost_table = shape, saliency, settings, cost_table
        self.rules: Mapping[int, tuple[Rule, ...]] = {}
        self._losses: dict[Choice, float] = {}
        self._curves = LossCurves({}, num_visual)

    def learn(self, rows: Sequence[Row]) -> None:
        """Take in the table. What was cut early is left out: it is clearly worse than another rule of its cell."""
        self._losses = {row.choice: row.kl.mean for row in rows if row.survived and row.losses.is_finite}
        self._curves = LossCurves(self._losses, self.num_visual)
        layers = groupby(sorted(self._losses, key=lambda choice: choice.layer), key=lambda choice: choice.layer)
        self.rules = {
            layer: tuple(dict.fromkeys(sorted((choice.rule for choice in choices), key=lambda rule: rule.name)))
            for layer, choices in layers
        }

    def schedule(self, choices: Sequence[Choice]) -> Schedule:
        """The schedule of a set of choices."""
        sizes = {"num_layers": self.num_layers, "num_visual": self.num_visual}
        return schedule_of(choices, **sizes, saliency=self.saliency, centers=CENTERS)

    def forecast(self, choices: Sequence[Choice]) -> float:
        """Loss in nats, additive."""
        return self._curves.forecast(choices)

    def best_sets(self, constraint: Constraint, num: int) -> list[tuple[Choice, ...]]:
        """The best by forecast, fitted to the constraint. Raises InputError where nothing meets it."""
        cost = self.cost_model(constraint)
        found = best_sets(
            self._losses, cost, constraint, max_drops=self.settings.max_drops, num_best=num, at_least=USED
        )
        fitted = [choices for item in found if (choices := self.fit(item.choices, constraint)) is not None]
        return list(dict.fromkeys(fitted or [item.choices for item in found]))

    def starts(self, constraint: Constraint, num: int) -> list[tuple[Choice, ...]]:
        """What a search measures first: the best sets by forecast, and merges behind a vision stage, of which the table
        can say nothing, the paper's kind among them. Raises InputError where nothing meets the constraint."""
        sets = self.best_sets(constraint, num)
        if not any(sets) or self.settings.max_drops < 2:
            return sets
        mean = self.schedule(sets[0]).budget(self.num_visual) * self.num_visual
        merges = [
            choices
            for rule in merge_rules(self.saliency, self.settings)
            for layer in merge_layers(self.num_layers)
            for share in MERGED_FROM
            if (choices := self._merge(constraint, rule, layer, share * mean, mean)) is not None
        ]
        paper = self._paper(constraint, mean)
        return list(dict.fromkeys([*sets, *merges, *([] if paper is None else [paper])]))

    def _merge(
        self, constraint: Constraint, rule: Rule, layer: int, at_input: float, mean: float
    ) -> tuple[Choice, ...] | None:
        """A vision stage that keeps about `at_input` tokens, merged before a layer; `mean` tokens in all layers."""
        first = min(self.num_visual - 1, round(at_input))
        keep = max(1, min(first - 1, round(mean)))
        choices = (
            Choice(layer=AT_INPUT, keep=first, rule=Rule(score=self.saliency, order="largest")),
            Choice(layer=layer, keep=keep, rule=rule),
        )
        return self.fit(choices, constraint) if first > 1 else None

    def _paper(self, constraint: Constraint, mean: float) -> tuple[Choice, ...] | None:
        """The paper's kind of schedule."""
        budget = mean / self.num_visual
        try:
            schedule = paper_schedule(self.num_layers, self.num_visual, budget, vision_score=self.saliency)
        except InputError:
            return None
        first, *inside = schedule.group_counts(self.num_visual)
        choices = [Choice(layer=AT_INPUT, keep=first, rule=Rule(score=self.saliency, order="largest"))]
        choices += [
            Choice(layer=drop.layer, keep=keep, rule=Rule(op=drop.op, score=drop.score, order=drop.order))
            for drop, keep in zip(schedule.drops, inside, strict=True)
        ]
        falls = all(a.keep > b.keep for a, b in pairwise(choices)) and first < self.num_visual
        return self.fit(choices, constraint) if falls and len(choices) <= self.settings.max_drops else None

    def fit(self, choices: Sequence[Choice], constraint: Constraint) -> tuple[Choice, ...] | None:
        """The same with keep counts that use up what the constraint allows; None where none do."""
        return fit_counts(choices, self.cost_model(constraint), constraint)

    def value(self, constraint: Constraint) -> Callable[[Sequence[Choice], float], float]:
        """What a search makes least: the loss; or, where the loss is limited, the cost of what keeps the limit, and for
        the others how far they are beyond it."""
        if not constraint.limits_loss:
            return lambda choices, loss: loss
        cost = self.cost_model(constraint)
        unpruned = cost.of(())

        def value(choices: Sequence[Choice], loss: float) -> float:
            over = max(0.0, loss - constraint.value)
            return 1 + over if over else cost.of(choices) / unpruned

        return value

    def cost_model(self, constraint: Constraint) -> CostModel:
        """Costs in the unit of the constraint; under "max_loss" milliseconds where times were measured, else FLOPs."""
        if constraint.kind == "budget":
            return token_cost(self.num_layers, self.num_visual)
        if constraint.kind == "kv_bytes":
            return kv_cost(self.shape, self.num_layers, self.num_visual, self.text_tokens)
        if constraint.kind == "latency_ms" or (constraint.limits_loss and self.cost_table is not None):
            assert self.cost_table is not None, "needed for latency_ms"
            return self._latency_cost(self.cost_table)
        return flops_cost(self.shape, self.num_layers, self.num_visual, self.text_tokens)

    def cost(self, layer_counts: Sequence[int]) -> dict[str, int]:
        """FLOPs, KV bytes and input tokens of a typical prompt."""
        return asdict(prefill_cost(self.shape, layer_counts, self.text_tokens))

    def seconds(self, schedule: Schedule) -> float | None:
        """Forecast of a typical prompt's prefill on the target whose times were measured."""
        table = self.cost_table
        return None if table is None else table.seconds(schedule, self.num_visual, self.text_tokens)

    def measured(self, method: Method, clusters: Mapping[str, Hashable]) -> Measured:
        """A method as calibration.json tells of it."""
        counts = method.schedule.layer_counts(self.num_visual) if method.schedule else method.layer_counts
        groups = method.schedule.group_counts(self.num_visual) if method.schedule else [n for n, _ in groupby(counts)]
        return Measured(
            name=method.name,
            schedule=method.schedule,
            group_counts=tuple(groups),
            budget=sum(counts) / (self.num_layers * self.num_visual),
            cost=self.cost(counts),
            choices=method.choices,
            **method.losses.estimates(clusters),
        )

    def _latency_cost(self, table: CostTable) -> CostModel:
        """Milliseconds. What the vision stage takes is counted with the choice that asks for it."""
        text = self.text_tokens

        def at_input(stage: VisionStage | None) -> float:
            return table.input_seconds(stage, self.num_visual, text)

        def stage_of(choices: Sequence[Choice]) -> float:
            return at_input(self.schedule(choices).vision)

        def drop(choice: Choice, count: int) -> float:
            if choice.layer == AT_INPUT:
                return 1000 * (stage_of([choice]) - at_input(None))
            # Clusters, or a saliency that is carried, make the vision stage dearer: of the tokens that are there.
            before = []
            if count < self.num_visual:
                score = choice.rule.saliency if choice.rule.score == "vision_saliency" else self.saliency
                before = [Choice(layer=AT_INPUT, keep=count, rule=Rule(score=score, order="largest"))]
            # Which count it keeps makes no difference here, but a schedule must drop something.
            alone = replace(choice, keep=max(1, count - 1))
            stages = stage_of([*before, alone]) - stage_of(before) if count > 1 else 0.0
            return 1000 * (table.drop_seconds(choice.rule, count) + stages)

        return CostModel(
            num_layers=self.num_layers,
            num_visual=self.num_visual,
            layer=lambda count: 1000 * table.layer_seconds(count + text),
            drop=drop,
            fixed=1000 * at_input(None),
        )
