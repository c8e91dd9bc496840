"""A stand-in for a real engine: PyTorch under a schedule a second time, from a model folder of its own, so that what
`verify` says about an engine can be tested without exporting one. Its bundle holds graphs that nobody runs.
"""

import json
from pathlib import Path

import numpy as np
from tiny_models import build_tiny_llava

from vitcop.calibrate.schedule.schedule import Drop, Schedule, VisionStage
from vitcop.export.bundle import Bundle, architecture_of, copy_processor_files, write_bundle, writing_bundle

NUM_LAYERS = 4
SCHEDULE = Schedule(
    num_layers=NUM_LAYERS,
    vision=VisionStage(score="class_attention", keep=(3, 4)),
    drops=(Drop(layer=1, keep=(2, 3)), Drop(layer=3, keep=(1, 2), score="text_query", order="largest")),
)
QUESTIONS = ("what color is this", "how many circle are there", "is the red square left of the blue circle", "count")


def build_model(folder: Path) -> Path:
    """A tiny LLaVA with random weights."""
    return build_tiny_llava(folder, layers=NUM_LAYERS)


def build_samples(folder: Path, count: int = 8) -> Path:
    """A JSONL file of questions in pairs about random images, with two subsets."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        name = f"{index // 2}.png"
        if index % 2 == 0:
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / name)
        question = QUESTIONS[index % len(QUESTIONS)]
        lines.append(
            {"id": f"q{index}", "images": [name], "prompt": question, "answer": "red", "subset": "ab"[index % 2]}
        )
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_twin_bundle(
    out: Path, model_dir: Path, schedule: Schedule = SCHEDULE, *, copy_weights: bool = False
) -> Bundle:
    """A bundle with processor, weights and manifest as they are, and empty graphs."""
    from transformers import AutoConfig

    from vitcop.calibrate.models.checkpoint import Checkpoint
    from vitcop.calibrate.models.families import family_of

    checkpoint = Checkpoint.open(model_dir)
    config = AutoConfig.from_pretrained(model_dir)
    family = family_of(config)
    with writing_bundle(out) as staging:
        for part in ("vision", "prefill", "decode"):
            (staging / f"{part}.onnx").write_bytes(b"")
        copy_processor_files(model_dir, staging)
        write_bundle(
            staging,
            out,
            schedule=schedule,
            architecture=architecture_of(config, family, model_dir, dtype="float32"),
            family=family.name,
            model_id=checkpoint.model_id,
            config_hash=checkpoint.config_hash,
            weights_folder=model_dir,
            shards=checkpoint.shards,
            ops=(),
            copy_weights=copy_weights,
        )
    return Bundle.open(out)


class TwinTarget:
    """A target whose engine is PyTorch; `schedule` and `change(model)` make it a wrong one."""

    name = "twin"
    dtype = "float32"

    def __init__(self, schedule: Schedule | None = None, change=None) -> None:
        self.schedule, self.change = schedule, change

    def runner(self, bundle, options=None):
        from vitcop.calibrate.models.checkpoint import Checkpoint
        from vitcop.calibrate.models.loading import load_model
        from vitcop.calibrate.run.scheduled import ScheduledRunner
        from vitcop.export.measure.layers import torch_kv

        dtype = self.dtype
        model, _, family = load_model(Checkpoint.open(bundle.weights_folder), dtype=dtype)
        if self.change:
            self.change(model)
        runner = ScheduledRunner(model, family, self.schedule or bundle.schedule, name="twin")
        runner.kv, runner.dtype = torch_kv, dtype
        return runner

    def selector_shares(self, bundle, batch, options=None):
        return {"vision": 0.25, "prefill": 0.5}

    def versions(self):
        return {}
