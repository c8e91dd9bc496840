"""Ranks, shares, intervals, pieces and what an observation concludes: all by hand, no model."""

from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vitcop.calibrate.core.strict_json import plain, read
from vitcop.calibrate.observe.key_norms import QUANTILES, norm_rows, summary
from vitcop.calibrate.observe.observation import Observation
from vitcop.calibrate.observe.pieces import Observed
from vitcop.calibrate.schedule.choices import Rule
from vitcop.calibrate.schedule.score_names import rule_of, score_name, vision_rule
from vitcop.calibrate.stats.cluster_interval import Interval
from vitcop.calibrate.stats.ranks import average_ranks, first_places, held_share, spearman
from vitcop.plugins.errors import InputError


def test_ties_share_their_ranks():
    values = np.array([[3.0, 1.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 3.0, 3.0]])
    assert average_ranks(values).tolist() == [[4.0, 1.5, 1.5, 3.0], [2.5] * 4, [1.0, 2.0, 3.5, 3.5]]


def test_spearman_with_ties_by_hand():
    # Ranks 1 2.5 2.5 4 and 1 2 3 4: covariance 4.5, variances 4.5 and 5.
    found = spearman(np.array([[1.0, 2.0, 2.0, 9.0]]), np.array([[10.0, 20.0, 30.0, 40.0]]))
    assert found == pytest.approx([4.5 / (4.5 * 5.0) ** 0.5])


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(2, 40), width=st.integers(2, 30))
def test_spearman_is_scipys(seed, levels, width):
    stream = np.random.default_rng(seed)
    a, b = stream.integers(0, levels, (2, 3, width)).astype(np.float32)
    np.testing.assert_array_equal(average_ranks(a), stats.rankdata(a, axis=1))
    for found, x, y in zip(spearman(a, b), a, b, strict=True):
        if np.ptp(x) and np.ptp(y):
            assert found == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        else:
            assert found == 0.0


def test_a_score_agrees_with_itself():
    scores = np.random.default_rng(0).normal(size=(3, 20))
    assert spearman(scores, scores).tolist() == [1.0] * 3
    assert spearman(scores, -np.exp(scores)).tolist() == [-1.0] * 3
    assert spearman(scores[:, :1], scores[:, :1]).tolist() == [0.0] * 3


