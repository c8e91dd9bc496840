"""Selections against the literal rules on random rows: index for index, ties included."""

import against_oracle
import near_ties
import op_cases
import oracle
import pytest
import torch

from vitcop.plugins import ops
from vitcop.plugins.spec import keep_count

SCORES = {
    "continuous": lambda shape, generator: torch.randn(shape, generator=generator),
    "coarse": lambda shape, generator: torch.randn(shape, generator=generator).mul(2).round() / 2,
    "signed_zeros": lambda shape, generator: torch.randint(-1, 2, shape, generator=generator) * 0.0,
    "constant": lambda shape, generator: torch.full(shape, 0.1),
    "huge": lambda shape, generator: torch.randint(-3, 4, shape, generator=generator) * 1e38,
    "subnormal": lambda shape, generator: torch.randint(-3, 4, shape, generator=generator) * 2.0**-140,
}

SIZES = (1, 2, 3, 5, 8, 13, 21, 34, 64, 600)


def keep_of(seed, num_visual):
    """R = 1, R = V, and between."""
    return (1, num_visual, (1, 2), (2, 3), (1, 1000), (7, 5), max(1, num_visual - 1))[seed % 7]


def count_of(keep, num_visual):
    return keep if isinstance(keep, int) else keep_count(num_visual, keep)


@pytest.mark.parametrize("order", ["smallest", "largest"])
@pytest.mark.parametrize("kind", SCORES)
def test_score_select(kind, order):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        num_visual = SIZES[seed % 10]
        num_positions = num_visual + seed % 6
        scores = SCORES[kind]((3, num_visual), generator)
        scores[seed % 3] = SCORES["constant"]((num_visual,), generator)  # a row unlike the others
        visual_index = op_cases.visual_index(3, num_positions, num_visual, generator)
        keep = keep_of(seed, num_visual)
        found = ops.score_select(scores, visual_index, num_positions, keep=keep, order=order)
        against_oracle.assert_selected(
            found, scores.tolist(), visual_index, num_positions, count_of(keep, num_visual), order
        )


def keys_and_index(seed, whole_numbers):
    """keys [2,Nkv,S,D]: where whole, multiples of Nkv, so that the mean key is whole and its square exact."""
    generator = torch.Generator().manual_seed(seed)
    num_heads, dim, num_visual = (1, 2, 3, 7)[seed % 4], (8, 20, 64)[seed % 3], SIZES[seed % 9]
    num_positions = num_visual + seed % 6
    shape = (2, num_heads, num_positions, dim)
    keys = torch.randn(shape, generator=generator)
    if whole_numbers:
        keys = num_heads * torch.randint(-1, 2, shape, generator=generator).float()
        keys[seed % 2] = num_heads  # all tokens of one row equal
    return keys, op_cases.visual_index(2, num_positions, num_visual, generator)


def norms_of(keys, visual_index, mean_norm):
    return [oracle.knorm(*row, mean_norm) for row in zip(keys.tolist(), visual_index.tolist(), strict=True)]


@pytest.mark.parametrize("order", ["smallest", "largest"])
@pytest.mark.parametrize("reduction", ["mean_key", "mean_norm"])
def test_knorm_select(reduction, order):
    num_near_ties = 0
    for seed in range(100):
        keys, visual_index = keys_and_index(seed, whole_numbers=False)
        num_visual = visual_index.shape[1]
        keep = keep_of(seed, num_visual)
        found = ops.knorm_select(keys, visual_index, keep=keep, order=order, head_reduction=reduction)
        rows = norms_of(keys, visual_index, reduction == "mean_norm")
        num_kept = count_of(keep, num_visual)
        if min(near_ties.select(norms, num_kept, order == "largest") for norms in rows) < 1:
            num_near_ties += 1
            continue
        against_oracle.assert_selected(found, rows, visual_index, keys.shape[2], num_kept, order)
    assert num_near_ties < 0.01 * 100


@pytest.mark.parametrize("order", ["smallest", "largest"])
def test_equal_key_norms(order):
    for seed in range(60):
        keys, visual_index = keys_and_index(seed, whole_numbers=True)
        num_visual = visual_index.shape[1]
        keep = keep_of(seed, num_visual)
        found = ops.knorm_select(keys, visual_index, keep=keep, order=order)
        rows = norms_of(keys, visual_index, mean_norm=False)
        against_oracle.assert_selected(found, rows, visual_index, keys.shape[2], count_of(keep, num_visual), order)
