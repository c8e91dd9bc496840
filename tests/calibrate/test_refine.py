"""Counts fitted to a constraint, the space of the joint refinement, and the refinement over made-up losses."""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, schedule_of
from vitcop.calibrate.search.constraints import Constraint, CostModel, token_cost
from vitcop.calibrate.search.fit_counts import fit_counts
from vitcop.calibrate.search.refine import RefineSettings, refine
from vitcop.calibrate.search.refine_space import RefineSpace

NUM_LAYERS, NUM_VISUAL = 16, 144
INPUT = tuple(Rule(score=score, order="largest") for score in ("class_attention", "key_norm"))
TEXT, MERGE = Rule(score="text_query", order="largest"), Rule(op="merge", merge="mean")
INSIDE = (Rule(), Rule(order="largest"), TEXT, MERGE, Rule(score="uniform"))
COST, CONSTRAINT = token_cost(NUM_LAYERS, NUM_VISUAL), Constraint(kind="budget", value=1 / 6)
SPACE = RefineSpace(
    rules={AT_INPUT: INPUT, **dict.fromkeys((1, 2, 3, 4, 6, 8, 10, 12), INSIDE)}, max_drops=3, num_visual=NUM_VISUAL
)
BADNESS = {"class_attention": 0.5, "key_norm": 0.7, "k_norm": 0.9, "text_query": 0.35, "uniform": 1.0}


def fit(choices):
    return fit_counts(choices, COST, CONSTRAINT)


def as_schedule(choices):
    return schedule_of(
        choices, num_layers=NUM_LAYERS, num_visual=NUM_VISUAL, saliency="class_attention", centers=(1, 4)
    )


def made_loss(schedule):
    """Losses that add up, save that the text query is worth less in the first layers."""
    stages = [(0, schedule.vision)] if schedule.vision else []
    loss = 0.0
    for layer, stage in stages + [(drop.layer, drop) for drop in schedule.drops]:
        part = BADNESS[stage.score] * math.log(stage.keep[1] / stage.keep[0]) ** 1.5 * (1.1 - layer / NUM_LAYERS)
        loss += part * (1.6 if stage.score == "text_query" and layer < 4 else 1.0)
    return loss


def in_order(schedules):
    return [made_loss(schedule) for schedule in schedules]


def in_any_order(schedules):
    """As an executor of many workers would."""
    order = list(range(len(schedules)))
    random.Random(len(schedules)).shuffle(order)
    found = {i: made_loss(schedules[i]) for i in order}
    return [found[i] for i in range(len(schedules))]


def run(seed=0, *, starts=(), evaluate=in_order, generations=3, space=SPACE):
    return refine(
        starts,
        space,
        fit=fit,
        schedule_of=as_schedule,
        evaluate=evaluate,
        settings=RefineSettings(generations=generations, size=8, seed=seed),
    )


STARTS = (
    (Choice(layer=AT_INPUT, keep=24, rule=INPUT[0]),),
    (Choice(layer=AT_INPUT, keep=36, rule=INPUT[0]), Choice(layer=8, keep=12, rule=TEXT)),
    (Choice(layer=1, keep=24, rule=MERGE), Choice(layer=12, keep=6, rule=TEXT)),
)


def test_everything_tried_meets_the_budget_and_comes_once():
    tried = run(starts=STARTS, generations=6)
    assert len(tried) == 3 + 6 * 8
    assert len({item.schedule for item in tried}) == len(tried)
    for item in tried:
        assert abs(item.schedule.budget(NUM_VISUAL) - 1 / 6) * NUM_VISUAL <= 1 + 1e-9
        counts = [NUM_VISUAL, *(choice.keep for choice in item.choices)]
        assert counts == sorted(set(counts), reverse=True)
        assert item.value == item.loss == made_loss(item.schedule)
    assert [item.generation for item in tried] == [0] * 3 + [g for g in range(1, 7) for _ in range(8)]


def test_starts_come_first_and_once():
    tried = run(starts=(*STARTS, STARTS[1]), generations=0)
    assert [item.choices for item in tried] == [fit(choices) for choices in STARTS]


def test_a_generation_may_be_measured_in_any_order():
    assert run(starts=STARTS) == run(starts=STARTS, evaluate=in_any_order)
    assert run(seed=1, starts=STARTS) != run(starts=STARTS)


def test_a_generation_is_one_call():
    sizes = []

    def counting(schedules):
        sizes.append(len(schedules))
        return in_order(schedules)

    run(starts=STARTS, evaluate=counting)
    assert sizes == [3] + [8] * 3


