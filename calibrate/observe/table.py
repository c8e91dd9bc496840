"""An observation as text, for documents and terminals. No torch."""

from collections.abc import Callable, Sequence

from vitcop.calibrate.choices import AT_INPUT
from vitcop.calibrate.observe.interval import Interval
from vitcop.calibrate.observe.observation import ATTENTION, GRADIENT, Agreement, Observation
from vitcop.calibrate.observe.score_names import score_name, vision_rule

LEGEND = (
    "Rank agreement (Spearman) of each score with what the answer depends on from that layer on, and half its 95 % "
    "interval: above 0 where large scores matter. Bold: beats random with this sign.",
    "Share of the dependence, in per cent, on the ninth of the tokens of largest / smallest score. Bold: more than "
    "random.",
)


def observation_table(observation: Observation, dependence: str = ATTENTION) -> str:
    """Markdown, a line for each drop point (layer 0 is LLM input): rank agreements, then shares.

    Args:
        dependence: "attention" (all samples) or "gradient" (the checked ones).
    """
    if not observation.agreements:
        return "No sample has visual tokens, so there is nothing to observe.\n"
    count = observation.num_checked if dependence == GRADIENT else observation.num
    checks = {check.layer: check.rank for check in observation.checks}
    names = _columns(observation, dependence)
    what = f"Dependence by {dependence}, {count} samples (of {observation.num}, about {observation.pictures} pictures)."

    def ranks(layer: int, found: Agreement, random: Agreement) -> str:
        rank = found.rank
        beats = max(rank.low, -rank.high) > max(0.0, random.rank.high)
        return _bold(f"{rank.mean:+.2f}", beats and found is not random) + f" ± {_half(rank):.2f}"

    def shares(layer: int, found: Agreement, random: Agreement) -> str:
        ends = [
            _bold(f"{100 * end.mean:.0f}", end.low > random.largest.high and found is not random)
            for end in (found.largest, found.smallest)
        ]
        return " / ".join(ends)

    def check(layer: int) -> str:
        return f"{checks[layer].mean:+.2f} ± {_half(checks[layer]):.2f}" if layer in checks else ""

    return (
        "\n\n".join(
            [
                what,
                LEGEND[0],
                _table(observation, dependence, names, ranks, {"attention ~ gradient": check} if checks else {}),
                LEGEND[1],
                _table(observation, dependence, names, shares, {}),
            ]
        )
        + "\n"
    )


def _columns(observation: Observation, dependence: str) -> list[str]:
    """Scores as rules inside the model name them, controls last."""
    names = dict.fromkeys(_inside(item) for item in observation.agreements if item.dependence == dependence)
    controls = [name for name in ("uniform", "random") if name in names]
    return [name for name in names if name not in controls] + controls


def _inside(item: Agreement) -> str:
    """The vision stage's own score by the name that it has when carried along."""
    if item.layer != AT_INPUT or item.score in ("uniform", "random"):
        return item.score
    return score_name(vision_rule(1, item.score))


def _table(
    observation: Observation,
    dependence: str,
    names: Sequence[str],
    cell: Callable[[int, Agreement, Agreement], str],
    more: dict[str, Callable[[int], str]],
) -> str:
    lines = ["| before layer | " + " | ".join([*names, *more]) + " |", "|---" * (1 + len(names) + len(more)) + "|"]
    for layer in observation.layers:
        entries = {
            _inside(item): item
            for item in observation.agreements
            if item.layer == layer and item.dependence == dependence
        }
        cells = [cell(layer, entries[name], entries["random"]) if name in entries else "" for name in names]
        lines.append(f"| {layer} | " + " | ".join([*cells, *(told(layer) for told in more.values())]) + " |")
    return "\n".join(lines)


def _half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text
