"""The CUDA kernels against the torch references."""

import op_cases
import pytest
import torch
from kernel_forms import SEED

from vitcop.plugins.knorm import reference as knorm
from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.scores import reference as scores_reference

SHAPES = [(1, 24, 7), (2, 61, 1), (3, 133, 12), (2, 0, 5), (1, 1, 0), (2, 1, 3), (1, 1100, 30)]
"""Batch, visual tokens, text tokens; the last has more tokens than a block has threads."""

CLUSTERS = "density_peak_clusters"


def exactly_as_reference(kernels, name, tensors, attributes, seed=0):
    expected = op_cases.run_torch(name, tensors, attributes)
    op_cases.assert_equal(expected, kernels.run(name, tensors, attributes, seed))


@pytest.mark.parametrize(("name", "attributes"), [case for case in op_cases.CASES if case[0] != CLUSTERS])
def test_equals_reference(kernels, name, attributes):
    for seed, (batch, num_visual, num_text) in enumerate(SHAPES, start=SEED):
        tensors = op_cases.inputs(name, batch, num_visual, seed=seed, num_text=num_text)
        exactly_as_reference(kernels, name, tensors, attributes, seed)


WITH_FLOATS = [name for name in ALL_OPS if name not in ("uniform_scores", "random_scores", CLUSTERS)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", WITH_FLOATS)
def test_other_types_are_read_as_fp32(kernels, name, dtype):
    attributes = op_cases.ATTRIBUTES[name][0]
    for num_visual in (5, 80):
        tensors = op_cases.inputs(name, 2, num_visual, seed=SEED + num_visual, dtype=dtype)
        exactly_as_reference(kernels, name, tensors, attributes)


DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("mean_norm", [0, 1])
@pytest.mark.parametrize("head_dim", [8, 20, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 3, 7, 32])
def test_norms_of_every_head_layout(kernels, num_kv_heads, head_dim, mean_norm):
    generator = torch.Generator().manual_seed(SEED + num_kv_heads * head_dim)
    index = torch.arange(2, 20).unsqueeze(0)
    for dtype in DTYPES:
        keys = torch.randn(1, num_kv_heads, 24, head_dim, generator=generator).to(dtype)
        scores = kernels.run("knorm_scores", (keys, index), (mean_norm,))[0]
        torch.testing.assert_close(scores, knorm.knorm_scores(keys, index, mean_norm), rtol=1e-6, atol=0)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("mean_norm", [0, 1])
def test_selection_follows_its_own_scores(kernels, mean_norm, largest):
    for seed, (batch, num_visual, num_text) in enumerate(SHAPES, start=SEED):
        keys, index = op_cases.inputs("knorm_select", batch, num_visual, seed=seed, num_text=num_text, dim=8)
        keys = (2 * keys).round()  # many equal norms
        scores = kernels.run("knorm_scores", (keys, index), (mean_norm,), seed)[0]
        expected = scores_reference.score_select(scores, index, keys[:, 0], 2, 5, largest)
        op_cases.assert_equal(expected, kernels.run("knorm_select", (keys, index), (2, 5, largest, mean_norm), seed))


def test_keys_may_lie_in_any_order(kernels):
    keys, index = op_cases.inputs("knorm_select", 2, 40)
    mask = op_cases.inputs("text_query_scores", 2, 40)[3]
    laid_out = keys.transpose(1, 2).contiguous().transpose(1, 2)  # [B,S,Nkv,D] in memory, as attention layers have it
    wide = torch.randn(2, 2, 47, 33)[..., :32]  # rows that begin at odd places
    for other in (laid_out, wide, keys.transpose(2, 3).contiguous().transpose(2, 3)):
        for dtype in DTYPES:
            other = other.to(dtype)
            exactly_as_reference(kernels, "knorm_select", (other, index), (1, 3, 0, 0))
            query = torch.randn(2, 4, other.shape[3]).to(dtype)
            exactly_as_reference(kernels, "text_query_scores", (query, other, index, mask), (0.1,))


def test_a_query_of_another_type_is_not_rounded(kernels):
    q_last, keys, index, mask = op_cases.inputs("text_query_scores", 2, 20)
    exactly_as_reference(kernels, "text_query_scores", (q_last, keys.bfloat16(), index, mask), (1.0,))


def test_a_row_that_is_all_padding(kernels):
    q_last, keys, index, mask = op_cases.inputs("text_query_scores", 2, 20)
    mask[1] = 0
    exactly_as_reference(kernels, "text_query_scores", (q_last, keys, index, mask), (0.25,))


def test_equal_scores_and_norm_sums_in_a_merge(kernels):
    for seed in range(SEED, SEED + 12):
        scores, labels, index, sequence = op_cases.inputs("cluster_merge_plan", 3, 60, seed=seed)
        for of_few_values in ((2 * scores).round() * 0.1, (scores > 1).float(), torch.full_like(scores, 0.1)):
            for attributes in op_cases.ATTRIBUTES["cluster_merge_plan"]:
                tensors = (of_few_values, labels, index, sequence)
                exactly_as_reference(kernels, "cluster_merge_plan", tensors, attributes, seed)


@pytest.mark.parametrize("num_visual", [4096, 8192, 8193, 16384, 131072])
def test_many_tokens(kernels, num_visual):
    generator = torch.Generator().manual_seed(SEED)
    scores = torch.randn(1, num_visual, generator=generator).mul(1000).round()  # ties
    index = op_cases.visual_index(1, num_visual + 100, num_visual, generator)
    sequence = torch.empty(1, num_visual + 100)
    for attributes in ((1, 9, 0), (1, 2, 1), (1, 1, 0), (1, 10**6, 1)):
        exactly_as_reference(kernels, "score_select", (scores, index, sequence), attributes)


@pytest.mark.parametrize("largest", [0, 1])
def test_a_nan_is_the_worst_score_and_the_zeros_are_equal(kernels, largest):
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[0.0, nan, -0.0, inf, -inf, 1.0, nan, -1.0, 0.0, -0.0]])
    index, sequence = torch.arange(3, 13).unsqueeze(0), torch.empty(1, 15)
    ranking = [3, 5, 0, 2, 8, 9, 7, 4, 1, 6] if largest else [4, 7, 0, 2, 8, 9, 5, 3, 1, 6]
    for num_kept in range(1, 11):
        kept = kernels.run("score_select", (scores, index, sequence), (num_kept, 10, largest))[2]
        assert kept[0].tolist() == sorted(ranking[:num_kept])


