"""The schedules that a search tries: choices of scores and of geometry, each solved so that the budget is met."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from vitcop.calibrate.budget import fractions, solve_counts
from vitcop.calibrate.choices import Rule
from vitcop.calibrate.presets import nearest_reference, paper_schedule
from vitcop.calibrate.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.plugins.errors import InputError


class ScheduleKind(Protocol):
    """A kind of schedule that can be made for any budget."""

    name: str

    def schedule(self, num_layers: int, num_visual: int, budget: float) -> Schedule | None:
        """The schedule that meets the budget to within one token, or None where this kind cannot."""
        ...


@dataclass(frozen=True)
class PaperKind:
    """The paper's kind of schedule; without a class token with another score in the vision tower."""

    name: str = "paper"
    vision_score: str = "class_attention"

    def schedule(self, num_layers: int, num_visual: int, budget: float) -> Schedule | None:
        try:
            return paper_schedule(num_layers, num_visual, budget, vision_score=self.vision_score)
        except InputError:
            return None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One point of the search space.

    Args:
        vision_factor: share kept at LLM input, in units of the budget; infinite keeps every patch. 1 leaves nothing to
            drop later.
        layers: drop points; none for vision-side pruning alone.
        rules: one for each drop point.
        ratio: tokens after the second drop / tokens after the first.
        vision_score: by which the vision tower's tokens are kept.
    """

    vision_factor: float
    layers: tuple[int, ...] = ()
    rules: tuple[Rule, ...] = ()
    ratio: float = 1.0
    vision_score: str = "class_attention"

    @property
    def name(self) -> str:
        parts = [f"x{self.vision_factor:g}"]
        parts += [self.vision_score] if self.vision_score != "class_attention" else []
        parts += [f"@{layer} {rule.name}" for layer, rule in zip(self.layers, self.rules, strict=True)]
        return " ".join(parts + ([f"r{self.ratio:g}"] if len(self.layers) > 1 else []))

    def schedule(self, num_layers: int, num_visual: int, budget: float) -> Schedule | None:
        vision_count = min(num_visual, max(1, int(num_visual * min(1.0, self.vision_factor * budget) + 0.5)))
        if any(layer >= num_layers for layer in self.layers):
            return None
        if self.layers and vision_count < budget * num_visual:
            return None
        counts = solve_counts(
            num_layers, budget * num_visual, vision_count, self.layers, (1.0, self.ratio)[: len(self.layers)]
        )
        # Where a drop keeps everything, this is another candidate under a second name.
        if counts is None or any(a == b for a, b in zip(counts, counts[1:], strict=False)):
            return None
        keeps = fractions(counts, num_visual)
        clusters = None
        for rule in self.rules:
            if rule.op == "merge":
                quantile = rule.cutoff_quantile
                clusters = Clusters(
                    centers=nearest_reference(budget).centers,
                    cutoff_distance=8.0 if quantile is None else None,
                    cutoff_quantile=quantile,
                )
        needs_vision = clusters is not None or any(rule.score == "vision_saliency" for rule in self.rules)
        vision = None
        if counts[0] < num_visual or needs_vision:
            vision = VisionStage(score=self.vision_score, keep=keeps[0], clusters=clusters)
        return Schedule(
            num_layers=num_layers,
            vision=vision,
            drops=tuple(
                Drop(
                    layer=layer,
                    op=rule.op,
                    score=rule.score,
                    order=rule.order,
                    head_reduction=rule.head_reduction,
                    merge=rule.merge,
                    keep=keep,
                )
                for layer, rule, keep in zip(self.layers, self.rules, keeps[1:], strict=True)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The values that a candidate may take."""

    vision_scores: tuple[str, ...] = ("class_attention",)
    vision_factors: tuple[float, ...] = (1.5, 2.0, 3.0, float("inf"))
    first_layers: tuple[int, ...]
    second_layers: tuple[int, ...]
    ratios: tuple[float, ...] = (0.2, 0.5)
    first_rules: tuple[Rule, ...]
    second_rules: tuple[Rule, ...]

    @classmethod
    def of(
        cls,
        num_layers: int,
        *,
        vision_scores: Sequence[str] = ("class_attention",),
        head_reductions: Sequence[str] = ("mean_key",),
        merge_orders: Sequence[str] = ("smallest",),
        cutoff_quantiles: Sequence[float | None] = (None, 0.2),
    ) -> "SearchSpace":
        """The default space for a model of this depth; layers lie at fixed shares of it, the paper's 2/32 and 22/32
        among them."""
        norms = tuple(
            Rule(score="k_norm", order=order, head_reduction=reduction)
            for reduction in head_reductions
            for order in ("smallest", "largest")
        )
        question = Rule(score="text_query", order="largest")
        merges = tuple(
            Rule(op="merge", score="k_norm", order=order, merge=merge, cutoff_quantile=quantile)
            for order in merge_orders
            for merge in ("sum", "mean")
            for quantile in cutoff_quantiles
        )
        firsts = {max(1, num_layers * share // 32) for share in (2, 4, 8, 12)}
        seconds = {num_layers * share // 32 for share in (16, 22, 24, 28)}
        return cls(
            vision_scores=tuple(vision_scores),
            first_layers=tuple(sorted(layer for layer in firsts if layer < num_layers)),
            second_layers=tuple(sorted(layer for layer in seconds if 1 < layer < num_layers)),
            first_rules=(*merges, *norms, question, Rule(score="vision_saliency", order="largest")),
            second_rules=(*norms, question),
        )

    def candidates(self) -> list[list[Candidate]]:
        """All candidates, one list for each choice of rules (the geometries that share it)."""
        groups = [[Candidate(vision_factor=1.0, vision_score=score) for score in self.vision_scores]]
        for first in self.first_rules:
            groups.append(
                [
                    Candidate(vision_factor=factor, layers=(a,), rules=(first,), vision_score=score)
                    for score in self.vision_scores
                    for factor in self.vision_factors
                    for a in self.first_layers
                ]
            )
            for second in self.second_rules:
                groups.append(
                    [
                        Candidate(
                            vision_factor=factor, layers=(a, b), rules=(first, second), ratio=ratio, vision_score=score
                        )
                        for score in self.vision_scores
                        for factor in self.vision_factors
                        for a in self.first_layers
                        for b in self.second_layers
                        if a < b
                        for ratio in self.ratios
                    ]
                )
        return groups

    def shuffled(self, seed: int) -> list[Candidate]:
        """All candidates in an order drawn by `seed`, in which every choice of rules comes once before any comes
        twice."""
        stream = random.Random(seed)
        groups = self.candidates()
        for group in groups:
            stream.shuffle(group)
        order = [(depth, stream.random(), candidate) for group in groups for depth, candidate in enumerate(group)]
        return [candidate for _, _, candidate in sorted(order, key=lambda item: item[:2])]

    def neighbours(self, candidate: Candidate) -> list[Candidate]:
        """Every candidate that differs in one choice."""
        found = [replace(candidate, vision_factor=factor) for factor in self.vision_factors] if candidate.layers else []
        found += [replace(candidate, vision_score=score) for score in self.vision_scores]
        for i, options in enumerate((self.first_layers, self.second_layers)[: len(candidate.layers)]):
            for layer in options:
                layers = (*candidate.layers[:i], layer, *candidate.layers[i + 1 :])
                if list(layers) == sorted(set(layers)):
                    found.append(replace(candidate, layers=layers))
        for i, options in enumerate((self.first_rules, self.second_rules)[: len(candidate.layers)]):
            found += [
                replace(candidate, rules=(*candidate.rules[:i], rule, *candidate.rules[i + 1 :])) for rule in options
            ]
        if len(candidate.layers) > 1:
            found += [replace(candidate, ratio=ratio) for ratio in self.ratios]
        return [other for other in dict.fromkeys(found) if other != candidate]


def choices_of(kind: ScheduleKind) -> dict[str, object]:
    """A candidate as plain JSON values, for reports."""
    if not isinstance(kind, Candidate):
        return {}
    return {
        "vision_factor": None if kind.vision_factor == float("inf") else kind.vision_factor,
        "vision_score": kind.vision_score,
        "layers": list(kind.layers),
        "ratio": kind.ratio,
        "rules": [{item.name: getattr(rule, item.name) for item in fields(rule)} for rule in kind.rules],
    }
