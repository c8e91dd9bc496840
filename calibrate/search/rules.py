"""Which rules a search tries before which layer. No torch."""

from collections.abc import Sequence
from dataclasses import replace

from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.schedule.choices import AT_INPUT, Rule

CENTERS = (15, 100)
"""Cluster centres as a share of the clustered tokens: the paper's middle value. One value, so that one table serves all
budgets."""


def candidate_rules(layer: int, vision_scores: Sequence[str], settings: CalibrationSettings) -> tuple[Rule, ...]:
    """The rules that are tried alone before a layer, `uniform` among them: it costs nothing, and some models want no
    more. Merges are not: to merge all tokens is another thing than to merge what a vision stage has left.

    Args:
        layer: AT_INPUT for the vision stage.
        vision_scores: of the family, that are worth trying.
    """
    uniform = Rule(score="uniform", order="largest")
    if layer == AT_INPUT:
        return (*(Rule(score=score, order="largest") for score in vision_scores), uniform)
    norms = [
        Rule(score="k_norm", order=order, head_reduction=reduction)
        for reduction in settings.head_reductions
        for order in ("smallest", "largest")
    ]
    carried = [Rule(score="vision_saliency", order="largest", saliency=score) for score in vision_scores]
    return (*norms, Rule(score="text_query", order="largest"), *carried, uniform)


def merge_rules(saliency: str, settings: CalibrationSettings) -> tuple[Rule, ...]:
    """Rules of a merge behind a vision stage. The paper's keeps the tokens of small key norm to themselves, the others
    those that the vision tower found salient, and merges the rest."""
    ranks = [Rule(score="vision_saliency", order="largest", saliency=saliency)]
    ranks += [Rule(score="k_norm", order=order) for order in settings.merge_orders]
    return tuple(
        replace(rank, op="merge", merge=merge, cutoff_quantile=quantile)
        for rank in ranks
        for merge in ("mean", "sum")
        for quantile in settings.cutoff_quantiles
    )


def admitted_rules(rules: Sequence[Rule], layer: int, observation: Observation) -> tuple[Rule, ...]:
    """Those that beat random before this layer, and `uniform`, the yardstick. All of them where nothing could be
    observed."""
    if not observation.agreements:
        return tuple(rules)
    return tuple(rule for rule in rules if rule.score == "uniform" or observation.tells(layer, rule))
