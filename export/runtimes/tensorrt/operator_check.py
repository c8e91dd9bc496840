"""Is a graph inside of what TensorRT's ONNX parser takes? Answered from operators.json, without TensorRT.

vitcop's own nodes are plugins: they are listed apart, and so is what their function bodies would meet if the plugin
were missing and the parser took the body instead.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference

from vitcop.export.runtimes.tensorrt.operator_rules import RULES, Dims, Place, Scope
from vitcop.export.runtimes.tensorrt.operator_table import Operator, Release, Table, load_table
from vitcop.plugins.errors import InputError
from vitcop.plugins.registry import ONNX_OPS
from vitcop.plugins.spec import DOMAIN

Graph: TypeAlias = onnx.ModelProto | Path | str
_DEFAULT = ("", "ai.onnx")
_SMALL = 65536
"""Elements up to which a constant's value is read."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that the parser would not take.

    Args:
        node: the node's name; of a node in a function, the name of the call.
        op: its type; of a node in a function "Call/Type".
        found: what is there.
        supported: what the table allows.
    """

    node: str
    op: str
    found: str
    supported: str

    def __str__(self) -> str:
        return f"{self.op} {self.node!r}: {self.found}; supported: {self.supported}"


@dataclass(frozen=True, kw_only=True)
class PluginNode:
    """A node that a plugin has to take.

    Args:
        node, op: its name and type.
        inputs, outputs: element types in the table's words, in order; "" for one that is left out.
    """

    node: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OperatorReport:
    """All that is to say of a graph.

    Args:
        findings: of the graph itself, functions other than vitcop's entered.
        plugins: vitcop's nodes.
        bodies: of the function bodies of these nodes.
    """

    findings: tuple[Finding, ...]
    plugins: tuple[PluginNode, ...]
    bodies: tuple[Finding, ...]


def check_operators(graph: Graph, release: Release) -> tuple[Finding, ...]:
    """What the parser of a release would not take in a model, plugins taken for given; empty where all is well.

    Args:
        graph: a model or its path. External data is never read.
        release: "10.15", or "11" for all of 11.x.

    Raises InputError where ONNX itself cannot make sense of the graph.
    """
    return examine_operators(graph, release).findings


def examine_operators(graph: Graph, release: Release) -> OperatorReport:
    """The same with the plugin nodes and the findings of their function bodies."""
    model = graph if isinstance(graph, onnx.ModelProto) else onnx.load(graph, load_external_data=False)
    return _Check(model, load_table(release)).report()


class _Check:
    def __init__(self, model: onnx.ModelProto, table: Table) -> None:
        try:
            self.model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise InputError(f"not a sound ONNX graph: {' '.join(str(error).split())}") from None
        self.table = table
        self.functions = {(function.domain, function.name) for function in model.functions}
        self.opset = next((item.version for item in model.opset_import if item.domain in _DEFAULT), 0)
        self.plugins: list[PluginNode] = []
        self.bodies: list[Finding] = []
        self.seen: set[bytes] = set()

    def report(self) -> OperatorReport:
        low, high = self.table.opsets
        findings = []
        if not low <= self.opset <= high:
            findings.append(
                Finding(node="", op="model", found=f"opset {self.opset}", supported=f"opsets {low} to {high}")
            )
        findings += self.walk(self.model.graph, Scope(types={}, initializers={}, folded=frozenset()))
        return OperatorReport(findings=tuple(findings), plugins=tuple(self.plugins), bodies=tuple(self.bodies))

    def walk(self, graph: onnx.GraphProto, outer: Scope) -> Iterator[Finding]:
        scope = _scope(graph, outer)
        for node in graph.node:
            place = Place(node, scope)
            if node.domain == DOMAIN:
                yield from self.plugin(place)
            elif node.domain in _DEFAULT:
                yield from self.operator(place)
            elif (node.domain, node.op_type) in self.functions:
                yield from self.body(place)
            else:
                yield _finding(node, f"domain {node.domain!r}", "ONNX's own operators, vitcop's plugins and functions")
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    yield from self.walk(inner, scope)

    def operator(self, place: Place) -> Iterator[Finding]:
        node = place.node
        known = self.table.operators.get(node.op_type)
        if known is None:
            yield _finding(node, "this operator", f"no such operator in TensorRT {self.table.release}")
            return
        types: dict[str, str] = {}
        for name in _typed(place, known, self.opset):
            types.setdefault(place.type_name(name), name)
        for found, name in types.items():
            if found not in known.types:
                yield _finding(node, f"{found} ({name})", ", ".join(sorted(known.types)))
        yield from self.mixed(place)
        for name in (*node.input, *node.output):
            if name and (place.rank(name) or 0) > self.table.max_rank:
                yield _finding(node, f"rank {place.rank(name)} ({name})", f"at most {self.table.max_rank} axes")
        for rule in known.rules:
            if wrong := RULES[rule["kind"]](place, rule):
                yield _finding(node, *wrong)

    def mixed(self, place: Place) -> Iterator[Finding]:
        """Inputs of one type variable in different types: a strongly typed network casts nothing by itself."""
        by_variable: dict[str, set[str]] = {}
        for name, variable in _variables(place, self.opset):
            by_variable.setdefault(variable, set()).add(place.type_name(name))
        for types in by_variable.values():
            if len(types) > 1:
                yield _finding(place.node, f"inputs of types {', '.join(sorted(types))}", "inputs of one type")

    def plugin(self, place: Place) -> Iterator[Finding]:
        node = place.node
        self.plugins.append(
            PluginNode(
                node=node.name,
                op=node.op_type,
                inputs=tuple(name and place.type_name(name) for name in node.input),
                outputs=tuple(name and place.type_name(name) for name in node.output),
            )
        )
        named = {"plugin_namespace": DOMAIN, "plugin_version": ONNX_OPS[node.op_type].plugin_version}
        for name, value in named.items():
            if (found := place.text(name, None)) != value:
                yield _finding(node, f"{name} {found!r}", f"{name} {value!r}, by which the parser finds the plugin")
        for name in (*node.input, *node.output):
            if name and place.type_name(name) not in ("FP32", "FP16", "BF16", "INT32", "INT64"):
                yield _finding(node, f"{place.type_name(name)} ({name})", "FP32, FP16, BF16, INT32, INT64 at a plugin")
        if (node.domain, node.op_type) in self.functions:
            self.bodies += self.body(place)

    def body(self, place: Place) -> Iterator[Finding]:
        """Judge the function of one call, inlined for the types and attributes that it is called with.

        Calls that are alike but for their names are judged once.
        """
        node = onnx.NodeProto()
        node.CopyFrom(place.node)
        node.name = node.doc_string = ""
        kept = [item for item in node.attribute if not item.name.startswith("plugin_")]
        del node.attribute[:]
        node.attribute.extend(kept)
        inputs = []
        for index, name in enumerate(node.input):
            if name:
                node.input[index] = f"input_{index}"
                number, dims = place.scope.types.get(name, (0, None))
                value = onnx.helper.make_tensor_value_info(f"input_{index}", number, dims)
                inputs.append(value)
        outputs = [onnx.ValueInfoProto(name=f"output_{index}") for index, name in enumerate(node.output) if name]
        for index, name in enumerate(node.output):
            node.output[index] = name and f"output_{index}"
        call = onnx.helper.make_model(
            onnx.helper.make_graph([node], "call", inputs, outputs),
            functions=self.model.functions,
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
        )
        key = call.graph.SerializeToString(deterministic=True)
        if key in self.seen:
            return
        self.seen.add(key)
        inlined = _Check(onnx.inliner.inline_local_functions(call), self.table)
        for finding in inlined.walk(inlined.model.graph, Scope(types={}, initializers={}, folded=frozenset())):
            yield Finding(
                node=place.node.name,
                op=f"{place.node.op_type}/{finding.op}",
                found=finding.found,
                supported=finding.supported,
            )


def _finding(node: onnx.NodeProto, found: str, supported: str) -> Finding:
    return Finding(
        node=node.name or (node.output[0] if node.output else ""), op=node.op_type, found=found, supported=supported
    )


def _typed(place: Place, known: Operator, opset: int) -> list[str]:
    """Names of the tensors that the operator's element types speak of."""
    node = place.node
    if known.inputs is not None:
        given = [place.input(index) for index in known.inputs] + [place.output(index) for index in known.outputs or ()]
        return [name for name in given if name]
    variables = dict(_variables(place, opset))
    first = place.input(0)
    same = [name for name, variable in variables.items() if variable == variables.get(first)]
    return same or [name for name in (first or place.output(0),) if name] or list(node.output[:1])


