"""Clamping integers by Max and Min: TensorRT lists Clip for floats only."""

import onnx_ir as ir

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def clamp_integers(model: ir.Model) -> None:
    """Replace every Clip over integers of the main graph, in place."""
    for node in list(model.graph):
        if node.op_type != "Clip" or node.domain != "" or node.inputs[0].dtype in (None, *_FLOATS):
            continue
        (old,), (value, *bounds) = node.outputs, node.inputs
        steps = []
        for op, bound in zip(("Max", "Min"), bounds, strict=False):
            if bound is not None:
                steps.append(ir.node(op, [value, bound]))
                value = steps[-1].outputs[0]
        if not steps:
            continue
        value.name, value.type, value.shape = old.name, old.type, old.shape
        for step in steps[:-1]:
            step.outputs[0].type, step.outputs[0].shape = old.type, old.shape
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], steps, [old], [value])
