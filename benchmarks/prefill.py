"""How much of the speed-up that FLOPs promise a prefill really has: ONNX Runtime and PyTorch on the CPU, at the paper's
budgets, with the vision tower and the selector inside the timer.

    python benchmarks/prefill.py [--repeats 15] [--threads 2] [--budgets paper-1/3 …]

A LLaVA of middle size (benchmarks/midsize_llava.py): 576 visual and 64 other tokens, batch 1, fp32. All runners take
turns, so that what else the machine does falls on all of them; ratios are of medians. Writes results/prefill.json.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import midsize_llava as model
import numpy as np
import torch

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Runner
from vitcop.calibrate.run.scheduled import OriginalRunner, ScheduledRunner
from vitcop.calibrate.schedule.cost import DecoderShape, prefill_cost
from vitcop.calibrate.schedule.presets import preset
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import Bundle
from vitcop.export.compile import export_bundle
from vitcop.export.measure import machine_facts
from vitcop.export.runtimes.onnxruntime.runner import OnnxRuntimeRunner

HERE = Path(__file__).parent
BUDGETS = ("paper-1/3", "paper-2/9", "paper-1/9")
TEXT_TOKENS = 64


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    schedules = {name: preset(name, model.LAYERS, model.NUM_VISUAL) for name in ("none", *arguments.budgets)}
    with TemporaryDirectory() as folder:
        runners = open_runners(Path(folder), schedules, arguments.threads)
        batch = make_batch(runners[("torch", "original")].family)
        seconds = time_in_turns(runners, batch, arguments.repeats)
    rows = table(schedules, seconds)
    print(f"{'':<22}{'ms':>9}{'speed-up':>10}{'by FLOPs':>10}{'of it':>8}")
    for row in rows:
        print(
            f"{row['runtime'] + ' ' + row['schedule']:<22}{1000 * row['seconds']:>9.1f}{row['speedup']:>10.2f}"
            f"{row['flops_speedup']:>10.2f}{row['share']:>8.2f}"
        )
    ratio = median(seconds[("torch", "original")]) / median(seconds[("onnxruntime", "none")])
    print(f"unpruned: PyTorch takes {ratio:.2f} times as long as the engine")
    results = {
        "benchmark": "prefill",
        "machine": machine_facts(),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "tokens": {"visual": model.NUM_VISUAL, "text": TEXT_TOKENS},
        "torch_over_engine_unpruned": ratio,
        "rows": rows,
    }
    (HERE / "results" / "prefill.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


def open_runners(folder: Path, schedules: dict[str, Schedule], threads: int) -> dict[tuple[str, str], Runner]:
    """Every runner by (runtime, schedule)."""
    path = model.build(folder / "model")
    network, _, family = load_model(Checkpoint.open(path))
    runners: dict[tuple[str, str], Runner] = {("torch", "original"): OriginalRunner(network, family)}
    for name, schedule in schedules.items():
        bundle = Bundle.open(export_bundle(path, schedule, folder / name.replace("/", "-")))
        runners["onnxruntime", name] = OnnxRuntimeRunner(bundle, threads=threads)
        runners["torch", name] = ScheduledRunner(network, family, schedule)
    return runners


def make_batch(family) -> PromptBatch:
    """One prompt of 576 visual and 64 other tokens; its pixels are noise."""
    random = np.random.default_rng(0)
    words = random.integers(5, 90, TEXT_TOKENS).tolist()
    ids = [*words[:8], *[model.IMAGE_TOKEN] * model.NUM_VISUAL, *words[8:]]
    pixels = random.standard_normal((1, 3, model.IMAGE, model.IMAGE)).astype(np.float32)
    return family.batch([ids], 0, [{"pixel_values": pixels}])


def time_in_turns(
    runners: dict[tuple[str, str], Runner], batch: PromptBatch, repeats: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of whole prefills, vision tower included; the first two rounds warm up."""
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in runners}
    for turn in range(repeats + 2):
        for name, runner in runners.items():
            begun = perf_counter()
            runner.prefill(batch)
            if turn >= 2:
                seconds[name].append(perf_counter() - begun)
    return seconds


def flops(schedule: Schedule) -> int:
    """Tower, projector and language model for this prompt; selectors count for nothing."""
    shape = DecoderShape.from_config(model.config())
    counts = schedule.layer_counts(model.NUM_VISUAL)
    return model.vision_flops(counts[0]) + prefill_cost(shape, counts, TEXT_TOKENS).flops


def table(schedules: dict[str, Schedule], seconds: dict[tuple[str, str], list[float]]) -> list[dict]:
    """For each runtime and schedule: time, speed-up over the unpruned of that runtime, and what FLOPs promise."""
    rows = []
    for (runtime, name), times in seconds.items():
        plain = seconds[runtime, "none"]
        promised = flops(schedules["none"]) / flops(schedules.get(name, schedules["none"]))
        speedup = median(plain) / median(times)
        rows.append(
            {
                "runtime": runtime,
                "schedule": name,
                "seconds": median(times),
                "quartiles": np.quantile(times, [0.25, 0.75]).tolist(),
                "speedup": speedup,
                "flops_speedup": promised,
                "share": speedup / promised,
            }
        )
    return rows


if __name__ == "__main__":
    main()
