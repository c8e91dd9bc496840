"""Bundles that the tests of half precision share, each exported once."""

import sys
from pathlib import Path

import pytest
import torch
from tensorrt_checks import checked

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))

from export_cases import PAPER, Exported

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.schedule.presets import preset
from vitcop.export.bundle import Bundle
from vitcop.export.compile import export_bundle

SHAPES = Path(__file__).parents[2] / "examples" / "shapes_vqa" / "model"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def exported_half(half_model, tmp_path_factory) -> Exported:
    """The bundle of the fp16 model: what the exporter makes of a half-precision checkpoint."""
    out = export_bundle(half_model, PAPER, tmp_path_factory.mktemp("half") / "b16")
    return Exported(half_model, *load_model(Checkpoint.open(half_model)), checked(Bundle.open(out)))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Exported:
    """The embedded model under the paper's schedule at a third of the tokens."""
    checkpoint = Checkpoint.open(SHAPES)
    model, processor, family = load_model(checkpoint)
    schedule = preset("paper-1/3", family.num_layers, family.num_visual)
    out = export_bundle(SHAPES, schedule, tmp_path_factory.mktemp("shapes") / "bundle")
    return Exported(SHAPES, model, processor, family, checked(Bundle.open(out)))
