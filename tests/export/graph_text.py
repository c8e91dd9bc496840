"""Rewritten graphs as text: what a pass added, and who reads it. Free of generated names, overload names and anything
else that differs between releases of torch and transformers without a difference in meaning."""

from collections import Counter
from typing import Any

import torch
from graph_checks import stack_of
from torch import fx

from vitcop.export.capture import TokenGraph

_PLACEMENT = ("device", "layout", "pin_memory")


def operation(node: fx.Node) -> str:
    """`aten.add`, `vitcop.knorm_select`, `getitem`."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet) if packet else getattr(node.target, "__name__", str(node.target))


def added_text(before: TokenGraph, after: TokenGraph) -> str:
    """Inputs, the nodes that `after` has beyond `before` (@ the module they copy), their readers, outputs."""
    old = {node.name for node in before.module.graph.nodes}
    nodes = [node for node in after.module.graph.nodes if node.op == "call_function"]
    new = [node for node in nodes if node.name not in old]
    names: dict[fx.Node, str] = {}
    seen: Counter[str] = Counter()
    for node in new:
        short = operation(node).rpartition(".")[2]
        names[node] = f"{short}#{seen[short]}"
        seen[short] += 1

    def show(value: Any) -> str:
        if isinstance(value, fx.Node):
            return names.get(value) or _outside(value)
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(show(each) for each in value) + "]"
        return repr(value)

    lines = ["inputs: " + ", ".join(after.inputs), "", "added:"]
    for node in new:
        arguments = [show(each) for each in node.args] + [
            f"{key}={show(each)}" for key, each in node.kwargs.items() if key not in _PLACEMENT
        ]
        where = _where(node)
        lines.append(
            f"  {names[node]} = {operation(node)}({', '.join(arguments)})"
            + (f"  @ {where}" if where.count(".") else "")
        )
    lines += ["", "read by:"]
    for node in nodes:
        reads = [names[each] for each in node.all_input_nodes if each in names]
        if reads and node not in names:
            lines.append(f"  {_outside(node)} <- {', '.join(reads)}")
    output = next(node for node in after.module.graph.nodes if node.op == "output")
    lines += ["", "outputs:"]
    lines += [f"  {name} = {show(node)}" for name, node in zip(after.outputs, output.args[0], strict=True)]
    return "\n".join(lines) + "\n"


def _where(node: fx.Node) -> str:
    """Path of a node's module; some transformers releases wrap the vision tower once more."""
    return stack_of(node).removeprefix("model.model.").replace("vision_tower.vision_model.", "vision_tower.")


def _outside(node: fx.Node) -> str:
    """A node of the captured graph by its module and operation."""
    if node.op == "placeholder":
        return node.name
    if node.op == "get_attr":
        return str(node.target)
    where = _where(node)
    if node.target is torch.ops.aten.sym_size.int:
        return f"size({_outside(node.args[0])}, {node.args[1]})"
    return f"{where}:{operation(node)}" if "." in where or where == "lm_head" else operation(node)
