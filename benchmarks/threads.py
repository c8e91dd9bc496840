"""Do results depend on how many threads torch computes with? Losses of the embedded model with several numbers.

    python benchmarks/threads.py --samples calibration.jsonl [--limit 32] [--threads 1 2 3 1]

Equal digests are equal bits.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

from vitcop.calibrate.data.samples import Sample, load_samples
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.schedule.presets import preset
from vitcop.calibrate.work.executors import InProcess
from vitcop.calibrate.work.job import Job
from vitcop.calibrate.work.units import losses_unit

MODEL = Path(__file__).parent.parent / "examples" / "shapes_vqa" / "model"
LAYERS, NUM_VISUAL = 8, 144


def losses(samples: list[Sample], threads: int) -> list[list[float]]:
    """KL of each sample under the paper's presets."""
    job = Job.of(Checkpoint.open(MODEL), CalibrationSettings(max_new_tokens=4), [samples], threads=threads)
    (part,) = job.parts
    schedules = [preset(name, LAYERS, NUM_VISUAL) for name in ("paper-1/3", "paper-2/9", "paper-1/9")]
    units = [losses_unit(job.base, schedule, part) for schedule in schedules]
    return [result["kl"] for _, result in InProcess(job.factory()).map(units)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 3, 1])
    chosen = parser.parse_args()
    samples = load_samples(chosen.samples, limit=chosen.limit)
    for threads in chosen.threads:
        begun = time.perf_counter()
        found = losses(samples, threads)
        digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]
        mean = sum(map(sum, found)) / sum(map(len, found))
        print(f"{threads} threads: losses {digest}, mean {mean:.12f}, {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
