"""Rules of other methods: what they keep, against their definitions written out, and how many, against the budget."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitcop.calibrate.baselines import RIVALS, FastV, PyramidDrop, VisionZip
from vitcop.calibrate.baselines.visionzip import zip_tokens
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.models.prompt import batch_prompts
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionOutput
from vitcop.calibrate.schedule.schedule import Schedule, VisionStage

NUM_LAYERS, NUM_VISUAL = 4, 16


# -- budgets ----------------------------------------------------------------------------------------------------------


def nearest(name: str, num_layers: int, num_visual: int, target: float) -> float:
    """How near to `target` tokens a layer the rule can come, by trying all."""
    counts = range(1, num_visual + 1)
    if name == "visionzip":
        means = list(counts)
    elif name == "fastv":
        first = max(1, 2 * num_layers // 32)
        means = [(num_visual * first + count * (num_layers - first)) / num_layers for count in counts]
    else:
        cuts = [stage * num_layers // 4 for stage in range(5)]
        lengths = [b - a for a, b in pairwise(cuts)]
        means = [
            sum(n * max(1, int(num_visual * share**i + 0.5)) for i, n in enumerate(lengths)) / num_layers
            for share in np.linspace(0, 1, 20_000)
        ]
    return min(abs(mean - target) for mean in means)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(RIVALS)),
    num_layers=st.integers(4, 40),
    num_visual=st.integers(2, 600),
    budget=st.floats(0.01, 1.0),
)
def test_the_budget_is_met_or_cannot_be(name, num_layers, num_visual, budget):
    counts = RIVALS[name].layer_counts(num_layers, num_visual, budget)
    off = nearest(name, num_layers, num_visual, budget * num_visual)
    if counts is None:
        # The grid of shares is fine, not exact.
        assert off > 1 - 1e-9 or (name == "visionzip" and budget * num_visual < 0.5)
    else:
        assert len(counts) == num_layers and all(a >= b >= 1 for a, b in pairwise(counts))
        assert abs(sum(counts) / num_layers - budget * num_visual) <= min(1 + 1e-9, off + 0.01)


def test_published_numbers():
    assert set(FastV().layer_counts(32, 576, 192 / 576)) == {576, 166}
    assert FastV().layer_counts(32, 576, 192 / 576)[:3] == (576, 576, 166), "K = 2: all tokens in the first two layers"
    halves = PyramidDrop().layer_counts(32, 576, (1 + 1 / 2 + 1 / 4 + 1 / 8) / 4)
    assert halves == (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8
    assert VisionZip().counts(576, 64 / 576) == (54, 10)


def test_out_of_reach_is_none(tiny):
    assert FastV().layer_counts(32, 576, 0.05) is None and PyramidDrop().layer_counts(32, 576, 0.2) is None
    assert PyramidDrop().layer_counts(3, 576, 0.5) is None and FastV().layer_counts(1, 576, 0.5) is None
    for rule in (FastV(), PyramidDrop()):
        assert rule.runner(tiny.model, tiny.family, None, budget=0.1, num_visual=NUM_VISUAL) is None


@pytest.mark.parametrize("name", sorted(RIVALS))
@pytest.mark.parametrize("budget", [0.75, 0.5, 0.3, 0.125])
def test_what_runs_is_what_is_counted(tiny, batch, name, budget):
    """The cache has the text and as many visual tokens as the accounting says, in every layer."""
    counts = RIVALS[name].layer_counts(NUM_LAYERS, NUM_VISUAL, budget)
    runner = RIVALS[name].runner(tiny.model, tiny.family, None, budget=budget, num_visual=NUM_VISUAL)
    assert (counts is None) == (runner is None)
    if runner is None:
        return
    found = runner.prefill(batch)
    text = batch.input_ids.shape[1] - batch.num_visual
    lengths = [layer.keys.shape[2] for layer in found.state.cache.layers]
    assert lengths == [text + count for count in counts]
    assert np.isfinite(found.logits).all() and runner.name == name


# -- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "budget", "layer"), [(FastV(), 0.6, 1), (PyramidDrop(), 0.7, 1)])
def test_the_last_prompt_token_chooses(tiny, batch, rule, budget, layer):
    """The first drop keeps what transformers' own attention map of the layer before ranks highest."""
    eager, _, _ = load_model(tiny.checkpoint, attn="eager")
    with torch.inference_mode():
        seen = eager(
            input_ids=torch.as_tensor(batch.input_ids),
            attention_mask=torch.as_tensor(batch.attention_mask),
            position_ids=torch.as_tensor(batch.position_ids),
            pixel_values=torch.as_tensor(batch.model_inputs["pixel_values"]),
            output_attentions=True,
        )
    scores_BS = seen.attentions[layer - 1][:, :, -1].sum(dim=1)
    scores_BV = scores_BS.gather(1, torch.as_tensor(batch.visual_index))
    kept = rule.runner(tiny.model, tiny.family, None, budget=budget, num_visual=NUM_VISUAL).prefill(batch).drops[0]
    expected = scores_BV.topk(kept.kept_visual.shape[1]).indices.sort().values
    np.testing.assert_array_equal(kept.kept_visual, expected.numpy())


