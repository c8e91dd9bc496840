"""The figures of `quality.py` as plain JSON, as lines for a terminal and as Markdown."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from quality_methods import METHODS, OURS, PAPER

from vitcop.calibrate.evaluate.evaluation import Losses
from vitcop.calibrate.evaluate.losses import Estimate
from vitcop.calibrate.stats.front import front_points
from vitcop.calibrate.stats.intervals import percentile_interval, resampled_means
from vitcop.calibrate.stats.verdict import compare

COMPARED = ("kl", "exact")
NOT_REACHED = "n/a"
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"


def row(
    losses: Losses,
    ours: Losses,
    clusters: Mapping[str, Hashable],
    *,
    name: str,
    budget: float,
    layer_counts: tuple[int, ...],
    seed: int,
) -> dict[str, Any]:
    """Means with their standard errors, and the comparison with ours, of one method at one budget.

    Args:
        budget: that it really uses.
    """
    return {
        "budget": budget,
        "layer_counts": list(layer_counts),
        **estimates(losses, clusters),
        "against_ours": {
            measure: asdict(
                compare(name, losses.by_id(measure), ours.by_id(measure), clusters, measure=measure, seed=seed)
            )
            for measure in COMPARED
        },
    }


def averaged(values: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each sample over several conditions (budgets), so that averages are compared in pairs as well."""
    assert all(other.keys() == values[0].keys() for other in values), "the same samples in each"
    return {sample: sum(other[sample] for other in values) / len(values) for sample in values[0]}


def average_row(
    losses: list[Losses], ours: list[Losses], clusters: Mapping[str, Hashable], *, name: str, seed: int
) -> dict[str, Any]:
    """The same for the mean over the budgets that a method can meet; ours over the same budgets."""
    found: dict[str, Any] = {"budgets": len(losses), "against_ours": {}}
    for measure in COMPARED:
        theirs, own = (averaged([item.by_id(measure) for item in side]) for side in (losses, ours))
        groups = [clusters[sample] for sample in theirs]
        found[measure] = asdict(Estimate.of(list(theirs.values()), groups))
        found["against_ours"][measure] = asdict(compare(name, theirs, own, clusters, measure=measure, seed=seed))
    return found


def share_of(ours: Losses, paper: Losses, clusters: Mapping[str, Hashable], seed: int) -> dict[str, float]:
    """Our KL as a share of the paper preset's, with the 95 % interval of that ratio, resampling images."""
    kl = [losses.by_id("kl") for losses in (ours, paper)]
    columns = np.array([[kl[0][sample], kl[1][sample]] for sample in kl[0]])
    means_R2 = resampled_means(columns, [clusters[sample] for sample in kl[0]], seed=seed)
    low, high = percentile_interval(means_R2[:, 0] / means_R2[:, 1])
    share = columns[:, 0].mean() / columns[:, 1].mean()
    return {"share": float(share), "low": low, "high": high}


def front(
    measured: Mapping[str, tuple[Mapping[str, Losses | None], Mapping[str, Any]]],
    clusters: Mapping[str, Hashable],
    seed: int,
) -> list[dict[str, Any]]:
    """Every method at every budget as a point of KL over the budget it uses, by ascending cost.

    Args:
        measured: (losses, rows) of the methods at each budget.
    """
    points = [
        (method, wanted, rows[method]["budget"], losses[method].by_id("kl"))
        for wanted, (losses, rows) in measured.items()
        for method in METHODS
        if losses[method] is not None
    ]
    found = front_points([point[2] for point in points], [point[3] for point in points], clusters, seed=seed)
    cells = [
        {"method": method, "wanted": wanted, **asdict(point)}
        for (method, wanted, _, _), point in zip(points, found, strict=True)
    ]
    return sorted(cells, key=lambda cell: (cell["cost"], cell["loss"]["mean"], cell["method"]))


def front_line(result: Mapping[str, Any]) -> str:
    """Which points no other beats."""
    named = [
        f"{cell['method']} at {cell['wanted']} (budget used {cell['cost']:.4f}, KL {cell['loss']['mean']:.4f}, on the "
        f"front in {100 * cell['share']:.0f} % of the resamples)"
        for cell in result["front"]
        if cell["on_front"]
    ]
    return "Not beaten in both budget used and KL: " + "; ".join(named) + "."


def lines(result: Mapping[str, Any]) -> list[str]:
    """For a terminal."""
    found = []
    for name, budget in result["budgets"].items():
        found += ["", f"budget {name}", f"{'':<18}{'used':>7}{'KL':>18}{'exact, %':>14}   KL − ours, 95 %"]
        found += [_line(method, budget["methods"].get(method)) for method in METHODS]
        share = budget["share_of_paper"]
        if share is not None:
            found.append(
                f"{OURS} has {share['share']:.2f} of the {PAPER}'s KL ({share['low']:.2f} to {share['high']:.2f})"
            )
    found += ["", "mean over the budgets that a method meets"]
    found += [_line(method, result["average"].get(method)) for method in METHODS]
    exact = result["original"]["exact"]
    return [
        *found,
        "",
        front_line(result),
        "",
        f"unpruned: exact match {100 * exact['mean']:.1f} ± {100 * exact['error']:.1f} %",
    ]


