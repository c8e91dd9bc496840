"""A tiny random LLaVA, loaded once, and a handful of samples with prompts of different lengths."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from made_samples import write_samples
from tiny_models import build_tiny_llava

from vitcop.calibrate.data.samples import Sample, batches, load_samples
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.models.prompt import PromptBatch

NUM_SAMPLES = 12


@dataclass(frozen=True)
class Tiny:
    """Four decoder layers, 16 visual tokens."""

    folder: Path
    checkpoint: Checkpoint
    model: Any
    processor: Any
    family: Any


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
