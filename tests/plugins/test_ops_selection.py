"""Scores and selections against the literal rules."""

import random

import numpy as np
import op_cases
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitcop.plugins import ops
from vitcop.plugins.scores import hash as score_hash
from vitcop.plugins.spec import keep_count


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), largest=st.booleans())
def test_select_follows_the_rule(data, largest):
    num_visual = data.draw(st.integers(0, 20))
    num_positions = num_visual + data.draw(st.integers(0, 8))
    keep = data.draw(st.sampled_from([(1, 2), (2, 3), (1, 1), (1, 100), (0, 1), (5, 3)]))
    picks = [sorted(data.draw(st.permutations(range(num_positions)))[:num_visual]) for _ in range(2)]
    scores = [[data.draw(st.integers(-3, 3)) / 2 for _ in range(num_visual)] for _ in range(2)]
    found = ops.score_select(
        torch.tensor(scores).reshape(2, num_visual),
        torch.tensor(picks, dtype=torch.int64).reshape(2, num_visual),
        num_positions,
        keep=keep,
        order="largest" if largest else "smallest",
    )
    for row in range(2):
        expected = oracle.select(scores[row], picks[row], num_positions, keep_count(num_visual, keep), largest)
        assert [output[row].tolist() for output in found] == [list(part) for part in expected]


@pytest.mark.parametrize("reduction", ["mean_key", "mean_norm"])
@pytest.mark.parametrize("order", ["smallest", "largest"])
def test_knorm_follows_the_rule(reduction, order):
    for seed in range(20):
        keys, index = op_cases.inputs("knorm_scores", 2, 15, seed=seed, dim=4)
        scores = ops.knorm_scores(keys, index, head_reduction=reduction)
        found = ops.knorm_select(keys, index, keep=6, order=order, head_reduction=reduction)
        for row in range(2):
            literal = oracle.knorm(keys[row].tolist(), index[row].tolist(), reduction == "mean_norm")
            assert scores[row].tolist() == pytest.approx(literal, rel=1e-6)
            expected = oracle.select(literal, index[row].tolist(), keys.shape[2], 6, order == "largest")
            assert [output[row].tolist() for output in found] == [list(part) for part in expected]


def test_vision_saliency_follows_the_rule():
    q_cls, keys = op_cases.inputs("vision_saliency", 2, 9, dim=5)
    found = ops.vision_saliency(q_cls, keys)
    for row in range(2):
        heads = [
            oracle.attention(q, k, 5**-0.5, [True] * 10)
            for q, k in zip(q_cls[row].tolist(), keys[row].tolist(), strict=True)
        ]
        assert found[row].tolist() == pytest.approx([sum(h[1 + i] for h in heads) for i in range(9)], rel=1e-5)


def test_text_query_follows_the_rule_and_skips_padding():
    q_last, keys, _, mask = op_cases.inputs("text_query_scores", 3, 9, dim=5)
    keys[2, :, 0] = 1e4  # a padded position: row 2 has two
    index = torch.arange(4, 13).repeat(3, 1)
    found = ops.text_query_scores(q_last, keys, index, attention_mask=mask, scale=0.3)
    for row in range(3):
        heads = [
            oracle.attention(q, keys[row, head // 2].tolist(), 0.3, mask[row].bool().tolist())
            for head, q in enumerate(q_last[row].tolist())
        ]
        literal = [sum(h[p] for h in heads) for p in index[row].tolist()]
        assert found[row].tolist() == pytest.approx(literal, rel=1e-5)


def test_no_mask_means_no_padding():
    q_last, keys, index, mask = op_cases.inputs("text_query_scores", 2, 9)
    without = ops.text_query_scores(q_last, keys, index)
    assert torch.equal(without, ops.text_query_scores(q_last, keys, index, attention_mask=torch.ones_like(mask)))


def test_uniform_keeps_exactly_k_evenly_spread():
    for num_visual in range(1, 60):
        index = torch.arange(num_visual).unsqueeze(0)
        for num_kept in range(1, num_visual + 1):
            scores = ops.uniform_scores(index, keep=num_kept)[0]
            literal = [
                float(
                    (2 * (j + 1) * num_kept + num_visual) // (2 * num_visual)
                    > (2 * j * num_kept + num_visual) // (2 * num_visual)
                )
                for j in range(num_visual)
            ]
            assert scores.tolist() == literal
            assert scores.sum() == num_kept
    kept = ops.score_select(scores.unsqueeze(0), index, num_visual, keep=num_kept, order="largest")[2]
    assert kept.tolist() == index.tolist()


@pytest.mark.parametrize("seed", [0, 1, -7, 123456789012345, -(2**63), 2**63 - 1])
def test_random_is_the_same_in_torch_numpy_python_and_onnx_runtime(seed):
    positions = torch.cat([torch.arange(50), torch.tensor([2**31 - 1, 2**31, 2**32 - 1, 2**40 + 3, 2**62])]).unsqueeze(
        0
    )
    found = ops.random_scores(positions, seed=seed)
    in_numpy = (score_hash.hash_word(positions.numpy(), seed) // score_hash.SCORE_SHIFT).astype(np.float32)
    np.testing.assert_array_equal(found.numpy(), in_numpy * np.float32(score_hash.SCORE_STEP))
    in_python = [(score_hash.hash_word(p, seed) >> 8) / 2**24 for p in positions[0].tolist()]
    assert found[0].tolist() == in_python
    np.testing.assert_array_equal(op_cases.run_onnx("random_scores", (positions,), (seed,))[0], found.numpy())
    assert found.min() >= 0
    assert found.max() < 1


def test_random_spreads_well():
    positions = torch.arange(4096).unsqueeze(0)
    tables = torch.cat([ops.random_scores(positions, seed=seed) for seed in range(8)])
    assert (tables.mean(dim=1) - 0.5).abs().max() < 0.02
    counts = torch.stack([row.mul(16).long().bincount(minlength=16) for row in tables])
    assert ((counts - 256) ** 2 / 256).sum(dim=1).max() < 40  # chi-squared, 15 degrees of freedom
    correlation = torch.corrcoef(tables) - torch.eye(8)
    assert correlation.abs().max() < 0.06
    neighbours = torch.corrcoef(torch.stack([tables[0, :-1], tables[0, 1:]]))[0, 1]
    assert neighbours.abs() < 0.06


def test_one_flipped_bit_flips_about_half_of_the_word():
    rng = random.Random(0)
    flips = []
    for _ in range(2000):
        position, seed = rng.getrandbits(32), rng.getrandbits(32)
        bit = 1 << rng.randrange(32)
        flips.append((score_hash.hash_word(position, seed) ^ score_hash.hash_word(position ^ bit, seed)).bit_count())
        flips.append((score_hash.hash_word(position, seed) ^ score_hash.hash_word(position, seed ^ bit)).bit_count())
    assert 15 < sum(flips) / len(flips) < 17
    assert min(flips) >= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_count_as_fp32(dtype):
    for name in ("knorm_select", "score_select"):
        tensors = op_cases.inputs(name, 2, 30, dtype=dtype)
        narrow = [t.float() if t.is_floating_point() else t for t in tensors]
        for attributes in op_cases.ATTRIBUTES[name]:
            for one, other in zip(
                op_cases.run_torch(name, tensors, attributes), op_cases.run_torch(name, narrow, attributes), strict=True
            ):
                assert torch.equal(one, other)
