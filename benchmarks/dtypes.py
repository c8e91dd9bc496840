"""What half precision changes: kept tokens and answers of the embedded model in fp16 and bf16 against fp32, in PyTorch.

    python benchmarks/dtypes.py [--samples 96]

Scores are computed in fp32 from keys and queries of the model's type, so what differs is what the model itself rounds.
Writes results/dtypes.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vitcop.calibrate.data.samples import batches, load_samples
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.models.prompt import PromptBatch
from vitcop.calibrate.run.runner import Prefill
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.presets import preset
from vitcop.export.measure import machine_facts

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "shapes_vqa"
SCHEDULES = ("paper-1/3", "paper-1/9")


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=96)
    arguments = parser.parse_args()
    checkpoint = Checkpoint.open(EXAMPLE / "model")
    prompts = make_prompts(checkpoint, arguments.samples)
    found = {dtype: prefills(checkpoint, dtype, prompts) for dtype in ("float32", "float16", "bfloat16")}
    rows = []
    print(f"{'dtype':<10}{'schedule':<11}{'stage':<14}{'tokens in common':>17}{'equal rows':>12}{'same answer':>13}")
    for dtype in ("float16", "bfloat16"):
        for name in SCHEDULES:
            for row in compare(found[dtype][name], found["float32"][name]):
                rows.append({"dtype": dtype, "schedule": name, **row})
                print(
                    f"{dtype:<10}{name:<11}{row['stage']:<14}{row['common']:>17.4f}{row['equal_rows']:>12.4f}"
                    f"{row['same_first_token']:>13.4f}"
                )
    results = {"benchmark": "dtypes", "machine": machine_facts(), "samples": arguments.samples, "rows": rows}
    (HERE / "results" / "dtypes.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


def make_prompts(checkpoint: Checkpoint, count: int) -> list[PromptBatch]:
    """Evaluation questions of the embedded example, in batches of 16."""
    _, processor, family = load_model(checkpoint)
    with TemporaryDirectory() as folder:
        sizes = ("--calibration", "4", "--selection", "4", "--evaluation", str(count))
        subprocess.run([sys.executable, EXAMPLE / "generate.py", "--out", folder, *sizes], check=True)
        samples = load_samples(Path(folder) / "evaluation.jsonl")
        return [batch for _, batch in batches(samples, processor, family, 16)]


def prefills(checkpoint: Checkpoint, dtype: str, prompts: list[PromptBatch]) -> dict[str, list[Prefill]]:
    """Each schedule's prefills of all prompts."""
    model, _, family = load_model(checkpoint, dtype=dtype)
    made = {}
    for name in SCHEDULES:
        runner = ScheduledRunner(model, family, preset(name, family.num_layers, family.num_visual))
        made[name] = [runner.prefill(batch) for batch in prompts]
    return made


def compare(half: list[Prefill], full: list[Prefill]) -> list[dict]:
    """For each stage the share of kept original tokens in common, of rows that kept the same, and of equal answers."""
    answers = np.concatenate([a.logits.argmax(1) == b.logits.argmax(1) for a, b in zip(half, full, strict=True)])
    rows = []
    for stage in range(1 + len(full[0].drops)):
        common, equal = [], []
        for a, b in zip(half, full, strict=True):
            for mine, theirs in zip(original_tokens(a)[stage], original_tokens(b)[stage], strict=True):
                common.append(len(np.intersect1d(mine, theirs)) / len(theirs))
                equal.append(np.array_equal(mine, theirs))
        stage_name = "vision tower" if stage == 0 else f"drop {stage - 1}"
        rows.append(
            {
                "stage": stage_name,
                "common": float(np.mean(common)),
                "equal_rows": float(np.mean(equal)),
                "same_first_token": float(answers.mean()),
            }
        )
    return rows


def original_tokens(prefill: Prefill) -> list[np.ndarray]:
    """int64 [B,K] of each stage: which of the image's tokens are left (of a merged one: at whose place it stands)."""
    present = [prefill.vision.kept_visual]
    for drop in prefill.drops:
        present.append(np.take_along_axis(present[-1], drop.kept_visual, axis=1))
    return present


if __name__ == "__main__":
    main()
