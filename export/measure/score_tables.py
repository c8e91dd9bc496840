"""Task scores of all rungs as a table, with paired intervals of their differences; over all samples and by subset."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vitcop.calibrate.stats.intervals import paired_bootstrap, standard_error
from vitcop.export.measure.rungs import CONTROLS, ENGINE, ORIGINAL, PRUNED

DIFFERENCES = {"schedule_loss": (ORIGINAL, PRUNED), "export_loss": (PRUNED, ENGINE)} | {
    f"gain_over_{name}": (PRUNED, name) for name in CONTROLS
}
"""Differences of scores, first minus second: losses are positive where something was lost."""


def score_tables(rows: Sequence[Mapping[str, Any]], groups: Sequence[Hashable], *, seed: int) -> dict[str, Any]:
    """ "all" and "subsets" tables of the samples that have answers; {} where none has."""
    scored = [(row, group) for row, group in zip(rows, groups, strict=True) if row["scores"]]
    if not scored:
        return {}
    names = sorted({row["subset"] for row, _ in scored if row["subset"] is not None})
    return {
        "all": _table(scored, seed),
        "subsets": {name: _table([pair for pair in scored if pair[0]["subset"] == name], seed) for name in names},
    }


def _table(scored: Sequence[tuple[Mapping[str, Any], Hashable]], seed: int) -> dict[str, Any]:
    groups = [group for _, group in scored]
    by_rung = {rung: [row["scores"][rung] for row, _ in scored] for rung in scored[0][0]["scores"]}
    return {
        "count": len(scored),
        "rungs": {
            rung: {"mean": sum(values) / len(values), "standard_error": standard_error(values, groups)}
            for rung, values in by_rung.items()
        },
        "differences": {
            name: asdict(paired_bootstrap(by_rung[first], by_rung[second], groups, seed=seed))
            for name, (first, second) in DIFFERENCES.items()
            if first in by_rung and second in by_rung
        },
    }
