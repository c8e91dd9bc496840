"""A project on disk that the real command line can run, and the ways in which the tests call it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUESTIONS = (
    "what color is the circle?",
    "what shape is this?",
    "is there a small red triangle in the image on the left?",
    "how many are there?",
)

RECIPE = """
model: model
data:
  calibration: data/calibration.jsonl
  selection: data/selection.jsonl
  evaluation: data/evaluation.jsonl
calibrate:
  budget: 3/4
  search:
    batch_size: 4
    max_new_tokens: 3
    keep_counts: 2
    rungs: [0.5, 1]
    forecast_sets: 3
    generations: 1
    generation_size: 2
    finalists: 2
    curve_sets: 2
    head_reductions: [mean_key]
    cutoff_quantiles: [null]
    curve_budgets: [3/4]
verify:
  batch_size: 4
  max_new_tokens: 3
bench:
  enabled: false
report:
  title: Micro
  overlays: 1
"""

COMMAND = (sys.executable, "-m", "vitcop.pipeline.cli")


@dataclass(frozen=True)
class Project:
    """Where the parts of the project lie."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def samples(self) -> Path:
        """The evaluation samples."""
        return self.root / "data" / "evaluation.jsonl"

    def image(self, number: int) -> Path:
        return self.root / "data" / "images" / f"evaluation-{number}.png"


@dataclass(frozen=True)
class Finished:
    """A run that ended: its folder, what it printed with --json, and its stderr."""

    out: Path
    told: dict[str, Any]
    stderr: str

    def seconds(self, stage: str) -> float:
        """How long a stage took."""
        return next(step["seconds"] for step in self.told["stages"] if step["stage"] == stage)


def write_project(root: Path) -> Project:
    """data/ and recipe.yaml beside model/."""
    stream = np.random.default_rng(0)
    (root / "data" / "images").mkdir(parents=True)
    for split, count in (("calibration", 4), ("selection", 4), ("evaluation", 5)):
        rows = []
        for i in range(count):
            image = f"images/{split}-{i}.png"
            squares = Image.fromarray(stream.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            squares.resize((32, 32), Image.Resampling.NEAREST).save(root / "data" / image)
            question = QUESTIONS[i % len(QUESTIONS)]
            rows.append({"id": f"{split}-{i}", "images": [image], "prompt": question, "answer": "red"})
        (root / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "recipe.yaml").write_text(RECIPE)
    return Project(root)


def environment() -> dict[str, str]:
    """One thread each: the tests share a small machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def vitcop(*args: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, args)], capture_output=True, text=True, env=environment(), timeout=timeout
    )


def stages_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What `vitcop run --json` says it did: action by stage."""
    return {step["stage"]: step["action"] for step in json.loads(done.stdout)["stages"]}


def is_temporary(relative: Path) -> bool:
    """Whether a path in an output folder has a temporary name somewhere: those begin with a dot."""
    parts = relative.parts[1:] if relative.parts[0] == ".vitcop" else relative.parts
    return any(part.startswith(".") for part in parts)


def files_of(out: Path) -> dict[str, bytes]:
    """All files of an output folder under final names. Left out: the lock (a process id) and the digests remembered by
    modification time."""
    found = {path.relative_to(out): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {
        relative.as_posix(): path.read_bytes()
        for relative, path in found.items()
        if not is_temporary(relative) and relative.as_posix() not in (".vitcop/lock", ".vitcop/digests.json")
    }
