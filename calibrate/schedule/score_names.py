"""Names of scores, as rules have them, whichever end they keep. No torch."""

from dataclasses import replace

from vitcop.calibrate.schedule.choices import AT_INPUT, Rule

LARGEST, SMALLEST = "largest", "smallest"


def score_name(rule: Rule) -> str:
    """What a rule looks at, whichever end it keeps and whether it selects or merges: `k_norm/mean_norm`."""
    return replace(rule, op="select", order=LARGEST).name.removesuffix("+")


def vision_rule(layer: int, score: str, order: str = LARGEST) -> Rule:
    """The rule that keeps by a vision score: in the vision stage by its own name, later as carried saliency."""
    if layer == AT_INPUT:
        return Rule(score=score, order=order)
    return Rule(score="vision_saliency", saliency=score, order=order)


def rule_of(name: str, order: str = LARGEST) -> Rule:
    """The rule that selects by a score of this name: the inverse of `score_name`, of either end."""
    score, _, detail = name.partition("/")
    if score == "k_norm":
        return Rule(head_reduction=detail or "mean_key", order=order)
    if score == "vision_saliency":
        return Rule(score=score, saliency=detail or "class_attention", order=order)
    return Rule(score=score, order=order)
