"""Times, from bench.json: bars, the table part by part, and what has to be said about them."""

from collections.abc import Mapping
from typing import Any

from vitcop.pipeline.reporting.model import TimeBar, TimeRow

Json = Mapping[str, Any]

BENCH_RUNGS = {
    "engine_unpruned": "engine, unpruned",
    "engine": "engine, pruned",
    "torch_original": "PyTorch, unpruned",
    "torch_pruned": "PyTorch, pruned",
}


def time_bars(bench: Json) -> tuple[TimeBar, ...]:
    """Median times of each rung, stacked by part."""
    steps, bars = bench["batch"]["new_tokens"], []
    for rung, label in BENCH_RUNGS.items():
        if rung not in bench["rungs"]:
            continue
        seconds = bench["rungs"][rung]["seconds"]
        parts = {
            "vision tower": seconds["vision"]["median"],
            "selector": seconds.get("selector", {}).get("median", 0.0),
            "prefill": seconds["prefill"]["median"],
            "decode": seconds["decode_per_token"]["median"] * steps,
        }
        total = 1000 * seconds["total"]["median"]
        shown = tuple((name, 1000 * value) for name, value in parts.items() if value)
        bars.append(TimeBar(label=label, parts=shown, total=total))
    return tuple(bars)


def time_rows(bench: Json) -> tuple[TimeRow, ...]:
    """Each rung's medians and quartiles."""
    rows = []
    for rung, label in BENCH_RUNGS.items():
        if rung in bench["rungs"]:
            seconds = bench["rungs"][rung]["seconds"]
            cells = tuple(
                _milliseconds(seconds.get(part))
                for part in ("vision", "selector", "prefill", "decode_per_token", "total")
            )
            rows.append(TimeRow(label=label, cells=cells))
    return tuple(rows)


def _milliseconds(timing: Json | None) -> tuple[str, str]:
    """(median, quartiles) in ms."""
    if timing is None or not timing["median"]:
        return "–", ""
    low, middle, high = (1000 * timing[name] for name in ("low", "median", "high"))
    return f"{middle:.2f}", f"{low:.2f}–{high:.2f}"


def bench_settings(bench: Json) -> str:
    """What was timed, and how."""
    batch, settings = bench["batch"], bench["settings"]
    return (
        f"Target {bench['bundle']['target']}, {_dtypes(bench)}, batch {batch['rows']}, {batch['prompt_tokens']} prompt "
        f"tokens of which {batch['visual_tokens']} visual, {batch['new_tokens']} decoded; median of "
        f"{settings['repeats']} runs after {settings['warmup']} for warming up, quartiles below it"
    )


def _dtypes(bench: Json) -> str:
    """The float type that everything computed in, or that of each rung; files of earlier releases do not tell it."""
    found = {BENCH_RUNGS[rung]: timed.get("dtype", "float type not recorded") for rung, timed in bench["rungs"].items()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{label}: {dtype}" for label, dtype in found.items())


def bench_notes(bench: Json) -> tuple[str, ...]:
    """The notes about what the page shows, with its names for the rungs."""
    notes = [note for note in bench["notes"] if "process_peak_bytes" not in note]
    # The longest names first: one is a part of another.
    for rung in sorted(BENCH_RUNGS, key=len, reverse=True):
        notes = [note.replace(rung, BENCH_RUNGS[rung]) if "_" in rung else note for note in notes]
    notes.append("ratios are the median over repetitions of unpruned to pruned, vision tower and selector included")
    if _unsteady(bench):
        notes.append("quartiles lie far apart: the machine was busy with other work, so take the times as rough")
    return tuple(note[:1].upper() + note[1:] for note in notes)


def _unsteady(bench: Json) -> bool:
    """True where the middle half of whole answers spreads over more than a third of the median."""
    totals = [rung["seconds"]["total"] for rung in bench["rungs"].values()]
    return any(total["high"] - total["low"] > total["median"] / 3 for total in totals)
