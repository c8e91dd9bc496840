"""What a worker costs: until it has its first result, and for each unit besides the work itself.

    python benchmarks/workers.py [--ray] [--out FILE]

The least of several, kinds in turns; a unit here is about what crosses for one measured schedule. On a machine with
other work the seconds are longer, which is why the CPU seconds of worker processes are told too.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.schedule.presets import preset
from vitcop.calibrate.work.executors import Executor, Factory, InProcess, Json, Processes, Ray
from vitcop.calibrate.work.job import Job

MODEL = Path(__file__).parent.parent / "examples" / "shapes_vqa" / "model"
NUM_UNITS = 500
REPEATS = 3


class Echo:
    """Does no work: answers with as many numbers as a part of 64 samples has losses."""

    def perform(self, unit: Json) -> Json:
        return {"kl": [0.123456789] * 64, "ids": [f"sample-{i}" for i in range(64)]}


def make_echo() -> Echo:
    """For the factory."""
    return Echo()


def units(count: int) -> list[Json]:
    """As large as a unit that measures a schedule."""
    schedule = json.loads(preset("paper-1/3", 32, 576).to_json())
    return [{"key": f"unit-{i}", "kind": "losses", "schedule": schedule, "part": "0" * 64} for i in range(count)]


def first_result(open_executor: Callable[[], Executor]) -> tuple[float, float]:
    """From nothing to the first result of a new worker, its end included: (seconds, CPU seconds of ended children)."""
    begun, before = time.perf_counter(), os.times()
    with open_executor() as executor:
        list(executor.map(units(1)))
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begun, spent


def per_unit(open_executor: Callable[[], Executor]) -> tuple[float, float]:
    """For a unit without work, once the worker is there: (seconds, CPU seconds of this process)."""
    given = units(NUM_UNITS)
    with open_executor() as executor:
        list(executor.map(given[:1]))
        wall, spent = [], []
        for _ in range(REPEATS):
            begun, before = time.perf_counter(), time.process_time()
            list(executor.map(given))
            wall.append(time.perf_counter() - begun)
            spent.append(time.process_time() - before)
    return min(wall) / NUM_UNITS, min(spent) / NUM_UNITS


def measure(*, ray: bool) -> dict[str, float]:
    """All numbers, in seconds."""
    echo = Factory(module=Path(__file__).stem, function="make_echo")
    job = Job.of(Checkpoint.open(MODEL), CalibrationSettings(), [])
    loading = Factory(module=Path(__file__).stem, function="make_loaded", arguments=job.factory().arguments)
    kinds: dict[str, Callable[[], Executor]] = {
        "a worker process, nothing to load": lambda: Processes(echo, 1),
        "a worker process with torch, transformers and the embedded model": lambda: Processes(loading, 1),
    }
    if ray:
        kinds["a local Ray and one actor, nothing to load"] = lambda: Ray(echo, 1)
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(REPEATS):
        for name, open_executor in kinds.items():
            starts[name].append(first_result(open_executor))
    found = {f"first result of {name}": min(wall for wall, _ in values) for name, values in starts.items()}
    # A Ray's processes are nobody's children when they end.
    processes = {name: values for name, values in starts.items() if "process" in name}
    found |= {f"CPU of {name}": min(spent for _, spent in values) for name, values in processes.items()}
    executors: dict[str, Callable[[], Executor]] = {
        "in this process": lambda: InProcess(echo),
        "by a worker process": lambda: Processes(echo, 1),
    }
    if ray:
        executors["by a Ray actor"] = lambda: Ray(echo, 1)
    for name, open_executor in executors.items():
        wall, spent = per_unit(open_executor)
        found |= {f"for each unit {name}": wall, f"CPU of this process for each unit {name}": spent}
    return found


def make_loaded(**arguments: object) -> Echo:
    """Loads the model as a worker of a calibration does, and then does no work."""
    from vitcop.calibrate.work.units import make_performer

    echo = Echo()
    echo.held = make_performer(**arguments)
    return echo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ray", action="store_true", help="measure a local Ray too (needs vitcop[ray])")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    chosen = parser.parse_args()
    found = measure(ray=chosen.ray)
    for name, seconds in found.items():
        text = f"{seconds:.2f} s" if seconds > 0.1 else f"{seconds * 1e3:.2f} ms"
        print(f"{name}: {text}")
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"written: {chosen.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
