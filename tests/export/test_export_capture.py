"""Capturing and tracing again change nothing: the empty schedule is the model itself."""

import numpy as np
import pytest
import torch
from export_cases import duplicate, prompt_feeds, run_graph

from vitcop.calibrate.run.generation import generate
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.export.capture.attention import ATTENTION
from vitcop.export.rewrite import DropTokensPass, Sequence, SplitCachePass, VisionStagePass
from vitcop.export.runtimes.onnxruntime import OnnxRuntimeRunner

NONE = Schedule(num_layers=3)
NEW_TOKENS = 8


def _feeds(captured, make_batch, name):
    batch = make_batch(captured.processor, captured.family, 3)
    features = run_graph(captured.graphs["vision"], batch.vision_inputs)
    prompt = prompt_feeds(batch) | features
    if name == "vision":
        return batch.vision_inputs
    if name == "prefill":
        return prompt
    present = run_graph(captured.graphs["prefill"], prompt)
    past = {key.replace("present", "past"): value for key, value in present.items() if key.startswith("present")}
    return past | {
        "input_ids": present["logits"][:, -1].argmax(-1, keepdim=True),
        "position_ids": batch.next_position[:, None],
        "attention_mask_0": np.pad(batch.attention_mask, ((0, 0), (0, 1)), constant_values=1),
    }


@pytest.mark.parametrize("name", ["vision", "prefill", "decode"])
def test_the_empty_schedule_is_bit_identical(captured, make_batch, name):
    passes = {
        "vision": VisionStagePass(NONE, {}, captured.scale),
        "prefill": DropTokensPass(NONE, captured.paths),
        "decode": SplitCachePass(NONE, captured.paths),
    }
    before = captured.graphs[name]
    after = Sequence(passes[name])(duplicate(before))
    assert after.outputs == before.outputs
    assert list(after.inputs) == list(before.inputs)
    feeds = _feeds(captured, make_batch, name)
    expected, found = run_graph(before, feeds), run_graph(after, feeds)
    for output in before.outputs:
        assert torch.equal(found[output], expected[output]), output


def test_the_captured_graphs_are_the_model(captured, make_batch):
    """Vision and prefill in PyTorch against one call of the transformers model, padded rows included."""
    batch = make_batch(captured.processor, captured.family, 3)
    found = run_graph(captured.graphs["prefill"], _feeds(captured, make_batch, "prefill"))["logits"][:, -1]
    with torch.inference_mode():
        expected = captured.model(
            input_ids=torch.tensor(batch.input_ids),
            attention_mask=torch.tensor(batch.attention_mask),
            pixel_values=torch.tensor(batch.vision_inputs["pixel_values"]),
        ).logits[:, -1]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_attention_is_one_op_a_layer_and_grouped_heads_stay_grouped(captured):
    nodes = [node for node in captured.graphs["prefill"].module.graph.nodes if node.target is ATTENTION]
    assert len(nodes) == 3
    for node in nodes:
        assert [node.args[i].meta["val"].shape[1] for i in range(3)] == [4, 2, 2]


def test_capturing_leaves_the_models_own_attention_as_it_was(captured):
    assert captured.model.config._attn_implementation == "sdpa"
    assert captured.model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.parametrize("size", [1, 3])
def test_the_plain_bundle_answers_like_the_model(plain, make_batch, size):
    batch = make_batch(plain.processor, plain.family, size)
    assert (batch.attention_mask == 0).any() == (size > 1), "a batch of one is not padded, one of three is"
    inputs = {
        "input_ids": torch.tensor(batch.input_ids),
        "attention_mask": torch.tensor(batch.attention_mask),
        "pixel_values": torch.tensor(batch.vision_inputs["pixel_values"]),
    }
    runner = OnnxRuntimeRunner(plain.bundle, threads=1)
    with torch.inference_mode():
        expected = plain.model(**inputs).logits[:, -1]
        tokens = plain.model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    np.testing.assert_allclose(runner.prefill(batch).logits, expected.numpy(), atol=1e-4, rtol=0)
    eos = {plain.model.generation_config.eos_token_id}
    answers = generate(runner, batch, max_new_tokens=NEW_TOKENS, eos_ids=eos).tokens
    for row, answer in enumerate(answers):
        assert answer == tokens[row, batch.input_ids.shape[1] :].tolist()[: len(answer)]
        assert len(answer) == NEW_TOKENS or answer[-1] in eos
