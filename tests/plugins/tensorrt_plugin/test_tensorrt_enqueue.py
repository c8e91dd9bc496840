"""Plugin objects run as an engine runs them, against the torch references: on the CPU with the kernels that g++ built,
on a GPU with the library that `make plugin` built."""

import math

import emulated
import merge_example
import op_cases
import pytest
import torch
from plugin_harness import HEADERS, WITHOUT_HEADERS, PluginHarness, described, emulated_plugin
from test_kernels_clusters import check_labels

from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.tensorrt.paths import plugin_path

SHAPES = [(1, 24, 7), (2, 61, 1), (3, 133, 12), (2, 0, 5), (1, 1, 0), (1, 1100, 30)]
"""Batch, visual tokens, text tokens."""

CLUSTERS = "density_peak_clusters"
WITH_FLOATS = [name for name in ALL_OPS if name not in ("uniform_scores", "random_scores")]


class OnCpu:
    """Every tensor lies between forbidden pages."""

    def __init__(self, include):
        library = emulated_plugin(include)
        self.plugins, self.emulator = PluginHarness(include, library), emulated.load(library)

    def place(self, tensor):
        return emulated.guarded(tensor)

    def empty(self, shape, dtype):
        return emulated.guarded_empty(shape, dtype)

    def enqueue(self, node, inputs, outputs, workspace):
        self.emulator.emulator_seed(len(inputs) + inputs[0].numel())
        status = node.enqueue(inputs, outputs, workspace)
        emulated.check(self.emulator, 0)
        for tensor in (*outputs, workspace):
            emulated.check_surroundings(tensor)
        return status


class OnGpu:
    """On torch's current stream. Memory that is not written shows."""

    def __init__(self, include, library):
        self.plugins = PluginHarness(include, library)

    def place(self, tensor):
        return tensor.cuda()

    def empty(self, shape, dtype):
        poison = torch.full((math.prod(shape) * dtype.itemsize,), emulated.POISON, dtype=torch.uint8, device="cuda")
        return poison.view(dtype).view(tuple(shape))

    def enqueue(self, node, inputs, outputs, workspace):
        return node.enqueue(inputs, outputs, workspace, torch.cuda.current_stream().cuda_stream)


@pytest.fixture(scope="module", params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def machine(request):
    if request.param == "cuda":
        return gpu_machine()
    if not HEADERS:
        pytest.skip(WITHOUT_HEADERS)
    return OnCpu(HEADERS[-1])


def gpu_machine():
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    if not HEADERS:
        pytest.skip(WITHOUT_HEADERS)
    if plugin_path() is None:
        pytest.skip("no plugin library was built: make plugin TENSORRT_INCLUDE_DIR=…")
    return OnGpu(HEADERS[-1], plugin_path())


def with_index_type(tensors, dtype):
    return [t.to(dtype) if t.dtype == torch.int64 else t for t in tensors]


def prepare(machine, node, tensors):
    """Inputs, outputs and workspace in the machine's memory, by what the plugin says of itself."""
    inputs = [machine.place(t) for t in tensors]
    descriptions = [described(t) for t in tensors]
    results = node.output_descriptions(descriptions)
    outputs = [machine.empty(t.shape, getattr(torch, t.dtype)) for t in results]
    return inputs, outputs, machine.empty((max(1, node.workspace(descriptions, results)),), torch.uint8)


def check(machine, name, values, tensors, index_type=torch.int64):
    """One run equals the reference, and so does one of the plugin that was written to a file and read."""
    made = machine.plugins.node(name, values)
    expected = op_cases.run_torch(name, tensors, values)
    for node in (made, made.written_and_read().attached()):
        inputs, outputs, workspace = prepare(machine, node, with_index_type(tensors, index_type))
        assert machine.enqueue(node, inputs, outputs, workspace) == 0, machine.plugins.messages()
        found = [t.cpu() for t in outputs]
        assert [t.dtype for t in found if not t.is_floating_point()] == [
            index_type for t in expected if not t.is_floating_point()
        ]
        wide = [t if t.is_floating_point() else t.long() for t in found]
        if name == CLUSTERS:
            check_labels(wide[0], workspace.cpu(), tensors, values)
        else:
            op_cases.assert_equal(expected, wide)
    assert machine.plugins.messages() == ""


@pytest.mark.parametrize("merge", ["sum", "mean"])
def test_the_merge_example(machine, merge):
    tensors, values = merge_example.inputs(merge)
    node = machine.plugins.node("cluster_merge_plan", values)
    inputs, outputs, workspace = prepare(machine, node, tensors)
    assert machine.enqueue(node, inputs, outputs, workspace) == 0, machine.plugins.messages()
    merge_example.check([t.cpu() for t in outputs], merge)


@pytest.mark.parametrize("index_type", [torch.int64, torch.int32], ids=["int64", "int32"])
@pytest.mark.parametrize(("name", "values"), op_cases.CASES)
def test_equals_reference(machine, name, values, index_type):
    for seed, (batch, num_visual, num_text) in enumerate(SHAPES):
        if name == CLUSTERS and not 0 < num_visual < 200:
            continue
        tensors = op_cases.inputs(name, batch, num_visual, seed=seed, num_text=num_text)
        check(machine, name, values, tensors, index_type)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", WITH_FLOATS)
def test_half_precision(machine, name, dtype):
    for num_visual in (5, 80):
        check(
            machine,
            name,
            op_cases.ATTRIBUTES[name][0],
            op_cases.inputs(name, 2, num_visual, dtype=dtype, seed=num_visual),
        )


@pytest.mark.parametrize("name", ["knorm_select", "score_select"])
def test_more_tokens_than_one_block_takes(machine, name):
    check(machine, name, op_cases.ATTRIBUTES[name][0], op_cases.inputs(name, 1, 9000, dim=8))


def test_no_tokens_no_clusters(machine):
    node = machine.plugins.node(CLUSTERS, op_cases.ATTRIBUTES[CLUSTERS][0])
    inputs, outputs, workspace = prepare(machine, node, op_cases.inputs(CLUSTERS, 2, 0))
    assert machine.enqueue(node, inputs, outputs, workspace) == 0
    assert outputs[0].shape == (2, 0)


def test_sizes_that_do_not_fit_are_never_run(machine):
    scores, index, sequence = op_cases.inputs("score_select", 2, 30)
    node = machine.plugins.node("score_select", (1, 3, 0))
    inputs, outputs, workspace = prepare(machine, node, (scores, index, sequence))
    wrong = [machine.place(scores[:1].contiguous()), *inputs[1:]]
    assert machine.enqueue(node, wrong, outputs, workspace) != 0
    assert "axis 0 of input 'visual_index'" in machine.plugins.messages()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL_OPS)
def test_captured_in_a_graph(name):
    machine, values = gpu_machine(), op_cases.ATTRIBUTES[name][0]
    node = machine.plugins.node(name, values)
    first, second = (op_cases.inputs(name, 2, 90, seed=seed) for seed in (1, 2))
    inputs, outputs, workspace = prepare(machine, node, first)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert machine.enqueue(node, inputs, outputs, workspace) == 0
    for tensors in (first, second):
        for place, tensor in zip(inputs, tensors, strict=True):
            place.copy_(tensor)
        graph.replay()
        torch.cuda.synchronize()
        replayed = [t.clone() for t in outputs]
        assert machine.enqueue(node, inputs, outputs, workspace) == 0
        torch.cuda.synchronize()
        assert all(torch.equal(one, other) for one, other in zip(replayed, outputs, strict=True))
