"""A stand-in for the package `tensorrt` that builds nothing: it keeps what it is told and reads ONNX graphs.

A test with it proves that the builder's Python runs from end to end, in which order, and with which settings. It proves
nothing about TensorRT. That each name here is one of the real bindings is a test of its own (test_builder).
"""

import itertools
import sys
from types import ModuleType, SimpleNamespace

import onnx

KINDS = {1: "FLOAT", 10: "HALF", 16: "BF16", 7: "INT64", 6: "INT32", 9: "BOOL"}
NAMES = {
    "DataType": tuple(KINDS.values()),
    "BuilderFlag": ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT", "REFIT_IDENTICAL", "WEIGHT_STREAMING"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "MemoryPoolType": ("WORKSPACE",),
    "ProfilingVerbosity": ("DETAILED", "LAYER_NAMES_ONLY"),
    "HardwareCompatibilityLevel": ("AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
    "LayerInformationFormat": ("JSON",),
    "LayerType": ("PLUGIN_V3", "MATRIX_MULTIPLY"),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "KVCacheMode": ("LINEAR",),
    "CausalMaskKind": ("NONE",),
    "AttentionNormalizationOp": ("SOFTMAX",),
}


class Member(int):
    """A member of an enum."""

    name: str


class ILogger:
    class Severity:
        WARNING, ERROR, INTERNAL_ERROR = "W", "E", "F"


class ITensor:
    def __init__(self, name, dtype, shape):
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)


class ILayer:
    """A node of a graph, or one that was added."""

    def __init__(self, name, inputs, outputs, kind="MATRIX_MULTIPLY"):
        self.name, self._inputs, self._outputs = name, inputs, outputs
        self._kind = kind

    @property
    def type(self):
        return TYPES_OF["LayerType"][self._kind]

    @property
    def num_inputs(self):
        return len(self._inputs)

    def get_input(self, index):
        return self._inputs[index]

    def set_input(self, index, tensor):
        self._inputs[index] = tensor

    def get_output(self, index):
        return self._outputs[index]


class IAttention(ILayer):
    mask = key_value_lengths = None
    decomposable = False


class INetworkDefinition:
    def __init__(self, flags):
        self._flags, self._in, self._out, self._layers, self._nodes = flags, [], [], [], []

    num_inputs = property(lambda self: len(self._in))
    num_outputs = property(lambda self: len(self._out))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self, index):
        return self._in[index]

    def get_output(self, index):
        return self._out[index]

    def get_layer(self, index):
        return self._layers[index]

    def add_input(self, name, dtype, shape):
        assert name not in [tensor.name for tensor in self._in]
        self._in.append(ITensor(name, dtype, shape))
        return self._in[-1]

    def mark_output(self, tensor):
        self._out.append(tensor)

    def unmark_output(self, tensor):
        self._out.remove(tensor)

    def remove_tensor(self, tensor):
        assert all(tensor is not read for layer in self._layers for read in layer._inputs), "it is still read"
        self._in.remove(tensor)

    def add_kv_cache_update(self, cache, update, write_indices, cache_mode):
        assert cache in self._in and cache.dtype == update.dtype and all(size > 0 for size in cache.shape[1:])
        made = ITensor("", cache.dtype, cache.shape)
        made._alias = cache
        self._layers.append(ILayer("", [cache, update, write_indices], [made]))
        return self._layers[-1]

    def add_attention(self, query, key, value, norm_op, causal):
        self._layers.append(IAttention("", [query, key, value], [ITensor("", query.dtype, query.shape)]))
        return self._layers[-1]

    def add_attention_v2(self, query, key, value, norm_op, causal_kind):
        self._layers.append(IAttention("", [query, key, value], [ITensor("", query.dtype, query.shape)]))
        return self._layers[-1]


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        self._network = network

    def parse(self, model, path=None):
        graph = onnx.load_from_string(model).graph
        tensors = {}
        for items, into in ((graph.input, self._network._in), (graph.output, self._network._out)):
            for item in items:
                kind = item.type.tensor_type
                shape = [axis.dim_value or -1 for axis in kind.shape.dim]
                tensors[item.name] = ITensor(item.name, TYPES[KINDS[kind.elem_type]], shape)
                into.append(tensors[item.name])
        for node in graph.node:
            for name in (*node.input, *node.output):
                tensors.setdefault(name, ITensor(name, None, ()))
            read, made = ([tensors[name] for name in names] for names in (node.input, node.output))
            self._network._layers.append(ILayer(node.name, read, made, PARSED[0] if node.domain else "MATRIX_MULTIPLY"))
        self._network._nodes = [(node.name, node.domain) for node in graph.node]
        return True


