"""One tiny bundle for all tests here, and batches for it."""

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folder(wide_model):
    return wide_model


@pytest.fixture(scope="session")
def bundle(wide_bundle):
    return wide_bundle


@pytest.fixture(scope="session")
def make_batch(bundle):
    """(rows) -> prompts of different lengths, an image each."""
    from vitcop.calibrate.models.loading import load_processor
    from vitcop.pipeline.preflight import family_in

    processor, family = load_processor(bundle.processor_folder), family_in(bundle.path)
    stream = np.random.default_rng(0)
    pictures = [Image.fromarray(stream.integers(0, 255, (40, 56, 3), dtype=np.uint8)) for _ in range(4)]

    def make(rows: int):
        questions = ["what color is the" + " large red" * (row % 3) + " circle ?" for row in range(rows)]
        texts = [f"USER: <image>\n{question} ASSISTANT:" for question in questions]
        return family.prepare(processor, texts, [[picture] for picture in pictures[:rows]])

    return make
