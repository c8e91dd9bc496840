"""Losses between measured keep counts, the additive forecast, and how well it ranked."""

import math
import random

import pytest
from scipy.stats import spearmanr

from vitcop.calibrate.schedule.choices import Choice, Rule
from vitcop.calibrate.search.forecast import LossCurves, rank_agreement

RULE, OTHER = Rule(), Rule(score="text_query", order="largest")


def made(keep, layer=2, rule=RULE):
    return Choice(layer=layer, keep=keep, rule=rule)


CURVES = LossCurves({made(16): 0.1, made(4): 0.5, made(8): math.inf, made(4, rule=OTHER): 0.3}, 64)


def test_measured_losses_are_kept():
    assert CURVES.loss(made(16)) == pytest.approx(0.1) and CURVES.loss(made(4)) == pytest.approx(0.5)
    assert CURVES.loss(made(64)) == 0.0


def test_between_them_it_is_linear_in_the_logarithm():
    assert CURVES.loss(made(8)) == pytest.approx(0.3)
    assert CURVES.loss(made(32)) == pytest.approx(0.05)
    assert CURVES.loss(made(16, rule=OTHER)) == pytest.approx(0.15)


def test_below_the_least_the_slope_goes_on_where_it_rises():
    assert CURVES.loss(made(2)) == pytest.approx(0.7)
    falling = LossCurves({made(16): 0.5, made(4): 0.1}, 64)
    assert falling.loss(made(2)) == 0.1


def test_what_was_not_measured_is_infinite():
    assert CURVES.loss(made(4, layer=3)) == math.inf
    assert CURVES.forecast([made(16), made(4, layer=3)]) == math.inf


def test_a_set_is_the_sum_of_its_drops():
    curves = LossCurves({made(16): 0.1, made(4, layer=5): 0.25}, 64)
    assert curves.forecast([made(16), made(4, layer=5)]) == 0.35
    assert curves.forecast([]) == 0.0


def test_ranks_against_scipy():
    stream = random.Random(0)
    for _ in range(20):
        said, found = ([float(stream.randint(0, 6)) for _ in range(9)] for _ in range(2))
        assert rank_agreement(said, found).spearman == pytest.approx(spearmanr(said, found).statistic)


def test_the_best_and_the_first_few():
    found = rank_agreement([1.0, 2.0, 3.0, 4.0, math.inf], [3.0, 4.0, 1.0, 5.0, 0.0], tops=(1, 2, 3, 4))
    assert found.num == 4 and found.best_rank == 3
    assert found.top_hits == {1: 0.0, 2: 0.5, 3: 1.0}
    assert found.bias == pytest.approx((1.25 + 2.0) / 2)
    assert found.to_json()["top_hits"]["2"] == 0.5


def test_too_few_to_rank():
    assert rank_agreement([], []).best_rank is None
    one = rank_agreement([1.0], [2.0])
    assert (one.num, one.spearman, one.best_rank, one.bias) == (1, None, 1, 2.0)
    assert rank_agreement([1.0, 1.0], [1.0, 2.0]).spearman is None
