"""The vision-side equivalent of a schedule: the budget stays, whatever changes is said, nothing is dropped silently."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitcop.calibrate.schedule.schedule import MAX_INT, Clusters, Drop, Schedule, VisionStage
from vitcop.export.runtimes.tensorrt_llm.equivalent import bounded, budget_of, vision_side

PAPER = Schedule(
    num_layers=32,
    vision=VisionStage(keep=(288, 576), clusters=Clusters(centers=(18, 100))),
    drops=(Drop(layer=2, op="merge", keep=(253, 288)), Drop(layer=22, keep=(51, 253))),
)

fractions = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def schedules(draw):
    layers = draw(st.integers(2, 12))
    vision = draw(
        st.none()
        | st.builds(
            VisionStage,
            score=st.sampled_from(["class_attention", "mean_query", "uniform", "random"]),
            order=st.sampled_from(["largest", "smallest"]),
            keep=fractions,
            clusters=st.none() | st.just(Clusters(centers=(3, 10))),
        )
    )
    places = sorted(draw(st.sets(st.integers(1, layers - 1), max_size=3)))
    drops = [Drop(layer=layer, keep=draw(fractions)) for layer in places]
    if drops and vision is not None and vision.clusters and draw(st.booleans()):
        drops[0] = replace(drops[0], op="merge", merge=draw(st.sampled_from(["sum", "mean"])))
    return Schedule(num_layers=layers, vision=vision, drops=tuple(drops))


def side_of(schedule):
    return vision_side(schedule, vision_score="mean_query")


@given(schedules())
def test_the_budget_stays_exactly(schedule):
    side = side_of(schedule)
    assert Fraction(*side.keep) == budget_of(schedule)


@given(schedules(), st.integers(1, 3000))
def test_tokens_are_the_mean_over_the_layers_but_for_rounding(schedule, num_visual):
    side = side_of(schedule)
    count, layers = side.count(num_visual), schedule.layer_counts(num_visual)
    assert 1 <= count <= num_visual
    # Each stage of the schedule, and each of the two on the vision side, rounds by less than one token.
    assert abs(count - Fraction(sum(layers), len(layers))) < 1 + len(schedule.drops) + (schedule.vision is not None) + 1


@st.composite
def long_schedules(draw):
    """Keep fractions of parts so large that their products do not fit a schedule."""
    parts = st.tuples(st.integers(1, MAX_INT - 1), st.integers(MAX_INT // 2, MAX_INT - 1))
    long = parts.map(lambda pair: (min(pair), max(pair)))
    layers = draw(st.integers(3, 12))
    vision = draw(st.none() | st.builds(VisionStage, keep=long, clusters=st.just(Clusters(centers=(3, 10)))))
    drops = [
        Drop(layer=layer, keep=draw(long))
        for layer in sorted(draw(st.sets(st.integers(1, layers - 1), min_size=1, max_size=3)))
    ]
    if vision is not None and draw(st.booleans()):
        drops[0] = replace(drops[0], op="merge")
    return Schedule(num_layers=layers, vision=vision, drops=tuple(drops))


@given(long_schedules())
def test_a_long_budget_is_met_from_below(schedule):
    side = side_of(schedule)
    assert 0 <= budget_of(schedule) - Fraction(*side.keep) < Fraction(1, 10**9) or side.keep[0] == 1
    for num, den in filter(None, (side.vision.keep, side.merge)):
        assert 0 < num <= den < MAX_INT


@given(schedules() | long_schedules(), st.integers(1, 100_000))
def test_tokens_are_the_floors_of_the_exact_share(schedule, num_visual):
    """Of the whole share where tokens are selected; of one share after the other where they are merged as well. The
    bounded share lies less than 1e-9 lower, so a floor may be lower by one; at least one token stays."""
    side, budget = side_of(schedule), budget_of(schedule)
    if side.merge is None:
        exact = num_visual * budget // 1
    else:
        stage = Fraction(*schedule.vision.keep)
        exact = max(1, num_visual * stage // 1) * (budget / stage) // 1
    assert max(1, exact) - side.count(num_visual) in ((0,) if Fraction(*side.keep) == budget else (0, 1))


@given(schedules(), st.integers(1, 2000))
def test_more_visual_tokens_never_leave_fewer(schedule, num_visual):
    side = side_of(schedule)
    assert side.count(num_visual) <= side.count(num_visual + 1)


@given(schedules(), st.data())
def test_keeping_more_at_a_drop_never_leaves_less(schedule, data):
    if not schedule.drops:
        return
    at = data.draw(st.integers(0, len(schedule.drops) - 1))
    num, den = schedule.drops[at].keep
    more = replace(schedule.drops[at], keep=(num, den - 1) if num < den else (num, den))
    richer = replace(schedule, drops=(*schedule.drops[:at], more, *schedule.drops[at + 1 :]))
    assert Fraction(*side_of(schedule).keep) <= Fraction(*side_of(richer).keep)


@given(schedules())
def test_every_stage_is_reported(schedule):
    side = side_of(schedule)
    expected = ["vision stage"] * (schedule.vision is not None)
    expected += [f"drop {i} ({drop.op} before layer {drop.layer})" for i, drop in enumerate(schedule.drops)]
    assert [stage.stage for stage in side.report] == expected
    assert all(stage.how for stage in side.report)
    assert not any(stage.honoured == "exactly" and stage.stage != "vision stage" for stage in side.report)
    if schedule.vision is not None:
        same = replace(side.vision, clusters=None) == replace(schedule.vision, clusters=None)
        assert (side.report[0].honoured == "exactly") == same


@given(schedules())
def test_it_is_its_own_equivalent(schedule):
    """Without merges: what stands on the vision side alone stays as it is."""
    side = side_of(schedule)
    if side.merge is None and side.schedule.vision is not None and not side.schedule.drops:
        again = vision_side(side.schedule, vision_score="key_norm")
        assert again.vision == side.vision and again.keep == side.keep
        assert [stage.honoured for stage in again.report] == ["exactly"]


def test_the_paper_of_a_third():
    side = side_of(PAPER)
    assert budget_of(PAPER) == Fraction(3073, 9216)
    assert side.vision == PAPER.vision and side.merge == (3073, 4608)
    assert side.count(576) == 192
    assert [stage.honoured for stage in side.report] == ["exactly", "approximated", "folded"]
    assert "class_attention instead of k_norm" in side.report[1].how
    assert "plain means instead of sum" in side.report[1].how


def test_a_vision_stage_alone_stays():
    schedule = Schedule(num_layers=4, vision=VisionStage(score="key_norm", order="smallest", keep=(4, 14), seed=3))
    side = side_of(schedule)
    assert side.vision == schedule.vision and side.merge is None and side.schedule == schedule


def test_drops_without_a_vision_stage_get_one():
    side = side_of(Schedule(num_layers=4, drops=(Drop(layer=1, score="text_query", order="largest", keep=(1, 2)),)))
    assert side.vision == VisionStage(score="mean_query", keep=(5, 8))
    assert [stage.honoured for stage in side.report] == ["folded"]
    assert "its score reads the question" in side.report[0].how


@pytest.mark.parametrize("score", ["uniform", "random"])
def test_a_score_that_tells_nothing_does_not_merge(score):
    schedule = replace(PAPER, vision=replace(PAPER.vision, score=score))
    side = side_of(schedule)
    assert side.merge is None and side.vision.keep == (3073, 9216) and side.vision.score == score
    assert [stage.honoured for stage in side.report] == ["approximated", "folded", "folded"]


@given(st.fractions(min_value=0, max_value=1).filter(lambda share: share > 0))
def test_shares_that_are_too_long_are_rounded_down(share):
    num, den = bounded(share)
    assert 0 < num <= den < MAX_INT
    assert 0 <= share - Fraction(num, den) < Fraction(1, 10**9) or share < Fraction(1, 10**9)


def test_a_long_share():
    long = Fraction(2**40 + 1, 2**41)
    num, den = bounded(long)
    assert den == MAX_INT - 1 and Fraction(num, den) <= long
