"""The half-precision rotary rule: what it fuses, that the value stays, and what it leaves alone."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from vitcop.export.lower import OPSET
from vitcop.export.lower.rotary import fuse_half_rotary

HEADS, SIZE = 4, 16


def rotary(*, half=SIZE // 2, axis=1, dtype=TensorProto.FLOAT16):
    """x·cos + rotate_half(x)·sin over cast tables, as transformers' Llama is traced. x [B,4,S,16], freqs [B,S,8]."""
    tensors = {"zero": 0, "half": half, "end": 2**62, "three": 3, "one": 1, "axis": axis}
    constants = [numpy_helper.from_array(np.array([value], dtype=np.int64), name) for name, value in tensors.items()]
    node = helper.make_node
    nodes = [
        node("Concat", ["freqs", "freqs"], ["angles"], axis=-1),
        *(node(kind, ["angles"], [kind]) for kind in ("Cos", "Sin")),
        *(node("Cast", [kind], [f"{kind}16"], to=dtype) for kind in ("Cos", "Sin")),
        *(node("Unsqueeze", [f"{kind}16", "axis"], [f"{kind}4"]) for kind in ("Cos", "Sin")),
        node("Slice", ["x", "zero", "half", "three", "one"], ["first"]),
        node("Slice", ["x", "half", "end", "three", "one"], ["second"]),
        node("Neg", ["second"], ["minus"]),
        node("Concat", ["minus", "first"], ["rotated"], axis=-1),
        node("Mul", ["x", "Cos4"], ["left"]),
        node("Mul", ["rotated", "Sin4"], ["right"]),
        node("Add", ["left", "right"], ["y"]),
    ]
    shape = ["B", HEADS, "S", SIZE]
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    inputs += [helper.make_tensor_value_info("freqs", TensorProto.FLOAT, ["B", "S", SIZE // 2])]
    outputs = [helper.make_tensor_value_info("y", dtype, shape)]
    graph = helper.make_graph(nodes, "rotary", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def fused(model):
    """The model after the rule, and how often it found the pattern."""
    graph = ir.serde.deserialize_model(model)
    count = fuse_half_rotary(graph)
    ir.passes.common.RemoveUnusedNodesPass()(graph)
    return ir.serde.serialize_model(graph), count


def run(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def test_the_rotary_embedding_becomes_one_node_of_the_same_value():
    model, count = fused(rotary())
    assert count == 1
    assert [node.op_type for node in model.graph.node].count("RotaryEmbedding") == 1
    assert not {"Slice", "Neg", "Concat", "Unsqueeze"} & {node.op_type for node in model.graph.node}
    onnx.checker.check_model(model, full_check=True)
    random = np.random.default_rng(0)
    for batch, length in ((1, 1), (3, 40)):
        x = random.normal(size=(batch, HEADS, length, SIZE)).astype(np.float16)
        freqs = random.uniform(0, 600, size=(batch, length, SIZE // 2)).astype(np.float32)
        cos, sin = (table(freqs).astype(np.float16).astype(np.float64)[:, None] for table in (np.cos, np.sin))
        one, two = np.split(x.astype(np.float64), 2, axis=3)
        exact = np.concatenate((one * cos - two * sin, two * cos + one * sin), axis=3)
        # Three roundings to fp16 without the fusion, one or three with it.
        bound = 2.0**-11 * 3 * (np.abs(exact) + np.abs(x.astype(np.float64)).max())
        found = run(model, {"x": x, "freqs": freqs})
        assert (np.abs(found - exact) <= bound).all()
        assert np.abs(found - exact).max() <= 1.01 * np.abs(run(rotary(), {"x": x, "freqs": freqs}) - exact).max()


@pytest.mark.parametrize("change", [{"half": SIZE // 2 - 1}, {"axis": 2}], ids=str)
def test_what_is_not_that_pattern_stays(change):
    _, count = fused(rotary(**change))
    assert count == 0