def test_keys_that_are_not_finite(kernels):
    keys, index = op_cases.inputs("knorm_select", 1, 12, num_text=0)
    keys[0, 0, 3, 2], keys[0, 1, 7, 0] = float("nan"), float("inf")
    finite = [i for i in range(12) if i not in (3, 7)]
    assert kernels.run("knorm_select", (keys, index), (10, 12, 0, 0))[2][0].tolist() == finite
    assert kernels.run("knorm_select", (keys, index), (11, 12, 0, 0))[2][0].tolist() == sorted([*finite, 7])
    assert 3 not in kernels.run("knorm_select", (keys, index), (11, 12, 1, 0))[2][0].tolist()


def test_an_index_out_of_range_is_not_followed(kernels):
    keys, _ = op_cases.inputs("knorm_select", 1, 8, num_text=2)
    wrong = [[-1, 2, 3, 10], [5, 5, 5, 5], [9, 7, 3, 1]]
    wrong += [[far, 1, 2, 3] for far in (2**40, -(2**40), 2**63 - 1, -(2**63))]
    wrong += [[0, far, 2, 3] for far in (2**40, -(2**40), 2**63 - 1, -(2**63))]
    wrong += [[0, 1, 2, far] for far in (2**40, -(2**40), 2**63 - 1, -(2**63))]
    for row in wrong:
        index = torch.tensor([row])
        scores = kernels.run("knorm_scores", (keys, index), (0,))[0]
        inside = (index >= 0) & (index < 10)
        assert torch.equal(scores.isfinite(), inside)
        of_query = (torch.randn(1, 4, 16), keys, index, torch.ones(1, 10, dtype=torch.int64))
        assert torch.equal(kernels.run("text_query_scores", of_query, (0.25,))[0].isfinite(), inside)
        kept_positions, new_index, kept = kernels.run("knorm_select", (keys, index), (1, 2, 0, 0))
        assert (kept_positions.shape, new_index.shape, kept.shape) == ((1, 8), (1, 2), (1, 2))
        assert all(0 <= visual < 4 for visual in kept[0].tolist())