def made_output(batch=2, num_visual=24, planes=2, seed=0) -> VisionOutput:
    """Random features and keys of a tower with a class token; one patch behind a token."""
    stream = torch.Generator().manual_seed(seed)
    num_patches = batch * num_visual
    keys = torch.randn((num_patches, 2, 4), generator=stream)
    return VisionOutput(
        planes=tuple(torch.randn((batch, num_visual, 6), generator=stream) for _ in range(planes)),
        queries=torch.randn(keys.shape, generator=stream),
        keys=keys,
        class_scores=torch.rand(num_patches, generator=stream),
        scale=0.5,
        patches=torch.arange(num_patches).view(batch, num_visual, 1),
        grid=torch.zeros((batch, num_visual, 2)),
        group=torch.zeros((batch, num_visual), dtype=torch.int64),
    )


@pytest.mark.parametrize("merge", ["mean", "sum"])
@pytest.mark.parametrize(("dominant", "contextual"), [(5, 3), (1, 7), (6, 1), (20, 4), (1, 23), (24, 0)])
def test_zipping_against_a_loop(merge, dominant, contextual):
    output = made_output()
    kept = zip_tokens(output, "class_attention", dominant, contextual, merge)
    for row in range(2):
        scores = output.class_scores[output.patches[row, :, 0]].tolist()
        keys = output.keys[output.patches[row, :, 0]].flatten(1).double()
        ranked = sorted(range(24), key=lambda i: (-scores[i], i))
        rest = sorted(ranked[dominant:])
        targets = rest[:: len(rest) // contextual][:contextual] if contextual else []
        groups = {target: [target] for target in targets}
        for token in rest:
            if targets and token not in groups:
                likeness = [torch.cosine_similarity(keys[token], keys[target], dim=0) for target in targets]
                groups[targets[int(torch.stack(likeness).argmax())]].append(token)
        expected = sorted([*ranked[:dominant], *targets])
        assert kept.kept_patches[row].tolist() == expected
        for plane, made in zip(output.planes, kept.planes, strict=True):
            for place, token in enumerate(expected):
                members = groups.get(token, [token])
                wanted = plane[row, members].mean(dim=0)
                if merge == "sum":
                    wanted = plane[row, token] + (plane[row, members[1:]].mean(dim=0) if members[1:] else 0)
                torch.testing.assert_close(made[row, place], wanted)


def test_ties_go_to_the_lowest_index():
    output = made_output()
    output.class_scores.fill_(1.0)
    assert zip_tokens(output, "class_attention", 3, 0).kept_patches.tolist() == [[0, 1, 2]] * 2


def test_without_a_class_token_another_score_chooses():
    output = made_output()
    norms_BV = output.keys.norm(dim=2).mean(dim=1)[output.patches[..., 0]]
    kept = zip_tokens(output, "key_norm", 4, 0).kept_patches
    assert kept.tolist() == norms_BV.topk(4).indices.sort().values.tolist()


def test_all_dominant_is_a_schedule(tiny, batch):
    """Two tokens are both dominant, which a schedule can say as well: the same bits."""
    rival = VisionZip().runner(tiny.model, tiny.family, None, budget=2 / 16, num_visual=NUM_VISUAL)
    assert VisionZip().counts(NUM_VISUAL, 2 / 16) == (2, 0)
    stage = VisionStage(score="class_attention", keep=(2, 16))
    ours = ScheduledRunner(tiny.model, tiny.family, Schedule(num_layers=NUM_LAYERS, vision=stage))
    ours, theirs = ours.prefill(batch), rival.prefill(batch)
    np.testing.assert_array_equal(ours.vision.kept_visual, theirs.vision.kept_visual)
    np.testing.assert_array_equal(ours.logits, theirs.logits)


def test_contextual_tokens_keep_the_places_of_their_targets(tiny, batch):
    found = VisionZip().runner(tiny.model, tiny.family, None, budget=0.5, num_visual=NUM_VISUAL).prefill(batch)
    kept = found.vision.kept_visual
    assert kept.shape == (4, 8) and (np.diff(kept) > 0).all()
    places = np.take_along_axis(found.state.places[0].numpy(), batch.after_drop(kept).visual_index, axis=1)
    every = np.take_along_axis(batch.places, batch.visual_index, axis=1)
    np.testing.assert_array_equal(places, np.take_along_axis(every, kept, axis=1))


def test_text_alone_passes_through(tiny, batch):
    """A prompt without pictures has nothing to zip."""
    runner = VisionZip().runner(tiny.model, tiny.family, None, budget=0.5, num_visual=NUM_VISUAL)
    text = batch_prompts([[1, 7, 8, 9]], [4], 0)
    ours = ScheduledRunner(tiny.model, tiny.family, Schedule(num_layers=NUM_LAYERS)).prefill(text)
    np.testing.assert_array_equal(runner.prefill(text).logits, ours.logits)
