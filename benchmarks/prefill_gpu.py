"""How much of the speed-up that a card's roofline allows a prefill really has: LLaVA-1.5-7B in bf16 on a GPU, PyTorch
under CUDA graphs, unpruned and at the paper's budgets, with batch 1 and 8.

    python benchmarks/prefill_gpu.py [--repeats 30] [--batches 1 8] [--budgets paper-1/3 …] [--smoke]

576 visual and 64 other tokens, random weights, noise for pixels. Vision tower, projector, selectors and language
model are inside the timer, as one CUDA graph for each schedule and batch size; the eager time and the peak memory of
the eager run stand beside it. At batch 1 and small budgets reading the weights bounds the time, so FLOPs promise too
much: the yardstick is benchmarks/roofline.py, with the card's peaks measured in the same run. The goal is 0.8 of the
speed-up that it allows.

The unpruned model scores its patches too (one small kernel), and PyTorch runs the tower's last layer and the projector
for all patches, which the roofline leaves out. Without the kernels (`make kernels`) the references run, which wait for
the device, so there is no graph. `--smoke` runs tiny shapes, on a CPU too, to see that all of it works; its times mean
nothing, so it asks for $OUT. Writes prefill_gpu.json to $OUT, or else to benchmarks/results.
"""

import argparse
import gc
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import sparse_checkpoint as published
import torch
from roofline import Peaks, prefill_work, roofline_seconds

from vitcop.calibrate.models.families import family_of
from vitcop.calibrate.run.device_inputs import PromptTensors, VisionTensors
from vitcop.calibrate.run.original import cache_bytes
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.presets import preset
from vitcop.export.measure import machine_facts
from vitcop.plugins.cuda import library

RESULTS = Path(__file__).parent / "results"
OUT = Path(os.environ.get("OUT", RESULTS))
BUDGETS = ("paper-1/3", "paper-2/9", "paper-1/9")
TEXT_TOKENS = 64
GOAL = 0.8
"""Share of the roofline's speed-up that is wanted."""


