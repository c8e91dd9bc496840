"""From an fp32 bundle's graph to a strongly typed half-precision one, by conversion of the graph.

What a checkpoint saved in half precision exports to is the model for it: weights, features, keys, values and logits
are half; positions and the rotary tables made of them, every score, the weights of merged and mixed tokens, and the
products with these stay fp32. Explicit Casts stand between the two, so nothing depends on a builder's choice. Norms and
softmax compute in fp32 inside their nodes (RMSNormalization's and LayerNormalization's stash type, Attention).
"""

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from vitcop.export.bundle import GRAPHS, Bundle, TensorSpec, graph_contract
from vitcop.export.runtimes.tensorrt.half_weights import HalfWeights, to_half
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import ALL_OPS
from vitcop.plugins.spec import DOMAIN

TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_FP32 = ir.DataType.FLOAT

MOVING = frozenset(
    (
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
    )
)
"""Operators that only move values: exact in any type, so a score's inputs are widened behind them."""

_PRODUCTS = frozenset({"Mul", "MatMul"})
"""Products of half and fp32 are taken in fp32: rotary tables, the weights of mixed and of merged tokens."""

_KEYS = frozenset({"keys", "q_cls", "q_last"})
"""Inputs of vitcop's ops that are half, as the model's own keys are; all their other floats are fp32."""


def convert_graph(source: Path, destination: Path, dtype: str) -> None:
    """Write a graph of a bundle in half precision, with its weights beside it in `<destination>.data`.

    Args:
        source: vision.onnx, prefill.onnx or decode.onnx in a bundle; its weights are read where the bundle says.
        destination: the new .onnx file. It appears last, and whole.
        dtype: "float16" or "bfloat16". A bundle that is in this type already is only given its weights; one in the
            other half type is converted type for type.

    One weight's chunk is in memory at a time. Raises InputError where the source is not a bundle's graph, or a weight
    is larger than float16 can hold.
    """
    source, destination = Path(source), Path(destination)
    if dtype not in ("float16", "bfloat16"):
        raise InputError(f"precision {dtype!r} is not one of float16, bfloat16")
    bundle = Bundle.open(source.parent, check_weights="size")
    if source.stem not in GRAPHS or source != bundle.graph(source.stem):
        raise InputError(f"{source}: not a graph of the bundle {bundle.path} ({', '.join(GRAPHS)})")
    model = narrowed(bundle, source.stem, dtype, onnx.load(source, load_external_data=False))
    partial = destination.with_name(f".{destination.name}.partial-{os.getpid()}")
    weights = HalfWeights(destination.with_name(f"{destination.name}.data"), bundle.weights_folder, TYPES[dtype])
    try:
        weights.write(model)
        ir.save(model, partial)
        onnx.shape_inference.infer_shapes(onnx.load(partial, load_external_data=False), check_type=True)
        weights.commit()
        os.replace(partial, destination)
    finally:
        partial.unlink(missing_ok=True)
        weights.discard()


def narrowed(bundle: Bundle, part: str, dtype: str, graph: onnx.ModelProto) -> ir.Model:
    """A graph ("vision", "prefill" or "decode") of a bundle with the types of half precision, but the bundle's own
    weights."""
    facts = bundle.manifest.architecture
    # Types of the values between nodes, which only some of them carry in the file.
    model = ir.from_proto(onnx.shape_inference.infer_shapes(graph))
    own, target = TYPES[facts.dtype], TYPES[dtype]
    if own == _FP32:
        spec = graph_contract(bundle.schedule, facts)[part]
        _Narrowing(model, target, (*spec.inputs, *spec.outputs)).run()
    elif own != target:
        _substitute(model, own, target)
    return model


