"""Which schedules are timed for a cost table: few that together have every kind of drop, and others to test it on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, compatible, schedule_of
from vitcop.calibrate.schedule.schedule import Schedule

CENTERS = (15, 100)
"""Share of cluster centres in probes that merge: the paper's at 2/9."""

LEAST_VISUAL = 16
"""Visual tokens of a prompt from which on all probes keep some."""

_QUANTILE = 0.1
_LEAST = 2
"""Tokens that any probe keeps at least: graphs take one token for special."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One schedule, and the prompts it is timed with: (visual tokens, text tokens beyond those of the prompt)."""

    schedule: Schedule
    name: str
    sizes: tuple[tuple[int, int], ...]


def plain_probe(num_layers: int, num_visual: int) -> Probe:
    """The model as it is, at many lengths: they cost no further export."""
    part = num_visual // 8
    sizes = [(num_visual * i // 8, 0) for i in (8, 7, 6, 5, 4, 3, 2, 1)] + [(num_visual, part), (num_visual, 2 * part)]
    return Probe(
        schedule=Schedule(num_layers=num_layers), name="none", sizes=tuple(size for size in sizes if size[0] >= _LEAST)
    )


def fitting_probes(num_layers: int, num_visual: int, scores: Sequence[str]) -> list[Probe]:
    """Six schedules: each kind of score in the vision stage and inside the language model, and both kinds of clusters.

    The first clusters stand behind a score that is timed without them too, or their constant would pass for its.

    Args:
        scores: of the vision stage, without the controls; the first is carried along.
    """
    carried = scores[0]
    stages = [*[*scores, "uniform"][:4], carried, "uniform"]
    early, late = _layers(num_layers, 0.25, 0.6), _layers(num_layers, 0.5, 0.85)
    by_norm, by_nothing = Rule(score="k_norm"), Rule(score="uniform", order="largest")
    inside = [
        (late, [Rule(score="vision_saliency", order="largest", saliency=carried)] * 2),
        (early, [Rule(score="text_query", order="largest")] * 2),
        (late, [by_norm] * 2),
        (early, [by_nothing] * 2),
        (early, [Rule(op="merge", score="k_norm"), by_norm]),
        (late, [Rule(op="merge", score="k_norm", cutoff_quantile=_QUANTILE), by_nothing]),
    ]
    shares = ((7, 8), (3, 4), (2, 3), (5, 8), (1, 2), (4, 5))
    found = []
    for i, (layers, rules) in enumerate(inside):
        num, den = shares[i]
        at_input = Choice(layer=AT_INPUT, keep=num_visual * num // den, rule=Rule(score=stages[i], order="largest"))
        choices, count = [at_input], at_input.keep
        for layer, rule in zip(layers, rules, strict=False):
            count = count * 3 // 5
            choices.append(Choice(layer=layer, keep=count, rule=rule))
        found.append(_probe(choices, num_layers, num_visual, carried, more_text=num_visual // 4))
    return [probe for probe in found if probe is not None]


def trial_probes(num_layers: int, num_visual: int, scores: Sequence[str], *, count: int, seed: int) -> list[Probe]:
    """`count` schedules drawn at random: with or without a vision stage, one to three drops anywhere, of any rules."""
    rng = np.random.default_rng(seed)
    found: list[Probe] = []
    for _ in range(1000):
        if len(found) == count:
            break
        carried = str(rng.choice(scores))
        drops = int(rng.integers(1, min(4, num_layers))) if num_layers > 1 else 0
        layers = sorted(rng.choice(np.arange(1, num_layers), drops, replace=False).tolist())
        stage = [AT_INPUT] if rng.random() < 0.75 or not layers else []
        choices, keep = [], num_visual
        for layer in [*stage, *layers]:
            keep = max(_LEAST, int(keep * rng.uniform(0.3, 0.9)))
            rule = _stage_rule(rng, carried) if layer == AT_INPUT else _drop_rule(rng, carried)
            choices.append(Choice(layer=layer, keep=keep, rule=rule))
        fits = all(compatible(a, b) for i, a in enumerate(choices) for b in choices[i + 1 :])
        more_text = int(rng.integers(0, num_visual // 4 + 1))
        probe = _probe(choices, num_layers, num_visual, carried, more_text=0) if fits else None
        if probe is not None and probe.name not in [other.name for other in found]:
            sizes = ((num_visual, more_text),)
            found.append(Probe(schedule=probe.schedule, name=probe.name, sizes=sizes))
    return found


def _stage_rule(rng: np.random.Generator, carried: str) -> Rule:
    score = carried if rng.random() < 0.8 else str(rng.choice(["uniform", "random"]))
    return Rule(score=score, order="largest")


def _drop_rule(rng: np.random.Generator, carried: str) -> Rule:
    score = str(rng.choice(["k_norm", "k_norm", "text_query", "text_query", "vision_saliency", "uniform", "random"]))
    if score in ("k_norm", "text_query") and rng.random() < 0.3:
        quantile = _QUANTILE if rng.random() < 0.5 else None
        return Rule(op="merge", score=score, cutoff_quantile=quantile, merge=str(rng.choice(["sum", "mean"])))
    return Rule(
        score=score,
        order=str(rng.choice(["smallest", "largest"])) if score == "k_norm" else "largest",
        head_reduction=str(rng.choice(["mean_key", "mean_norm"])) if score == "k_norm" else "mean_key",
        saliency=carried,
    )


def _layers(num_layers: int, *places: float) -> list[int]:
    """The layers at these shares of the depth, each from 1 on and none twice."""
    last = num_layers - 1
    return list(dict.fromkeys(min(last, max(1, round(num_layers * place))) for place in places if last))


def _probe(
    choices: Sequence[Choice], num_layers: int, num_visual: int, carried: str, *, more_text: int
) -> Probe | None:
    """The probe of these choices, at its full size and three more; None where hardly a token would be left."""
    if min(choice.keep for choice in choices) < _LEAST:
        return None
    schedule = schedule_of(choices, num_layers=num_layers, num_visual=num_visual, saliency=carried, centers=CENTERS)
    sizes = [(num_visual, 0), (num_visual * 3 // 4, more_text // 2), (num_visual // 2, 0), (num_visual, more_text)]
    return Probe(
        schedule=schedule,
        name=", ".join(choice.name for choice in choices),
        sizes=tuple(size for size in sizes if min(schedule.group_counts(size[0])) >= _LEAST),
    )
