"""Clusters and merge plan on the CPU: the torch reference against the literal loops, in time and in peak memory.

python benchmarks/selection_cpu.py --peak-of fast|literal prints the bytes that one run adds to the peak of a process.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import literal
import torch

from vitcop.plugins import ops

NUM_TOKENS, NUM_FEATURES, NUM_CENTERS, NUM_GROUPS = 576, 1024, 576 * 12 // 100, 288
CUTOFF, RADIUS = 40.0, 0.6
"""Random features of unit variance lie about 45 apart: with this cutoff their densities differ."""
THREADS, ROUNDS = 2, 7


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [K,D], grid positions [K,2] and scores [K] of one image."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.arange(24) / 24
    positions = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), dim=-1).view(NUM_TOKENS, 2)
    features = torch.randn(NUM_TOKENS, NUM_FEATURES, generator=generator)
    return features, positions, torch.rand(NUM_TOKENS, generator=generator)


def run_fast(features: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Assignment [R,K] by the public functions."""
    labels = ops.density_peak_clusters(
        features[None], positions[None], centers=(12, 100), cutoff_distance=CUTOFF, spatial_radius=RADIUS
    )
    index = torch.arange(NUM_TOKENS)[None]
    plan = ops.cluster_merge_plan(
        scores[None], labels, index, NUM_TOKENS, num_clusters=(12, 100), keep=(NUM_GROUPS, NUM_TOKENS)
    )
    return plan[3][0]


def run_literal(features: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The same by loops."""
    labels = literal.clusters(features, positions, NUM_CENTERS, CUTOFF, RADIUS)
    return literal.merge_groups(scores, labels, NUM_CENTERS, NUM_GROUPS)


FORMS = {"fast": run_fast, "literal": run_literal}


def status_bytes(name: str) -> int:
    """A line of this process's /proc status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def reset_peak() -> int:
    """Give freed memory back, forget the peak so far; the bytes that are resident now (Linux with glibc)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes(form: str) -> int:
    """What one run adds to the largest resident size, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--peak-of", form], capture_output=True, text=True, check=True)
    return int(done.stdout)


def measure() -> dict[str, Any]:
    """Medians of interleaved rounds, and ratios."""
    torch.set_num_threads(THREADS)
    tensors = inputs()
    if not torch.equal(run_fast(*tensors), run_literal(*tensors)):
        raise AssertionError("the two forms differ, so their times say nothing")
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(ROUNDS):
        for form, run in FORMS.items():
            start = perf_counter()
            run(*tensors)
            seconds[form].append(perf_counter() - start)
    ratios = [slow / fast for slow, fast in zip(seconds["literal"], seconds["fast"], strict=True)]
    peaks = {form: peak_bytes(form) for form in FORMS}
    return {
        "shape": {"K": NUM_TOKENS, "D": NUM_FEATURES, "C": NUM_CENTERS, "R": NUM_GROUPS, "threads": THREADS},
        "milliseconds": {form: 1e3 * statistics.median(times) for form, times in seconds.items()},
        "times_faster": statistics.median(ratios),
        "times_faster_least": min(ratios),
        "peak_bytes": peaks,
        "times_less_memory": peaks["literal"] / peaks["fast"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak-of", choices=FORMS)
    form = parser.parse_args().peak_of
    if form is None:
        print(json.dumps(measure(), indent=2))
        return
    torch.set_num_threads(THREADS)
    tensors = inputs()
    run_fast(*tensors)  # loads code and thread pools
    before = reset_peak()
    FORMS[form](*tensors)
    print(status_bytes("VmHWM") - before)


if __name__ == "__main__":
    main()