@dataclass(frozen=True)
class Setting:
    """What is measured and on what; `matrix` is the side of the matrices and `copy` the bytes that the peaks are
    measured with."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    warmup: int
    matrix: int
    copy: int

    @property
    def has_graphs(self) -> bool:
        return self.device.type == "cuda" and library.load() is not None


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not arguments.smoke:
        parser.error("no GPU that torch can use; --smoke runs tiny shapes on the CPU")
    if arguments.smoke and OUT == RESULTS:
        parser.error("--smoke measures nothing worth keeping: set OUT to another folder than benchmarks/results")
    if arguments.smoke:
        setting = Setting(device, torch.float32, 3, 1, matrix=256, copy=1 << 20)
    else:
        setting = Setting(device, torch.bfloat16, arguments.repeats, 5, matrix=8192, copy=1 << 31)
    config = tiny_config() if arguments.smoke else published_config()
    rows, peaks = measure(config, setting, ["none", *arguments.budgets], arguments.batches)
    print(table(rows))
    results = {
        "benchmark": "prefill_gpu",
        "smoke": arguments.smoke,
        "machine": machine_facts() | {"gpu": torch.cuda.get_device_name() if device.type == "cuda" else None},
        "kernels": device.type == "cuda" and library.load() is not None,
        "dtype": str(setting.dtype).removeprefix("torch."),
        "repeats": setting.repeats,
        "tokens": {"visual": family_of(config).num_visual, "text": TEXT_TOKENS},
        "peaks": {"flops_per_second": peaks.flops, "bytes_per_second": peaks.bytes},
        "goal": GOAL,
        "rows": rows,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "prefill_gpu.json").write_text(json.dumps(results, indent=2, sort_keys=True, allow_nan=False) + "\n")


# -- the model and its prompts -----------------------------------------------------------------------------------------


def published_config() -> Any:
    """The config of LLaVA-1.5-7B."""
    from transformers import LlavaConfig

    return LlavaConfig.from_dict(published._config())


def tiny_config() -> Any:
    """Eight layers and 64 visual tokens, for a look at the program itself."""
    from transformers import LlavaConfig

    config = published._config()
    text = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 8, "vocab_size": 128}
    config["text_config"] |= text | {"num_attention_heads": 4, "num_key_value_heads": 4}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config["vision_config"] |= vision | {"image_size": 64, "patch_size": 8, "projection_dim": 32}
    return LlavaConfig.from_dict(config)


def build_model(config: Any, setting: Setting) -> Any:
    """Random weights, made on the device."""
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(setting.dtype)
    try:
        with setting.device:
            return LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def inputs_of(model: Any, family: Any, num_prompts: int) -> tuple[PromptTensors, VisionTensors]:
    """Prompts of one image and other tokens around it, on the device."""
    random = np.random.default_rng(num_prompts)
    side = family.image_size
    ids, media = [], []
    for words in random.integers(5, 90, (num_prompts, TEXT_TOKENS)).tolist():
        ids.append([*words[:8], *[family.image_token] * family.num_visual, *words[8:]])
        media.append({"pixel_values": random.standard_normal((1, 3, side, side)).astype(np.float32)})
    batch = family.batch(ids, 0, media)
    vision = VisionTensors.of(batch, family.visual_tokens, model.device, model.dtype)
    return PromptTensors.of(batch, model.device), vision


# -- the timers --------------------------------------------------------------------------------------------------------


def seconds_of(body: Callable[[], Any], setting: Setting) -> list[float]:
    """Time of each of some calls, by CUDA events where there is a GPU; the first calls warm up."""
    times = []
    for turn in range(setting.warmup + setting.repeats):
        if setting.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            body()
            end.record()
            end.synchronize()
            passed = 1e-3 * start.elapsed_time(end)
        else:
            begun = perf_counter()
            body()
            passed = perf_counter() - begun
        if turn >= setting.warmup:
            times.append(passed)
    return times


def measure_peaks(setting: Setting) -> Peaks:
    """The best that a large matrix product and a large copy reach."""
    side = setting.matrix
    a, b = (torch.randn(side, side, device=setting.device, dtype=setting.dtype) for _ in range(2))
    product = torch.empty_like(a)
    flops = 2 * side**3 / min(seconds_of(lambda: torch.matmul(a, b, out=product), setting))
    source = torch.ones(setting.copy, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return Peaks(flops, 2 * setting.copy / min(seconds_of(lambda: target.copy_(source), setting)))


def captured(body: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A CUDA graph of `body` and what its replays write."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            body()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        output = body()
    return graph, output


# -- the measurement ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def measure(config: Any, setting: Setting, names: list[str], batches: list[int]) -> tuple[list[dict], Peaks]:
    """One row for each batch size and schedule, the unpruned first, and the peaks that the rooflines are of."""
    # Before the model, which may leave too little memory for them.
    peaks = measure_peaks(setting)
    model, family = build_model(config, setting), family_of(config)
    rows = []
    for num_prompts in batches:
        inputs = inputs_of(model, family, num_prompts)
        for name in names:
            schedule = preset(name, family.num_layers, family.num_visual)
            runner = ScheduledRunner(model, family, schedule)
            sizes = {"batch": num_prompts, "num_visual": family.num_visual, "num_text": TEXT_TOKENS}
            work = prefill_work(config, schedule, **sizes, value_bytes=setting.dtype.itemsize)
            row = {"schedule": name, "batch": num_prompts, "roofline_seconds": roofline_seconds(work, peaks)}
            row |= {"flops": sum(layer.flops for layer in work), **run_one(runner, inputs, setting)}
            rows.append(row)
        plain = next(row for row in rows if row["batch"] == num_prompts)
        for row in rows:
            if row["batch"] == num_prompts:
                row |= compared(row, plain)
    return rows, peaks


def run_one(runner: ScheduledRunner, inputs: tuple[PromptTensors, VisionTensors], setting: Setting) -> dict[str, Any]:
    """Times and memory of one schedule and batch."""

    def body() -> Any:
        return runner.forward(*inputs)

    gc.collect()
    on_gpu = setting.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    found = body()
    expected, kv_bytes = found.logits.clone(), cache_bytes(found.state.cache)
    del found
    result: dict[str, Any] = {"kv_bytes": kv_bytes, "peak_bytes": None, "peak_bytes_without_weights": None}
    if on_gpu:
        peak = torch.cuda.max_memory_allocated()
        result |= {"peak_bytes": peak, "peak_bytes_without_weights": peak - before}
    result["eager"] = summary(seconds_of(body, setting))
    result |= {"graph": None, "graph_logits_difference": None}
    if setting.has_graphs:
        graph, output = captured(body)
        result["graph"] = summary(seconds_of(graph.replay, setting))
        difference = float((output.logits - expected).abs().max())
        # JSON has no word for what random weights might overflow to.
        result["graph_logits_difference"] = difference if isfinite(difference) else str(difference)
    return result


def summary(times: list[float]) -> dict[str, Any]:
    """Median and quartiles in seconds."""
    return {"median": median(times), "quartiles": np.quantile(times, [0.25, 0.75]).tolist()}


def compared(row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Speed-ups over the unpruned run of the same batch: as measured (of graphs where there are graphs), by the
    roofline and by FLOPs alone, and the share of the roofline's that was reached."""
    kind = "eager" if row["graph"] is None else "graph"
    speedup = plain[kind]["median"] / row[kind]["median"]
    allowed = plain["roofline_seconds"] / row["roofline_seconds"]
    return {
        "timed": kind,
        "speedup": speedup,
        "roofline_speedup": allowed,
        "flops_speedup": plain["flops"] / row["flops"],
        "share": speedup / allowed,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text: times in ms, memory in MB."""
    lines = [
        f"{'batch':>5} {'schedule':<12}{'graph':>9}{'eager':>9}{'roofline':>10}{'speed-up':>10}{'allowed':>9}"
        f"{'share':>7}{'KV':>9}{'peak':>9}"
    ]
    for row in rows:
        graph = "-" if row["graph"] is None else f"{1e3 * row['graph']['median']:.2f}"
        peak = "-" if row["peak_bytes"] is None else f"{1e-6 * row['peak_bytes']:.0f}"
        lines.append(
            f"{row['batch']:>5} {row['schedule']:<12}{graph:>9}{1e3 * row['eager']['median']:>9.2f}"
            f"{1e3 * row['roofline_seconds']:>10.3f}{row['speedup']:>10.2f}{row['roofline_speedup']:>9.2f}"
            f"{row['share']:>7.2f}{1e-6 * row['kv_bytes']:>9.2f}{peak:>9}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
