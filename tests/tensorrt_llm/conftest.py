"""Tiny models packaged for TensorRT-LLM once a session, and stand-ins for the few names of it that the packages use."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))

from llava_next_cases import build_llava_next
from qwen2_5_vl_cases import build as build_qwen2_5_vl
from qwen3_vl_cases import build as build_qwen3_vl
from stand_ins import stand_in_modules

from vitcop.calibrate.checkpoint import Checkpoint
from vitcop.calibrate.loading import load_model
from vitcop.calibrate.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.export.bundle import Bundle, architecture_of, copy_processor_files, write_bundle, writing_bundle
from vitcop.export.runtimes import open_target
from vitcop.export.runtimes.base import EngineInfo
from vitcop.export.runtimes.tensorrt_llm import VisionSide, vision_side

BUILDERS = {
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "llava_next": build_llava_next,
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


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


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
        )
    return Bundle.open(out)


@pytest.fixture(scope="session")
def packaged(tmp_path_factory):
    """(family, kind) -> a package of that family's tiny model, made when it is first asked for."""
    made: dict[tuple[str, str], Packaged] = {}

    def make(family: str, kind: str) -> Packaged:
        if (family, kind) not in made:
            home = tmp_path_factory.mktemp(family)
            folder = BUILDERS[family](home / "model")
            model, processor, bound = load_model(Checkpoint.open(folder))
            schedule = schedule_of(kind, bound.num_layers, bound.vision_scores[0])
            bundle = bundle_without_graphs(folder, schedule, bound, home / "bundle")
            engine = open_target("tensorrt-llm").build(bundle)
            side = vision_side(schedule, vision_score=bound.vision_scores[0])
            made[family, kind] = Packaged(
                model=model, processor=processor, family=bound, bundle=bundle, engine=engine, side=side
            )
        return made[family, kind]

    return make


@pytest.fixture
def imported(monkeypatch):
    """Import the packages of a `trtllm/` folder, with stand-ins for TensorRT-LLM; gone afterwards."""

    def load(folder: Path) -> dict[str, ModuleType]:
        for name in [name for name in sys.modules if name.split(".")[0] in ("vitcop_vision", "vitcop_model")]:
            monkeypatch.delitem(sys.modules, name)
        stand_ins = stand_in_modules()
        for name, module in stand_ins.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        return stand_ins

    yield load
    for name in [name for name in sys.modules if name.split(".")[0] in ("vitcop_vision", "vitcop_model")]:
        del sys.modules[name]
