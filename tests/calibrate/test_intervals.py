"""Intervals and standard errors where the right value is known."""

import numpy as np
import pytest

from vitcop.calibrate.stats.intervals import bootstrap_mean, paired_bootstrap, standard_error


def test_standard_error_of_independent_samples():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / np.sqrt(5))
    assert standard_error(values, ["a", "b", "c", "d", "e"]) == pytest.approx(standard_error(values))


def test_copies_of_one_image_add_no_evidence():
    values, groups = np.array([0.0, 1.0, 1.0, 0.0]), ["a", "b", "c", "d"]
    copied = np.repeat(values, 10)
    assert standard_error(copied, [group for group in groups for _ in range(10)]) == pytest.approx(
        standard_error(values)
    )
    assert standard_error(copied) < standard_error(values) / 2


def test_degenerate_cases():
    assert standard_error([]) == standard_error([1.0]) == standard_error([1.0, 2.0], ["a", "a"]) == 0.0
    assert bootstrap_mean([]).count == 0
    equal = paired_bootstrap([1, 0, 1], [1, 0, 1])
    assert (equal.mean, equal.low, equal.high, equal.count) == (0.0, 0.0, 0.0, 3)


def test_the_interval_is_seeded():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_the_interval_is_near_the_normal_one():
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap_mean(values, resamples=4000)
    half = 1.96 * values.std(ddof=1) / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.012)
    assert found.high == pytest.approx(values.mean() + half, abs=0.012)


def test_the_interval_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        found = bootstrap_mean(rng.normal(loc=0.3, size=60), seed=seed, resamples=400)
        hits += found.low <= 0.3 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_whole_images_are_resampled():
    rng = np.random.default_rng(3)
    by_image = np.repeat(rng.integers(0, 2, 20).astype(float), 10)
    groups = [index // 10 for index in range(200)]
    clustered, independent = bootstrap_mean(by_image, groups), bootstrap_mean(by_image)
    assert clustered.high - clustered.low > 2 * (independent.high - independent.low)


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(4)
    hard = rng.normal(size=300)
    found = paired_bootstrap(hard + 0.1 + 0.01 * rng.normal(size=300), hard)
    assert 0.09 < found.low < 0.1 < found.high < 0.11
