"""The PyTorch side on a GPU against the same on the CPU. `make gpu-check` runs what is marked `gpu`."""

import copy

import numpy as np
import pytest
import torch

from vitcop.calibrate.data.samples import batches
from vitcop.calibrate.run.device_inputs import PromptTensors, VisionTensors
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.presets import preset
from vitcop.plugins.cuda import library

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


@pytest.mark.parametrize("name", ["none", "paper-1/3", "paper-1/9"])
def test_whole_prefill_in_a_cuda_graph(name, tiny, samples):
    """A replay over new pixels gives what the eager run gives for them."""
    if library.load() is None:
        pytest.skip("the references of the ops read values, which no graph can hold")
    torch.backends.cuda.matmul.allow_tf32 = False
    model, family = copy.deepcopy(tiny.model).cuda(), tiny.family
    _, batch = next(iter(batches(samples[:3], tiny.processor, family, 3)))
    runner = ScheduledRunner(model, family, preset(name, family.num_layers, family.num_visual))
    prompt = PromptTensors.of(batch, model.device)
    vision = VisionTensors.of(batch, family.visual_tokens, model.device, model.dtype)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        runner.forward(prompt, vision)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = runner.forward(prompt, vision)
    pixels = vision.model_inputs["pixel_values"]
    pixels.copy_(pixels.flip(-1))
    graph.replay()
    expected = runner.forward(prompt, vision)
    np.testing.assert_allclose(found.logits.cpu(), expected.logits.cpu(), atol=1e-5, rtol=1e-5)
    for replayed, eager in zip(found.drops, expected.drops, strict=True):
        np.testing.assert_array_equal(replayed.kept_visual.cpu(), eager.kept_visual.cpu())
