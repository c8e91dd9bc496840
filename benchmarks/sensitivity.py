"""What a sensitivity table of the embedded model costs with prefixes and without, in PyTorch on the CPU, and that its
numbers are the same bit by bit.

    python benchmarks/sensitivity.py [--samples 16] [--keeps 91 36 14 6] [--layers 0 1 …]

Every cell (layer, keep count) with all its rules, over two parts of the samples (from so few images no rule is cut).
Three forms take turns, cell by cell, each with caches of its own that are empty at the start: "full" runs vision tower
and prompt anew for every schedule, "tower once" keeps what the tower gives, "prefix" runs only what comes behind the
drop. Layer 0 is the vision stage, which no prefix helps. Times are CPU seconds of one thread. Writes
results/sensitivity.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch

from vitcop.calibrate.core.store import Store
from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.evaluate.evaluation import Evaluator, Part
from vitcop.calibrate.evaluate.grid import cells, keep_counts
from vitcop.calibrate.evaluate.sensitivity import Row, measure_cell
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule
from vitcop.export.measure import machine_facts

HERE = Path(__file__).parent
OUT = HERE / "results"
EXAMPLE = HERE.parent / "examples" / "shapes_vqa"
CENTERS = (12, 100)
FORMS = {
    "full": {"vision_cache_bytes": 0, "prefix_memory_bytes": 0},
    "tower once": {"prefix_memory_bytes": 0},
    "prefix": {},
}
INSIDE = (
    Rule(order="smallest"),
    Rule(order="largest"),
    Rule(score="text_query", order="largest"),
    Rule(score="vision_saliency", order="largest"),
    Rule(score="uniform", order="largest"),
    Rule(score="random", order="largest"),
    Rule(op="merge", cutoff_quantile=0.2),
    Rule(op="merge", merge="mean", cutoff_quantile=0.2),
)
AT_THE_TOWER = tuple(
    Rule(score=score, order="largest")
    for score in ("class_attention", "mean_query", "key_norm", "key_diversity", "uniform", "random")
)


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--keeps", type=int, nargs="+")
    parser.add_argument("--layers", type=int, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(EXAMPLE / "model")
    with TemporaryDirectory() as folder:
        bench = Bench(checkpoint, Path(folder), arguments.samples)
        rows = bench.table(arguments.layers, arguments.keeps)
    total = {form: sum(row["seconds"][form] for row in rows) for form in FORMS}
    inside = {form: sum(row["seconds"][form] for row in rows if row["layer"] != AT_INPUT) for form in FORMS}
    print(f"{'layer':>5}{'keep counts':>30}{'full':>9}{'tower once':>12}{'prefix':>9}{'full/prefix':>13}")
    for layer in sorted({row["layer"] for row in rows}):
        mine = [row for row in rows if row["layer"] == layer]
        seconds = {form: sum(row["seconds"][form] for row in mine) for form in FORMS}
        print(line(str(layer), " ".join(str(row["keep"]) for row in mine), seconds))
    print(line("all", "", total))
    print("the numbers are the same bit by bit")
    results = {
        "benchmark": "sensitivity",
        "machine": machine_facts(),
        "samples": arguments.samples,
        "threads": 1,
        "rules": {"inside": [rule.name for rule in INSIDE], "tower": [rule.name for rule in AT_THE_TOWER]},
        "keep_counts": sorted({row["keep"] for row in rows}, reverse=True),
        "sample_runs": sum(row["sample_runs"] for row in rows),
        "times_cheaper": total["full"] / total["prefix"],
        "times_cheaper_tower_once": total["tower once"] / total["prefix"],
        "times_cheaper_inside": inside["full"] / inside["prefix"] if inside["prefix"] else None,
        "bit_equal": True,
        "cells": rows,
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "sensitivity.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


def line(name: str, keeps: str, seconds: dict[str, float]) -> str:
    """One line of the table."""
    return (
        f"{name:>5}{keeps:>30}{seconds['full']:>9.1f}{seconds['tower once']:>12.1f}{seconds['prefix']:>9.1f}"
        f"{seconds['full'] / seconds['prefix']:>13.2f}"
    )


class Bench:
    """The model, its samples in two parts, and an evaluator for each form."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, num_samples: int) -> None:
        self.model, self.processor, self.family = load_model(checkpoint)
        self.checkpoint, self.folder = checkpoint, folder
        sizes = ("--calibration", str(num_samples), "--selection", "4", "--evaluation", "4")
        subprocess.run([sys.executable, EXAMPLE / "generate.py", "--out", folder / "data", *sizes], check=True)
        samples = load_samples(folder / "data" / "calibration.jsonl")
        self.evaluators = {form: self.evaluator(**settings) for form, settings in FORMS.items()}
        half = len(samples) // 2
        self.parts: list[Part] = [self.evaluators["full"].part(each) for each in (samples[:half], samples[half:])]

    def evaluator(self, **settings: Any) -> Evaluator:
        """One that stores nothing."""
        return Evaluator(
            self.model,
            self.processor,
            self.family,
            eos_ids=self.checkpoint.eos_ids,
            base=["benchmark"],
            settings=CalibrationSettings(**settings),
            store=Store(None),
        )

    def table(self, layers: list[int] | None, keeps: list[int] | None) -> list[dict[str, Any]]:
        """CPU seconds of each form for each cell; raises where their numbers differ in a bit."""
        found = []
        depth, num_visual = self.family.num_layers, self.family.num_visual
        for cell in cells(depth, num_visual, layers=layers, keeps=keeps or keep_counts(num_visual)[::2]):
            rules = AT_THE_TOWER if cell.layer == AT_INPUT else INSIDE
            choices = [Choice(layer=cell.layer, keep=cell.keep, rule=rule) for rule in rules]
            seconds, rows = {}, {}
            for form, evaluator in self.evaluators.items():
                begun = process_time()
                rows[form] = self.cell(evaluator, choices)
                seconds[form] = process_time() - begun
            if not rows["full"] == rows["tower once"] == rows["prefix"]:
                raise AssertionError(f"{cell}: the forms differ, so their times say nothing")
            sample_runs = sum(len(row.losses.ids) for row in rows["full"])
            found.append({"layer": cell.layer, "keep": cell.keep, "sample_runs": sample_runs, "seconds": seconds})
        return found

    def cell(self, evaluator: Evaluator, choices: list[Choice]) -> list[Row]:
        """All rules of one cell."""
        score = self.family.vision_scores[0]
        return measure_cell(
            evaluator, choices, self.parts, num_visual=self.family.num_visual, saliency=score, centers=CENTERS
        )


if __name__ == "__main__":
    main()