def _line(method: str, cells: Mapping[str, Any] | None) -> str:
    if cells is None:
        return f"{method:<18}{NOT_REACHED:>7}"
    used = f"{cells['budget']:.3f}" if "budget" in cells else f"({cells['budgets']})"
    difference = "" if method == OURS else f"   {_difference(cells, 'kl', 1)} {cells['against_ours']['kl']['verdict']}"
    return f"{method:<18}{used:>7}{_value(cells, 'kl', 1):>18}{_value(cells, 'exact', 100):>14}{difference}"


def grid_lines(result: Mapping[str, Any]) -> list[str]:
    """For a terminal: how the best schedules of the coarse grid stand to the paper's preset."""
    found = []
    for name, cells in result.get("exhaustive", {}).items():
        found += ["", f"budget {name}: the best of {cells['num_tried']} schedules of a coarse grid"]
        for split in ("selection", "evaluation"):
            here = cells[split]
            line = f"{split:<18}KL {_value(here['best'], 'kl', 1)}, exact {_value(here['best'], 'exact', 100)} %"
            share = here["share_of_paper"]
            if share is not None:
                line += f"; {share['share']:.2f} of the {PAPER}'s KL ({share['low']:.2f} to {share['high']:.2f})"
            found.append(line)
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """For docs/results.md: a table for each budget and one of the means."""
    evaluated = result["samples"]["evaluation"]
    exact = result["original"]["exact"]
    found = [
        f"{evaluated['num']} questions about {evaluated['images']} images; unpruned: exact match "
        f"{100 * exact['mean']:.1f} ± {100 * exact['error']:.1f} %. KL(original ‖ pruned) is in nats, the mean over "
        "the answer tokens. ± is the standard error, brackets are paired 95 % intervals of the difference to the "
        "calibrated schedule; both know which questions share an image. The verdict is the method's, by KL: *better* "
        "or *worse* than the calibrated one where the interval leaves 0 out. *n/a*: the rule cannot come within one "
        'token of the budget. "At input" keeps one number of tokens from the first layer on; the other controls drop '
        "where the calibrated schedule drops.",
    ]
    for name, budget in result["budgets"].items():
        found += ["", f"Budget {name}:", "", *_markdown_table(budget["methods"], "budget used")]
        share = budget["share_of_paper"]
        if share is not None:
            found += [
                "",
                f"The calibrated schedule has {share['share']:.2f} of the paper preset's KL (95 % interval "
                f"{share['low']:.2f} to {share['high']:.2f}).",
            ]
    found += ["", "Mean over the budgets that a method meets (ours over the same budgets):", ""]
    found += [*_markdown_table(result["average"], "budgets met"), "", front_line(result)]
    grids = [line for line in grid_lines(result) if line]
    if grids:
        found += ["", "How far that is from the best there is on a coarse grid:", "", "```", *grids, "```"]
    return "\n".join([*found, ""])


def split_docs(file: Path) -> tuple[str, str]:
    """What stands before and behind the table of a document; a file that is not there is begun."""
    text = file.read_text(encoding="utf-8") if file.is_file() else f"# Results\n\n{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"{file}: needs the line {BEGIN} once, and {END} once behind it")
    return text[: text.index(BEGIN)], text[text.index(END) :]


def write_docs(file: Path, table: str) -> None:
    """Put the table between its markers."""
    before, behind = split_docs(file)
    file.write_text(f"{before}{BEGIN}\n{table}{behind}", encoding="utf-8")


def _markdown_table(cells: Mapping[str, Any], first: str) -> list[str]:
    found = [
        f"| method | {first} | KL | exact match, % | KL − calibrated | exact − calibrated, points | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        here = cells.get(method)
        if here is None:
            found.append(f"| {method} | {NOT_REACHED} | | | | | |")
            continue
        used = f"{here['budget']:.4f}" if "budget" in here else str(here["budgets"])
        row = [method, used, _value(here, "kl", 1), _value(here, "exact", 100)]
        if method == OURS:
            row += ["", "", ""]
        else:
            row += [
                _difference(here, "kl", 1),
                _difference(here, "exact", 100),
                here["against_ours"]["kl"]["verdict"],
            ]
        found.append("| " + " | ".join(row) + " |")
    return found


def estimates(losses: Losses, clusters: Mapping[str, Hashable] | None = None) -> dict[str, Any]:
    """kl, top1 and exact as plain JSON."""
    found = losses.estimates(clusters)
    return {measure: found[measure] and asdict(found[measure]) for measure in ("kl", "top1", "exact")}


def _value(cells: Mapping[str, Any], measure: str, factor: float) -> str:
    digits = 4 if factor == 1 else 1
    found = cells[measure]
    return f"{factor * found['mean']:.{digits}f} ± {factor * found['error']:.{digits}f}"


def _difference(cells: Mapping[str, Any], measure: str, factor: float) -> str:
    digits = 4 if factor == 1 else 1
    found = cells["against_ours"][measure]
    mean, low, high = (factor * found[key] for key in ("difference", "low", "high"))
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
