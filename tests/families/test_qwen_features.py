"""Qwen2.5-VL and Qwen3-VL without exporting: features and positions against the model's own code."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import qwen2_5_vl_cases
import qwen3_vl_cases
import torch
from family_case import Prompt, prepare
from qwen_parts import BATCHES, token_types

from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.families import family_of
from vitcop.calibrate.models.loading import load_config, load_model
from vitcop.calibrate.run.vision_stage import run_vision
from vitcop.plugins.errors import InputError

BUILDERS = {"qwen2_5_vl": qwen2_5_vl_cases.build, "qwen3_vl": qwen3_vl_cases.build}


@pytest.fixture(scope="module", params=list(BUILDERS))
def subject(request, tmp_path_factory):
    folder = BUILDERS[request.param](tmp_path_factory.mktemp("model") / request.param)
    model, processor, family = load_model(Checkpoint.open(folder))
    return SimpleNamespace(model=model, processor=processor, family=family)


def batch_of(subject, name):
    return prepare(subject.family, subject.processor, BATCHES[name])


@pytest.mark.parametrize("name", ["one", "three images", "video", "image and video"])
@torch.inference_mode()
def test_what_is_traced_is_what_the_model_computes(subject, name):
    batch = batch_of(subject, name)
    inputs = {name: torch.as_tensor(array) for name, array in batch.vision_inputs.items()}
    seen = subject.family.encode(subject.model, inputs)
    found = subject.family.assemble(subject.model, seen.rows, inputs)
    expected = run_vision(subject.model, subject.family, batch)
    assert len(found) == len(expected.planes) == 1 + subject.family.num_planes
    for mine, theirs in zip(found, expected.planes, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.queries, expected.queries, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.keys, expected.keys, atol=1e-5, rtol=1e-5)
    assert seen.scale == expected.scale


def test_inputs_are_those_of_the_family(subject):
    batch = batch_of(subject, "image and video")
    specs = subject.family.encoder_inputs() | subject.family.token_inputs()
    assert set(specs) <= set(batch.vision_inputs)
    sizes = {}
    for name, spec in specs.items():
        array = batch.vision_inputs[name]
        assert array.dtype == (np.int64 if spec.kind == "int64" else np.float32), name
        for axis, size in zip(spec.axes, array.shape, strict=True):
            assert size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size)), name


@pytest.mark.parametrize("seed", range(4))
def test_positions_are_those_of_the_model(subject, seed):
    stream = np.random.default_rng(seed)
    start, end = "<|vision_start|>", "<|vision_end|>"
    shapes = [((40, 24), (5, 24, 16)), ((24, 40), (6, 16, 24))]
    prompts = []
    for image, video in shapes:
        parts = [("<|image_pad|>", "image"), ("<|video_pad|>", "video"), ("red " * int(stream.integers(1, 5)), "")]
        stream.shuffle(parts)
        text = "USER: " + " is ".join(f"{start}{part}{end}" if kind else part for part, kind in parts) + " ASSISTANT:"
        prompts.append(Prompt(text, (image,), (video,)))
    batch = prepare(subject.family, subject.processor, tuple(prompts))
    if "second_per_grid_ts" in batch.model_inputs:
        # Whole seconds: some transformers releases cut fractions off.
        batch.model_inputs["second_per_grid_ts"][:] = stream.integers(1, 20, 2)
    found = subject.family.positions(batch)
    inputs = {name: torch.as_tensor(array) for name, array in batch.model_inputs.items() if "pixel" not in name}
    expected, deltas = subject.model.model.get_rope_index(
        torch.as_tensor(batch.input_ids),
        mm_token_type_ids=torch.as_tensor(token_types(subject.family, batch)["mm_token_type_ids"]),
        attention_mask=torch.as_tensor(batch.attention_mask),
        **inputs,
    )
    np.testing.assert_array_equal(found[..., 1:], expected.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(found[..., 0], np.maximum(batch.attention_mask.cumsum(1) - 1, 0))
    after = deltas.numpy() + batch.attention_mask.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(replace(batch, position_ids=found).next_position[:, 1:], np.repeat(after, 3, axis=1))


def test_a_window_that_the_language_model_would_ignore_is_refused(tmp_path):
    stray = load_config(qwen3_vl_cases.build(tmp_path / "model"))
    stray.text_config.sliding_window = 4096
    with pytest.raises(
        InputError, match="sliding_window 4096 is not supported for qwen3_vl: .* has no sliding windows"
    ):
        family_of(stray)


def test_windows_of_the_tower_are_none_of_the_language_model(subject):
    assert subject.family.window is None and not subject.family.sliding_layers


def test_text_counts_on_all_axes(subject):
    batch = batch_of(subject, "text")
    assert batch.position_ids.shape == (*batch.input_ids.shape, 4)
    assert (batch.position_ids == batch.position_ids[..., :1]).all()


def test_joined_prompts_are_the_batch(subject):
    whole = batch_of(subject, "two")
    joined = subject.family.join([whole], subject.processor.pad_token)
    for name, array in (whole.vision_inputs | whole.model_inputs).items():
        np.testing.assert_array_equal((joined.vision_inputs | joined.model_inputs)[name], array)
    np.testing.assert_array_equal(joined.position_ids, whole.position_ids)
