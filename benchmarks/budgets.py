"""The embedded model on ONNX Runtime at the paper's budgets, the unpruned engine and PyTorch, each pair in one run.

python benchmarks/budgets.py [--batch-size 1] [--repeats 30]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from vitcop.calibrate.data.samples import load_samples
from vitcop.calibrate.schedule.presets import preset
from vitcop.export.bundle import Bundle
from vitcop.export.compile import export_bundle
from vitcop.export.measure import bench

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "shapes_vqa"
BUDGETS = ("paper-1/3", "paper-2/9", "paper-1/9")
LAYERS, NUM_VISUAL = 8, 144


def main() -> None:
    """Print the table and write results/budgets.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        work = Path(folder)
        sizes = ("--calibration", "4", "--selection", "4", "--evaluation", "16")
        subprocess.run([sys.executable, EXAMPLE / "generate.py", "--out", work / "data", *sizes], check=True)
        samples = load_samples(work / "data" / "evaluation.jsonl")
        unpruned = _bundle("none", work)
        rows = {}
        for name in BUDGETS:
            measured = bench(
                _bundle(name, work),
                samples,
                unpruned=unpruned,
                batch_size=arguments.batch_size,
                repeats=arguments.repeats,
                max_new_tokens=4,
            )
            rows[name] = measured.to_dict()
            print(f"{name}\n{measured.summary()}\n")
    (HERE / "results" / "budgets.json").write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n")


def _bundle(name: str, work: Path) -> Bundle:
    out = work / name.replace("/", "-")
    export_bundle(EXAMPLE / "model", preset(name, LAYERS, NUM_VISUAL), out)
    return Bundle.open(out)


if __name__ == "__main__":
    main()
