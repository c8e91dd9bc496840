"""Sizes, types and values at the edge of what models have, in every form that runs on a CPU."""

import cluster_cases
import numpy as np
import op_cases
import oracle
import pytest
import torch
from onnx_reference import run_reference

from vitcop.plugins import ops

FORMS = {"onnxruntime": op_cases.run_onnx, "onnx.reference": run_reference}
WIDTHS = (8, 20, 64, 80, 96, 128, 256)
HALF_TYPES = (torch.float16, torch.bfloat16)


def best(scores_BV, num_kept, largest):
    """kept_visual [B,K] of NumPy scores, whose stable sort is independent of every form."""
    order = np.argsort(-scores_BV if largest else scores_BV, axis=1, kind="stable")
    return np.sort(order[:, :num_kept], axis=1)


def sequence(scores_BV):
    """Hidden states of visual tokens alone: S = V."""
    return scores_BV.new_zeros(*scores_BV.shape, 3)


def whole_keys(num_heads, dim, num_positions, generator):
    """Keys [2,Nkv,S,D] for which both reductions are exact: in each head one number is not 0, a multiple of Nkv."""
    numbers = num_heads * torch.randint(-3, 4, (2, num_heads, num_positions, 1), generator=generator)
    column = torch.randint(0, dim, (2, num_heads, num_positions, 1), generator=generator)
    return torch.zeros(2, num_heads, num_positions, dim).scatter(3, column, numbers.float())


