"""The prefill on the device alone. The meta device stands in for a GPU: it has shapes and no values, so whatever would
read one back (and wait for a GPU, and break a CUDA graph) fails here."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_scheduled_runner import SCHEDULES
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitcop.calibrate.models.prompt import batch_prompts
from vitcop.calibrate.run.device_inputs import PromptTensors, VisionTensors
from vitcop.calibrate.run.scheduled import ScheduledRunner

META = torch.device("meta")


class NothingFromTheHost(TorchDispatchMode):
    """Refuses operations on a tensor of the host: on a GPU a copy from there would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, torch.Tensor) and leaf.numel():
                assert leaf.device == META, f"{func} reads a tensor of the host"
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def without_values(tiny):
    return copy.deepcopy(tiny.model).to(META)


def inputs_of(tiny, batch, device):
    vision = VisionTensors.of(batch, tiny.family.visual_tokens, device, torch.float32) if batch.num_visual else None
    return PromptTensors.of(batch, device), vision


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_value_is_read(name, tiny, batch, without_values):
    case = SCHEDULES[name]
    inputs = inputs_of(tiny, batch, META)
    with NothingFromTheHost():
        found = ScheduledRunner(without_values, tiny.family, case).forward(*inputs)
    expected = ScheduledRunner(tiny.model, tiny.family, case).prefill(batch)
    assert found.logits.shape == expected.logits.shape and found.logits.dtype == torch.float32
    assert tuple(mask.shape[1] for mask in found.state.masks) == expected.kv_lengths
    for dropped, trace in zip(found.drops, expected.drops, strict=True):
        assert dropped.kept_visual.shape == trace.kept_visual.shape
        assert (dropped.assignment is None) == (trace.assignment is None)


def test_a_value_that_is_read_would_show(tiny, batch, without_values):
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        ScheduledRunner(without_values, tiny.family, SCHEDULES["paper"]).prefill(batch)
    on_host = replace(inputs_of(tiny, batch, META)[0], positions=torch.zeros(batch.input_ids.shape, dtype=torch.int64))
    with NothingFromTheHost(), pytest.raises(AssertionError, match="tensor of the host"):
        on_host.after_drop(torch.zeros((4, 3), dtype=torch.int64, device=META))


@pytest.mark.parametrize("name", ["paper", "merge sum"])
def test_forward_is_prefill(name, tiny, batch):
    runner = ScheduledRunner(tiny.model, tiny.family, SCHEDULES[name])
    found, expected = runner.forward(*inputs_of(tiny, batch, tiny.model.device)), runner.prefill(batch)
    np.testing.assert_array_equal(found.logits.numpy(), expected.logits)
    for dropped, trace in zip((found.vision, *found.drops), (expected.vision, *expected.drops), strict=True):
        np.testing.assert_array_equal(dropped.kept_visual.numpy(), trace.kept_visual)


def test_text_alone(tiny, without_values):
    text = batch_prompts([[5, 6, 7, 8], [9, 10]], tiny.family.visual_tokens, 0)
    runner = ScheduledRunner(without_values, tiny.family, SCHEDULES["paper"])
    inputs = inputs_of(tiny, text, META)
    with NothingFromTheHost():
        found = runner.forward(*inputs)
    assert found.drops[-1].kept_visual.shape == (2, 0)


@pytest.mark.parametrize("kept", [1, 7, 16])
def test_prompts_shrink_as_on_the_host(kept, batch):
    random = np.random.default_rng(kept)
    patches = np.sort(random.permuted(np.tile(np.arange(16), (4, 1)), axis=1)[:, :kept], axis=1)
    for axes in ((), (4,)):
        positions = random.integers(0, 99, (*batch.input_ids.shape, *axes))
        host = replace(batch, position_ids=positions)
        found = PromptTensors.of(host, torch.device("cpu")).after_drop(torch.tensor(patches))
        short = host.after_drop(patches)
        np.testing.assert_array_equal(found.input_ids, short.input_ids)
        np.testing.assert_array_equal(found.mask, short.attention_mask == 1)
        np.testing.assert_array_equal(found.positions, short.position_ids)
        np.testing.assert_array_equal(found.visual_index, short.visual_index)
