"""The ONNX functions in ONNX Runtime against the torch references, index for index."""

import cluster_cases
import op_cases
import pytest
import torch

from vitcop.plugins import onnx_text
from vitcop.plugins.onnx_functions import functions
from vitcop.plugins.registry import ALL_OPS, ONNX_OPS

SHAPES = [(1, 24, 7), (2, 61, 1), (5, 133, 12)]


@pytest.mark.parametrize(("name", "attributes"), op_cases.CASES)
def test_equals_reference_at_other_shapes_and_batches(name, attributes):
    for seed, (batch, num_visual, num_text) in enumerate(SHAPES):
        tensors = op_cases.inputs(name, batch, num_visual, seed=seed, num_text=num_text)
        expected = op_cases.run_torch(name, tensors, attributes)
        op_cases.assert_equal(expected, op_cases.run_onnx(name, tensors, attributes))


@pytest.mark.parametrize("name", ALL_OPS)
@pytest.mark.parametrize("opset_version", [18, 21, 24])
def test_other_opsets(name, opset_version):
    attributes = op_cases.ATTRIBUTES[name][0]
    tensors = op_cases.inputs(name, 2, 30, seed=3)
    op_cases.assert_equal(
        op_cases.run_torch(name, tensors, attributes), op_cases.run_onnx(name, tensors, attributes, opset_version)
    )


@pytest.mark.parametrize("name", [n for n in ALL_OPS if n not in ("uniform_scores", "random_scores")])
def test_half_precision_inputs_are_read_in_fp32(name):
    attributes = op_cases.ATTRIBUTES[name][0]
    tensors = op_cases.inputs(name, 2, 40, seed=5, dtype=torch.float16)
    in_half = op_cases.run_torch(name, tensors, attributes)
    wider = [t.float() if t.dtype == torch.float16 else t for t in tensors]
    for half, full in zip(in_half, op_cases.run_torch(name, wider, attributes), strict=True):
        assert torch.equal(half, full)
    op_cases.assert_equal(in_half, op_cases.run_onnx(name, tensors, attributes, dtype=torch.float16))


@pytest.mark.parametrize(("name", "attributes"), op_cases.CASES)
@pytest.mark.parametrize("num_visual", [0, 1, 2])
def test_few_tokens(name, attributes, num_visual):
    tensors = op_cases.inputs(name, 3, num_visual)
    op_cases.assert_equal(op_cases.run_torch(name, tensors, attributes), op_cases.run_onnx(name, tensors, attributes))


@pytest.mark.parametrize("kind", cluster_cases.LATTICES, ids=lambda kind: kind.__name__)
def test_ties_between_clusters(kind):
    for seed in range(30):
        num_tokens = (1, 2, 3, 5, 8, 16, 25, 36, 64, 225)[seed % 10]
        case = cluster_cases.draw((kind, cluster_cases.scattered), num_tokens, seed)
        tensors = (case.features, case.positions, case.group_ids)
        for attributes in ((1, 4, 8.0, 0.0, 0.6), (18, 100, 8.0, 0.5, 0.625)):
            op_cases.assert_equal(
                op_cases.run_torch("density_peak_clusters", tensors, attributes),
                op_cases.run_onnx("density_peak_clusters", tensors, attributes),
            )


@pytest.mark.parametrize("largest", [0, 1])
def test_equal_scores_go_to_the_lowest_index(largest):
    scores, index, sequence = op_cases.inputs("score_select", 2, 200)
    scores = (scores * 2).round()  # about ten different values
    tensors, attributes = (scores, index, sequence), (1, 3, largest)
    expected = op_cases.run_torch("score_select", tensors, attributes)
    op_cases.assert_equal(expected, op_cases.run_onnx("score_select", tensors, attributes))
    kept = expected[2]
    edge = scores.gather(1, kept).amin(1) if largest else scores.gather(1, kept).amax(1)
    for row in range(2):
        at_edge = (scores[row] == edge[row]).nonzero().flatten().tolist()
        kept_at_edge = [i for i in kept[row].tolist() if i in at_edge]
        assert kept_at_edge == at_edge[: len(kept_at_edge)]


def test_equal_norm_sums_in_a_merge():
    for seed in range(20):
        scores, labels, index, sequence = op_cases.inputs("cluster_merge_plan", 3, 60, seed=seed)
        tensors = ((scores * 2).round() * 0.1, labels, index, sequence)
        for attributes in op_cases.ATTRIBUTES["cluster_merge_plan"]:
            op_cases.assert_equal(
                op_cases.run_torch("cluster_merge_plan", tensors, attributes),
                op_cases.run_onnx("cluster_merge_plan", tensors, attributes),
            )


def test_functions_follow_the_definitions():
    found = functions(23)
    assert found.keys() == ONNX_OPS.keys()
    for name, proto in found.items():
        spec = ONNX_OPS[name]
        assert tuple(proto.input) == spec.inputs
        assert tuple(proto.output) == spec.outputs
        assert tuple(proto.attribute) == tuple(attribute for attribute, _ in spec.attributes)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 23)]
        assert {node.domain for node in proto.node} <= {""}


def test_an_opset_too_old_is_refused():
    with pytest.raises(AssertionError, match="opset 18"):
        functions(onnx_text.MIN_OPSET - 1)
