"""The original as a Runner, and the empty schedule beside it: both are transformers' own model."""

import numpy as np
import pytest
import torch

from vitcop.calibrate.run.generation import continue_forced, generate
from vitcop.calibrate.run.original import OriginalRunner
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.schedule import Drop, Schedule, VisionStage
from vitcop.plugins.errors import InputError

STEPS = 6


@pytest.fixture(scope="module")
def by_transformers(tiny, batch) -> list[list[int]]:
    """Answers of `model.generate`."""
    output = tiny.model.generate(
        input_ids=torch.tensor(batch.input_ids),
        attention_mask=torch.tensor(batch.attention_mask),
        pixel_values=torch.tensor(batch.vision_inputs["pixel_values"]),
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
    )
    return output[:, batch.input_ids.shape[1] :].tolist()


@pytest.fixture(params=["original", "empty schedule", "keeps everything"])
def runner(request, tiny):
    if request.param == "original":
        return OriginalRunner(tiny.model, tiny.family)
    everything = Schedule(
        num_layers=4, vision=VisionStage(keep=(1, 1)), drops=(Drop(layer=1, keep=(1, 1)), Drop(layer=3, keep=(1, 1)))
    )
    schedule = Schedule(num_layers=4) if request.param == "empty schedule" else everything
    return ScheduledRunner(tiny.model, tiny.family, schedule)


def test_generates_token_for_token(runner, batch, by_transformers):
    assert generate(runner, batch, max_new_tokens=STEPS, eos_ids=()).tokens == by_transformers
    assert len({tuple(row) for row in by_transformers}) > 1, "a model that always says the same proves nothing"


def test_logits_are_those_of_the_model(runner, tiny, batch):
    prefill = runner.prefill(batch)
    with torch.inference_mode():
        expected = tiny.model(
            input_ids=torch.tensor(batch.input_ids),
            attention_mask=torch.tensor(batch.attention_mask),
            pixel_values=torch.tensor(batch.vision_inputs["pixel_values"]),
            position_ids=torch.tensor(batch.position_ids),
        ).logits[:, -1]
    np.testing.assert_allclose(prefill.logits, expected.numpy(), atol=1e-5)
    length = batch.input_ids.shape[1]
    assert set(prefill.kv_lengths) == {length}
    assert prefill.kv_bytes == 4 * 2 * 4 * 2 * length * 8 * 4  # layers × (key, value) × B × heads × S × head dim × fp32
    assert prefill.seconds["prefill"] > 0


def test_many_tokens_at_once_are_one_after_another(runner, batch, by_transformers):
    at_once = continue_forced(runner, runner.prefill(batch), by_transformers)
    state = (prefill := runner.prefill(batch)).state
    steps = [prefill.logits] + [runner.decode(np.array(by_transformers)[:, step], state) for step in range(STEPS - 1)]
    np.testing.assert_allclose(at_once, np.stack(steps, axis=1), atol=1e-5)


def test_eager_attention_is_the_same(tiny, batch):
    schedule = Schedule(num_layers=4, drops=(Drop(layer=2, score="text_query", order="largest", keep=(1, 2)),))
    runner = ScheduledRunner(tiny.model, tiny.family, schedule)
    expected = generate(runner, batch, max_new_tokens=3, eos_ids=(), keep_logits=True)
    tiny.model.set_attn_implementation("eager")
    try:
        found = generate(runner, batch, max_new_tokens=3, eos_ids=(), keep_logits=True)
    finally:
        tiny.model.set_attn_implementation("sdpa")
    np.testing.assert_array_equal(found.prefill.drops[0].kept_visual, expected.prefill.drops[0].kept_visual)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)


def test_schedule_of_another_depth(tiny):
    with pytest.raises(InputError, match="for 5 decoder layers, the model has 4"):
        ScheduledRunner(tiny.model, tiny.family, Schedule(num_layers=5))
