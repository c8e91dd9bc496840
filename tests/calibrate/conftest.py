"""A tiny random LLaVA, loaded once, and a handful of samples with prompts of different lengths."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import build_tiny_llava

from vitcop.calibrate.checkpoint import Checkpoint
from vitcop.calibrate.loading import load_model
from vitcop.calibrate.prompt import PromptBatch
from vitcop.calibrate.samples import Sample, batches, load_samples

NUM_SAMPLES = 12


@dataclass(frozen=True)
class Tiny:
    """Four decoder layers, 16 visual tokens."""

    folder: Path
    checkpoint: Checkpoint
    model: Any
    processor: Any
    family: Any


def write_samples(folder: Path, num: int, seed: int, prefix: str = "s") -> Path:
    """Random pictures of random sizes with questions of three lengths; returns the JSONL file."""
    stream = np.random.default_rng(seed)
    lines = []
    for i in range(num):
        height, width = stream.integers(24, 80, size=2)
        Image.fromarray(stream.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{prefix}{i}.png")
        prompt = "what color is the" + " large red" * (i % 3) + " circle ?"
        lines.append(
            json.dumps({"id": f"{prefix}{i}", "images": [f"{prefix}{i}.png"], "prompt": prompt, "answer": "red"})
        )
    file = folder / f"{prefix}.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    folder = build_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")
    checkpoint = Checkpoint.open(folder)
    return Tiny(folder, checkpoint, *load_model(checkpoint))


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> list[Sample]:
    return load_samples(write_samples(tmp_path_factory.mktemp("samples"), NUM_SAMPLES, seed=0))


@pytest.fixture(scope="session")
def batch(tiny, samples) -> PromptBatch:
    """Four prompts of different lengths, so that two rows are padded."""
    chosen = [samples[0], samples[1], samples[2], samples[3]]
    ((_, found),) = batches(chosen, tiny.processor, tiny.family, 4)
    assert (found.attention_mask == 0).any()
    return found


@pytest.fixture(scope="session")
def singles(tiny, samples, batch) -> list[PromptBatch]:
    """The same prompts one by one, in the order of the rows of `batch`."""
    chosen = [samples[0], samples[1], samples[2], samples[3]]
    ((members, _),) = batches(chosen, tiny.processor, tiny.family, 4)
    return [next(iter(batches([member], tiny.processor, tiny.family, 1)))[1] for member in members]
