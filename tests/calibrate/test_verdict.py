"""Comparisons with intervals, fronts and limits, where the right answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitcop.calibrate.stats.front import front_points
from vitcop.calibrate.stats.subset_limits import SubsetLimit, violations
from vitcop.calibrate.stats.verdict import compare
from vitcop.plugins.errors import InputError

NUM_IMAGES, EACH = 60, 4
IDS = [f"{image}-{question}" for image in range(NUM_IMAGES) for question in range(EACH)]
CLUSTERS = {sample: sample.split("-")[0] for sample in IDS}


def values(*, mean=0.0, by_image=0.0, by_sample=0.0, seed=0) -> dict[str, float]:
    stream = np.random.default_rng(seed)
    images = np.repeat(stream.normal(size=NUM_IMAGES), EACH) * by_image
    return dict(zip(IDS, mean + images + stream.normal(size=len(IDS)) * by_sample, strict=True))


# -- comparisons ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("measure", "better"), [("kl", -0.5), ("score", 0.5), ("exact", 0.5), ("top1", 0.5)])
def test_the_verdict_knows_which_way_is_better(measure, better):
    reference = values(by_image=1.0)
    for shift, verdict in ((better, "better"), (-better, "worse")):
        method = {
            key: value + shift + 0.1 * noise
            for (key, value), noise in zip(reference.items(), values(by_sample=1.0, seed=1).values(), strict=True)
        }
        found = compare("x", method, reference, CLUSTERS, measure=measure)
        assert found.verdict == verdict and found.low < found.difference < found.high
        assert found.difference == pytest.approx(shift, abs=0.05)
        assert (found.num, found.num_clusters) == (240, 60)
    assert compare("x", reference, reference, CLUSTERS, measure=measure).verdict == "level"


def test_a_difference_that_images_share_is_less_evidence():
    """Four questions of an image that go up and down together: the interval is twice as wide as if they did not."""
    reference, method = values(), values(by_image=1.0, mean=0.2, seed=2)
    clustered = compare("x", method, reference, CLUSTERS, measure="kl")
    alone = compare("x", method, reference, {sample: sample for sample in IDS}, measure="kl")
    assert clustered.high - clustered.low == pytest.approx(2 * (alone.high - alone.low), rel=0.2)
    assert alone.verdict == "worse"


def test_the_interval_covers_about_as_often_as_it_says():
    hits = 0
    for seed in range(150):
        method = values(mean=0.3, by_image=1.0, by_sample=0.5, seed=seed + 10)
        found = compare("x", method, values(), CLUSTERS, measure="kl", seed=seed)
        hits += found.low <= 0.3 <= found.high
    assert 0.88 <= hits / 150 <= 0.99


def test_order_does_not_matter_and_the_seed_does():
    method, reference = values(by_image=1.0, seed=3), values(by_sample=1.0, seed=4)
    found = compare("x", method, reference, CLUSTERS, measure="kl", seed=5)
    turned = dict(reversed(method.items()))
    assert compare("x", turned, reference, CLUSTERS, measure="kl", seed=5) == found
    assert compare("x", method, reference, CLUSTERS, measure="kl", seed=6) != found


def test_few_images_are_not_judged():
    few = {sample: value for sample, value in values().items() if int(CLUSTERS[sample]) < 19}
    method = {sample: value + 1.0 for sample, value in few.items()}
    found = compare("x", method, few, CLUSTERS, measure="kl")
    assert (found.low, found.high, found.verdict, found.num_clusters) == (1.0, 1.0, "level", 19)


def test_what_cannot_be_compared():
    reference = values()
    with pytest.raises(InputError, match="other samples"):
        compare("x", {"0-0": 1.0}, reference, CLUSTERS, measure="kl")
    with pytest.raises(InputError, match="no sample has a score"):
        compare("x", {}, {}, CLUSTERS, measure="score")
    with pytest.raises(InputError, match="not finite"):
        compare("x", reference | {"0-0": float("inf")}, reference, CLUSTERS, measure="kl")


# -- fronts -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_front_against_trying_all_pairs(points):
    def beats(one, other):
        return one != other and one[0] <= other[0] and one[1] <= other[1]

    expected = [not any(beats(other, point) for other in points) for point in points]
    costs, losses = [float(cost) for cost, _ in points], [{"a": float(loss)} for _, loss in points]
    found = front_points(costs, losses, {"a": "image"})
    assert [point.on_front for point in found] == expected
    assert [point.share for point in found] == list(map(float, expected)), "one sample has one resample"


def test_front_with_intervals():
    """A cheap one that is level with a dear one leaves it on the front in about half of the resamples."""
    good, level = values(by_sample=1.0, seed=7), values(by_sample=1.0, seed=8)
    mean = sum(good.values()) - sum(level.values())
    level = {sample: value + mean / len(IDS) for sample, value in level.items()}
    bad = {sample: value + 5.0 for sample, value in good.items()}
    dear, cheap, beaten, free = front_points([2.0, 1.0, 2.0, 0.5], [good, level, bad, bad], CLUSTERS, seed=1)
    assert 0.3 < dear.share < 0.7 and cheap.share == 1.0 and cheap.on_front
    assert not beaten.on_front and beaten.share == 0.0
    assert free.on_front and free.share == 1.0 and free.cost == 0.5
    alone = compare("x", good, values(), CLUSTERS, measure="kl", seed=1)
    assert (dear.loss.low, dear.loss.high) == pytest.approx((alone.low, alone.high))
    assert front_points([], [], {}) == []
    with pytest.raises(InputError, match="same samples"):
        front_points([1.0, 2.0], [good, {}], CLUSTERS)


# -- limits -----------------------------------------------------------------------------------------------------------


SUBSETS = {sample: ("count" if sample.endswith("-0") else None if sample.endswith("-1") else "color") for sample in IDS}


def broken(drop, *limits, **keep):
    """Violations where every third counting sample loses `drop` · 3 points."""
    original = {"score": dict.fromkeys(IDS, 1.0), "kl": dict.fromkeys(IDS, 0.0)}
    lost = {sample: 3 * drop if i % 3 == 0 and SUBSETS[sample] == "count" else 0.0 for i, sample in enumerate(IDS)}
    pruned = {"score": {sample: 1.0 - loss for sample, loss in lost.items()}, "kl": lost}
    return violations(pruned, original, limits, subsets=SUBSETS, clusters=CLUSTERS, **keep)


@pytest.mark.parametrize("measure", ["score", "kl"])
def test_limits_on_a_subset(measure):
    (found,) = broken(0.2, SubsetLimit(subset="count", max_drop=0.05, measure=measure))
    assert found.drop.mean == pytest.approx(0.2) and found.drop.count == NUM_IMAGES and found.sure
    assert broken(0.2, SubsetLimit(subset="count", max_drop=0.25, measure=measure)) == []
    assert broken(0.2, SubsetLimit(subset="color", max_drop=0.0, measure=measure)) == []
    (unsure,) = broken(0.2, SubsetLimit(subset="count", max_drop=0.19, measure=measure))
    assert not unsure.sure and unsure.drop.low < 0.19 < unsure.drop.mean, "the point estimate decides"


def test_a_limit_on_nothing_is_an_error():
    with pytest.raises(InputError, match="'counting': no sample of it has a score; there are color, count"):
        broken(0.2, SubsetLimit(subset="counting", max_drop=0.05))
    for wrong in ({"max_drop": -1.0}, {"max_drop": "x"}, {"max_drop": 0.1, "measure": "top1"}):
        with pytest.raises(InputError, match="subset 'count'"):
            SubsetLimit(subset="count", **wrong)