@pytest.mark.parametrize("stop", [0, 2])
def test_interrupted_and_run_again(stop):
    kept, measured = {}, []

    def remembering(schedules):
        for schedule in schedules:
            if schedule not in kept:
                if len(measured) == stop * 8 + 5:
                    raise KeyboardInterrupt
                measured.append(schedule)
                kept[schedule] = made_loss(schedule)
        return [kept[schedule] for schedule in schedules]

    with pytest.raises(KeyboardInterrupt):
        run(starts=STARTS, evaluate=remembering)
    done = len(measured)
    stop = math.inf
    tried = run(starts=STARTS, evaluate=remembering)
    assert tried == run(starts=STARTS)
    assert 0 < done < len(measured) == len(tried)


def test_another_process_tries_the_same():
    """The hash seed changes the order of sets; nothing may follow from it."""
    code = (
        "import test_refine as t, hashlib, json\n"
        "print(hashlib.sha256(json.dumps([i.schedule.to_json() for i in t.run(starts=t.STARTS)]).encode()).hexdigest())"
    )
    here = hashlib.sha256(json.dumps([item.schedule.to_json() for item in run(starts=STARTS)]).encode()).hexdigest()
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here
    assert done.stderr == "", "optuna speaks on stderr unless it is told not to"


PLANTED = (Choice(layer=AT_INPUT, keep=43, rule=INPUT[0]), Choice(layer=6, keep=17, rule=TEXT))


def distance(schedule):
    """From the planted schedule: rules, layers and logarithms of counts."""
    counts = schedule.layer_counts(NUM_VISUAL)
    planted = as_schedule(fit(PLANTED))
    loss = sum(abs(math.log(a / b)) for a, b in zip(counts, planted.layer_counts(NUM_VISUAL), strict=True))
    rules = [[item and item.score for item in (found.vision, *found.drops)] for found in (schedule, planted)]
    return loss / NUM_LAYERS + 0.3 * len(set(rules[0]) ^ set(rules[1]))


