"""Tiny models packaged for TensorRT-LLM once a session, and stand-ins for the few names of it that the packages use."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))

from llm_cases import BUILDERS, Packaged, bundle_without_graphs, schedule_of
from llm_stand_ins import stand_in_modules

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.export.runtimes import open_target
from vitcop.export.runtimes.tensorrt_llm import vision_side


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


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
