"""Tiny models for TensorRT-LLM packages: their bundles and schedules."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llava_next_cases import build_llava_next
from llava_onevision_cases import build_llava_onevision
from qwen2_5_vl_cases import build as build_qwen2_5_vl
from qwen3_vl_cases import build as build_qwen3_vl

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.export.bundle import Bundle, architecture_of, copy_processor_files, write_bundle, writing_bundle
from vitcop.export.runtimes.base import EngineInfo
from vitcop.export.runtimes.tensorrt_llm import VisionSide

BUILDERS = {
    "qwen2_5_vl": partial(build_qwen2_5_vl, depth=2, full=(1,)),
    "qwen3_vl": partial(build_qwen3_vl, depth=2),
    "llava_next": build_llava_next,
    "llava_onevision": build_llava_onevision,
}


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """One model, its bundle and its package."""

    model: Any
    processor: Any
    family: Any
    bundle: Bundle
    engine: EngineInfo
    side: VisionSide

    @property
    def folder(self) -> Path:
        """trtllm/."""
        return self.engine.path / "trtllm"


def schedule_of(kind: str, layers: int, score: str) -> Schedule:
    """ "selecting": a vision stage and drops; "merging": every stage at once."""
    if kind == "selecting":
        vision, drops = VisionStage(score=score, keep=(3, 4)), (Drop(layer=1, keep=(1, 2)), Drop(layer=2, keep=(1, 2)))
    else:
        vision = VisionStage(score=score, keep=(2, 3), clusters=Clusters(centers=(3, 10)))
        drops = (Drop(layer=1, op="merge", keep=(1, 2)),)
    return Schedule(num_layers=layers, vision=vision, drops=drops)


def bundle_without_graphs(folder: Path, schedule: Schedule, family: Any, out: Path) -> Bundle:
    """A bundle whose graphs are empty files: packaging reads none of them, and exporting them takes its time."""
    checkpoint = Checkpoint.open(folder)
    with writing_bundle(out) as staging:
        for name in ("vision.onnx", "prefill.onnx", "decode.onnx"):
            (staging / name).touch()
        copy_processor_files(folder, staging)
        write_bundle(
            staging,
            out,
            schedule=schedule,
            architecture=architecture_of(family.config, family, folder, dtype="float32"),
            family=family.name,
            model_id=checkpoint.model_id,
            config_hash=checkpoint.config_hash,
            weights_folder=folder,
            shards=checkpoint.shards,
            ops=(),
        )
    return Bundle.open(out)
