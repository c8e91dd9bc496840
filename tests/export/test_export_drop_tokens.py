"""The rewritten graphs against the model under the same schedule, walked layer by layer in PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from export_cases import PAPER, SCHEDULES, drop_points, prompt_feeds, run_graph, split_cache, vision_stage

from vitcop.calibrate.models.prompt import batch_prompts
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionKept

TOLERANCE = 5e-5
STEPS = 2


class FeaturesRunner(ScheduledRunner):
    """Takes what enters the language model as given, so that V may be anything."""

    def __init__(self, captured, schedule, kept):
        super().__init__(captured.model, captured.family, schedule)
        self.kept = kept

    def _keep(self, batch):
        return self.kept


def assert_same_prefill(found, expected, schedule):
    """Kept tokens exactly, logits closely, keys and values at every position that is no padding."""
    for g, trace in enumerate(expected.drops):
        np.testing.assert_array_equal(found[f"kept_visual_{g}"], trace.kept_visual, err_msg=f"drop {g}")
        if trace.assignment is not None:
            np.testing.assert_allclose(found[f"assignment_{g}"], trace.assignment, atol=1e-6)
    np.testing.assert_allclose(found["logits"][:, -1], expected.logits, atol=TOLERANCE, rtol=0)
    for g, layers in enumerate(schedule.groups):
        real = expected.state.masks[g].numpy()
        for layer in layers:
            cache = expected.state.cache.layers[layer]
            for kind, reference in (("key", cache.keys), ("value", cache.values)):
                ours = found[f"present_{kind}_{layer}"]
                assert ours.shape == reference.shape, f"{kind} {layer}"
                difference = (ours - reference).abs().amax(dim=(1, 3)).numpy()
                assert difference[real].max() < TOLERANCE, f"{kind}s of layer {layer}: {difference[real].max()}"


def shorten(batch, seen):
    return batch.after_drop(seen["kept_patches"].numpy()) if "kept_patches" in seen else batch


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_graphs_do_what_the_schedule_says(captured, make_batch, name):
    """Vision, prefill and two decode steps, at batch sizes other than the traced one too."""
    schedule = SCHEDULES[name]
    vision, prefill, decode = (make(captured, schedule) for make in (vision_stage, drop_points, split_cache))
    runner = ScheduledRunner(captured.model, captured.family, schedule)
    for size in (1, 2, 5):
        batch = make_batch(captured.processor, captured.family, size)
        expected = runner.prefill(batch)
        seen = run_graph(vision, batch.vision_inputs)
        if schedule.vision:
            np.testing.assert_array_equal(seen["kept_patches"], expected.vision.kept_visual)
        found = run_graph(prefill, prompt_feeds(shorten(batch, seen)) | seen)
        assert_same_prefill(found, expected, schedule)

        past = {key: value for key, value in found.items() if key.startswith("present")}
        masks, position = expected.state.masks, batch.next_position
        for _ in range(STEPS):
            tokens = expected.logits.argmax(-1)
            masks = [torch.nn.functional.pad(mask.long(), (0, 1), value=1) for mask in masks]
            feeds = {key.replace("present", "past"): value for key, value in past.items()}
            feeds |= {f"attention_mask_{g}": mask for g, mask in enumerate(masks)}
            feeds |= {"input_ids": tokens[:, None], "position_ids": position[:, None]}
            step = run_graph(decode, feeds)
            logits = runner.decode(tokens, expected.state)
            np.testing.assert_allclose(step["logits"][:, -1], logits, atol=TOLERANCE, rtol=0)
            past = {key: value for key, value in step.items() if key.startswith("present")}
            position = position + 1


def synthetic(captured, schedule, *, size, num_visual, text=(3, 6), seed=0):
    """Prompts with V invented visual features: (batch, what enters the language model)."""
    stream = np.random.default_rng(seed)
    image = captured.model.config.image_token_id
    rows = [
        [1, *[image] * num_visual, *stream.integers(5, 40, size=text[0] + row % (text[1] - text[0])).tolist()]
        for row in range(size)
    ]
    batch = batch_prompts(rows, (image,), 0)
    generator = torch.Generator().manual_seed(seed)
    hidden = captured.model.config.get_text_config().hidden_size
    kept = VisionKept(
        planes=(torch.randn(size, num_visual, hidden, generator=generator),),
        kept_patches=torch.arange(num_visual).expand(size, -1),
        saliency=torch.rand(size, num_visual, generator=generator),
        labels=torch.randint(0, max(1, num_visual * 3 // 10), (size, num_visual), generator=generator),
    )
    return batch, kept


def carried(kept):
    return {"visual_features": kept.planes[0], "vision_saliency": kept.saliency, "cluster_labels": kept.labels}


SHAPES = [(1, 37), (2, 8), (3, 61), (5, 16)]


@pytest.mark.parametrize("name", ["paper", "saliency-after-merge", "adjacent-selects", "random"])
def test_lengths_other_than_the_traced_ones(captured, name):
    schedule = SCHEDULES[name]
    prefill = drop_points(captured, schedule)
    for size, num_visual in SHAPES:
        batch, kept = synthetic(captured, schedule, size=size, num_visual=num_visual, seed=num_visual)
        expected = FeaturesRunner(captured, schedule, kept).prefill(batch)
        assert_same_prefill(run_graph(prefill, prompt_feeds(batch) | carried(kept)), expected, schedule)


def test_the_trace_after_the_passes_changes_nothing(captured, paper_drops, paper_traced):
    """Bit for bit, at lengths other than the traced ones; the least V of the trace among them."""
    for size, num_visual in [*SHAPES, (2, 6)]:
        batch, kept = synthetic(captured, PAPER, size=size, num_visual=num_visual, seed=num_visual)
        feeds = prompt_feeds(batch) | carried(kept)
        before, after = run_graph(paper_drops, feeds), run_graph(paper_traced, feeds)
        for output in paper_drops.outputs:
            assert torch.equal(after[output], before[output]), f"{output} at V = {num_visual}"


def test_a_row_does_not_depend_on_what_else_is_in_the_batch(captured, paper_drops):
    batch, kept = synthetic(captured, PAPER, size=3, num_visual=20)
    together = run_graph(paper_drops, prompt_feeds(batch) | carried(kept))
    for row in range(3):
        start = int((batch.attention_mask[row] == 0).sum())
        alone = {name: value[row : row + 1, start:] for name, value in prompt_feeds(batch).items()}
        alone["visual_index"] = batch.visual_index[row : row + 1] - start
        single = run_graph(paper_drops, alone | {name: value[row : row + 1] for name, value in carried(kept).items()})
        torch.testing.assert_close(single["logits"][0], together["logits"][row], atol=TOLERANCE, rtol=0)
        for g in range(2):
            assert torch.equal(single[f"kept_visual_{g}"][0], together[f"kept_visual_{g}"][row])


def test_keeping_everything_drops_nothing(captured):
    """Keep fractions of 1 leave logits and lengths as they were (the rewritten graph only gathers in place)."""
    schedule = SCHEDULES["adjacent-selects"]
    whole = replace(schedule, drops=tuple(replace(drop, keep=(1, 1)) for drop in schedule.drops))
    batch, kept = synthetic(captured, whole, size=2, num_visual=9)
    feeds = prompt_feeds(batch) | carried(kept)
    found, plain = run_graph(drop_points(captured, whole), feeds), run_graph(captured.graphs["prefill"], feeds)
    for name, value in plain.items():
        assert torch.equal(found[name], value), name
