"""Engines of one plugin layer each, built and run by TensorRT itself, against the torch references.

Needs a GPU, the full TensorRT library and the plugin library of `make plugin`. Has not been run yet: no machine with
all three was at hand.
"""

import json

import numpy as np
import op_cases
import pytest
import torch
from plugin_harness import attributes_of

from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.spec import DOMAIN
from vitcop.plugins.tensorrt.paths import plugin_path

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

WITHOUT_CLUSTERS = [name for name in ALL_OPS if name != "density_peak_clusters"]
"""The labels of that one hang on the last bit of an exp; test_tensorrt_enqueue.py looks at its steps."""


@pytest.fixture(scope="module")
def trt():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    module = pytest.importorskip("tensorrt", reason="the full TensorRT library is not installed")
    if plugin_path() is None:
        pytest.skip("no plugin library was built: make plugin TENSORRT_INCLUDE_DIR=…")
    registry = module.get_plugin_registry()
    handle = registry.load_library(str(plugin_path()))
    yield module
    registry.deregister_library(handle)


def plugin_of(trt, name, values):
    spec = ALL_OPS[name]
    arrays = [(label, np.array([value], dtype=kind)) for label, kind, value in attributes_of(spec, values)]
    kinds = {"int32": "INT32", "int64": "INT64", "float32": "FLOAT32"}
    fields = [trt.PluginField(n, a, getattr(trt.PluginFieldType, kinds[a.dtype.name])) for n, a in arrays]
    creator = trt.get_plugin_registry().get_creator(spec.onnx_name, spec.plugin_version, DOMAIN)
    made = creator.create_plugin(name, trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD)
    del arrays  # the collection did not keep them alive until here
    assert made is not None
    return made


def engine_of(trt, logger, name, values, least, most):
    """An engine of one layer, for inputs between `least` and `most`."""
    builder = trt.Builder(logger)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # nothing else from 11 on
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    types = {torch.float32: "FLOAT", torch.float16: "HALF", torch.bfloat16: "BF16", torch.int64: "INT64"}
    inputs = [
        network.add_input(label, getattr(trt.DataType, types[tensor.dtype]), (-1,) * tensor.dim())
        for label, tensor in zip(ALL_OPS[name].inputs, least, strict=True)
    ]
    layer = network.add_plugin_v3(inputs, [], plugin_of(trt, name, values))
    layer.name = f"the {name} layer"
    for place, label in enumerate(ALL_OPS[name].outputs):
        output = layer.get_output(place)
        output.name = f"out_{label}"
        network.mark_output(output)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for label, small, large in zip(ALL_OPS[name].inputs, least, most, strict=True):
        profile.set_shape(label, tuple(small.shape), tuple(large.shape), tuple(large.shape))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return trt.Runtime(logger).deserialize_cuda_engine(plan)


def run(engine, name, values, tensors):
    """(what the reference gives, what the engine gives)."""
    context = engine.create_execution_context()
    stream = torch.cuda.Stream()
    there = {label: t.cuda().contiguous() for label, t in zip(ALL_OPS[name].inputs, tensors, strict=True)}
    for label, tensor in there.items():
        assert context.set_input_shape(label, tuple(tensor.shape))
        context.set_tensor_address(label, tensor.data_ptr())
    expected = op_cases.run_torch(name, tensors, values)
    outputs = []
    for label, like in zip(ALL_OPS[name].outputs, expected, strict=True):
        shape = tuple(context.get_tensor_shape(f"out_{label}"))
        assert shape == tuple(like.shape)
        outputs.append(torch.empty(shape, dtype=like.dtype, device="cuda"))
        context.set_tensor_address(f"out_{label}", outputs[-1].data_ptr())
    torch.cuda.synchronize()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return expected, [t.cpu() for t in outputs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", WITHOUT_CLUSTERS)
def test_an_engine_equals_the_reference(trt, name, dtype):
    values = op_cases.ATTRIBUTES[name][0]
    least, most = (op_cases.inputs(name, batch, tokens, dtype=dtype) for batch, tokens in ((1, 12), (2, 700)))
    logger = trt.Logger(trt.Logger.WARNING)
    engine = engine_of(trt, logger, name, values, least, most)
    layers = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    assert f"the {name} layer" in json.dumps(json.loads(layers))
    for tensors in (least, most, op_cases.inputs(name, 2, 133, dtype=dtype)):
        op_cases.assert_equal(*run(engine, name, values, tensors))