class IBuilderConfig:
    def __init__(self):
        self._flags, self._pools, self._profiles, self._timings = {TYPES_OF["BuilderFlag"]["TF32"]}, {}, [], None

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def get_flag(self, flag):
        return flag in self._flags

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        self._timings = cache
        return not ignore_mismatch and cache._content in (b"", b"timings")

    def get_timing_cache(self):
        return self._timings


class ITimingCache:
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return b"timings"


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = (min, opt, max)


class Builder:
    def __init__(self, logger):
        self._configs = CONFIGS

    def create_network(self, flags=0):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        self._configs.append(IBuilderConfig())
        return self._configs[-1]

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        number = next(COUNTER)
        BUILT[number] = (network, config)
        return f"plan {number}".encode()


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, serialized_engine):
        return ICudaEngine(*BUILT[int(serialized_engine.split()[1])])


class IExecutionContext:
    pass


class ICudaEngine:
    device_memory_size_v2 = 1024
    streamable_weights_size = 1000

    def __init__(self, network, config):
        self._network, self._config = network, config
        # As TensorRT says: the default is all of them, which streams nothing.
        self._budget, self._contexts = self.streamable_weights_size, 0
        self._io = [*((t, "INPUT") for t in network._in), *((t, "OUTPUT") for t in network._out)]

    num_io_tensors = property(lambda self: len(self._io))

    def get_tensor_name(self, index):
        return self._io[index][0].name

    def _find(self, name):
        return next(pair for pair in self._io if pair[0].name == name)

    def get_tensor_mode(self, name):
        return TYPES_OF["TensorIOMode"][self._find(name)[1]]

    def get_tensor_dtype(self, name):
        return self._find(name)[0].dtype

    def get_tensor_shape(self, name):
        return self._find(name)[0].shape

    def get_aliased_input_tensor(self, name):
        alias = getattr(self._find(name)[0], "_alias", None)
        return alias.name if alias else None

    @property
    def weight_streaming_budget_v2(self):
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget):
        assert not self._contexts and TYPES_OF["BuilderFlag"]["WEIGHT_STREAMING"] in self._config._flags
        self._budget = budget

    def get_weight_streaming_automatic_budget(self):
        return self.streamable_weights_size // 4

    def create_execution_context(self):
        self._contexts += 1
        return IExecutionContext()

    def is_shape_inference_io(self, name):
        return False

    def get_tensor_profile_shape(self, name, profile_index):
        return self._config._profiles[profile_index]._shapes[name]

    def create_engine_inspector(self):
        return EngineInspector(self._network, self._config)


class EngineInspector:
    def __init__(self, network, config):
        self._network, self._config = network, config

    def get_engine_information(self, format):
        if self._config.profiling_verbosity.name == "LAYER_NAMES_ONLY":
            return str({"Layers": [name for name, _ in self._network._nodes]}).replace("'", '"')
        rows = [
            {"Name": name, "LayerType": LAYER_TYPE[0] if domain else "gemm"} for name, domain in self._network._nodes
        ]
        return str({"Layers": rows}).replace("'", '"')


class IPluginRegistry:
    def load_library(self, plugin_path):
        LOADED.append(plugin_path)

    def get_creator(self, type, version, plugin_namespace=""):
        return (type, version, plugin_namespace) if LOADED else None


COUNTER = itertools.count()
BUILT: dict = {}
CONFIGS: list = []
LOADED: list = []
LAYER_TYPE = ["PluginV3"]
PARSED = ["PLUGIN_V3"]
"""What the parser makes of a node of another domain."""
TYPES_OF: dict = {}
CLASSES = (ILogger, ITensor, ILayer, IAttention, INetworkDefinition, OnnxParser, IBuilderConfig, ITimingCache)
CLASSES += (IOptimizationProfile, Builder, Runtime, ICudaEngine, IExecutionContext, EngineInspector, IPluginRegistry)


def _enums():
    for owner, names in NAMES.items():
        TYPES_OF[owner] = {}
        for index, name in enumerate(names):
            TYPES_OF[owner][name] = Member(index)
            TYPES_OF[owner][name].name = name


_enums()
TYPES = TYPES_OF["DataType"]


def install(monkeypatch):
    """Let `import tensorrt` give this, with nothing built so far."""
    module = ModuleType("tensorrt")
    module.__version__ = "11.4.0.106"
    for kind in CLASSES:
        setattr(module, kind.__name__, kind)
    for owner, members in TYPES_OF.items():
        setattr(module, owner, SimpleNamespace(**members))
    module.get_plugin_registry = IPluginRegistry
    for kept in (BUILT, CONFIGS, LOADED):
        kept.clear()
    LAYER_TYPE[0], PARSED[0] = "PluginV3", "PLUGIN_V3"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module
