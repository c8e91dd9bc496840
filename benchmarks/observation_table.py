"""An observation as text, for documents and terminals."""

from collections.abc import Callable, Sequence

from vitcop.calibrate.observe.observation import ATTENTION, GRADIENT, Agreement, Observation, columns_of, inside_name
from vitcop.calibrate.schedule.score_names import LARGEST, SMALLEST, rule_of
from vitcop.calibrate.stats.cluster_interval import Interval

LEGEND = (
    "Rank agreement (Spearman) of each score with what the answer depends on from that layer on, and half its 95 % "
    "interval: above 0 where large scores matter. Bold: beats random.",
    "Share of the dependence, in per cent, on the ninth of the tokens of largest / smallest score. Bold: more than "
    "random.",
)

Cell = Callable[[Agreement], str]


def observation_table(observation: Observation, dependence: str = ATTENTION) -> str:
    """Markdown, a line for each drop point (layer 0 is LLM input): rank agreements, then shares.

    Args:
        dependence: "attention" (all samples) or "gradient" (the checked ones).
    """
    entries = [item for item in observation.agreements if item.dependence == dependence]
    if not entries:
        return "Nothing was observed.\n"
    count = observation.num_checked if dependence == GRADIENT else observation.num
    checks = {check.layer: f"{_signed(check.rank.mean)} ± {_half(check.rank):.2f}" for check in observation.checks}
    names = columns_of(entries)
    what = f"Dependence by {dependence}, {count} samples (of {observation.num}, about {observation.pictures} pictures)."

    def ranks(item: Agreement) -> str:
        ends = [rule_of(item.score, order) for order in (LARGEST, SMALLEST)]
        beats = any(observation.ranks_better(item.layer, rule, dependence) for rule in ends)
        return _bold(_signed(item.rank.mean), beats) + f" ± {_half(item.rank):.2f}"

    def shares(item: Agreement) -> str:
        ends = ((rule_of(item.score, order), getattr(item, order)) for order in (LARGEST, SMALLEST))
        return " / ".join(
            _bold(f"{100 * end.mean:.0f}", observation.holds_more(item.layer, rule, dependence)) for rule, end in ends
        )

    parts = (what, LEGEND[0], _table(entries, names, ranks, checks), LEGEND[1], _table(entries, names, shares, {}))
    return "\n\n".join(parts) + "\n"


def _table(entries: Sequence[Agreement], names: Sequence[str], cell: Cell, checks: dict[int, str]) -> str:
    header = ["before layer", *names, *(["attention ~ gradient"] if checks else [])]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for layer in sorted({item.layer for item in entries}):
        found = {inside_name(item): cell(item) for item in entries if item.layer == layer}
        cells = [str(layer), *(found.get(name, "") for name in names), *([checks.get(layer, "")] if checks else [])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _signed(value: float) -> str:
    """Never −0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def _half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text
