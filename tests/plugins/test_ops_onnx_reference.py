"""The ONNX functions in onnx's own evaluator against the torch references, index for index."""

import cluster_cases
import numpy as np
import onnx
import op_cases
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_reference import MOST_GATHERED, MendedEvaluator, run_reference
from packaging.version import Version

from vitcop.plugins.registry import ALL_OPS

SMALL_SHAPES = [(1, 24, 7), (2, 29, 1), (5, 20, 12)]
SHAPES = [(2, 61, 1), (3, 133, 12)]


def check(name, tensors, attributes, **arguments):
    expected = op_cases.run_torch(name, tensors, attributes)
    op_cases.assert_equal(expected, run_reference(name, tensors, attributes, **arguments))


@pytest.mark.parametrize(("name", "attributes"), op_cases.CASES)
def test_equals_reference_in_the_evaluator_as_it_is(name, attributes):
    for seed, (batch, num_visual, num_text) in enumerate(SMALL_SHAPES):
        assert num_visual + num_text <= MOST_GATHERED
        tensors = op_cases.inputs(name, batch, num_visual, seed=seed, num_text=num_text)
        check(name, tensors, attributes, evaluator_class=ReferenceEvaluator)


@pytest.mark.parametrize(("name", "attributes"), op_cases.CASES)
def test_equals_reference_at_larger_sizes(name, attributes):
    for seed, (batch, num_visual, num_text) in enumerate(SHAPES):
        check(name, op_cases.inputs(name, batch, num_visual, seed=seed, num_text=num_text), attributes)


@pytest.mark.parametrize("name", ALL_OPS)
@pytest.mark.parametrize("opset_version", [18, 24])
def test_other_opsets(name, opset_version):
    tensors = op_cases.inputs(name, 2, 20, seed=3)
    check(name, tensors, op_cases.ATTRIBUTES[name][0], opset_version=opset_version)


@pytest.mark.parametrize("name", [n for n in ALL_OPS if n not in ("uniform_scores", "random_scores")])
def test_half_precision(name):
    tensors = op_cases.inputs(name, 2, 40, seed=5, dtype=torch.float16)
    check(name, tensors, op_cases.ATTRIBUTES[name][0])


@pytest.mark.parametrize(("name", "attributes"), op_cases.CASES)
@pytest.mark.parametrize("num_visual", [0, 1, 2])
def test_few_tokens(name, attributes, num_visual):
    if (name, num_visual) == ("density_peak_clusters", 0):
        pytest.skip("the nearest of no tokens is an ArgMin over an empty axis, which NumPy refuses")
    if num_visual == 0 and Version(onnx.__version__) < Version("1.23"):
        pytest.skip(f"the evaluator of onnx {onnx.__version__} loses the axes of what is empty")
    check(name, op_cases.inputs(name, 3, num_visual), attributes, evaluator_class=ReferenceEvaluator)


@pytest.mark.parametrize("kind", cluster_cases.LATTICES, ids=lambda kind: kind.__name__)
def test_ties_between_clusters(kind):
    """TopK and ArgMin of the evaluator give equal values in order of their index, too."""
    for seed in range(6):
        case = cluster_cases.draw((kind, cluster_cases.scattered), 3 + 5 * seed, seed)
        num_clusters = max(1, (3 + 5 * seed) // 4)
        attributes = (num_clusters, 3 + 5 * seed, 8.0, 0.0, 0.6)
        check("density_peak_clusters", (case.features, case.positions, case.group_ids), attributes)


def test_ties_between_norm_sums():
    for seed in range(6):
        scores, labels, index, sequence = op_cases.inputs("cluster_merge_plan", 3, 60, seed=seed)
        for attributes in op_cases.ATTRIBUTES["cluster_merge_plan"]:
            check("cluster_merge_plan", ((scores * 2).round() * 0.1, labels, index, sequence), attributes)


@pytest.mark.xfail(raises=ValueError, reason="onnx's GatherElements takes at most 64 entries, 32 before NumPy 2")
def test_the_evaluator_gathers_from_many_entries():
    node = helper.make_node("GatherElements", ["data", "indices"], ["output"], axis=1)
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 65])
    indices = helper.make_tensor_value_info("indices", TensorProto.INT64, [1, 2])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 2])
    model = helper.make_model(helper.make_graph([node], "gather", [data, indices], [output]))
    feeds = {"data": np.arange(65, dtype=np.float32)[None], "indices": np.array([[64, 3]])}
    assert MendedEvaluator(model).run(None, feeds)[0].tolist() == [[64.0, 3.0]]
    assert ReferenceEvaluator(model).run(None, feeds)[0].tolist() == [[64.0, 3.0]]
