"""Losses against their definitions, and targets through files."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from vitcop.calibrate.data.answers import exact_match
from vitcop.calibrate.evaluate.losses import Estimate, kl_divergence, top1_agreement
from vitcop.calibrate.evaluate.targets import compute_targets, load_targets, save_targets, target_of
from vitcop.plugins.errors import InputError


def full_kl(p_logits, q_logits) -> float:
    logp, logq = log_softmax(p_logits.astype(np.float64), -1), log_softmax(q_logits.astype(np.float64), -1)
    return float((np.exp(logp) * (logp - logq)).sum(-1).mean())


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30), top_k=st.integers(1, 40))
def test_kl_is_exact_where_the_top_covers_all_and_never_above(seed, scale, top_k):
    stream = np.random.default_rng(seed)
    p, q = (stream.normal(size=(3, 20)).astype(np.float32) * scale for _ in range(2))
    exact = full_kl(p, q)
    target = target_of([1, 2, 3], p, top_k)
    found = kl_divergence(target, q)
    if top_k >= 20:
        assert found == pytest.approx(exact, rel=1e-4, abs=1e-5)
    assert -1e-9 <= found <= exact * (1 + 1e-4) + 1e-5
    assert kl_divergence(target, p) == pytest.approx(0.0, abs=1e-5)


def test_top1_agreement():
    p = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    q = np.eye(4, dtype=np.float32)[[0, 1, 3, 3]]
    assert top1_agreement(target_of([0, 1, 2, 3], p, 2), q) == 0.75


def test_estimate():
    estimate = Estimate.of([1.0, 2.0, 3.0, 6.0])
    assert estimate.mean == 3.0 and estimate.num == 4
    assert estimate.error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert Estimate.of([2.0]) == Estimate(2.0, 0.0, 1)
    assert Estimate.of([1.0, math.inf]) == Estimate(math.inf, math.inf, 2)
    assert math.isnan(Estimate.of([1.0, math.nan]).mean)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("top_k", [2, 4])
def test_kl_of_broken_logits_is_no_number(value, top_k):
    """Never 0, with which a broken schedule would win."""
    p = np.eye(4, dtype=np.float32)
    q = p.copy()
    q[2, 3] = value
    assert math.isnan(kl_divergence(target_of([0, 1, 2, 3], p, top_k), q))


def test_kl_of_excluded_tokens():
    p = np.array([[2.0, 1.0, -np.inf]], dtype=np.float32)
    for top_k in (1, 3):
        assert kl_divergence(target_of([0], p, top_k), p) == pytest.approx(0.0, abs=1e-6)
    assert kl_divergence(target_of([0], p, 3), p[:, ::-1]) == math.inf


@pytest.mark.parametrize(
    ("text", "right"),
    [("Red", 1.0), (" the red. ", 1.0), ("", 0.0), ("dark\nred", 0.0), ("blue", 1.0), ("three", 1.0)],
)
def test_exact_match(text, right):
    assert exact_match(text, ["red", "Blue!", "3"]) == right


def test_targets_of_a_model_survive_files(tiny, samples, tmp_path):
    from vitcop.calibrate.data.samples import batches
    from vitcop.calibrate.run.original import OriginalRunner

    prepared = list(batches(samples, tiny.processor, tiny.family, 5))
    runner = OriginalRunner(tiny.model, tiny.family)
    targets = compute_targets(runner, prepared, max_new_tokens=4, eos_ids={2}, top_k=8)
    assert set(targets) == {sample.id for sample in samples}
    for target in targets.values():
        np.testing.assert_array_equal(target.tokens, target.top_ids[:, 0])
        mass = np.exp(target.top_logprobs.astype(np.float64)).sum(-1) + target.rest
        np.testing.assert_allclose(mass, 1.0, atol=1e-5)
        assert (np.diff(target.top_logprobs, axis=1) <= 0).all()
    save_targets(targets, tmp_path / "t.safetensors")
    loaded = load_targets(tmp_path / "t.safetensors")
    assert list(loaded) == list(targets)
    for name in ("tokens", "top_ids", "top_logprobs", "rest"):
        for sample in samples:
            np.testing.assert_array_equal(getattr(loaded[sample.id], name), getattr(targets[sample.id], name))
    (tmp_path / "t.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="delete the file"):
        load_targets(tmp_path / "t.safetensors")
