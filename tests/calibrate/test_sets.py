"""The best sets: what brute force finds, whatever the constraint; and what holds for any table."""

import math
import random
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitcop.calibrate.schedule.choices import AT_INPUT, Choice, Rule, compatible, schedule_of
from vitcop.calibrate.schedule.cost import DecoderShape, prefill_cost
from vitcop.calibrate.search.constraints import Constraint, CostModel, flops_cost, kv_cost, token_cost
from vitcop.calibrate.search.sets import best_sets
from vitcop.plugins.errors import InputError

RULES = (
    Rule(),
    Rule(order="largest"),
    Rule(score="text_query", order="largest"),
    Rule(score="vision_saliency", order="largest", saliency="key_norm"),
    Rule(score="vision_saliency", order="largest", saliency="key_diversity"),
    Rule(op="merge"),
    Rule(op="merge", merge="mean", cutoff_quantile=0.2),
)
INPUT_RULES = tuple(Rule(score=score, order="largest") for score in ("key_norm", "key_diversity", "uniform"))
SHAPE = DecoderShape(hidden=8, intermediate=20, num_heads=2, num_kv_heads=1, head_dim=4, vocab=30)
KINDS = ("budget", "flops", "kv_bytes", "latency_ms", "max_loss")
NUM_TABLES = 200


def made_table(stream, *, coarse=False):
    """(losses, L, V) of a few choices; coarse losses are often equal, or zero."""
    num_layers, num_visual = stream.randint(4, 9), stream.choice((9, 16, 40))
    layers = [AT_INPUT, *stream.sample(range(1, num_layers), 3)]
    counts = stream.sample(range(1, num_visual), 3)
    losses = {}
    for layer in layers[stream.randint(0, 1) :]:
        for keep in counts:
            for rule in stream.sample(INPUT_RULES if layer == AT_INPUT else RULES, stream.randint(1, 3)):
                loss = (
                    stream.choice((0.0, 0.5, 1.0)) if coarse else stream.expovariate(1.0) * 10 ** stream.uniform(-4, 1)
                )
                losses[Choice(layer=layer, keep=keep, rule=rule)] = loss
    return losses, num_layers, num_visual


def made_cost(kind, stream, num_layers, num_visual):
    if kind == "budget":
        return token_cost(num_layers, num_visual)
    if kind == "flops":
        return flops_cost(SHAPE, num_layers, num_visual, 5)
    if kind == "kv_bytes":
        return kv_cost(SHAPE, num_layers, num_visual, 5)
    seconds = {rule: stream.uniform(0.0, 0.2) for rule in (*RULES, *INPUT_RULES)}
    return CostModel(
        num_layers=num_layers,
        num_visual=num_visual,
        layer=lambda count: 1.0 + 0.1 * count + 0.003 * count**2,
        drop=lambda choice, count: seconds[choice.rule] * (1 + count / 8) + 0.01 * choice.keep,
        fixed=3.0,
    )


def every_set(losses, cost, max_drops):
    """(loss, cost, choices) of all sets of compatible choices."""
    ordered = sorted(losses, key=lambda choice: choice.layer)
    return [
        (math.fsum(losses[choice] for choice in choices), cost.of(choices), choices)
        for num in range(max_drops + 1)
        for choices in combinations(ordered, num)
        if all(compatible(a, b) for a, b in combinations(choices, 2))
    ]