def random_losses(seed, num):
    """As many schedules of the same space, drawn at random."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, found = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)), {}
    optuna.logging.set_verbosity(verbosity)
    while len(found) < num:
        choices = SPACE.decode(study.ask(SPACE.distributions()).params)
        fitted = choices and fit(choices)
        if fitted:
            found[as_schedule(fitted)] = distance(as_schedule(fitted))
    return list(found.values())


def test_it_finds_what_was_planted_better_than_random():
    """At equal numbers of schedules and without starting points, summed over seeds."""
    assert distance(as_schedule(fit(PLANTED))) == 0
    seeds = range(5)
    refined = [
        min(
            item.value
            for item in run(seed, evaluate=lambda found: [distance(schedule) for schedule in found], generations=6)
        )
        for seed in seeds
    ]
    drawn = [min(random_losses(seed, 48)) for seed in seeds]
    assert sum(refined) < 0.7 * sum(drawn), (refined, drawn)


def test_it_betters_its_starts():
    tried = run(starts=STARTS, generations=6)
    start = min(item.value for item in tried if item.generation == 0)
    assert min(item.value for item in tried) < 0.97 * start


def test_losses_that_are_not_finite():
    def overflowing(schedules):
        return [
            math.inf if any(drop.op == "merge" for drop in schedule.drops) else made_loss(schedule)
            for schedule in schedules
        ]

    tried = run(starts=STARTS, evaluate=overflowing)
    assert len(tried) == 3 + 3 * 8
    assert math.isinf(max(item.loss for item in tried)) and math.isfinite(min(item.loss for item in tried))


def test_a_small_space_ends():
    space = RefineSpace(rules={AT_INPUT: INPUT}, max_drops=2, num_visual=NUM_VISUAL)
    tried = run(space=space)
    assert {item.choices for item in tried} == {(Choice(layer=AT_INPUT, keep=24, rule=rule),) for rule in INPUT}


def test_what_is_made_least_may_be_another_value():
    """Under "max_loss" it is the cost, with what lies above as bad as keeping all and worse."""
    constraint = Constraint(kind="max_loss", value=0.8)

    def value(choices, loss):
        return COST.of(choices) if loss <= 0.8 else COST.of(()) * (loss / 0.8)

    tried = refine(
        STARTS,
        SPACE,
        fit=lambda choices: fit_counts(choices, COST, constraint),
        schedule_of=as_schedule,
        evaluate=in_order,
        settings=RefineSettings(generations=4, size=8, seed=0),
        value=value,
    )
    assert all(item.value == value(item.choices, item.loss) for item in tried)
    assert tried[0].choices == STARTS[0]
    best = min(tried, key=lambda item: item.value)
    assert best.loss <= 0.8 and best.value < COST.of(())


# -- the space --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", STARTS)
def test_starts_are_points_of_the_space(choices):
    parameters = SPACE.encode(choices)
    assert set(parameters) == set(SPACE.distributions())
    for name, distribution in SPACE.distributions().items():
        assert distribution._contains(distribution.to_internal_repr(parameters[name]))
    assert SPACE.decode(parameters) == choices


def test_the_space_is_widened_to_hold_the_starts():
    rule = Rule(score="k_norm", head_reduction="mean_norm")
    wider = SPACE.with_sets([(Choice(layer=15, keep=3, rule=rule),)])
    assert 15 in wider.layers and 15 not in SPACE.layers
    assert wider.decode(wider.encode((Choice(layer=15, keep=14, rule=rule),))) is not None


def test_what_does_not_go_together_is_no_point():
    merge_second = (Choice(layer=1, keep=20, rule=TEXT), Choice(layer=4, keep=10, rule=MERGE))
    assert SPACE.decode(SPACE.encode(merge_second)) is None
    assert SPACE.decode(SPACE.encode(())) is None
    twice = SPACE.encode((Choice(layer=4, keep=20, rule=TEXT), Choice(layer=4, keep=10, rule=TEXT)))
    assert SPACE.decode(twice) is None


# -- counts -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    budget=st.floats(0.02, 0.9),
    shares=st.lists(st.floats(0.1, 0.9), min_size=1, max_size=3),
    at_input=st.booleans(),
    first=st.integers(1, 6),
)
def test_fitted_counts_meet_the_budget_and_fall(budget, shares, at_input, first):
    choices, count = [], NUM_VISUAL
    for i, share in enumerate(shares):
        count = max(1, int(count * share))
        layer = AT_INPUT if at_input and i == 0 else first + 4 * i
        if layer < NUM_LAYERS:
            choices.append(Choice(layer=layer, keep=count, rule=INPUT[0] if layer == AT_INPUT else TEXT))
    constraint = Constraint(kind="budget", value=budget)
    fitted = fit_counts(choices, COST, constraint)
    if fitted is None:
        return
    assert [(choice.layer, choice.rule) for choice in fitted] == [(choice.layer, choice.rule) for choice in choices]
    assert abs(as_schedule(fitted).budget(NUM_VISUAL) - budget) * NUM_VISUAL <= 1 + 1e-9
    assert all(a.keep > b.keep for a, b in pairwise(fitted))
    assert fitted[0].keep < NUM_VISUAL


def test_counts_at_llm_input_stay_where_they_can():
    choices = (Choice(layer=AT_INPUT, keep=36, rule=INPUT[0]), Choice(layer=8, keep=30, rule=TEXT))
    assert [choice.keep for choice in fit(choices)] == [36, 12]
    # 12 tokens at LLM input are below the budget of 24, so they are scaled as well.
    low = fit((Choice(layer=AT_INPUT, keep=12, rule=INPUT[0]), Choice(layer=8, keep=6, rule=TEXT)))
    assert [choice.keep for choice in low] == [32, 16]
    assert [choice.keep for choice in fit((Choice(layer=AT_INPUT, keep=70, rule=INPUT[0]),))] == [24]
    assert fit((Choice(layer=12, keep=12, rule=TEXT),)) is None


def test_a_latency_is_used_up_and_never_exceeded():
    cost = CostModel(
        num_layers=NUM_LAYERS,
        num_visual=NUM_VISUAL,
        layer=lambda count: 1.0 + 0.01 * count,
        drop=lambda choice, count: 0.001 * count,
        fixed=2.0,
    )
    choices = (Choice(layer=AT_INPUT, keep=80, rule=INPUT[0]), Choice(layer=8, keep=60, rule=TEXT))
    for limit in (23.0, 26.5, 29.0):
        fitted = fit_counts(choices, cost, Constraint(kind="latency_ms", value=limit))
        assert cost.of(fitted) <= limit
        more = (fitted[0], Choice(layer=8, keep=fitted[1].keep + 1, rule=TEXT))
        assert cost.of(more) > limit
    assert fit_counts(choices, cost, Constraint(kind="latency_ms", value=18.0)) is None
