"""The merge that was worked out by hand, in every form but the plugin (which test_tensorrt_enqueue.py runs)."""

import merge_example
import op_cases
import oracle
import pytest
from onnx_reference import run_reference

from vitcop.plugins import ops

MERGES = ("sum", "mean")


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("run", [op_cases.run_torch, op_cases.run_onnx, run_reference])
def test_torch_and_onnx(run, merge):
    merge_example.check(run("cluster_merge_plan", *merge_example.inputs(merge)), merge)


@pytest.mark.parametrize("merge", MERGES)
def test_kernel(kernels, merge):
    merge_example.check(kernels.run("cluster_merge_plan", *merge_example.inputs(merge)), merge)


@pytest.mark.parametrize("merge", MERGES)
def test_hidden_states(merge):
    example = merge_example
    outputs = ops.cluster_merge(
        example.HIDDEN, example.VISUAL_INDEX, example.SCORES, example.LABELS, num_clusters=2, keep=3, merge=merge
    )
    assert outputs[0].tolist() == example.MERGED[merge]
    example.check(outputs[1:], merge)


@pytest.mark.parametrize("merge", MERGES)
def test_oracle(merge):
    example = merge_example
    groups, is_merged = oracle.merge_groups(example.SCORES[0].tolist(), example.LABELS[0].tolist(), 3)
    assert (groups, is_merged) == ([[0], [1, 2], [3]], [False, True, True])
    assert [oracle.weights(groups, is_merged, 4, merge == "mean")] == example.ASSIGNMENT[merge]
