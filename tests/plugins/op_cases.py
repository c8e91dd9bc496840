"""Random inputs for every op, and one op as an ONNX Runtime session."""

import functools

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import torch

from vitcop.plugins import ops  # noqa: F401  (registers torch.ops.vitcop)
from vitcop.plugins.onnx_functions import functions
from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.spec import DOMAIN

ELEMENT_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.int64: onnx.TensorProto.INT64,
}


def visual_index(batch, num_positions, num_visual, generator):
    rows = [torch.randperm(num_positions, generator=generator)[:num_visual].sort().values for _ in range(batch)]
    return torch.stack(rows)


def inputs(name, batch, num_visual, *, seed=0, num_text=7, dim=16, dtype=torch.float32):
    """The tensors of op `name` for V visual tokens among V + num_text positions."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    length = num_visual + num_text
    index = visual_index(batch, length, num_visual, generator)
    if name == "vision_saliency":
        return normal(batch, 4, dim), normal(batch, 4, 1 + num_visual, dim)
    if name == "density_peak_clusters":
        positions = torch.rand(batch, num_visual, 2, generator=generator)
        return normal(batch, num_visual, dim), positions, torch.randint(0, 2, (batch, num_visual), generator=generator)
    if name in ("knorm_scores", "knorm_select"):
        return normal(batch, 2, length, dim), index
    if name == "score_select":
        return normal(batch, num_visual), index, normal(batch, length, 3)
    if name == "text_query_scores":
        mask = (torch.arange(length) >= torch.arange(batch).unsqueeze(1)).long()
        return normal(batch, 4, dim), normal(batch, 2, length, dim), index, mask
    if name in ("uniform_scores", "random_scores"):
        return (index,)
    assert name == "cluster_merge_plan", name
    labels = torch.randint(0, max(1, num_visual // 5), (batch, num_visual), generator=generator)
    return normal(batch, num_visual).abs(), labels, index, normal(batch, length, 3)


ATTRIBUTES = {
    "vision_saliency": [(0.25,)],
    "density_peak_clusters": [(18, 100, 5.0, 0.0, 0.6), (15, 100, 8.0, 0.02, 0.6), (12, 100, 8.0, 0.0, 0.2)],
    "knorm_scores": [(0,), (1,)],
    "knorm_select": [(1, 3, 0, 0), (7, 8, 1, 1), (1, 1, 0, 0), (1, 1000, 0, 0)],
    "score_select": [(1, 3, 0), (7, 8, 1)],
    "text_query_scores": [(0.25,)],
    "uniform_scores": [(1, 3), (5, 7)],
    "random_scores": [(0,), (-(2**40) + 17,)],
    "cluster_merge_plan": [(1, 4, 1, 2, 0), (1, 4, 1, 10, 1), (1, 1, 1, 1, 0), (1, 4, 1, 1000, 0)],
}
"""For each op, attribute values worth running, in the order of its definition."""

CASES = [(name, attributes) for name in ALL_OPS for attributes in ATTRIBUTES[name]]


def run_torch(name, tensors, attributes):
    outputs = getattr(torch.ops.vitcop, name)(*tensors, *attributes)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def make_model(name, tensors, attributes, opset_version):
    """A model of one node. Every axis is dynamic; only ranks and types come from `tensors`."""
    spec = ALL_OPS[name]
    values = dict(zip((attribute for attribute, _ in spec.attributes), attributes, strict=True))
    node = onnx.helper.make_node(
        spec.onnx_name,
        spec.inputs,
        spec.outputs,
        domain=DOMAIN,
        plugin_namespace=DOMAIN,
        plugin_version=spec.plugin_version,
        **values,
    )

    def info(value_name, tensor):
        axes = [f"{value_name}_{axis}" for axis in range(tensor.dim())]
        return onnx.helper.make_tensor_value_info(value_name, ELEMENT_TYPES[tensor.dtype], axes)

    outputs = run_torch(name, tensors, attributes)
    graph = onnx.helper.make_graph(
        [node],
        name,
        [info(*pair) for pair in zip(spec.inputs, tensors, strict=True)],
        [info(*pair) for pair in zip(spec.outputs, outputs, strict=True)],
    )
    return onnx.helper.make_model(
        graph,
        functions=[functions(opset_version)[spec.onnx_name]],
        opset_imports=[onnx.helper.make_opsetid("", opset_version), onnx.helper.make_opsetid(DOMAIN, 1)],
        ir_version=10,
    )


@functools.cache
def session(name, attributes, opset_version=23, dtype=torch.float32):
    model = make_model(name, inputs(name, 2, 20, dtype=dtype), attributes, opset_version)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_onnx(name, tensors, attributes, opset_version=23, dtype=torch.float32):
    running = session(name, attributes, opset_version, dtype)
    present = {value.name for value in running.get_inputs()}
    feeds = {key: tensor.numpy() for key, tensor in zip(ALL_OPS[name].inputs, tensors, strict=True) if key in present}
    return running.run(None, feeds)


def assert_equal(expected, found):
    """Integers exactly, floats to a few ulp of fp32; shapes and dtypes always."""
    assert len(expected) == len(found)
    for want, got in zip(expected, found, strict=True):
        got = got.numpy() if isinstance(got, torch.Tensor) else got
        want = want.numpy() if isinstance(want, torch.Tensor) else want
        assert got.dtype == want.dtype
        if want.dtype == np.int64:
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
