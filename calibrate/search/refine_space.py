"""The space that the joint refinement walks in: layers, rules and keep shares of all drops of a schedule at once, as
flat parameters. No torch."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, compatible

NOTHING = "-"
"""In place of the rule of a vision stage that drops nothing."""

LEAST_SHARE, MOST_SHARE = 0.02, 0.98
"""Of the tokens that a drop finds, what it may keep; the counts are fitted to the constraint afterwards."""


@dataclass(frozen=True, kw_only=True)
class RefineSpace:
    """Where a drop may be and by which rules.

    Args:
        rules: admitted rules by layer, those of AT_INPUT for the vision stage.
        max_drops: most drops, one at LLM input counted.
        num_visual: V.
    """

    rules: Mapping[int, Sequence[Rule]]
    max_drops: int
    num_visual: int

    @property
    def layers(self) -> list[int]:
        """Of the drops inside the language model, ascending."""
        return sorted(layer for layer, rules in self.rules.items() if layer != AT_INPUT and rules)

    def with_sets(self, sets: Sequence[Sequence[Choice]]) -> "RefineSpace":
        """The same, holding these sets as well."""
        rules = {layer: list(admitted) for layer, admitted in self.rules.items()}
        for choice in (choice for choices in sets for choice in choices):
            held = rules.setdefault(choice.layer, [])
            held += [] if choice.rule.name in {rule.name for rule in held} else [choice.rule]
        most = max([self.max_drops, *map(len, sets)])
        return RefineSpace(rules=rules, max_drops=most, num_visual=self.num_visual)

    def distributions(self) -> dict[str, Any]:
        """Of the parameters, as optuna knows them. All are always there, so that one model spans them: those of drops
        that are not made count for nothing."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        share = FloatDistribution(LEAST_SHARE, MOST_SHARE, log=True)
        found: dict[str, Any] = {}
        if self._named(AT_INPUT):
            found["input"] = CategoricalDistribution((NOTHING, *self._named(AT_INPUT)))
            found["input share"] = share
        if self.layers:
            found["inside"] = IntDistribution(0, self._inside)
        for i in range(self._inside):
            found[f"layer {i}"] = IntDistribution(0, len(self.layers) - 1)
            found[f"share {i}"] = share
            found[f"rule {i}"] = CategoricalDistribution(self._names)
        return found

    def decode(self, parameters: Mapping[str, Any]) -> tuple[Choice, ...] | None:
        """The choices that parameters stand for; None where they do not go together."""
        choices: list[Choice] = []
        count = self.num_visual
        if parameters.get("input", NOTHING) != NOTHING:
            count = self._kept(count, parameters["input share"])
            choices.append(Choice(layer=AT_INPUT, keep=count, rule=self._named(AT_INPUT)[parameters["input"]]))
        places = [
            (self.layers[parameters[f"layer {i}"]], i) for i in range(min(self._inside, parameters.get("inside", 0)))
        ]
        for layer, i in sorted(places):
            rule = self._named(layer).get(parameters[f"rule {i}"])
            if rule is None:
                return None
            count = self._kept(count, parameters[f"share {i}"])
            choices.append(Choice(layer=layer, keep=count, rule=rule))
        fits = all(compatible(first, second) for first, second in combinations(choices, 2))
        drops = 0 < len(choices) <= self.max_drops and choices[0].keep < self.num_visual
        return tuple(choices) if fits and drops else None

    def encode(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Parameters that stand for choices of this space, up to the rounding of counts and the limits of shares."""
        found: dict[str, Any] = {}
        count = self.num_visual
        inside = [choice for choice in choices if choice.layer != AT_INPUT]
        for name, choice in zip(
            ["input"] * (len(choices) - len(inside)) + [str(i) for i in range(len(inside))], choices, strict=True
        ):
            share = min(max(choice.keep / count, LEAST_SHARE), MOST_SHARE)
            count = choice.keep
            if name == "input":
                found |= {"input": choice.rule.name, "input share": share}
            else:
                found |= {f"layer {name}": self.layers.index(choice.layer), f"share {name}": share}
                found[f"rule {name}"] = choice.rule.name
        if self._named(AT_INPUT):
            found = {"input": NOTHING, "input share": 0.5} | found
        if self.layers:
            found["inside"] = len(inside)
        for i in range(len(inside), self._inside):
            # Nothing is known of drops that are not made: the middle of what they could be.
            found |= {f"layer {i}": len(self.layers) // 2, f"share {i}": 0.5, f"rule {i}": self._names[0]}
        return found

    def neighbour(self, choices: Sequence[Choice], stream: random.Random) -> dict[str, Any]:
        """Parameters of choices with one of them drawn anew: a share, a layer or the number of drops near what it was,
        a rule anywhere. They may stand for nothing."""
        parameters = self.encode(choices)
        made = parameters.get("inside", 0)
        names = [name for name in parameters if name.split()[-1] in ("input", "inside", *map(str, range(made)))]
        if parameters.get("input", NOTHING) != NOTHING:
            names.append("input share")
        name = stream.choice(sorted(names))
        distribution, value = self.distributions()[name], parameters[name]
        if "share" in name:
            drawn = min(max(value * math.exp(stream.gauss(0.0, 0.5)), LEAST_SHARE), MOST_SHARE)
        elif name.startswith("layer"):
            drawn = min(max(value + stream.choice((-2, -1, 1, 2)), 0), distribution.high)
        elif name == "inside":
            drawn = min(max(value + stream.choice((-1, 1)), 0), distribution.high)
        else:
            drawn = stream.choice(distribution.choices)
        return parameters | {name: drawn}

    @property
    def _inside(self) -> int:
        return min(self.max_drops, len(self.layers))

    @property
    def _names(self) -> tuple[str, ...]:
        """Of all rules inside the language model."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in self._named(layer)))

    def _named(self, layer: int) -> dict[str, Rule]:
        return {rule.name: rule for rule in self.rules.get(layer, ())}

    @staticmethod
    def _kept(count: int, share: float) -> int:
        return max(1, math.floor(count * share + 0.5))
