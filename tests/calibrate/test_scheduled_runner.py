"""The model under a schedule against other ways of saying the same: batches of one, masks instead of removal, eager
attention maps."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from vitcop.calibrate.run.generation import generate
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.run.vision_stage import VisionCache, keep_patches, run_vision
from vitcop.calibrate.schedule.presets import controls, preset
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.plugins.spec import keep_count

CLUSTERS = Clusters(centers=(1, 4), cutoff_distance=None, cutoff_quantile=0.3)
VISION = VisionStage(keep=(3, 4))


def schedule(*drops, vision=None, **rest):
    return Schedule(num_layers=4, vision=vision, drops=drops, **rest)


SCHEDULES = {
    "vision": schedule(vision=VISION),
    "vision uniform": schedule(vision=VisionStage(score="uniform", keep=(5, 8))),
    "vision random": schedule(vision=VisionStage(score="random", keep=(5, 8), seed=3)),
    "k_norm smallest": schedule(Drop(layer=2, keep=(1, 2))),
    "k_norm largest": schedule(
        Drop(layer=1, order="largest", keep=(1, 3)), Drop(layer=3, order="largest", keep=(1, 2))
    ),
    "k_norm mean_norm": schedule(Drop(layer=2, keep=(1, 2), head_reduction="mean_norm")),
    "text_query": schedule(
        Drop(layer=1, score="text_query", order="largest", keep=(3, 5)),
        Drop(layer=2, score="text_query", order="largest", keep=(1, 2)),
    ),
    "saliency": schedule(
        Drop(layer=1, score="vision_saliency", order="largest", keep=(2, 3)),
        Drop(layer=3, score="vision_saliency", order="largest", keep=(1, 2)),
        vision=VISION,
    ),
    "uniform": controls(preset("paper-1/3", 4, 16), "uniform"),
    "random": controls(preset("paper-1/3", 4, 16), "random", seed=7),
    "paper": preset("paper-1/3", 4, 16),
    "merge sum": schedule(
        Drop(layer=1, op="merge", keep=(1, 2)),
        Drop(layer=3, keep=(1, 2)),
        vision=VisionStage(keep=(3, 4), clusters=CLUSTERS),
    ),
    "merge mean largest": schedule(
        Drop(layer=2, op="merge", keep=(1, 2), merge="mean", order="largest"),
        vision=VisionStage(keep=(1, 1), clusters=CLUSTERS),
    ),
    "merge by question": schedule(
        Drop(layer=2, op="merge", score="text_query", order="largest", keep=(1, 2)),
        vision=VisionStage(keep=(1, 1), clusters=CLUSTERS),
    ),
}


@pytest.fixture(params=SCHEDULES)
def case(request) -> Schedule:
    return SCHEDULES[request.param]


def test_batch_with_padding_equals_one_by_one(case, tiny, batch, singles):
    runner = ScheduledRunner(tiny.model, tiny.family, case)
    together = generate(runner, batch, max_new_tokens=4, eos_ids=(), keep_logits=True)
    for row, single in enumerate(singles):
        alone = generate(runner, single, max_new_tokens=4, eos_ids=(), keep_logits=True)
        np.testing.assert_allclose(together.logits[row], alone.logits[0], atol=2e-5)
        assert together.tokens[row] == alone.tokens[0]
        traces = (together.prefill.vision, *together.prefill.drops), (alone.prefill.vision, *alone.prefill.drops)
        for trace, other in zip(*traces, strict=True):
            if trace is not None:
                np.testing.assert_array_equal(trace.kept_visual[row], other.kept_visual[0])
                np.testing.assert_allclose(trace.scores[row], other.scores[0], atol=1e-5)


def test_counts_lengths_and_bytes(case, tiny, batch):
    prefill = ScheduledRunner(tiny.model, tiny.family, case).prefill(batch)
    counts = case.group_counts(16)
    text = batch.input_ids.shape[1] - 16
    assert prefill.kv_lengths == tuple(count + text for count in counts)
    assert prefill.kv_bytes == sum(count + text for count in case.layer_counts(16)) * 4 * 2 * 2 * 8 * 4
    present = counts[0]
    if case.vision:
        assert prefill.vision.kept_visual.shape == (4, present) and prefill.vision.scores.shape == (4, 16)
    else:
        assert prefill.vision is None
    for drop, trace in zip(case.drops, prefill.drops, strict=True):
        kept = keep_count(present, drop.keep)
        assert (
            trace.kept_visual.shape == (4, kept)
            and trace.scores.shape == (4, present)
            and trace.scores.dtype == np.float32
        )
        assert (np.diff(trace.kept_visual, axis=1) > 0).all()
        if drop.op == "merge":
            assert trace.assignment.shape == (4, kept, present)
            # Every token goes somewhere; "sum" adds the middle member of a merged group once more.
            weights, sizes = trace.assignment.sum(axis=2), (trace.assignment > 0).sum(axis=2)
            np.testing.assert_allclose(weights, weights.round(), rtol=1e-6)
            heaviest = 2 if drop.merge == "sum" else 1
            assert set(weights.round().flat) <= {1, heaviest} and (weights.round()[sizes > 1] == heaviest).all()
            assert ((trace.assignment > 0).sum(axis=1) == 1).all()
        present = kept


@pytest.mark.parametrize(
    "name", ["vision", "k_norm smallest", "k_norm largest", "text_query", "saliency", "uniform", "random"]
)
def test_removing_is_masking(name, tiny, singles):
    """A removed token is one that nobody after the drop point can see: same logits from the full sequence under
    layer-wise masks."""
    case = SCHEDULES[name]
    for single in singles:
        prefill = ScheduledRunner(tiny.model, tiny.family, case).prefill(single)
        np.testing.assert_allclose(prefill.logits, masked_logits(tiny, case, single, prefill), atol=2e-5)


def masked_logits(tiny, case, single, prefill) -> np.ndarray:
    """The full prompt through transformers' own decoder layers, with the dropped tokens' columns masked."""
    decoder = tiny.family.language_model(tiny.model)
    kept = np.arange(16) if prefill.vision is None else prefill.vision.kept_visual[0]
    dropped_before = {0: np.setdiff1d(np.arange(16), kept)}
    for drop, trace in zip(case.drops, prefill.drops, strict=True):
        kept = kept[trace.kept_visual[0]]
        dropped_before[drop.layer] = np.setdiff1d(np.arange(16), kept)
    with torch.inference_mode():
        features = features_of(tiny, single)
        hidden = decoder.embed_tokens(torch.tensor(single.input_ids)).clone()
        places = torch.tensor(single.visual_index[0])
        hidden[0, places] = features
        length = hidden.shape[1]
        rotary = decoder.rotary_emb(hidden, position_ids=torch.arange(length)[None])
        allowed = torch.ones(length, length).tril().bool()
        for i, layer in enumerate(decoder.layers):
            allowed[:, places[dropped_before.get(i, [])]] = False
            mask = allowed | torch.eye(length, dtype=torch.bool)
            hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=rotary)
        return tiny.model.lm_head(decoder.norm(hidden[:, -1])).numpy()


def features_of(tiny, batch) -> torch.Tensor:
    """[N,H]: the one image of a batch through the model's own tower and projector."""
    pixels = torch.tensor(batch.model_inputs["pixel_values"])
    return tiny.model.model.get_image_features(pixel_values=pixels).pooler_output[0]