class _Narrowing:
    """One fp32 graph on its way to half precision."""

    def __init__(self, model: ir.Model, target: ir.DataType, contract: tuple[TensorSpec, ...]) -> None:
        self.graph, self.target = model.graph, target
        self.kinds = {tensor.name: tensor.kind for tensor in contract}
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.constants: dict[ir.Value, ir.Value] = {}
        self.floats = {
            value
            for value in (*self.graph.inputs, *self.graph.initializers.values(), *_outputs(self.graph))
            if value.dtype == _FP32
        }
        unknown = [value.name for value in _outputs(self.graph) if value.dtype is None]
        if unknown:
            raise InputError(f"the graph does not say what type {unknown[0]!r} has; export the bundle again")
        self.scores = self._scores()

    def run(self) -> None:
        """Convert in place."""
        for value in self.graph.inputs:
            if value in self.floats and self.kinds[value.name] != "float32":
                value.dtype = self.target
        for value in self.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and value.dtype == _FP32:
                value.dtype = self.target  # HalfWeights writes the values
        for node in list(self.graph):
            self._convert(node)
        for index, value in enumerate(self.graph.outputs):
            if value in self.floats:
                wanted = _FP32 if self.kinds[value.name] == "float32" else self.target
                if value.dtype != wanted:
                    self._cast_output(index, value, wanted)

    def _convert(self, node: ir.Node) -> None:
        """Give a node inputs of one type, and its outputs that type."""
        inputs = [index for index, value in enumerate(node.inputs) if value in self.floats]
        outputs = [value for value in node.outputs if value in self.floats]
        if node.domain == DOMAIN:
            for index in inputs:
                half = self._plugin_input(node, index) in _KEYS
                self._feed(node, index, self.target if half else _FP32)
            return  # what vitcop's ops compute is fp32
        if not inputs or not outputs:
            return  # numbers made of integers stay fp32: positions, masks, counts
        kind = self._type_of(node, [node.inputs[index] for index in inputs])
        for index in inputs:
            self._feed(node, index, kind)
        for value in outputs:
            value.dtype = kind

    def _type_of(self, node: ir.Node, inputs: list[ir.Value]) -> ir.DataType:
        """The type that a node computes in."""
        varying = [value for value in inputs if not self._is_constant(value)]
        types = {value.dtype for value in varying} or {_FP32}
        if any(_is_weight(value) for value in inputs):
            return self.target
        if len(types) == 1 and (types == {_FP32} or node.op_type in MOVING):
            return types.pop()
        if node in self.scores:
            return _FP32
        return _FP32 if len(types) == 2 and node.op_type in _PRODUCTS else self.target

    def _feed(self, node: ir.Node, index: int, kind: ir.DataType) -> None:
        """Make an input of a node of this type: a constant is rewritten, anything else cast once for all readers."""
        value = node.inputs[index]
        if value.dtype == kind:
            return
        if self._is_constant(value):
            node.replace_input_with(index, self._narrow_constant(value))
            return
        if (value, kind) not in self.casts:
            cast = ir.node("Cast", [value], {"to": kind})
            result = cast.outputs[0]
            result.dtype, result.shape = kind, value.shape
            result.name = f"{value.name}_as_{kind.name.lower()}"
            producer = value.producer()
            if producer is None:
                self.graph.insert_before(self.graph[0], cast)
            else:
                self.graph.insert_after(producer, cast)
            self.casts[value, kind] = result
        node.replace_input_with(index, self.casts[value, kind])

    def _cast_output(self, index: int, value: ir.Value, kind: ir.DataType) -> None:
        """Let a graph output of another type be the Cast of what it was; the name stays."""
        name, value.name = value.name, f"{value.name}_as_computed"
        cast = ir.node("Cast", [value], {"to": kind})
        result = cast.outputs[0]
        result.dtype, result.shape, result.name = kind, value.shape, name
        self.graph.append(cast)
        self.graph.outputs[index] = result

    def _narrow_constant(self, value: ir.Value) -> ir.Value:
        """A small constant in the half type. Finite numbers stay finite."""
        if value not in self.constants:
            constant = _constant(value)
            assert constant is not None, value.name
            array = to_half(constant.numpy(), self.target, clamp=True)
            narrow = ir.Value(name=f"{value.name}_as_{self.target.name.lower()}", const_value=ir.tensor(array))
            narrow.dtype, narrow.shape = self.target, value.shape
            self.graph.register_initializer(narrow)
            self.constants[value] = narrow
        return self.constants[value]

    def _is_constant(self, value: ir.Value) -> bool:
        return not _is_weight(value) and _constant(value) is not None

    def _scores(self) -> set[ir.Node]:
        """Nodes whose floats go nowhere but into scores: they compute in fp32, whatever their inputs are.

        From the plugins' fp32 inputs and the fp32 outputs backwards, up to what has weights or other readers.
        """
        found: set[ir.Node] = set()
        for node in reversed(list(self.graph)):
            outputs = [value for value in node.outputs if value in self.floats]
            weighted = any(_is_weight(value) for value in node.inputs if value is not None)
            if outputs and not weighted and node.domain != DOMAIN and node.op_type != "Attention":
                ends = [self._ends_in_score(value, found) for value in outputs]
                if all(each is not False for each in ends) and True in ends:
                    found.add(node)
        return found

    def _ends_in_score(self, value: ir.Value, found: set[ir.Node]) -> bool | None:
        """Whether every reader of a value wants it for a score; None where nothing reads its numbers."""
        wanted = []
        if value.is_graph_output():
            wanted.append(self.kinds[value.name] == "float32")
        for node, index in value.uses():
            if node.op_type in ("Shape", "Size"):
                continue
            plugin = node.domain == DOMAIN and self._plugin_input(node, index) not in _KEYS
            wanted.append(plugin or node in found)
        return all(wanted) if wanted else None

    def _plugin_input(self, node: ir.Node, index: int) -> str:
        spec = next(spec for spec in ALL_OPS.values() if spec.onnx_name == node.op_type)
        return spec.inputs[index]


def _outputs(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs]


def _is_weight(value: ir.Value) -> bool:
    return isinstance(value.const_value, ir.ExternalTensor)


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """The value of an initializer or of a Constant node."""
    return ir.convenience.get_const_tensor(value)


def _substitute(model: ir.Model, old: ir.DataType, new: ir.DataType) -> None:
    """One half type for the other: values, casts, constants."""
    graph = model.graph
    for value in (*graph.inputs, *graph.initializers.values(), *_outputs(graph)):
        if value.dtype != old:
            continue
        if value.const_value is not None and not _is_weight(value):
            value.const_value = ir.tensor(to_half(value.const_value.numpy().astype("float32"), new, clamp=True))
        value.dtype = new
    for node in graph:
        for name, attribute in list(node.attributes.items()):
            if node.op_type == "Cast" and name == "to" and attribute.as_int() == old:
                node.attributes[name] = ir.AttrInt64(name, new)
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == old:
                array = to_half(attribute.as_tensor().numpy().astype("float32"), new, clamp=True)
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
