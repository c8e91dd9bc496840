"""How vitcop's operators become ONNX nodes: one opaque node of domain `vitcop` each, with its body in the same file."""

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset23
from onnxscript.values import Op, Opset

from vitcop.export.capture.rows import GATHER_ROWS, PUT_ROWS
from vitcop.plugins import ops as _ops  # noqa: F401  (registers the vitcop:: operators)
from vitcop.plugins.onnx_functions import functions
from vitcop.plugins.registry import ALL_OPS, ONNX_OPS
from vitcop.plugins.spec import DOMAIN, OpSpec

_ATTRIBUTE_TYPES = {int: onnx.defs.OpSchema.AttrType.INT, float: onnx.defs.OpSchema.AttrType.FLOAT}


def translation_table() -> dict[Any, Callable[..., Any]]:
    """For torch.onnx: from torch operator to a function that emits its node."""
    table: dict[Any, Callable[..., Any]] = {GATHER_ROWS: _gather_rows, PUT_ROWS: _put_rows}
    for spec in ALL_OPS.values():
        table[getattr(torch.ops.vitcop, spec.torch_name).default] = _emitter(spec)
    return table


def attach_functions(model: ir.Model) -> None:
    """Add the body of every vitcop op that the model uses, and the attributes by which TensorRT finds its plugin."""
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN}
    if not used:
        return
    opset = model.opset_imports[""]
    bodies = functions(opset)
    for name in sorted(used):
        function = ir.serde.deserialize_function(bodies[name])
        model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = 1
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN:
            node.attributes["plugin_namespace"] = ir.AttrString("plugin_namespace", DOMAIN)
            node.attributes["plugin_version"] = ir.AttrString("plugin_version", ONNX_OPS[node.op_type].plugin_version)


def _gather_rows(rows: Any, index: Any) -> Any:
    """rows [B,S,…], index [B,K] -> [B,K,…] as one GatherND."""
    return opset23.GatherND(rows, opset23.Unsqueeze(index, opset23.Constant(value_ints=[-1])), batch_dims=1)


def _put_rows(rows: Any, index: Any, values: Any) -> Any:
    """rows [B,S,H], index [B,K], values [B,K,H] -> [B,S,H] as one ScatterND by (batch, row)."""
    num_batches = opset23.Shape(index, start=0, end=1)
    numbers = opset23.Range(*(opset23.Squeeze(each) for each in (opset23.Constant(value_ints=[0]), num_batches)), 1)
    batch = opset23.Expand(opset23.Unsqueeze(numbers, opset23.Constant(value_ints=[1])), opset23.Shape(index))
    last = opset23.Constant(value_ints=[-1])
    places = opset23.Concat(opset23.Unsqueeze(batch, last), opset23.Unsqueeze(index, last), axis=-1)
    return opset23.ScatterND(rows, places, values)


def _emitter(spec: OpSpec) -> Callable[..., Any]:
    op = Op(Opset(DOMAIN, 1), spec.onnx_name, _schema(spec))
    num_inputs = len(spec.inputs)

    def emit(*args: Any) -> Any:
        attributes = {name: kind(value) for (name, kind), value in zip(spec.attributes, args[num_inputs:], strict=True)}
        return op(*args[:num_inputs], **attributes)

    return emit


def _schema(spec: OpSpec) -> onnx.defs.OpSchema:
    """An ONNX schema, which torch.onnx asks of every node that it emits. Each tensor has a type variable of its own."""
    parameter = onnx.defs.OpSchema.FormalParameter
    tensors = [*spec.inputs, *spec.outputs]
    types = {name: f"T{i}" for i, name in enumerate(tensors)}
    any_type = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(int64)", "tensor(int32)"]
    return onnx.defs.OpSchema(
        spec.onnx_name,
        DOMAIN,
        1,
        inputs=[parameter(name, types[name]) for name in spec.inputs],
        outputs=[parameter(name, types[name]) for name in spec.outputs],
        type_constraints=[(variable, any_type, "") for variable in types.values()],
        attributes=[onnx.defs.OpSchema.Attribute(name, _ATTRIBUTE_TYPES[kind]) for name, kind in spec.attributes],
    )