def test_saliency_is_the_class_row_of_the_attention_map(tiny, batch):
    output = run_vision(tiny.model, tiny.family, batch)
    scores = keep_patches(output, VISION).scores
    tower = tiny.model.model.vision_tower
    tower.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            maps = tower(torch.tensor(batch.vision_inputs["pixel_values"]), output_attentions=True).attentions
    finally:
        tower.set_attn_implementation("sdpa")
    # vision_feature_layer −2 of three layers is the output of the second.
    np.testing.assert_allclose(scores.numpy(), maps[1][:, :, 0, 1:].sum(dim=1).numpy(), rtol=1e-5, atol=1e-6)


def test_text_query_is_the_last_row_of_the_attention_map(tiny, batch):
    drop = Drop(layer=2, score="text_query", order="largest", keep=(1, 2))
    trace = ScheduledRunner(tiny.model, tiny.family, schedule(drop)).prefill(batch).drops[0]
    assert tiny.model.config.text_config._attn_implementation == "sdpa"
    tiny.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            maps = tiny.model(
                input_ids=torch.tensor(batch.input_ids),
                attention_mask=torch.tensor(batch.attention_mask),
                pixel_values=torch.tensor(batch.vision_inputs["pixel_values"]),
                position_ids=torch.tensor(batch.position_ids),
                output_attentions=True,
            ).attentions
    finally:
        tiny.model.set_attn_implementation("sdpa")
    row = maps[1][:, :, -1].sum(dim=1).numpy()
    expected = np.take_along_axis(row, batch.visual_index, axis=1)
    np.testing.assert_allclose(trace.scores, expected, rtol=1e-5, atol=1e-6)
    largest = np.sort(np.argsort(-expected, axis=1, kind="stable")[:, :8], axis=1)
    np.testing.assert_array_equal(trace.kept_visual, largest)


