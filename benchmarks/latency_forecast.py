"""How well a cost table forecasts the prefill time of schedules that it was not fitted on, ONNX Runtime on the CPU.

    python benchmarks/latency_forecast.py [--models midsize shapes] [--trials 8] [--threads 2] [--cpu-time]

Two models: a LLaVA of middle size (benchmarks/midsize_llava.py) and the embedded example. Trials are drawn at random;
each is timed in turns with the unpruned engine, as all probes are. --cpu-time counts the processor time of the process
on one thread instead of the time on the clock, for machines with other work. Writes results/latency_forecast.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import midsize_llava

from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.schedule.latency import CostTable
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import Bundle
from vitcop.export.compile import export_bundle
from vitcop.export.measure import machine_facts
from vitcop.export.measure.cost_table import measure_cost_table
from vitcop.export.runtimes.onnxruntime import runner
from vitcop.pipeline.console import Console
from vitcop.pipeline.steps.cost_table import trial_table

OUT = Path(__file__).parent / "results"
EXAMPLE = Path(__file__).parent.parent / "examples" / "shapes_vqa"
MODELS = {
    "midsize": (midsize_llava.build, midsize_llava.LAYERS),
    "shapes": (lambda _: EXAMPLE / "model", 8),
}
"""By name: what makes the model folder, and its number of decoder layers."""


def main() -> None:
    """Print each model's trials and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        arguments.threads = 1
        runner.perf_counter = process_time
    rows = {}
    for name in arguments.models:
        with TemporaryDirectory() as folder:
            table = measure(name, Path(folder), arguments)
        rows[name] = row(table)
        print(f"{name}\n{trial_table(table)}\n", flush=True)
    results = {
        "benchmark": "latency_forecast",
        "machine": machine_facts(),
        "clock": "processor time" if arguments.cpu_time else "wall time",
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "models": rows,
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "latency_forecast.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


def measure(name: str, work: Path, arguments: argparse.Namespace) -> CostTable:
    """The cost table of one model, on a question of the embedded example."""
    build, layers = MODELS[name]
    sizes = ("--calibration", "1", "--selection", "1", "--evaluation", "4")
    subprocess.run([sys.executable, EXAMPLE / "generate.py", "--out", work / "data", *sizes], check=True)
    bundle = Bundle.open(export_bundle(build(work / "model"), Schedule(num_layers=layers), work / "none"))
    with Console().progress() as progress:
        return measure_cost_table(
            bundle,
            load_samples(work / "data" / "evaluation.jsonl"),
            options={"threads": arguments.threads},
            trials=arguments.trials,
            repeats=arguments.repeats,
            seed=arguments.seed,
            progress=progress,
        )


def row(table: CostTable) -> dict[str, Any]:
    """What is kept of one model."""
    data = json.loads(table.to_json())
    return {
        "tokens": {"visual": table.visual_tokens, "text": table.text_tokens},
        "errors": data["errors"],
        "trials": data["trials"],
        "milliseconds": {name: 1e3 * seconds for name, seconds in table.coefficients.items()},
    }


if __name__ == "__main__":
    main()