def test_held_share_takes_equals_by_index():
    weights = np.array([[1.0, 2.0, 3.0, 4.0], [0.0] * 4])
    scores = np.array([[7.0, 7.0, 7.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    assert first_places(scores, 2).tolist() == [[0, 1], [3, 2]]
    assert held_share(weights, first_places(scores, 2)).tolist() == [0.3, 0.5]
    assert held_share(weights, first_places(-scores, 2)).tolist() == [0.5, 0.5]


def test_interval_of_single_samples_is_students():
    values = np.random.default_rng(1).normal(0.1, 0.2, 12)
    found = Interval.of(values, [str(i) for i in range(12)], least=-1.0, most=1.0)
    expected = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_interval_takes_samples_of_one_picture_together():
    values = [0.1, 0.5, 0.2, 0.4]
    once = Interval.of(values, list("abcd"), least=-1.0, most=1.0)
    thrice = Interval.of(values * 3, list("abcd") * 3, least=-1.0, most=1.0)
    assert (thrice.mean, thrice.low, thrice.high) == pytest.approx((once.mean, once.low, once.high))
    apart = Interval.of(values * 3, list("abcdefghijkl"), least=-1.0, most=1.0)
    assert apart.high - apart.low < 0.5 * (once.high - once.low)
    lone = Interval.of(values, list("aaaa"), least=0.0, most=1.0)
    assert (lone.low, lone.high) == (0.0, 1.0), "one picture says nothing about others"
    wide = Interval.of([0.0, 1.0], list("ab"), least=0.0, most=1.0)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_norms_of_samples_of_different_size_add_up():
    stream = np.random.default_rng(2)
    sets = [stream.gamma(2.0, size=(3, 7)), stream.gamma(3.0, size=(2, 11))]
    found = summary([row for norms in sets for row in norm_rows(norms)])
    every = np.concatenate([norms.ravel() for norms in sets])
    assert (found["mean"], found["std"]) == pytest.approx((every.mean(), every.std()))
    assert (found["min"], found["max"]) == pytest.approx((every.min(), every.max()))
    medians = [np.median(row) for norms in sets for row in norms]
    assert found["quantiles"]["0.5"] == pytest.approx(np.mean(medians)) and len(found["quantiles"]) == len(QUANTILES)


# -- pieces and conclusions -------------------------------------------------------------------------------------------


def piece(first: int, last: int, shift: float = 0.0) -> Observed:
    """Samples first … last − 1, two to a picture; every other one is checked. Before layer 1 small norms matter, and
    the question has no rank agreement but holds much in its first ninth."""
    ids = range(first, last)
    checked = [i % 2 == 0 for i in ids]
    noise = [0.01 * ((7 * i) % 5 - 2) for i in ids]
    made = {"random": (0.0, 0.1, 0.1), "k_norm": (-0.4, 0.05, 0.3), "text_query": (0.0, 0.4, 0.1)}
    values = {
        f"attention/1/{name}": [[value + n + shift for value in row] for n in noise] for name, row in made.items()
    }
    values["attention/0/class_attention"] = [[0.2 + n, 0.3, 0.1] for n in noise]
    values["attention/0/random"] = [[0.1 + n, 0.3, 0.1] for n in noise]
    values["gradient/1/k_norm"] = [[0.5, 0.2, 0.1]] * sum(checked)
    values["gradient/1/random"] = [[0.0, 0.1, 0.1]] * sum(checked)
    values["check/1"] = [[0.1 * i] for i, chosen in zip(ids, checked, strict=True) if chosen]
    values["norms/0/mean_key"] = [[4, 1.0 + i, 0.5, 0.0, 3.0, *(0.1,) * len(QUANTILES)] for i in ids]
    values["norms/0/text_query"] = [[0.25]] * len(ids)
    return Observed(
        ids=tuple(f"{i:02}" for i in ids),
        pictures=tuple((f"p{i // 2}",) for i in ids),
        checked=tuple(checked),
        values=values,
    )


def test_joined_pieces_are_one_pass_however_they_were_cut():
    whole = Observation.of([piece(0, 24)])
    for cuts in ((0, 24), (0, 5, 24), (0, 1, 2, 17, 24)):
        pieces = [piece(a, b) for a, b in pairwise(cuts)]
        assert Observation.of(pieces) == whole
        assert Observation.of(pieces[::-1]) == whole
        assert Observation.of([*pieces, Observed()]) == whole, "a part without pictures adds nothing"
    assert (whole.num, whole.pictures, whole.num_checked) == (24, 12, 12)
    assert whole.checks[0].rank.mean == pytest.approx(np.mean([0.1 * i for i in range(0, 24, 2)]))


def test_pieces_that_overlap_are_refused():
    with pytest.raises(InputError, match="sample 03 was observed twice"):
        Observed.joined([piece(0, 4), piece(3, 6)])


def test_tells_needs_to_beat_random():
    found = Observation.of([piece(0, 24)])
    small, large = Rule(order="smallest"), Rule(order="largest")
    assert found.tells(1, small) and not found.tells(1, large)
    assert found.rank(1, small).mean == -found.rank(1, large).mean == pytest.approx(0.4, abs=0.01)
    assert found.rank(1, small).low == -found.rank(1, large).high
    question = Rule(score="text_query", order="largest")
    assert found.tells(1, question), "its first ninth holds more than random's"
    assert not found.tells(1, replace(question, order="smallest"))
    assert not found.tells(1, Rule(score="random"))
    assert found.tells(1, Rule(op="merge", order="smallest")), "a merge is judged by the score that it reads"
    assert found.best(1, [large, small, question]) == question and found.best(1, [large]) is None
    with pytest.raises(InputError, match="'k_norm/mean_norm' was observed before layer 1"):
        found.tells(1, Rule(head_reduction="mean_norm"))
    # Random itself is off by chance here: to lie above 0 is not enough.
    assert found.rank(0, vision_rule(0, "class_attention")).low > 0
    assert found.tells(0, vision_rule(0, "class_attention"))
    unlucky = piece(0, 24)
    unlucky.values["attention/0/random"] = [[0.2, 0.3, 0.1]] * 24
    assert not Observation.of([unlucky]).tells(0, vision_rule(0, "class_attention"))


def test_one_picture_tells_nothing():
    lone = replace(piece(0, 24), pictures=(("p",),) * 24)
    assert not Observation.of([lone]).tells(1, Rule(order="smallest"))
    chain = replace(piece(0, 24), pictures=tuple((f"p{i}", f"p{i + 1}") for i in range(24)))
    assert Observation.of([chain]).pictures == 1, "each shares a picture with the next"


def test_files_round_trip():
    observed, found = piece(0, 9), Observation.of([piece(0, 9)])
    assert read(Observed, plain(asdict(observed))) == observed
    assert read(Observation, plain(asdict(found))) == found
    empty = Observation.of([])
    assert read(Observation, plain(asdict(empty))) == empty and empty.layers == ()
    for change, said in (
        ({"ids": ["x"]}, "differ in length"),
        ({"values": {"check/1": [[1.0]]}}, "differ in length"),
        ({"ids": 3}, "^ids: expected a list"),
    ):
        with pytest.raises(InputError, match=said):
            read(Observed, asdict(observed) | change)
    with pytest.raises(InputError, match="^agreements: expected a list"):
        read(Observation, asdict(found) | {"agreements": 1})


def test_names_do_not_tell_the_order():
    rules = [vision_rule(2, "key_norm"), Rule(score="text_query"), Rule(), Rule(head_reduction="mean_norm")]
    for rule in (*rules, Rule(score="uniform"), Rule(score="random")):
        for order in ("largest", "smallest"):
            assert rule_of(score_name(rule), order) == replace(rule, order=order)
    assert score_name(Rule(op="merge", merge="mean", head_reduction="mean_norm")) == "k_norm/mean_norm"
    assert score_name(vision_rule(0, "key_norm")) == "key_norm"
    assert score_name(vision_rule(2, "key_norm", "smallest")) == "vision_saliency/key_norm"
