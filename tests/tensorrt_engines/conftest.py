"""One tiny bundle for all tests here: a vision stage, a merge and a selection, so three layer groups; weights in it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import build_tiny_llava

from vitcop.calibrate.schedule import Clusters, Drop, Schedule, VisionStage

SCHEDULE = Schedule(
    num_layers=3,
    vision=VisionStage(score="class_attention", keep=(3, 4), clusters=Clusters(centers=(1, 4))),
    drops=(Drop(layer=1, op="merge", keep=(3, 4)), Drop(layer=2, keep=(1, 3))),
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return build_tiny_llava(tmp_path_factory.mktemp("model") / "tiny", layers=3, vision_layers=2)


@pytest.fixture(scope="session")
def bundle(model_folder, tmp_path_factory):
    from vitcop.export.bundle import Bundle
    from vitcop.export.compile import export_bundle

    out = tmp_path_factory.mktemp("engines") / "bundle"
    export_bundle(model_folder, SCHEDULE, out, copy_weights=True)
    return Bundle.open(out)


@pytest.fixture(scope="session")
def make_batch(bundle):
    """(rows) -> prompts of different lengths, an image each."""
    from vitcop.calibrate.loading import load_processor
    from vitcop.pipeline.preflight import family_in

    processor, family = load_processor(bundle.processor_folder), family_in(bundle.path)
    stream = np.random.default_rng(0)
    pictures = [Image.fromarray(stream.integers(0, 255, (40, 56, 3), dtype=np.uint8)) for _ in range(4)]

    def make(rows: int):
        questions = ["what color is the" + " large red" * (row % 3) + " circle ?" for row in range(rows)]
        texts = [f"USER: <image>\n{question} ASSISTANT:" for question in questions]
        return family.prepare(processor, texts, [[picture] for picture in pictures[:rows]])

    return make