def _variables(place: Place, opset: int) -> Iterator[tuple[str, str]]:
    """Name and type variable of each input of a node, as ONNX defines the operator."""
    node = place.node
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:  # an operator that ONNX has no more
        return
    for index, name in enumerate(node.input):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)] if schema.inputs else None
        if name and formal is not None and formal.is_homogeneous:
            yield name, formal.type_str


def _scope(graph: onnx.GraphProto, outer: Scope) -> Scope:
    """What is known in a graph, the graph around it included."""
    types: dict[str, tuple[int, Dims]] = dict(outer.types)
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = _type_of(value)
    initializers: dict[str, np.ndarray | None] = dict(outer.initializers)
    for tensor in graph.initializer:
        types[tensor.name] = (tensor.data_type, tuple(tensor.dims))
        initializers[tensor.name] = _value_of(tensor)
    folded = set(outer.folded)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in _DEFAULT:
            initializers[node.output[0]] = _constant(node)
        elif (
            node.input
            and _all_constant(node.input, initializers, folded)
            and node.op_type not in ("If", "Loop", "Scan")
        ):
            folded.update(node.output)
    return Scope(types=types, initializers=initializers, folded=frozenset(folded))


def _all_constant(names: Iterable[str], initializers: Mapping[str, object], folded: set[str]) -> bool:
    return all(not name or name in initializers or name in folded for name in names)


def _type_of(value: onnx.ValueInfoProto) -> tuple[int, Dims]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def _value_of(tensor: onnx.TensorProto) -> np.ndarray | None:
    outside = tensor.data_location == onnx.TensorProto.EXTERNAL
    if outside or int(np.prod(tensor.dims, dtype=np.int64)) > _SMALL:
        return None
    return onnx.numpy_helper.to_array(tensor)


def _constant(node: onnx.NodeProto) -> np.ndarray | None:
    for item in node.attribute:
        if item.name == "value":
            return _value_of(item.t)
        if item.name in ("value_int", "value_ints", "value_float", "value_floats"):
            return np.asarray(onnx.helper.get_attribute_value(item))
    return None
