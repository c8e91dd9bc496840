"""Optimization profiles: they follow from limits and schedule alone, never contradict themselves, and hold what prompts
within the limits really are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitcop.calibrate.models.families.qwen_tables import frame_grids, padded_segments, windows
from vitcop.calibrate.schedule.schedule import Clusters, Drop, Schedule, VisionStage
from vitcop.export.bundle import Architecture, Bundle, Manifest, Weights, graph_contract
from vitcop.export.bundle.architecture import GraphInputRecord
from vitcop.export.runtimes.tensorrt.profiles import Limits, Profile, cache_capacities, profiles_for
from vitcop.plugins.errors import InputError

ROWS = ("visual_rows", "int64", ("B", "V"))
MIXED = [("visual_rows", "int64", ("B", "V", "4")), ("row_weights", "float32", ("B", "V", "4"))]
TILES = ("pixel_values", "float", ("T", "3", "32", "32"))
UNITS = [
    ("pixel_values", "float", ("units", "4", "96")),
    ("patch_places", "int64", ("units", "4", "2")),
    ("image_slots", "int64", ("images", "slots")),
    ("image_place", "int64", ("units", "4")),
    ROWS,
]
WINDOWS = [("window_slots", "int64", ("windows", "36")), ("window_place", "int64", ("units", "4"))]
TAPS = [("position_taps", "int64", ("units", "4", "4")), ("position_weights", "float32", ("units", "4", "4"))]
# family: inputs of its vision graph, M, planes, position axes. Real ones are checked where families are exported.
FAMILIES = {
    "llava": ([TILES, ROWS], 1, 0, 1),
    "llava_next": ([TILES, ROWS], 1, 0, 1),
    "llava_next_video": ([TILES, *MIXED], 4, 0, 1),
    "llava_onevision": ([TILES, *MIXED], 4, 0, 1),
    "qwen2_5_vl": ([*UNITS, *WINDOWS], 4, 0, 3),
    "qwen3_vl": ([*UNITS, *TAPS], 4, 2, 3),
    "internvl": ([TILES, ROWS], 4, 0, 1),
}
PINPOINTS = {"llava_next", "llava_next_video", "llava_onevision"}
SCHEDULES = {
    "none": Schedule(num_layers=4),
    "vision": Schedule(num_layers=4, vision=VisionStage(score="key_norm", keep=(1, 3))),
    "all": Schedule(
        num_layers=4,
        vision=VisionStage(score="key_norm", keep=(2, 3), clusters=Clusters(centers=(1, 5))),
        drops=(Drop(layer=1, op="merge", keep=(1, 2)), Drop(layer=3, score="vision_saliency", keep=(1, 3))),
    ),
}


def bundle_of(folder: Path, family: str, schedule: Schedule, *, own: int = 36) -> Bundle:
    """A bundle without files but config.json; nothing else is read."""
    records, patches, planes, axes = FAMILIES[family]
    facts = Architecture(
        num_layers=schedule.num_layers,
        num_visual=own,
        vision_inputs=tuple(GraphInputRecord(name=n, kind=k, axes=a) for n, k, a in records),
        num_planes=planes,
        position_axes=axes,
        patches_per_token=patches,
        visual_tokens=(4,),
        hidden_size=32,
        sliding_layers=(),
        num_kv_heads=2,
        head_dim=8,
        vocab_size=64,
        eos_token_ids=(2,),
        dtype="float32",
    )
    config = {"image_grid_pinpoints": [[32, 64], [64, 64]]} if family in PINPOINTS else {}
    (folder / "config.json").write_text(json.dumps(config))
    manifest = Manifest(
        model_id="m",
        config_hash="",
        family=family,
        architecture=facts,
        schedule_hash="",
        files=(),
        weights=Weights(mode="referenced", folder=".", files=()),
        op_revisions={},
        versions={},
        provenance={},
    )
    return Bundle(path=folder, manifest=manifest, schedule=schedule)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_has_a_profile_and_axes_agree(folder, family, schedule):
    bundle = bundle_of(folder, family, schedule)
    limits = Limits(max_batch=4, opt_batch=2, min_text=3, max_text=90, max_images=3, max_visual=300, max_new_tokens=20)
    found = profiles_for(bundle, limits)
    contract = graph_contract(schedule, bundle.manifest.architecture)
    assert {part: list(inputs) for part, inputs in found.items()} == {
        part: [tensor.name for tensor in spec.inputs] for part, spec in contract.items()
    }
    for point in ("min", "opt", "max"):
        sizes = {part: one_size_an_axis(contract[part].inputs, inputs, point) for part, inputs in found.items()}
        before, prefill, decode = sizes["vision"]["V0"], sizes["prefill"], sizes["decode"]
        assert sizes["vision"]["B"] == prefill["B"] == decode["B"]
        assert prefill["V"] == schedule.vision_count(before)
        new = {"min": 0, "opt": 10, "max": 19}[point]
        text = prefill["S"] - prefill["V"]
        for group, count in enumerate(schedule.group_counts(before)):
            assert decode[f"P_{group}"] == text + count + new
            assert decode[f"P_{group}+1"] == decode[f"P_{group}"] + 1
    assert cache_capacities(bundle, limits) == tuple(decode[f"P_{group}+1"] for group in range(len(schedule.groups)))


def one_size_an_axis(inputs, profiles: dict[str, Profile], point: str) -> dict[str, int]:
    """Size of each named axis of a graph, which must be the same wherever the axis is."""
    sizes: dict[str, int] = {}
    for tensor in inputs:
        shape = getattr(profiles[tensor.name], point)
        assert len(shape) == len(tensor.axes)
        for axis, size in zip(tensor.axes, shape, strict=True):
            assert sizes.setdefault(axis, size) == size, f"{tensor.name}: {axis}"
            assert not axis.isdigit() or size == int(axis)
    return sizes


ranges = st.integers(1, 400), st.integers(1, 400), st.integers(1, 400)


@settings(max_examples=150, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    name=st.sampled_from(sorted(SCHEDULES)),
    batch=st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted),
    text=st.tuples(*ranges).map(sorted),
    images=st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5)).map(sorted),
    visual=st.none() | st.tuples(*(st.integers(9, 900),) * 3).map(sorted),
    new=st.integers(1, 300),
)
def test_min_opt_max_are_in_order(folder, family, name, batch, text, images, visual, new):
    visual = visual or (None, None, None)
    limits = Limits(
        **dict(zip(("opt_batch", "max_batch"), batch, strict=True)),
        **dict(zip(("min_text", "opt_text", "max_text"), text, strict=True)),
        **dict(zip(("min_images", "opt_images", "max_images"), images, strict=True)),
        **dict(zip(("min_visual", "opt_visual", "max_visual"), visual, strict=True)),
        max_new_tokens=new,
    )
    for part, inputs in profiles_for(bundle_of(folder, family, SCHEDULES[name]), limits).items():
        for tensor, profile in inputs.items():
            for low, middle, high in zip(profile.min, profile.opt, profile.max, strict=True):
                assert 0 <= low <= middle <= high, f"{part} {tensor} {profile}"
                assert high > 0


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3), min_size=1, max_size=3
    )
)
def test_tables_of_any_images_are_inside(folder, rows):
    """Real index tables of images of any shape, whatever rows of one batch they come from."""
    # Rows of a batch have one number of visual tokens: the last image of each is stretched to a strip of what is left.
    most = max(sum(h * w for h, w in row) for row in rows) + 1
    rows = [[*row, (1, most - sum(h * w for h, w in row))] for row in rows]
    grids = np.array([(1, 2 * h, 2 * w) for row in rows for h, w in row])
    frames = frame_grids(grids, 2)
    count = max(len(row) for row in rows)
    limits = Limits(max_batch=len(rows), max_images=count, min_visual=most, opt_visual=most, max_visual=most)
    bundle = bundle_of(folder, "qwen2_5_vl", SCHEDULES["none"])
    vision = profiles_for(bundle, limits)["vision"]
    slots, _ = padded_segments(np.repeat(np.arange(len(frames)), frames.prod(axis=1)), 4)
    window_slots, place = padded_segments(windows(frames, 3), 4, 36)
    for name, table in (("image_slots", slots), ("window_slots", window_slots), ("window_place", place)):
        profile = vision[name]
        assert all(a <= b <= c for a, b, c in zip(profile.min, table.shape, profile.max, strict=True)), (
            f"{name} {table.shape} {profile}"
        )


def test_prompts_of_text_alone_start_at_no_visual_token(folder):
    bundle = bundle_of(folder, "llava", SCHEDULES["all"])
    found = profiles_for(bundle, Limits(min_images=0, min_text=5))
    assert found["prefill"]["visual_features"].min == (1, 0, 32)
    assert found["prefill"]["input_ids"].min == (1, 5)
    assert found["decode"]["past_key_0"].min == (1, 2, 5, 8)
    assert found["vision"]["visual_rows"].min == (1, 36), "the vision graph is not run without an image"


def test_tiles_follow_from_the_grid_of_the_config(folder):
    bundle = bundle_of(folder, "llava_next", SCHEDULES["none"])
    assert profiles_for(bundle, Limits(max_batch=2, max_images=3))["vision"]["pixel_values"] == Profile(
        (1, 3, 32, 32), (5, 3, 32, 32), (30, 3, 32, 32)
    )
    assert profiles_for(bundle, Limits(max_tiles=9))["vision"]["pixel_values"].max == (9, 3, 32, 32)
    one = bundle_of(folder, "internvl", SCHEDULES["none"])
    limits = Limits(max_images=2, max_visual=36 * 7)
    assert profiles_for(one, limits)["vision"]["pixel_values"].max == (7, 3, 32, 32), "every tile has 36 tokens"


@pytest.mark.parametrize(
    "values, word",
    [
        ({"max_batch": 0}, "max_batch"),
        ({"max_batch": 2.0}, "max_batch"),
        ({"max_batch": True}, "max_batch"),
        ({"max_batch": 2, "opt_batch": 3}, "opt_batch 3 is above max_batch 2"),
        ({"min_text": 9, "max_text": 8}, "min_text 9 is above max_text 8"),
        ({"opt_text": 9, "min_text": 10}, "min_text 10 is above opt_text 9"),
        ({"min_images": 2}, "min_images 2 is above opt_images 1"),
        ({"opt_visual": 20, "max_visual": 10}, "opt_visual 20 is above max_visual 10"),
        ({"max_images": 5, "max_tiles": 4}, "max_tiles 4"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_txt": 3}, "'max_txt'"),
    ],
)
def test_bad_limits_are_named_in_one_line(values, word):
    with pytest.raises(InputError, match=word) as caught:
        Limits.of(values)
    assert "\n" not in str(caught.value)


def test_limits_that_the_schedule_cannot_keep_are_refused(folder):
    bundle = bundle_of(folder, "qwen3_vl", SCHEDULES["all"])
    # 2/3 of 9 are 6, half of it 3, a third of that 1; of 8: 5, 2, 0.
    assert profiles_for(bundle, Limits(min_visual=9))["prefill"]["visual_index"].min == (1, 6)
    with pytest.raises(InputError, match="min_visual 8: from fewer than 9"):
        profiles_for(bundle, Limits(min_visual=8))
    assert profiles_for(bundle, Limits())["vision"]["visual_rows"].min == (1, 9), "the default is the least"
    with pytest.raises(InputError, match="min_visual is 36 and opt_visual is 20"):
        profiles_for(bundle_of(folder, "llava", SCHEDULES["none"]), Limits(opt_visual=20, max_visual=20))


def test_an_unknown_axis_is_refused(folder):
    bundle = bundle_of(folder, "llava", SCHEDULES["none"])
    facts = bundle.manifest.architecture
    more = GraphInputRecord(name="depth", kind="int64", axes=("layers",))
    facts = replace(facts, vision_inputs=(*facts.vision_inputs, more))
    with pytest.raises(InputError, match="'depth'.*'layers'"):
        profiles_for(replace(bundle, manifest=replace(bundle.manifest, architecture=facts)), Limits())
