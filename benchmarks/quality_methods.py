"""The methods that `quality.py` measures at one budget, each as a runner of the same model with its accounting."""

from dataclasses import dataclass
from typing import Any

from stored_evaluator import StoredEvaluator

from vitcop.calibrate.baselines import RIVALS, Rival, VisionZip
from vitcop.calibrate.evaluate.evaluation import Evaluator, Losses, Part
from vitcop.calibrate.run.runner import Runner
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.presets import controls, paper_schedule
from vitcop.calibrate.schedule.schedule import Schedule, VisionStage
from vitcop.plugins.errors import InputError

OURS, PAPER = "calibrated", "paper preset"
AT_INPUT = " at input"
"""Marks a control that keeps one number of tokens from the first layer on; the others drop where ours drops."""

OTHERS: dict[str, Rival] = dict(sorted((RIVALS | {"visionzip, sum": VisionZip("sum")}).items()))
METHODS = (OURS, PAPER, *OTHERS, "uniform", "random", "uniform" + AT_INPUT, "random" + AT_INPUT)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method at one budget: the key of its results, its runner, and visual tokens in each decoder layer."""

    key: Any
    runner: Runner
    layer_counts: tuple[int, ...]


def methods_at(
    budget: float, ours: Schedule, evaluator: Evaluator, num_visual: int, seed: int
) -> dict[str, Method | None]:
    """Every method by name, in the order of tables; None where a rule cannot meet the budget to within one token."""
    family = evaluator.family
    num_layers = family.num_layers
    found: dict[str, Method | None] = {OURS: _of_schedule(OURS, ours, evaluator, num_visual)}
    try:
        preset = paper_schedule(num_layers, num_visual, budget, vision_score=family.vision_scores[0])
        found[PAPER] = _of_schedule(PAPER, preset, evaluator, num_visual)
    except InputError:
        found[PAPER] = None
    for name, rival in OTHERS.items():
        counts = rival.layer_counts(num_layers, num_visual, budget)
        runner = rival.runner(evaluator.model, family, evaluator.vision, budget=budget, num_visual=num_visual)
        key = [name, num_visual, counts]
        found[name] = None if runner is None else Method(key=key, runner=runner, layer_counts=counts)
    kept = max(1, int(budget * num_visual + 0.5))
    for score in ("uniform", "random"):
        found[score] = _of_schedule(score, controls(ours, score, seed=seed), evaluator, num_visual)
        stage = VisionStage(score=score, keep=(kept, num_visual), seed=seed)
        schedule = Schedule(num_layers=num_layers, vision=stage)
        found[score + AT_INPUT] = _of_schedule(score + AT_INPUT, schedule, evaluator, num_visual)
    return {name: found[name] for name in METHODS}


def measure(method: Method, evaluator: StoredEvaluator, parts: list[Part]) -> Losses:
    """On all parts, with free answers."""
    return Losses.joined([evaluator.measured(method.key, method.runner, part, answers=True) for part in parts])


def _of_schedule(name: str, schedule: Schedule, evaluator: Evaluator, num_visual: int) -> Method:
    return Method(
        key=schedule.plain(),
        runner=ScheduledRunner(evaluator.model, evaluator.family, schedule, name=name, vision=evaluator.vision),
        layer_counts=schedule.layer_counts(num_visual),
    )
