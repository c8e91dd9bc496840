"""What only a GPU can show: CUDA graphs, streams, and the references on CUDA tensors."""

import importlib

import op_cases
import pytest
import torch
from kernel_forms import FOLDERS, SEED

from vitcop.plugins.cuda import library
from vitcop.plugins.registry import ALL_OPS

pytestmark = pytest.mark.gpu

DISCRETE = [name for name in ALL_OPS if name != "density_peak_clusters"]
"""The ops whose results do not hang on the last bit of an exp."""


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")


def on_gpu(tensors):
    return [t.cuda() for t in tensors]


@pytest.mark.parametrize("name", ALL_OPS)
def test_captured_in_a_graph(name):
    attributes = op_cases.ATTRIBUTES[name][0]
    first, second = (op_cases.inputs(name, 2, 90, seed=SEED + i) for i in (1, 2))
    inputs = on_gpu(first)
    op_cases.run_torch(name, inputs, attributes)  # loads the library outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = op_cases.run_torch(name, inputs, attributes)
    for tensors in (first, second, first):
        for place, tensor in zip(inputs, tensors, strict=True):
            place.copy_(tensor)
        graph.replay()
        eager = op_cases.run_torch(name, on_gpu(tensors), attributes)
        torch.cuda.synchronize()
        assert all(torch.equal(one, other) for one, other in zip(outputs, eager, strict=True))


@pytest.mark.parametrize("name", DISCRETE)
def test_on_a_stream_of_its_own(name):
    attributes = op_cases.ATTRIBUTES[name][0]
    tensors = op_cases.inputs(name, 2, 90, seed=SEED)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        outputs = op_cases.run_torch(name, on_gpu(tensors), attributes)
    stream.synchronize()
    op_cases.assert_equal(op_cases.run_torch(name, tensors, attributes), [t.cpu() for t in outputs])


@pytest.mark.parametrize("name", DISCRETE)
def test_the_reference_on_cuda_tensors(name):
    """What runs there without the library."""
    folder = next(f for f in FOLDERS if hasattr(importlib.import_module(f"vitcop.plugins.{f}.reference"), name))
    reference = getattr(importlib.import_module(f"vitcop.plugins.{folder}.reference"), name)
    tensors = op_cases.inputs(name, 2, 90, seed=SEED)
    for attributes in op_cases.ATTRIBUTES[name]:
        outputs = reference(*on_gpu(tensors), *attributes)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        op_cases.assert_equal(op_cases.run_torch(name, tensors, attributes), [t.cpu() for t in outputs])


def test_the_library_is_in_use():
    assert library.load() is not None, "the kernels are not built: make kernels"
    keys, index = op_cases.inputs("knorm_select", 1, 30)
    keys[0, 0, index[0, 4]] = float("nan")
    torch.ops.vitcop.knorm_select(*on_gpu((keys, index)), 1, 2, 0, 0)  # the reference would refuse it
