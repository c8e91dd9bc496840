"""What a calibration of a 7B model costs, on one GPU and on eight: the work counted, the time from a throughput.

    python benchmarks/calibration_plan.py --calibration out/calibration.json [--tflops 200] [--workers 1 8]

How many rules a cell has, and how many of them are cut early, is taken from a calibration that was run (the embedded
model's); layers, keep counts and FLOPs are those of LLaVA-1.5-7B (576 visual and 64 other tokens, 32 layers) by the
formula of `vitcop.calibrate.schedule.cost`. Only what comes behind a drop is run, as with cached prefixes. The
throughput is an assumption, not a measurement: no 7B model was run. Writes results/calibration_plan.json.
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from statistics import mean

from vitcop.calibrate.evaluate.grid import cells, keep_counts
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.schedule.choices import AT_INPUT
from vitcop.calibrate.schedule.cost import DecoderShape, layer_flops
from vitcop.calibrate.search.calibration import Calibration

LLAVA_7B = DecoderShape(hidden=4096, intermediate=11008, num_heads=32, num_kv_heads=32, head_dim=128, vocab=32064)
NUM_LAYERS, NUM_VISUAL, TEXT_TOKENS = 32, 576, 64
OUT = Path(os.environ.get("OUT", Path(__file__).parent / "results"))


def main() -> None:
    """Print the plan and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, required=True, help="calibration.json of a run")
    parser.add_argument("--tflops", type=float, default=200.0, help="assumed throughput of one GPU, TFLOP/s (200)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    plan = planned(Calibration.load(arguments.calibration), CalibrationSettings())
    total = sum(plan["pflop"].values())
    for name, amount in plan["pflop"].items():
        print(f"{name:<14}{amount:>9.1f} PFLOP {100 * amount / total:>5.0f} %")
    plan["minutes"] = {}
    for workers in arguments.workers:
        # Units of the table outnumber the workers; those of a generation are its schedules times the parts.
        minutes = total * 1e15 / (arguments.tflops * 1e12 * workers) / 60
        plan["minutes"][str(workers)] = minutes
        print(f"{workers} GPU at {arguments.tflops:g} TFLOP/s: {minutes:.1f} min, the loading of the model beside it")
    result = {"benchmark": "calibration_plan", "tflops": arguments.tflops, **plan}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "calibration_plan.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def planned(calibration: Calibration, settings: CalibrationSettings) -> dict:
    """Counts and PFLOP by step."""
    calibrated, selected = (calibration.samples[name]["num"] for name in ("calibration", "selection"))
    rules = Counter((entry.choice.layer, entry.choice.keep) for entry in calibration.table)
    per_cell = mean(rules.values())
    seen = mean(entry.kl.num for entry in calibration.table) / calibrated
    whole = prefill([NUM_VISUAL] * NUM_LAYERS)
    grid = cells(NUM_LAYERS, NUM_VISUAL, keeps=keep_counts(NUM_VISUAL, num=settings.keep_counts))
    table = sum(behind(cell.layer, cell.keep) for cell in grid) * per_cell * seen * calibrated
    third = prefill([NUM_VISUAL // 3] * NUM_LAYERS)
    tried = len(calibration.candidates)
    beside = len(calibration.selection)
    curve = len(calibration.curve)
    return {
        "cells": len(grid),
        "rules_in_a_cell": per_cell,
        "samples_seen_of_all": seen,
        "samples": {"calibration": calibrated, "selection": selected},
        "pflop": {
            "targets": whole * (calibrated + selected) / 1e15,
            # Forward for all samples, and about three forwards for each checked gradient.
            "observation": whole * calibrated * (1 + 3 * settings.check_share) / 1e15,
            "table": table / 1e15,
            "refinement": third * tried * calibrated / 1e15,
            "selection": third * (beside + curve) * selected / 1e15,
        },
    }


def prefill(visual: list[int]) -> float:
    """FLOPs of the decoder layers over these visual tokens and the text."""
    return sum(layer_flops(LLAVA_7B, count + TEXT_TOKENS) for count in visual)


def behind(layer: int, keep: int) -> float:
    """FLOPs of what a single drop leaves to run."""
    return prefill([keep] * (NUM_LAYERS - max(layer, AT_INPUT)))


if __name__ == "__main__":
    main()
