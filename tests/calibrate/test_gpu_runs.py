"""The PyTorch side on a GPU against the same on the CPU. `make gpu-check` runs what is marked `gpu`."""

import copy

import numpy as np
import pytest
import torch

from vitcop.calibrate.presets import preset
from vitcop.calibrate.samples import batches
from vitcop.calibrate.scheduled import ScheduledRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("name", ["none", "paper-1/3", "paper-1/9"])
def test_schedule_on_gpu_equals_cpu(name, tiny, samples):
    """Same kept tokens and logits to 1e-4 (random weights, fp32, TF32 off)."""
    torch.backends.cuda.matmul.allow_tf32 = False
    _, batch = next(iter(batches(samples[:3], tiny.processor, tiny.family, 3)))
    schedule = preset(name, tiny.family.num_layers, tiny.family.num_visual)
    on_cpu = ScheduledRunner(tiny.model, tiny.family, schedule).prefill(batch)
    on_gpu = ScheduledRunner(copy.deepcopy(tiny.model).cuda(), tiny.family, schedule).prefill(batch)
    np.testing.assert_allclose(on_gpu.logits, on_cpu.logits, atol=1e-4, rtol=1e-4)
    for cpu, gpu in zip(on_cpu.drops, on_gpu.drops, strict=True):
        np.testing.assert_array_equal(gpu.kept_visual, cpu.kept_visual)
