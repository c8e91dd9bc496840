"""A model folder, samples and a recipe small enough for tests that run no model; and stages that only write files."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vitcop.calibrate.core.partial import write_text
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.pipeline.stages import STAGES, Stage, StageRun

NUM_LAYERS = 4
CONFIG = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_token_id": 4,
    "vision_feature_layer": -2,
    "text_config": {
        "model_type": "llama",
        "num_hidden_layers": NUM_LAYERS,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 32,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "image_size": 32,
        "patch_size": 8,
        "num_channels": 3,
        "num_hidden_layers": 3,
    },
}


def write_model(folder: Path, *, config: dict | None = None) -> Path:
    """A folder that passes as a checkpoint: config.json and one safetensors file of one tensor."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


def write_samples(file: Path, *, count: int = 3, rows: list[dict] | None = None) -> Path:
    """A sample file with its images."""
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    if rows is None:
        rows = []
        for i in range(count):
            image = f"images/{file.stem}-{i}.png"
            Image.new("RGB", (32, 32), (40 * i, 10 * len(file.stem), 200)).save(file.parent / image)
            rows.append(
                {
                    "id": f"{file.stem}-{i}",
                    "images": [image],
                    "prompt": "what color is it?",
                    "answer": "blue",
                    "subset": "color",
                }
            )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


class FakeStages:
    """The real stage table with stages that write small files. `ran` lists them as they run; `fail` makes one raise."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.passed = True
        self.table: tuple[Stage, ...] = tuple(replace(stage, run=self._runner(stage)) for stage in STAGES)

    def _runner(self, stage: Stage) -> Callable[[StageRun], None]:
        def run(context: StageRun) -> None:
            self.ran.append(stage.name)
            for i, output in enumerate(stage.outputs):
                if i == len(stage.outputs) - 1 and stage.name in self.fail:
                    raise self.fail[stage.name]
                self._write(stage.name, context.target(output.path), output.path, context)

        return run

    def _write(self, stage: str, target: Path, name: str, context: StageRun) -> None:
        if name == "schedule.json":
            seed = context.recipe.calibrate.seed
            write_text(target, Schedule(num_layers=NUM_LAYERS, provenance={"seed": seed}).to_json())
        elif name == "bundle":
            target.mkdir(exist_ok=True)
            write_text(target / "manifest.json", f"{context.recipe.export.copy_weights}")
        elif name == "bundle/engines":
            (target / "onnxruntime" / "0").mkdir(parents=True, exist_ok=True)
            write_text(target / "onnxruntime" / "0" / "engine.json", "{}")
        elif name == "verify.json":
            write_text(target, json.dumps({"passed": self.passed}))
        else:
            write_text(target, json.dumps({"stage": stage}))


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their bytes, leaving out our own."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".vitcop" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
