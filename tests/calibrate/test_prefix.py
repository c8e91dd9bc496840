"""Prefixes: a run that starts from one equals the whole run bit by bit, and caches that are small, broken or of
something else change nothing."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scheduled_runner import CLUSTERS, SCHEDULES, schedule

from vitcop.calibrate.core.store import Store
from vitcop.calibrate.evaluate.evaluation import Evaluator
from vitcop.calibrate.evaluate.settings import CalibrationSettings
from vitcop.calibrate.models.checkpoint import Checkpoint
from vitcop.calibrate.models.loading import load_model
from vitcop.calibrate.run.generation import continue_forced
from vitcop.calibrate.run.prefix import stem
from vitcop.calibrate.run.prefix_cache import PrefixCache
from vitcop.calibrate.run.scheduled import ScheduledRunner
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.plugins.errors import InputError

FORCED = [5, 9, 7]

EVERYTHING = VisionStage(keep=(1, 1), clusters=CLUSTERS)
ALONE = {
    "k_norm-": schedule(Drop(layer=2, keep=(1, 2))),
    "k_norm+": schedule(Drop(layer=3, order="largest", keep=(1, 3))),
    "k_norm/mean_norm": schedule(Drop(layer=1, keep=(1, 2), head_reduction="mean_norm")),
    "text_query": schedule(Drop(layer=2, score="text_query", order="largest", keep=(1, 2))),
    "text_query first": schedule(Drop(layer=1, score="text_query", order="largest", keep=(1, 2))),
    "saliency": schedule(Drop(layer=2, score="vision_saliency", order="largest", keep=(1, 2)), vision=EVERYTHING),
    "uniform": schedule(Drop(layer=2, score="uniform", order="largest", keep=(5, 16))),
    "random": schedule(Drop(layer=3, score="random", order="largest", keep=(5, 16), seed=4)),
    "merge": schedule(Drop(layer=2, op="merge", keep=(1, 2)), vision=EVERYTHING),
    "merge mean": schedule(Drop(layer=3, op="merge", keep=(1, 3), merge="mean"), vision=EVERYTHING),
    "merge by question": schedule(
        Drop(layer=2, op="merge", score="text_query", order="largest", keep=(1, 2)), vision=EVERYTHING
    ),
    "two drops": schedule(Drop(layer=2, keep=(1, 2)), Drop(layer=3, score="text_query", order="largest", keep=(1, 2))),
}
"""Every rule as a sensitivity table tries it: all tokens up to its drop."""


def bits(runner, batch, prefix=None):
    """All that a run gives: logits of the prompt and of forced tokens, traces, caches, bytes and lengths."""
    prefill = runner.prefill(batch, prefix)
    traces = [trace for trace in (prefill.vision, *prefill.drops) if trace is not None]
    caches = [tensor.clone() for layer in prefill.state.cache.layers for tensor in (layer.keys, layer.values)]
    forced = continue_forced(runner, prefill, [FORCED] * len(batch.input_ids))
    arrays = [getattr(trace, name) for trace in traces for name in ("kept_visual", "scores", "assignment")]
    return [
        prefill.logits,
        forced,
        *(array for array in arrays if array is not None),
        *(tensor.numpy() for tensor in caches),
        np.array([*prefill.kv_lengths, prefill.kv_bytes]),
    ]


def assert_same_bits(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def unpruned(owner, batch, layers, start=None):
    runner = ScheduledRunner(owner.model, owner.family, Schedule(num_layers=owner.family.num_layers))
    return runner.prefixes(batch, layers, start)


@pytest.fixture(scope="module")
def prefixes(tiny, batch):
    return dict(zip((1, 2, 3), unpruned(tiny, batch, [1, 2, 3]), strict=True))


@pytest.mark.parametrize("name", ALONE)
def test_every_rule_bit_by_bit(name, tiny, batch, prefixes):
    case = ALONE[name]
    runner = ScheduledRunner(tiny.model, tiny.family, case)
    whole = bits(runner, batch)
    for layer in range(1, case.drops[0].layer + 1):
        for _ in range(2):  # a prefix is not used up
            assert_same_bits(bits(runner, batch, prefixes[layer]), whole)


@pytest.mark.parametrize("name", SCHEDULES)
def test_pruned_stems_bit_by_bit(name, tiny, batch):
    """Prefixes behind a vision stage that drops, behind other drops, and with renumbered positions."""
    case = SCHEDULES[name]
    runner = ScheduledRunner(tiny.model, tiny.family, case)
    whole = bits(runner, batch)
    for layer in (1, 2, 3):
        maker = ScheduledRunner(tiny.model, tiny.family, stem(case, layer, 16))
        (prefix,) = maker.prefixes(batch, [layer])
        assert_same_bits(bits(runner, batch, prefix), whole)


def test_stems():
    """Which schedules share a prefix."""
    empty = Schedule(num_layers=4)
    for case in ALONE.values():
        assert all(stem(case, layer, 16) == empty for layer in range(1, case.drops[0].layer + 1))
    kept = schedule(Drop(layer=2, keep=(1, 2)), vision=VisionStage(keep=(15, 16)))
    assert stem(kept, 2, 16) == schedule(vision=kept.vision) and stem(kept, 2, 1) == empty, "15/16 of one token is one"
    assert stem(kept, 3, 16) == kept
    clustered = replace(kept, vision=replace(kept.vision, clusters=CLUSTERS))
    assert stem(clustered, 2, 16) == stem(kept, 2, 16) and stem(clustered, 3, 16) != stem(kept, 3, 16)
    assert stem(replace(kept, provenance={"seed": 1}, model_id="m"), 3, 16) == kept


def test_the_vision_tower_stays_off(tiny, batch, prefixes, monkeypatch):
    monkeypatch.setattr("vitcop.calibrate.run.scheduled.run_vision", lambda *_: pytest.fail("the tower ran"))
    ScheduledRunner(tiny.model, tiny.family, ALONE["text_query"]).prefill(batch, prefixes[2])


def test_a_prompt_of_text_alone(tiny):
    text = tiny.family.prepare(tiny.processor, ["USER: what color is the circle ? ASSISTANT:"] * 2, [[], []])
    cache = cache_of(tiny)
    for case in (ALONE["k_norm-"], ALONE["merge"], ALONE["saliency"], SCHEDULES["vision"], SCHEDULES["paper"]):
        found = cache.before(case, text)
        assert case.drops == () or found.stem == stem(case, found.layer, 0)
        runner = ScheduledRunner(tiny.model, tiny.family, case)
        assert_same_bits(bits(runner, text, found), bits(runner, text))


def test_keys_and_values_are_shared(prefixes):
    for layer, prefix in prefixes.items():
        assert len(prefix.keys) == len(prefix.values) == layer
        assert all(a is b for a, b in zip(prefix.keys, prefixes[3].keys, strict=False))
    cache = prefixes[2].cache()
    assert cache.layers[1].keys is prefixes[2].keys[1]
    before = prefixes[2].keys[1].clone()
    cache.update(torch.ones_like(before[:, :, :1]), torch.ones_like(before[:, :, :1]), 1)
    assert cache.get_seq_length(1) == before.shape[2] + 1 and torch.equal(prefixes[2].keys[1], before)


def test_in_steps_or_in_one_pass(tiny, batch, prefixes):
    (first,) = unpruned(tiny, batch, [1])
    (third,) = unpruned(tiny, batch, [3], first)
    assert third.keys[0] is first.keys[0]
    assert torch.equal(third.stream.hidden, prefixes[3].stream.hidden) and torch.equal(third.query, prefixes[3].query)
    # Row by row of its own, so that it does not keep the queries of all tokens.
    assert third.query.untyped_storage().nbytes() == third.query.numel() * third.query.element_size()


@pytest.mark.parametrize(
    "case",
    [
        schedule(Drop(layer=1, keep=(1, 2))),
        schedule(Drop(layer=3, keep=(1, 2)), vision=VisionStage(keep=(3, 4))),
    ],
    ids=["a drop within", "a vision stage that drops"],
)
def test_what_a_prefix_cannot_serve_is_refused(case, tiny, batch, prefixes):
    with pytest.raises(AssertionError, match="does not lead to"):
        ScheduledRunner(tiny.model, tiny.family, case).prefill(batch, prefixes[2])


def test_other_batches_are_refused(tiny, batch, singles, prefixes):
    with pytest.raises(AssertionError, match="another batch"):
        ScheduledRunner(tiny.model, tiny.family, ALONE["k_norm-"]).prefill(singles[0], prefixes[2])


# -- families ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl-window"])
def other(request, tmp_path_factory):
    """DeepStack, and sliding windows in every other layer; both with three-axis positions."""
    folder = str(Path(__file__).parent.parent / "families")
    sys.path.insert(0, folder)
    try:
        from families_under_test import CASES
        from family_case import prepare
    finally:
        sys.path.remove(folder)
    case = next(case for case in CASES if case.name == request.param)
    model, processor, family = load_model(Checkpoint.open(case.build(tmp_path_factory.mktemp("model") / case.name)))
    name = max(case.batches, key=lambda name: len(case.batches[name]))
    return case, model, family, prepare(family, processor, case.batches[name])


def test_families_bit_by_bit(other):
    case, model, family, batch = other
    depth, scores = family.num_layers, family.vision_scores
    if case.name == "qwen3_vl":
        assert family.num_planes == 2, "prefixes before layers 1 and 2 lie between the planes and behind them"
    else:
        assert family.sliding_layers == {1, 3} and family.window < batch.input_ids.shape[1]
    clusters = Clusters(centers=(3, 10), cutoff_distance=None, cutoff_quantile=0.3)
    every = VisionStage(score=scores[0], keep=(1, 1), clusters=clusters)
    runner = ScheduledRunner(model, family, Schedule(num_layers=depth))
    layers = list(range(1, depth))
    for prefix in runner.prefixes(batch, layers):
        assert len(prefix.stream.planes) == max(0, family.num_planes - prefix.layer)
        drops = (
            (None, Drop(layer=prefix.layer, score="text_query", order="largest", keep=(1, 2))),
            (None, Drop(layer=prefix.layer, keep=(1, 3))),
            (every, Drop(layer=prefix.layer, op="merge", keep=(1, 2))),
            (every, Drop(layer=prefix.layer, score="vision_saliency", order="largest", keep=(1, 2))),
        )
        for vision, drop in drops:
            case_runner = ScheduledRunner(model, family, Schedule(num_layers=depth, vision=vision, drops=(drop,)))
            assert_same_bits(bits(case_runner, batch, prefix), bits(case_runner, batch))


# -- the cache --------------------------------------------------------------------------------------------------------


class Counted:
    """Counts decoder layers that run over prompts."""

    def __init__(self, tiny):
        self.layers = []
        decoder = tiny.family.language_model(tiny.model)
        self._hooks = [
            layer.register_forward_hook(lambda *_, i=i: self.layers.append(i)) for i, layer in enumerate(decoder.layers)
        ]

    def taken(self):
        found, self.layers = self.layers, []
        return found

    def close(self):
        for hook in self._hooks:
            hook.remove()


@pytest.fixture
def ran(tiny):
    counted = Counted(tiny)
    yield counted
    counted.close()


def cache_of(tiny, **settings):
    return PrefixCache(tiny.model, tiny.family, layers=(1, 2, 3), **settings)


def test_no_layer_runs_twice(tiny, batch, ran):
    cache = cache_of(tiny)
    assert cache.before(schedule(Drop(layer=2, keep=(1, 2))), batch).layer == 2 and ran.taken() == [0, 1]
    assert cache.before(schedule(Drop(layer=3, keep=(1, 2))), batch).layer == 3 and ran.taken() == [2]
    for layer in (1, 2, 3):
        assert cache.before(schedule(Drop(layer=layer, keep=(1, 4))), batch).layer == layer
    assert ran.taken() == []
    two = schedule(Drop(layer=1, keep=(1, 2)), Drop(layer=3, keep=(1, 2)))
    assert cache.before(two, batch).stem.drops == two.drops[:1] and ran.taken() == [1, 2]
    assert cache.before(two, batch).layer == 3 and ran.taken() == []
    assert cache.before(schedule(vision=VisionStage(keep=(1, 2))), batch) is None
    other = replace(batch, model_inputs=dict(batch.model_inputs))
    assert cache.before(schedule(Drop(layer=1, keep=(1, 2))), other).layer == 1 and ran.taken() == [0]


def held_bytes(cache):
    tensors = {}
    for entry in cache._held.values():
        prefix = entry.prefix
        for tensor in (prefix.stream.hidden, prefix.query, *prefix.keys, *prefix.values):
            tensors[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(tensors.values())


def test_memory_is_bounded(tiny, batch, ran):
    free = cache_of(tiny)
    free.before(schedule(Drop(layer=3, keep=(1, 2))), batch)
    assert held_bytes(free) <= free.num_bytes <= 1.1 * held_bytes(free)
    one = next(iter(free._held.values())).num_bytes
    tight = cache_of(tiny, limit_bytes=one + 10)
    ran.taken()
    found = tight.before(schedule(Drop(layer=3, keep=(1, 2))), batch)
    assert found.layer == 3 and ran.taken() == [0, 1, 2]
    assert tight.num_bytes == one, "only the first fits"
    tight.before(schedule(Drop(layer=3, keep=(1, 2))), batch)
    assert ran.taken() == [1, 2] and tight.num_bytes == one
    nothing = cache_of(tiny, limit_bytes=0)
    assert nothing.before(schedule(Drop(layer=2, keep=(1, 2))), batch).layer == 2
    assert nothing.num_bytes == 0 and not nothing._held


def test_newer_pruned_stems_take_the_room_of_older_ones(tiny, batch, ran):
    def pruned(keep):
        return schedule(Drop(layer=2, keep=(1, 2)), vision=VisionStage(keep=(keep, 16)))

    whole = cache_of(tiny)
    whole.before(ALONE["k_norm-"], batch)
    trunk = whole.num_bytes
    whole.before(pruned(12), batch)
    tight = cache_of(tiny, limit_bytes=whole.num_bytes)
    for case in (ALONE["k_norm-"], pruned(12), pruned(11), pruned(11)):
        tight.before(case, batch)
    ran.taken()
    assert tight.before(pruned(11), batch).layer == 2 and ran.taken() == []
    assert tight.before(ALONE["k_norm-"], batch).layer == 2 and ran.taken() == []
    assert tight.before(pruned(12), batch).layer == 2 and ran.taken() == [0, 1]
    assert trunk < tight.num_bytes <= tight.limit_bytes


# -- the evaluator ----------------------------------------------------------------------------------------------------


def evaluator_of(tiny, store=None, **settings):
    settings = CalibrationSettings(batch_size=4, max_new_tokens=3, **settings)
    return Evaluator(
        tiny.model,
        tiny.processor,
        tiny.family,
        eos_ids=tiny.checkpoint.eos_ids,
        base=["test"],
        settings=settings,
        store=Store(store),
    )


def test_the_evaluator_measures_the_same(tiny, samples, ran):
    whole = evaluator_of(tiny, prefix_memory_bytes=0)
    assert whole.prefixes is None
    part = whole.part(samples)
    cases = {**ALONE, **SCHEDULES}
    expected = {name: whole.measure(case, part, answers=True) for name, case in cases.items()}
    long_way = len(ran.taken())
    evaluator = evaluator_of(tiny)
    part = evaluator.part(samples)
    ran.taken()
    assert {name: evaluator.measure(case, part, answers=True) for name, case in cases.items()} == expected
    assert len(ran.taken()) < long_way
    assert all(any(value > 0 for value in losses.kl) for losses in expected.values())


def test_sizes_are_checked():
    with pytest.raises(InputError, match="prefix_memory_bytes: must be at least 0"):
        CalibrationSettings(prefix_memory_bytes=-1)