def ranked(found, constraint, cost):
    """All that meet the constraint, best first."""
    limit = constraint.limit(cost)
    name = lambda item: " ".join(choice.name for choice in item[2]) or "none"  # noqa: E731
    if constraint.kind == "max_loss":
        return sorted((item for item in found if item[0] <= limit), key=lambda item: (item[1], item[0], name(item)))
    return sorted((item for item in found if item[1] <= limit), key=lambda item: (item[0], item[1], name(item)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coarse", [False, True])
def test_it_finds_what_brute_force_finds(kind, coarse):
    """Twenty tables of each kind, with and without many ties: 200 in all, the five best sets of each."""
    for seed in range(NUM_TABLES // (2 * len(KINDS))):
        stream = random.Random(f"{kind} {coarse} {seed}")
        losses, num_layers, num_visual = made_table(stream, coarse=coarse)
        cost = made_cost("latency_ms" if kind == "max_loss" else kind, stream, num_layers, num_visual)
        max_drops = stream.randint(1, 3)
        found = every_set(losses, cost, max_drops)
        value = stream.choice(found)[0 if kind == "max_loss" else 1]
        if kind == "budget":
            value /= num_layers * num_visual
        constraint = Constraint(kind=kind, value=max(value, 1e-3))
        expected = ranked(found, constraint, cost)[:5]
        answer = best_sets(losses, cost, constraint, max_drops=max_drops, num_best=5)
        assert [(item.loss, item.cost, item.choices) for item in answer] == expected, f"table {seed}"


tables = st.builds(
    lambda seed, coarse: made_table(random.Random(seed), coarse=coarse), st.integers(0, 10**6), st.booleans()
)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(table=tables, budget=st.floats(0.15, 1.0), max_drops=st.integers(1, 4))
def test_what_holds_for_any_table(table, budget, max_drops):
    losses, num_layers, num_visual = table
    cost, constraint = token_cost(num_layers, num_visual), Constraint(kind="budget", value=budget)
    try:
        found = best_sets(losses, cost, constraint, max_drops=max_drops, num_best=4)
    except InputError:
        least = min(item[1] for item in every_set(losses, cost, max_drops))
        assert least / num_layers > budget * num_visual + 1
        return
    assert found == sorted(found, key=lambda item: (item.loss, item.cost, item.name))
    for item in found:
        assert len(item.choices) <= max_drops
        layers, counts = [[getattr(choice, name) for choice in item.choices] for name in ("layer", "keep")]
        assert all(a < b for a, b in pairwise(layers))
        assert all(a > b for a, b in pairwise([num_visual, *counts]))
        schedule = schedule_of(
            item.choices, num_layers=num_layers, num_visual=num_visual, saliency="key_norm", centers=(1, 4)
        )
        assert schedule.budget(num_visual) * num_visual <= budget * num_visual + 1 + 1e-9
        assert sum(schedule.layer_counts(num_visual)) == item.cost
    # The order of the rows of a table means nothing, and the same comes twice.
    shuffled = list(losses.items())
    random.Random(1).shuffle(shuffled)
    assert best_sets(dict(shuffled), cost, constraint, max_drops=max_drops, num_best=4) == found
    # More room never costs.
    wider = Constraint(kind="budget", value=min(1.0, budget * 1.3))
    assert best_sets(losses, cost, wider, max_drops=max_drops)[0].loss <= found[0].loss
    assert best_sets(losses, cost, constraint, max_drops=max_drops + 1)[0].loss <= found[0].loss


@settings(deadline=None, max_examples=12, derandomize=True)
@given(table=tables, most=st.floats(0.01, 3.0))
def test_more_loss_never_costs_more(table, most):
    losses, num_layers, num_visual = table
    cost = token_cost(num_layers, num_visual)
    least = best_sets(losses, cost, Constraint(kind="max_loss", value=most), max_drops=3)[0]
    assert least.loss <= most
    assert best_sets(losses, cost, Constraint(kind="max_loss", value=2 * most), max_drops=3)[0].cost <= least.cost


def test_many_equals_are_ordered_by_name():
    """All sets of one drop have the same loss and the same cost, so all are looked at."""
    losses = {Choice(layer=3, keep=4, rule=Rule(cutoff_quantile=i / 64, op="merge")): 0.25 for i in range(1, 25)}
    cost, constraint = token_cost(6, 16), Constraint(kind="budget", value=0.7)
    found = best_sets(losses, cost, constraint, max_drops=2, num_best=5)
    assert [item.name for item in found] == sorted(choice.name for choice in losses)[:5]


def test_what_cannot_be_met_is_told_with_the_nearest():
    losses = {
        Choice(layer=AT_INPUT, keep=20, rule=INPUT_RULES[0]): 0.1,
        Choice(layer=2, keep=10, rule=Rule()): 0.2,
        Choice(layer=2, keep=5, rule=Rule()): math.inf,
    }
    cost = token_cost(4, 40)
    with pytest.raises(InputError, match="budget 0.1: no set of at most 2 .* is 0.3750$"):
        best_sets(losses, cost, Constraint(kind="budget", value=0.1), max_drops=2)
    with pytest.raises(InputError, match="is 0.5000$"):
        best_sets(losses, cost, Constraint(kind="budget", value=0.1), max_drops=1)
    # Between 0.625 (the drop before layer 2 alone) and 1, where the empty set lies, there is none.
    almost = Constraint(kind="budget", value=0.75)
    assert best_sets(losses, cost, almost, max_drops=2, at_least=0.99) == best_sets(losses, cost, almost, max_drops=2)
    assert best_sets(losses, cost, Constraint(kind="budget", value=0.375), max_drops=2)[0].cost == 60
    shape = flops_cost(SHAPE, 4, 40, 5)
    with pytest.raises(InputError, match=r"flops 1000: .* is \d+$"):
        best_sets(losses, shape, Constraint(kind="flops", value=1000), max_drops=2)


def test_without_drops():
    cost = token_cost(4, 40)
    (empty,) = best_sets({}, cost, Constraint(kind="budget", value=1.0), max_drops=2, num_best=3)
    assert empty.choices == () and empty.name == "none" and empty.cost == 160
    with pytest.raises(InputError, match="is 1.0000$"):
        best_sets({}, cost, Constraint(kind="budget", value=0.5), max_drops=2)


def test_costs_are_those_of_the_formulas():
    choices = (
        Choice(layer=AT_INPUT, keep=20, rule=INPUT_RULES[0]),
        Choice(layer=3, keep=7, rule=Rule()),
    )
    schedule = schedule_of(choices, num_layers=6, num_visual=40, saliency="key_norm", centers=(1, 4))
    expected = prefill_cost(SHAPE, schedule.layer_counts(40), 5)
    assert flops_cost(SHAPE, 6, 40, 5).of(choices) == expected.flops
    assert kv_cost(SHAPE, 6, 40, 5).of(choices) == expected.kv_bytes
    assert token_cost(6, 40).of(()) == 240
    drops = replace(token_cost(6, 40), drop=lambda choice, count: 1000 * count, fixed=0.5)
    assert drops.of(choices) == 60000 + 3 * 20 + 3 * 7 + 0.5


@pytest.mark.parametrize(("kind", "value"), [("budget", 1.5), ("flops", 0), ("latency_ms", math.nan), ("speed", 1)])
def test_constraints_that_make_no_sense(kind, value):
    with pytest.raises(InputError, match=kind):
        Constraint(kind=kind, value=value)
