"""A tiny LLaVA of three decoder layers captured once with real weights, and a few bundles, each exported once.

What is exported or traced costs seconds, so everything here lives as long as the session. Tests that edit a graph take
a copy of it (`duplicate`), which costs nothing.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image
from tensorrt_checks import checked
from tiny_models import build_tiny_llava

sys.path.insert(0, str(Path(__file__).parent))

from export_cases import ONE_MERGE, PAPER, Captured, Exported, drop_points, duplicate

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.bundle import Bundle
from vitcop.export.capture import capture_decode, capture_prefill, capture_vision
from vitcop.export.capture.captures import Captures
from vitcop.export.capture.paths import module_paths
from vitcop.export.compile import export_bundle, least_visual_count
from vitcop.export.rewrite import DropTokensPass, Sequence


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def captured(tmp_path_factory) -> Captured:
    """Three decoder layers, 16 patches; the three graphs as captured, before any pass."""
    folder = build_tiny_llava(tmp_path_factory.mktemp("three") / "tiny-three", layers=3, vision_layers=2)
    model, processor, family = load_model(Checkpoint.open(folder))
    vision, scale = capture_vision(model, family, watched=True)
    graphs = {
        "vision": vision,
        "prefill": capture_prefill(model, family, num_visual=16, min_visual=least_visual_count(PAPER)),
        "decode": capture_decode(model, family),
    }
    return Captured(folder, model, processor, family, module_paths(model, family), scale, graphs)


@pytest.fixture(scope="session")
def paper_drops(captured):
    """The prefill graph under PAPER, as DropTokensPass leaves it. Not to be edited."""
    return drop_points(captured, PAPER)


@pytest.fixture(scope="session")
def paper_traced(captured):
    """The same after the trace that follows the passes. Not to be edited."""
    return Sequence(DropTokensPass(PAPER, captured.paths))(duplicate(captured.graphs["prefill"]))


@pytest.fixture(scope="session")
def two_layers(tmp_path_factory) -> Path:
    return build_tiny_llava(tmp_path_factory.mktemp("two") / "tiny-two", layers=2, vision_layers=2, seed=1)


@pytest.fixture(scope="session")
def captures() -> Captures:
    """The captures of `two_layers`, which its exports share."""
    return Captures()


def _export(folder: Path, schedule: Schedule, out: Path, captures: Captures, **options: Any) -> Exported:
    export_bundle(folder, schedule, out, captures=captures, **options)
    return Exported(folder, *load_model(Checkpoint.open(folder)), checked(Bundle.open(out)))


@pytest.fixture(scope="session")
def plain_and_reads(two_layers, captures, tmp_path_factory) -> tuple[Exported, list[tuple[int, ...]]]:
    """The empty schedule; and the shape of each external tensor whose values were read meanwhile."""
    read = []

    def spy(name):
        original = getattr(ir.ExternalTensor, name)
        return lambda self, *args, **kwargs: (read.append(tuple(self.shape)), original(self, *args, **kwargs))[1]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("numpy", "tobytes", "tofile", "__array__", "raw"):
            if callable(getattr(ir.ExternalTensor, name, None)):
                patch.setattr(ir.ExternalTensor, name, spy(name))
        out = tmp_path_factory.mktemp("plain") / "bundle"
        return _export(two_layers, Schedule(num_layers=2), out, captures), read


@pytest.fixture(scope="session")
def plain(plain_and_reads) -> Exported:
    """The empty schedule; weights stay in the model folder."""
    return plain_and_reads[0]


@pytest.fixture(scope="session")
def merged(two_layers, captures, tmp_path_factory) -> Exported:
    """A vision stage with clusters and one merge; weights copied into the bundle."""
    out = tmp_path_factory.mktemp("merged") / "bundle"
    return _export(two_layers, ONE_MERGE, out, captures, copy_weights=True)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    stream = np.random.default_rng(0)
    return [Image.fromarray(stream.integers(0, 255, (40, 56, 3), dtype=np.uint8)) for _ in range(5)]


@pytest.fixture(scope="session")
def make_batch(pictures):
    """(processor, family, size) -> a batch of prompts of different lengths."""

    def make(processor, family, size):
        questions = ["what color is the" + " large red" * (i % 3) + " circle ?" for i in range(size)]
        texts = [f"USER: <image>\n{question} ASSISTANT:" for question in questions]
        return family.prepare(processor, texts, [[picture] for picture in pictures[:size]])

    return make
