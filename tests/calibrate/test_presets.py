"""Presets, controls and the solving of keep counts."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vitcop.calibrate.schedule.budget import (
    check_budget,
    check_meets,
    check_one_token,
    fractions,
    layer_mean,
    solve_counts,
)
from vitcop.calibrate.schedule.presets import (
    PRESET_NAMES,
    controls,
    nearest_reference,
    paper_layers,
    paper_schedule,
    preset,
)
from vitcop.calibrate.schedule.schedule import Schedule
from vitcop.plugins.errors import InputError

PAPER = {
    "paper-1/3": ((288, 253, 51), 1 / 3, (18, 100)),
    "paper-2/9": ((230, 165, 33), 2 / 9, (15, 100)),
    "paper-1/9": ((172, 77, 15), 1 / 9, (12, 100)),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers(name):
    counts, budget, centers = PAPER[name]
    made = preset(name, 32, 576)
    assert made.group_counts(576) == counts
    assert [drop.layer for drop in made.drops] == [2, 22]
    assert abs(made.budget(576) - budget) * 576 < 1
    assert made.vision.clusters.centers == centers
    assert (made.vision.clusters.cutoff_distance, made.vision.clusters.spatial_radius) == (8.0, 0.6)
    first, second = made.drops
    assert (first.op, first.merge, first.keep) == ("merge", "sum", (counts[1], counts[0]))
    assert (second.op, second.score, second.order, second.keep) == (
        "select",
        "k_norm",
        "smallest",
        (counts[2], counts[1]),
    )


def test_none():
    assert preset("none", 7, 100) == Schedule(num_layers=7)


@pytest.mark.parametrize("depth", [(32, (2, 22)), (8, (1, 5)), (40, (2, 27)), (3, (1, 2)), (4, (1, 2))])
def test_layers_on_other_depths(depth):
    assert paper_layers(depth[0]) == depth[1]


@given(num_layers=st.integers(4, 80), num_visual=st.integers(64, 3000), name=st.sampled_from(list(PAPER)))
@example(num_layers=12, num_visual=2058, name="paper-1/9")  # exactly one token off
def test_other_sizes_meet_the_budget(num_layers, num_visual, name):
    made = preset(name, num_layers, num_visual)
    assert abs(made.budget(num_visual) - PAPER[name][1]) * num_visual <= 1 + 1e-9
    counts = made.group_counts(num_visual)
    assert counts[0] >= counts[1] >= counts[2] >= 1


@given(budget=st.floats(0.02, 0.98), num_layers=st.integers(6, 48), num_visual=st.integers(100, 2000))
def test_any_budget(budget, num_layers, num_visual):
    made = paper_schedule(num_layers, num_visual, budget)
    assert abs(made.budget(num_visual) - budget) * num_visual <= 1 + 1e-9


def test_refusals():
    with pytest.raises(InputError, match="paper-1/3, paper-2/9, paper-1/9, none"):
        preset("paper-1/2", 32, 576)
    with pytest.raises(InputError, match="at least 3 decoder layers"):
        preset("paper-1/3", 2, 576)
    for budget in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            check_budget(budget)
    with pytest.raises(InputError, match=r"nearest that can be met is 0\.0100"):
        check_one_token(0.005, 100)
    with pytest.raises(InputError, match=r"the nearest is 1\.0000"):
        check_meets(Schedule(num_layers=4), 100, 0.5)
    assert set(PRESET_NAMES) == {*PAPER, "none"}
    assert nearest_reference(0.05) is nearest_reference(1 / 9)


@pytest.mark.parametrize("score", ["uniform", "random"])
@pytest.mark.parametrize("name", PRESET_NAMES)
def test_controls_keep_counts_and_layers(name, score):
    base = preset(name, 8, 144)
    control = controls(base, score, seed=5)
    assert control.layer_counts(144) == base.layer_counts(144)
    assert [drop.layer for drop in control.drops] == [drop.layer for drop in base.drops]
    stages = [*control.drops, *([control.vision] if control.vision else [])]
    assert all(stage.score == score and stage.seed == 5 for stage in stages)
    assert all(drop.op == "select" and drop.order == "largest" for drop in control.drops)


@given(data=st.data())
def test_solved_counts_are_within_one_token_of_the_best(data):
    num_layers = data.draw(st.integers(3, 40))
    layers = sorted(data.draw(st.sets(st.integers(1, num_layers - 1), min_size=1, max_size=3)))
    vision = data.draw(st.integers(1, 400))
    shape = sorted(data.draw(st.lists(st.floats(0.05, 1), min_size=len(layers), max_size=len(layers))), reverse=True)
    target = data.draw(st.floats(0.5, 400))
    least = layer_mean(num_layers, layers, [vision] + [1] * len(layers))
    counts = solve_counts(num_layers, target, vision, layers, shape)
    if counts is None:
        assert target < least - 1 + 1e-9 or target > vision + 1 - 1e-9
    else:
        assert abs(layer_mean(num_layers, layers, counts) - target) <= 1
        assert list(counts) == sorted(counts, reverse=True) and counts[0] == vision and counts[-1] >= 1


def test_fractions_give_the_counts_back():
    keeps = fractions((288, 253, 51), 576)
    assert keeps == [(288, 576), (253, 288), (51, 253)]