def test_k_norm_is_the_norm_of_the_cached_mean_key(tiny, batch):
    case = schedule(Drop(layer=2, keep=(1, 2)))
    prefill = ScheduledRunner(tiny.model, tiny.family, case).prefill(batch)
    keys = prefill.state.cache.layers[1].keys.mean(dim=1).norm(dim=-1).numpy()
    np.testing.assert_allclose(prefill.drops[0].scores, np.take_along_axis(keys, batch.visual_index, axis=1), rtol=1e-5)


def test_a_vision_stage_is_the_model_on_a_prompt_without_the_other_patches(tiny, singles):
    runner = ScheduledRunner(tiny.model, tiny.family, schedule(vision=VISION))
    found = generate(runner, singles[0], max_new_tokens=4, eos_ids=(), keep_logits=True)
    shorter = singles[0].after_drop(found.prefill.vision.kept_visual)
    with torch.inference_mode():
        features = features_of(tiny, shorter)
        embeds = tiny.model.get_input_embeddings()(torch.tensor(shorter.input_ids)).clone()
        embeds[0, shorter.visual_index[0]] = features[found.prefill.vision.kept_visual[0]]
        fed = tiny.model.get_input_embeddings()(torch.tensor([found.tokens[0][:-1]]))
        # Every token stands where it stood in the whole prompt.
        places = [*shorter.position_ids[0], *range(singles[0].next_position[0], singles[0].next_position[0] + 3)]
        expected = tiny.model(
            inputs_embeds=torch.cat([embeds, fed], dim=1), position_ids=torch.tensor([places])
        ).logits[:, -4:]
    np.testing.assert_allclose(found.logits, expected.numpy(), atol=2e-5)


def test_decoding_goes_on_from_the_full_length(tiny, batch):
    for case in (SCHEDULES["k_norm largest"], SCHEDULES["merge sum"]):
        state = ScheduledRunner(tiny.model, tiny.family, case).prefill(batch).state
        np.testing.assert_array_equal(state.next_position.numpy(), batch.next_position)


def test_vision_tower_runs_once_for_many_schedules(tiny, batch):
    calls = []
    hook = tiny.model.model.multi_modal_projector.register_forward_hook(lambda *_: calls.append(1))
    try:
        cache = VisionCache()
        cached = [
            ScheduledRunner(tiny.model, tiny.family, case, vision=cache).prefill(batch) for case in SCHEDULES.values()
        ]
        assert len(calls) == 1 and cache.num_bytes > 0
        nothing = VisionCache(limit_bytes=0)
        for _ in range(2):
            ScheduledRunner(tiny.model, tiny.family, SCHEDULES["paper"], vision=nothing).prefill(batch)
        assert len(calls) == 3 and nothing.num_bytes == 0
    finally:
        hook.remove()
    for case, prefill in zip(SCHEDULES.values(), cached, strict=True):
        np.testing.assert_array_equal(
            prefill.logits, ScheduledRunner(tiny.model, tiny.family, case).prefill(batch).logits
        )


def test_random_depends_on_seed_and_nests(tiny, batch):
    kept = {}
    for seed in (0, 1):
        case = schedule(
            Drop(layer=1, score="random", order="largest", keep=(1, 2), seed=seed),
            Drop(layer=2, score="random", order="largest", keep=(1, 2), seed=seed),
        )
        kept[seed] = ScheduledRunner(tiny.model, tiny.family, case).prefill(batch).drops
    assert (kept[0][0].kept_visual != kept[1][0].kept_visual).any()
    # The score is of the original position, so what survives has kept its score.
    first, second = kept[0]
    np.testing.assert_array_equal(second.scores, np.take_along_axis(first.scores, first.kept_visual, axis=1))


def test_groups_shrink(case):
    assert all(a >= b for a, b in pairwise(case.group_counts(16)))