@pytest.mark.parametrize("mean_norm", [0, 1])
@pytest.mark.parametrize("num_heads", [1, 2, 3, 7, 32])
def test_key_heads_and_widths(num_heads, mean_norm):
    generator = torch.Generator().manual_seed(num_heads)
    for dim in WIDTHS:
        keys = whole_keys(num_heads, dim, 90, generator)
        index = op_cases.visual_index(2, 90, 83, generator)
        whole = keys.numpy().astype(np.int64)
        if mean_norm:
            exact = np.abs(whole).sum(axis=(1, 3)) / num_heads
        else:
            exact = np.square(whole.sum(axis=1) // num_heads).sum(axis=2)
        expected = best(np.take_along_axis(exact, index.numpy(), axis=1), 83 * 2 // 5, largest=False)
        for dtype in (torch.float32, *HALF_TYPES):
            tensors, attributes = (keys.to(dtype), index), (2, 5, 0, mean_norm)
            outputs = op_cases.run_torch("knorm_select", tensors, attributes)
            np.testing.assert_array_equal(outputs[2].numpy(), expected)
            if dtype == torch.bfloat16:  # which NumPy, and with it both ONNX forms here, cannot be given
                continue
            op_cases.assert_equal(outputs, op_cases.run_onnx("knorm_select", tensors, attributes, dtype=dtype))
            op_cases.assert_equal(outputs, run_reference("knorm_select", tensors, attributes))


@pytest.mark.parametrize("dim", WIDTHS)
def test_feature_widths(dim):
    generator = torch.Generator().manual_seed(dim)
    features = torch.randint(-1, 2, (2, 40, dim), generator=generator).float()
    positions, groups = torch.rand(2, 40, 2, generator=generator), torch.zeros(2, 40, dtype=torch.int64)
    rows = zip(features.tolist(), positions.double().tolist(), groups.tolist(), strict=True)
    cutoff = float(round(dim**0.5))
    expected = [oracle.clusters(*row, 10, cutoff, 0.5) for row in rows]
    for dtype in (torch.float32, *HALF_TYPES):
        tensors, attributes = (features.to(dtype), positions, groups), (1, 4, cutoff, 0.0, 0.5)
        outputs = op_cases.run_torch("density_peak_clusters", tensors, attributes)
        assert outputs[0].tolist() == expected
        if dtype != torch.bfloat16:
            found = op_cases.run_onnx("density_peak_clusters", tensors, attributes, dtype=dtype)
            op_cases.assert_equal(outputs, found)
            op_cases.assert_equal(outputs, run_reference("density_peak_clusters", tensors, attributes))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["vision_saliency", "text_query_scores"])
def test_attention_widths(name, form):
    for dim in WIDTHS:
        tensors = op_cases.inputs(name, 2, 30, dim=dim)
        op_cases.assert_equal(op_cases.run_torch(name, tensors, (0.05,)), FORMS[form](name, tensors, (0.05,)))


@pytest.mark.parametrize("num_heads", [1, 2, 3, 7, 32])
def test_text_query_heads(num_heads):
    generator = torch.Generator().manual_seed(num_heads)
    index = op_cases.visual_index(2, 40, 30, generator)
    mask = torch.ones(2, 40, dtype=torch.int64)
    for heads_per_key in (1, 3):
        q = torch.randn(2, num_heads * heads_per_key, 16, generator=generator)
        tensors = (q, torch.randn(2, num_heads, 40, 16, generator=generator), index, mask)
        outputs = op_cases.run_torch("text_query_scores", tensors, (0.25,))
        op_cases.assert_equal(outputs, op_cases.run_onnx("text_query_scores", tensors, (0.25,)))
        op_cases.assert_equal(outputs, run_reference("text_query_scores", tensors, (0.25,)))


@pytest.mark.parametrize("num_visual", [3839, 3840, 131072])  # TensorRT's own TopK ends at 3839
@pytest.mark.parametrize("largest", [0, 1])
def test_many_tokens(num_visual, largest):
    generator = torch.Generator().manual_seed(num_visual)
    length = num_visual + 5
    index = op_cases.visual_index(1, length, num_visual, generator)
    scores = torch.randint(-500, 500, (1, num_visual), generator=generator) / 8
    keys = torch.randint(-9, 10, (1, 1, length, 8), generator=generator).float()
    norms = keys[0, 0].square().sum(dim=1)[index]
    for num, den in ((1, 3), (1, 1), (1, 10**6)):
        num_kept = max(1, num_visual * num // den)
        for name, tensors, attributes, values in (
            ("score_select", (scores, index, keys[:, 0]), (num, den, largest), scores),
            ("knorm_select", (keys, index), (num, den, largest, 0), norms),
        ):
            outputs = op_cases.run_torch(name, tensors, attributes)
            np.testing.assert_array_equal(outputs[2].numpy(), best(values.numpy(), num_kept, largest))
            dropped = np.delete(index.numpy(), outputs[2].numpy())
            assert outputs[0].tolist() == [np.delete(np.arange(length), dropped).tolist()]
            assert torch.equal(outputs[0].gather(1, outputs[1]), index.gather(1, outputs[2]))
            op_cases.assert_equal(outputs, op_cases.run_onnx(name, tensors, attributes))


def test_scores_of_many_tokens():
    index = torch.arange(3, 131075).unsqueeze(0)
    for name, attributes in (("uniform_scores", (1, 3)), ("random_scores", (7,))):
        outputs = op_cases.run_torch(name, (index,), attributes)
        for run in FORMS.values():
            np.testing.assert_array_equal(run(name, (index,), attributes)[0], outputs[0].numpy())
    assert ops.uniform_scores(index, keep=(1, 3)).sum() == 131072 // 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("largest", [0, 1])
def test_zeros_of_either_sign_are_equal(form, largest):
    scores = torch.tensor([[0.0, -0.0, 0.0, -0.0, 1.0, -1.0], [-0.0, 0.0, -0.0, 0.0, -1.0, 1.0]])
    index = torch.arange(6).repeat(2, 1)
    for num_kept in range(1, 6):
        tensors, attributes = (scores, index, sequence(scores)), (num_kept, 6, largest)
        outputs = op_cases.run_torch("score_select", tensors, attributes)
        expected = [[4, 0, 1, 2, 3, 5], [5, 0, 1, 2, 3, 4]] if largest else [[5, 0, 1, 2, 3, 4], [4, 0, 1, 2, 3, 5]]
        assert outputs[2].tolist() == [sorted(row[:num_kept]) for row in expected]
        op_cases.assert_equal(outputs, FORMS[form]("score_select", tensors, attributes))


@pytest.mark.parametrize("form", FORMS)
def test_norm_sums_of_either_sign_of_zero_are_equal(form):
    signs = torch.tensor([[0.0, -0.0, -0.0, 0.0, 0.0, -0.0, 0.0, -0.0, -0.0], [-0.0] * 3 + [0.0] * 3 + [-0.0] * 3])
    labels, index = torch.arange(3).repeat_interleave(3).repeat(2, 1), torch.arange(9).repeat(2, 1)
    for num_kept in range(1, 10):
        tensors, attributes = (signs, labels, index, sequence(signs)), (3, 9, num_kept, 9, 0)
        outputs = op_cases.run_torch("cluster_merge_plan", tensors, attributes)
        groups = [oracle.merge_groups([0.0] * 9, row, num_kept)[0] for row in labels.tolist()]
        assert outputs[2].tolist() == [[oracle.middle(group) for group in row] for row in groups]
        op_cases.assert_equal(outputs, FORMS[form]("cluster_merge_plan", tensors, attributes))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("largest", [0, 1])
def test_duplicates_at_the_edge(form, largest):
    """Whatever the number kept, the edge falls among equal scores."""
    index = torch.arange(60).unsqueeze(0)
    scores = torch.tensor([[4.0, 2.0, 4.0, 3.0, 2.0, 4.0] * 10])
    for num_kept in (1, 7, 19, 20, 21, 29, 31, 41, 59, 60):
        tensors, attributes = (scores, index, sequence(scores)), (num_kept, 60, largest)
        outputs = op_cases.run_torch("score_select", tensors, attributes)
        np.testing.assert_array_equal(outputs[2].numpy(), best(scores.numpy(), num_kept, largest))
        op_cases.assert_equal(outputs, FORMS[form]("score_select", tensors, attributes))


@pytest.mark.parametrize("form", FORMS)
def test_all_features_equal(form):
    features = cluster_cases.equal(50, torch.Generator().manual_seed(0)).repeat(2, 1, 1) + 1000
    tensors = (features, torch.zeros(2, 50, 2), torch.zeros(2, 50, dtype=torch.int64))
    for attributes in ((1, 5, 8.0, 0.0, 0.6), (1, 5, 8.0, 0.3, 0.6)):
        outputs = op_cases.run_torch("density_peak_clusters", tensors, attributes)
        # Token 0 is the peak, all others are at distance 0 of it: the centres are the first ten.
        assert outputs[0].tolist() == [[*range(10), *[0] * 40]] * 2
        op_cases.assert_equal(outputs, FORMS[form]("density_peak_clusters", tensors, attributes))
